"""What the harness asks of a method on a backbone and a task, and what all answers share."""

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
        """What has to happen before the first step of training; ``fit`` does it when it was not asked for before."""
        ...

    def fit(self, data: TrainingData) -> None: ...

    def predict(self, batches: Batches) -> Tensor:
        """Scores (N, C) of all images of a split in their order, on the CPU in float32."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What was learned."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def parameter_counts(self) -> tuple[int, int]:
        """Learned scalars without the head, and of the head."""
        ...

    def allocation(self) -> dict[str, int]:
        """Where the learned scalars without the head are; empty when they are not in the network."""
        ...

    def images_forwarded(self) -> int:
        """Through the backbone, in this process."""
        ...

    def images_encoded(self) -> int:
        """Through models that the method has beside the backbone."""
        ...

    def flops_per_image(self) -> float | None: ...


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: a method that is asked in the middle of its training goes on training."""
    was_training = [(part, part.training) for part in module.modules()]  # part by part: a method may have put some to evaluation for good
    module.eval()
    try:
        yield
    finally:
        for part, training in was_training:
            part.training = training


def load_into(target: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Copy a saved state over tensors of the same names and shapes. CheckpointError names what is missing, unexpected or of another shape."""
    for label, names in (("lacks", target.keys() - state.keys()), ("has unexpected", state.keys() - target.keys())):
        if names:
            raise CheckpointError(f"the checkpoint {label} {', '.join(sorted(names)[:5])}{' and others' if len(names) > 5 else ''}")
    with torch.no_grad():
        for name, tensor in target.items():
            if tensor.shape != state[name].shape:
                raise CheckpointError(f"{name} has shape {tuple(state[name].shape)} in the checkpoint, {tuple(tensor.shape)} is expected")
            tensor.copy_(state[name])
