"""A split as normalised batches on the training device.

Images that are stored at the size at which they are read are cut, augmented and normalised as whole batches, on a GPU by the GPU. Images that have to be
decoded or resized each time are prepared by threads, one by one, ahead of the batch that is being used, and within a batch in the order in which they lie
in a file of many.
Letters in shapes: N images of a split, B images of a batch, S input side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from petlbench.config.augment import RandomResizedCrop
from petlbench.config.settings import Train
from petlbench.data.cache import Cache
from petlbench.data.source import reading_order
from petlbench.data.split import Ragged, Split
from petlbench.data.streaming import in_order
from petlbench.data.transforms import Draws, Form, Pixels, Transform, to_device
from petlbench.data.windows import Windows
from petlbench.optim.loop import Epoch
from petlbench.optim.steps import Steps

Plan = tuple[Tensor, Draws | None]  # the indices (B,) of a batch, and the random numbers of its views; None: not augmented


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
        self._source, self._images, self._form = split.source, split.images, split.form
        self._labels = torch.from_numpy(np.array(split.labels)).to(device)
        self.transform = transform
        self.batch_size = batch_size
        self.device = device
        self._generator = generator  # None: in order, not augmented
        self._drop_last = drop_last and self.image_count > batch_size  # a smaller batch counts when there is no other

    @property
    def image_count(self) -> int:
        """N."""
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        """A copy of the labels (N,): what a method writes into it changes nothing of what its predictions are compared with."""
        return self._labels.clone()

    @property
    def is_deterministic(self) -> bool:
        """Return True when every pass shows the same views of the images."""
        return self._generator is None or self.transform.augment == "none"

    def __len__(self) -> int:
        """Batches per pass."""
        return self.image_count // self.batch_size if self._drop_last else -(-self.image_count // self.batch_size)

    def images(self, indices: Tensor) -> Tensor:
        """Return the normalised images (B, 3, S, S) at some indices, not augmented."""
        return next(self._prepared([(indices.cpu(), None)]))[1]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in their order, not augmented."""
        for indices, images in self._prepared((indices, None) for indices in torch.arange(self.image_count).split(self.batch_size)):
            yield images, self._labels[to_device(indices, self.device)]

    def order(self) -> Iterator[Tensor]:
        """Yield the indices (B,) of the batches of a new pass."""
        shuffled = self._generator is not None
        indices = torch.randperm(self.image_count, generator=self._generator) if shuffled else torch.arange(self.image_count)
        yield from indices.split(self.batch_size)[: len(self)]

    @property
    def generator(self) -> torch.Generator | None:
        """What decides the order and the views of a pass; None: nothing is left to chance."""
        return self._generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.begin()

    def begin(self, at: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a new pass from this one on: those before are drawn, but neither decoded nor prepared."""
        chance = self._chance()
        plans = ((indices, self.transform.draw(len(indices), chance) if chance else None) for indices in self.order())
        for indices, images in self._prepared(itertools.islice(plans, at, None)):
            yield images, self._labels[to_device(indices, self.device)]

    def _chance(self) -> torch.Generator | None:
        """Return a generator for one pass: batches are drawn ahead, and a pass that ends early must not shift the next."""
        if self.is_deterministic:
            return None
        return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=self._generator)))

    def _prepared(self, plans: Iterable[Plan]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield indices and normalised images of planned batches, in their order."""
        are_resized = self._generator is not None and isinstance(self.transform.window, RandomResizedCrop)
        at_once = not are_resized and self._form != Form("native") and isinstance(self._images, (np.ndarray, Ragged))
        for (indices, draws), views in self._cut(plans) if at_once else self._made_one_by_one(plans):
            yield indices, self.transform.finish(views, draws)

    def _cut(self, plans: Iterable[Plan]) -> Iterator[tuple[Plan, Tensor]]:
        for indices, draws in plans:
            window = draws.window if draws else None
            views = self._windows.centre(indices) if window is None else self._windows.random(indices, window)
            yield (indices, draws), views

    @cached_property
    def _windows(self) -> Windows:
        assert isinstance(self._images, (np.ndarray, Ragged))
        return Windows(self._images, self.transform.size, self.device, stay=self._generator is not None)

    def _made_one_by_one(self, plans: Iterable[Plan]) -> Iterator[tuple[Plan, Tensor]]:
        planned, used = itertools.tee((plan, reading_order(self._source, plan[0].numpy())) for plan in plans)
        jobs = ((int(plan[0][position]), _row(plan[1], position)) for plan, order in planned for position in order)
        views = in_order(self._view, jobs, ahead=self.batch_size)
        for plan, order in used:
            made = dict(zip(order.tolist(), views, strict=False))
            yield plan, to_device(torch.from_numpy(np.stack([made[position] for position in range(len(order))])), self.device)

    def _view(self, job: tuple[int, Tensor | None]) -> Pixels:
        index, drawn = job
        image = self._source.decode(index)
        if drawn is not None:
            return self.transform.view(image, drawn)
        return image if self._form in (None, self.transform.form) else self.transform.form(image)


def _row(draws: Draws | None, position: int) -> Tensor | None:
    return None if draws is None or draws.window is None else draws.window[position]


@dataclass(frozen=True)
class TrainingData:
    """The data that a method may learn from, without test images and labels."""

    train: Batches
    val: Batches
    recipe: Train
    class_names: tuple[str, ...]
    log_epoch: Callable[[Epoch], None]  # call it after every pass: history, progress, model selection
    evaluate_curve: Callable[[], None] = lambda: None  # call it after a step: the method may be evaluated as it is now
    cache: Cache = field(default_factory=Cache)  # for what depends on the backbone, these images and the protocol only
    cache_mb: int = 4096  # memory for activations that are computed once and reused
    part_of_class: tuple[int, ...] = ()  # for each class the position of its task among the joined ones
    steps: Steps = field(default_factory=Steps)  # the loop of the training, which a rerun enters where an interrupted run left it
