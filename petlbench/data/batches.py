"""Stored images as normalised batches on the training device: tensor operations on whole batches, no per-image Python.

Letters in shapes: N images of a split, B images of a batch, R stored side, S input side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from petlbench.data.store import Split
from petlbench.memo import Memo
from petlbench.records.schema import Epoch
from petlbench.settings import Train


@dataclass(frozen=True)
class Transform:
    """From stored uint8 images to what a backbone reads."""

    size: int  # S
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Literal["none", "flip", "crop_flip"] = "none"

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, R, R, 3) uint8 to (B, 3, S, S) float32, normalised; augmented when a generator is given, else cut at the centre."""
        images = images.permute(0, 3, 1, 2)
        if generator is not None and self.augment != "none":
            images = self._augmented(images, generator)
        else:
            margin = images.shape[-1] - self.size
            offset = round(margin / 2)
            images = images[..., offset : offset + self.size, offset : offset + self.size]
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std)  # the order of torchvision's ToTensor and Normalize, so that results are equal

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, margin = len(images), images.shape[-1] - self.size
        offsets = torch.zeros(count, 2, dtype=torch.long)
        if self.augment == "crop_flip" and margin > 0:
            offsets = torch.randint(margin + 1, (count, 2), generator=generator)
        else:
            offsets += round(margin / 2)
        flips = torch.rand(count, generator=generator) < 0.5
        steps = torch.arange(self.size)
        rows = offsets[:, 0, None] + steps
        columns = offsets[:, 1, None] + torch.where(flips[:, None], self.size - 1 - steps, steps)
        index = torch.arange(count)[:, None, None]
        device = images.device
        picked = images.permute(0, 2, 3, 1)[index.to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]
        return picked.permute(0, 3, 1, 2)


class Batches:
    """One split, in order or shuffled anew each time it is iterated."""

    def __init__(
        self,
        split: Split,
        transform: Transform,
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> None:
        self._images = _as_tensor(split.images)
        self.labels = torch.from_numpy(np.array(split.labels)).to(device)  # (N,)
        self.transform = transform
        self.batch_size = batch_size
        self.device = device
        self._generator = generator  # None: in order, not augmented
        self._drop_last = drop_last and self.image_count > batch_size  # a smaller batch counts when there is no other

    @property
    def image_count(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def is_deterministic(self) -> bool:
        """Whether every pass shows the same views of the images."""
        return self._generator is None or self.transform.augment == "none"

    def __len__(self) -> int:
        """Batches per pass."""
        return self.image_count // self.batch_size if self._drop_last else -(-self.image_count // self.batch_size)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) of some indices, not augmented."""
        return self.transform(self._images[indices.cpu()].to(self.device))

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in their order, not augmented."""
        for indices in torch.arange(self.image_count).split(self.batch_size):
            yield self.images(indices), self.labels[indices.to(self.device)]

    def order(self) -> Iterator[Tensor]:
        """The indices (B,) of the batches of a new pass."""
        shuffled = self._generator is not None
        indices = torch.randperm(self.image_count, generator=self._generator) if shuffled else torch.arange(self.image_count)
        yield from indices.split(self.batch_size)[: len(self)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self.order():
            yield self.transform(self._images[indices].to(self.device), self._generator), self.labels[indices.to(self.device)]


@dataclass(frozen=True)
class TrainingData:
    """Everything that a method may learn from. Test images and labels are not in here."""

    train: Batches
    val: Batches
    recipe: Train
    class_names: tuple[str, ...]
    report: Callable[[Epoch], None]  # to be called after every pass: history, progress, model selection
    look: Callable[[], None] = lambda: None  # to be called after a step: what has been learned so far may be evaluated now
    memo: Memo = field(default_factory=Memo)  # what depends on the backbone, these images and the protocol only
    cache_mb: int = 4096  # memory for activations that are computed once and reused


def _as_tensor(images: np.ndarray) -> Tensor:
    """A tensor over the same memory. Torch warns of read-only memory maps; nothing here writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)
