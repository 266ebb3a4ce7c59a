"""Random vectors for optimisers that only evaluate, from a stream of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from petlbench.optim import derived_seed


class Perturbations:
    """Draws vectors (D,) on the CPU, so that they are equal on every device. ``generator`` holds the place in their stream."""

    def __init__(self, draw: Callable[[int, torch.Generator], Tensor], seed: int) -> None:
        self.generator = torch.Generator().manual_seed(derived_seed("perturbations", seed))
        self._draw = draw

    def __call__(self, length: int) -> Tensor:
        return self._draw(length, self.generator)


def generator_of(source: Callable[[int], Tensor]) -> torch.Generator:
    """Return the generator of a source of vectors. TypeError for one without: where it stands in its stream cannot be kept."""
    generator = getattr(source, "generator", None)
    if not isinstance(generator, torch.Generator):
        raise TypeError("the state of perturbations without an attribute 'generator' cannot be kept; give them one")
    return generator
