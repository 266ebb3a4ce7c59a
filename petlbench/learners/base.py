"""The interface of learners, and the functions that they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from petlbench.data.batches import Batches, TrainingData
from petlbench.errors import CheckpointError


class Learner(Protocol):
    """A method on a backbone and a task."""

    def prepare(self, data: TrainingData) -> None:
        """Do what precedes the first training step; ``fit`` calls it if nobody has."""
        ...

    def fit(self, data: TrainingData) -> None: ...

    def predict(self, batches: Batches) -> Tensor:
        """Return scores (N, C) of all images of a split in their order, on the CPU in float32."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the learned tensors."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def parameter_counts(self) -> tuple[int, int]:
        """Return the number of learned scalars without the head, and of the head."""
        ...

    def allocation(self) -> dict[str, int]:
        """Return the learned scalars without the head by location; empty when they are not in the network."""
        ...

    def images_forwarded(self) -> int:
        """Return the images forwarded through the backbone in this process."""
        ...

    def images_encoded(self) -> int:
        """Return the images forwarded through the method's auxiliary models."""
        ...

    def flops_per_image(self) -> float | None: ...


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode within the block and restore the modes afterwards, so that a method evaluated during training goes on training."""
    was_training = [(part, part.training) for part in module.modules()]  # module by module: a method may keep some in evaluation mode
    module.eval()
    try:
        yield
    finally:
        for part, training in was_training:
            part.training = training


def load_into(target: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Copy a saved state over tensors of the same names, shapes and dtypes. CheckpointError names what is missing, unexpected, or of another kind."""
    for label, names in (("lacks", target.keys() - state.keys()), ("has unexpected", state.keys() - target.keys())):
        if names:
            raise CheckpointError(f"the checkpoint {label} {', '.join(sorted(names)[:5])}{' and others' if len(names) > 5 else ''}")
    with torch.no_grad():
        for name, tensor in target.items():
            if tensor.shape != state[name].shape:
                raise CheckpointError(f"{name} has shape {tuple(state[name].shape)} in the checkpoint, expected {tuple(tensor.shape)}")
            if tensor.dtype != state[name].dtype:  # a copy would round, or cut, without a word
                found, expected = (str(kind).removeprefix("torch.") for kind in (state[name].dtype, tensor.dtype))
                raise CheckpointError(f"{name} holds {found} in the checkpoint, expected {expected}")
        for name, tensor in target.items():
            tensor.copy_(state[name])
