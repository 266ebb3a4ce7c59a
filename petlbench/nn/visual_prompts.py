"""Pixels that are learned and added to normalised images (visual prompting, Bahng et al. 2022, arXiv 2203.17274; released code).

Letters in shapes: B images, C classes, S input side, p width of a border or side of a patch, D learned scalars of a border, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import ConfigError

REFERENCE = 224  # the input side that published sizes are meant for
CALL_BYTES = 2**30  # of prompted images that exist at the same time


def scaled(pixels: int, size: int) -> int:
    """A length that papers give for inputs of 224 pixels, at another input side."""
    return round(pixels * size / REFERENCE)


@dataclass
class PromptConfig:
    """Settings that all pixel prompts share."""

    width: int | None = None  # p, width of the border or side of the patch in pixels; null: 30 at an input of 224, scaled with the input
    spread: float = 1.0  # standard deviation of the prompt at the start; 0 starts from the unchanged image

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be an int >= 1 or null, got {self.width}")
        if self.spread < 0:
            raise ValueError(f"spread must be >= 0, got {self.spread}")

    def pixels(self, size: int) -> int:
        """Return p for an input of side ``size``."""
        return self.width or scaled(30, size)


class Border(nn.Module):
    """A frame of four strips, zero in the middle: D = 12 p (S - p) scalars, 69,840 for p = 30 and S = 224.

    ``spread``: standard deviation of the normal start, 1 in the released code; so for the patches below.
    """

    def __init__(self, size: int, width: int, spread: float = 1.0) -> None:
        super().__init__()
        if not 1 <= width < size / 2:
            raise ConfigError(f"method.width must be 1 to {(size - 1) // 2} pixels of a border on an input of {size}, got {width}")
        self._inner = size - 2 * width
        self.pad_up = nn.Parameter(spread * torch.randn(1, 3, width, size))
        self.pad_down = nn.Parameter(spread * torch.randn(1, 3, width, size))
        self.pad_left = nn.Parameter(spread * torch.randn(1, 3, self._inner, width))
        self.pad_right = nn.Parameter(spread * torch.randn(1, 3, self._inner, width))

    def frames(self, vectors: Tensor) -> Tensor:
        """The frames (Q, 3, S, S) of borders (Q, D), which are flat in the order up, down, left, right."""
        shapes = [parameter.shape[1:] for parameter in self.parameters()]
        strips = vectors.split([prod(shape) for shape in shapes], dim=1)
        up, down, left, right = (strip.view(-1, *shape) for strip, shape in zip(strips, shapes, strict=True))
        middle = vectors.new_zeros(len(vectors), 3, self._inner, self._inner)
        return torch.cat([up, torch.cat([left, middle, right], dim=3), down], dim=2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to the same, without clipping."""
        return images + self.frames(nn.utils.parameters_to_vector(self.parameters())[None])


class Patch(nn.Module):
    """A square in the upper left corner: 3 p^2 scalars."""

    def __init__(self, size: int, side: int, spread: float = 1.0) -> None:
        super().__init__()
        if not 1 <= side < size:
            raise ConfigError(f"method.width must be 1 to {size - 1} pixels of a patch on an input of {size}, got {side}")
        self.patch = nn.Parameter(spread * torch.randn(1, 3, side, side))
        self._free = size - side  # pixels between the patch and the far edge

    def placed(self, images: Tensor, row: int, column: int) -> Tensor:
        """(B, 3, S, S) with the patch added at a place, without clipping."""
        return images + F.pad(self.patch, (column, self._free - column, row, self._free - row))

    def forward(self, images: Tensor) -> Tensor:
        return self.placed(images, 0, 0)


class RandomPatch(Patch):
    """A square at a place that is drawn for every batch, row and column uniform in 0..S-p-1 (released code), in evaluation too.

    Every evaluation goes through the same sequence of places: a result can be repeated.
    """

    def __init__(self, size: int, side: int, seed: int, spread: float = 1.0) -> None:
        super().__init__(size, side, spread)
        self._seed = seed
        self._places = {is_training: torch.Generator().manual_seed(seed) for is_training in (True, False)}

    def train(self, mode: bool = True) -> RandomPatch:
        if not mode:
            self._places[False].manual_seed(self._seed)
        super().train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        row, column = torch.randint(self._free, (2,), generator=self._places[self.training]).tolist()
        return self.placed(images, row, column)


def losses_under(frames: Tensor, images: Tensor, labels: Tensor, scores: Callable[[Tensor], Tensor], focus: float = 0.0) -> Tensor:
    """The mean losses (Q,) of a batch, images (B, 3, S, S) and labels (B,), under each of Q frames (Q, 3, S, S) that are added to it.

    ``scores``: images (N, 3, S, S) to scores (N, C); called once with everything, unless the prompted images would exceed CALL_BYTES.
    """
    together = max(1, CALL_BYTES // images.nbytes)
    losses = []
    for part in frames.split(together):
        prompted = (part[:, None] + images).flatten(0, 1)
        losses.append(focal_losses(scores(prompted).unflatten(0, (len(part), len(images))), labels, focus))
    return torch.cat(losses)


def focal_losses(scores: Tensor, labels: Tensor, focus: float) -> Tensor:
    """The mean over B of -(1 - p)^focus log p, p being the probability of the right class: scores (Q, B, C), labels (B,) to losses (Q,).

    Without focus, 0, it is the cross entropy. (Lin et al. 2017, arXiv 1708.02002, equation 4)
    """
    log_p = scores.log_softmax(dim=-1).gather(-1, labels.expand(len(scores), -1)[..., None]).squeeze(-1)
    return (-((1 - log_p.exp()) ** focus) * log_p).mean(dim=1)
