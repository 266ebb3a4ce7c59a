"""Sources of images: a split before it is stored, with all labels and with images that are decoded or rendered one at a time. N: images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]  # of images of a split


@runtime_checkable
class ImageSource(Protocol):
    """A split as a task gives it. It may also have ``take`` (see ``Divisible``), ``positions`` (see ``reading_order``) and ``is_uniform``."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,)."""

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Return the image at native size, (H, W, 3) RGB. DataError names the file when it cannot be read. Must be thread-safe."""


@runtime_checkable
class Divisible(Protocol):
    """A source that can return a source of some of its images, so that no others are read for them."""

    def take(self, indices: Indices) -> Self:
        """Return a source of these images, in the given order."""


class RenderedSource:
    """Images that are already arrays or are rendered by a function of the index. ``positions``: see ``reading_order``."""

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.integer],
        render: Callable[[int], NDArray[np.uint8]],
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.positions = positions
        self._render = render

    def decode(self, index: int) -> NDArray[np.uint8]:
        return self._render(index)


class Concatenation:
    """Images of several sources one after another. ``offsets``: what is added to the labels of each."""

    def __init__(self, parts: Sequence[ImageSource], offsets: Sequence[int] | None = None) -> None:
        self.labels = np.concatenate([part.labels + offset for part, offset in zip(parts, offsets or [0] * len(parts), strict=True)])
        self._parts = parts
        self._starts = starts([len(part.labels) for part in parts])

    @cached_property
    def positions(self) -> NDArray[np.int64] | None:
        """(N,): those of each source shifted behind the ones before; None when no source has any."""
        own = [positions_of(part) for part in self._parts]
        if all(positions is None for positions in own):
            return None
        every = [np.arange(len(part.labels)) if found is None else found for part, found in zip(self._parts, own, strict=True)]
        return np.concatenate(
            [some + first for some, first in zip(every, starts([int(some.max(initial=0)) + 1 for some in every]), strict=True)]
        )

    def decode(self, index: int) -> NDArray[np.uint8]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[number].decode(index - self._starts[number])


def starts(lengths: Sequence[int]) -> list[int]:
    """Return the offset at which each of several sequences begins when they are concatenated."""
    return list(accumulate(lengths, initial=0))[:-1]


def take(source: ImageSource, indices: Indices) -> ImageSource:
    """Return a source of some images, in the given order."""
    if isinstance(source, Divisible):
        return source.take(indices)
    positions = positions_of(source)
    chosen = None if positions is None else positions[indices]
    return RenderedSource(source.labels[indices], lambda index: source.decode(int(indices[index])), chosen)


def positions_of(source: object) -> NDArray[np.int64] | None:
    """Return the positions (N,) of the images within one file, if the order of reading matters; else None."""
    positions: NDArray[np.int64] | None = getattr(source, "positions", None)
    return positions


def is_uniform(source: ImageSource) -> bool:
    """Return True for a source whose images are known to have one size."""
    return getattr(source, "is_uniform", False)


def reading_order(source: object, indices: Indices) -> Indices:
    """Return the order in which to read images fastest, as positions in ``indices``: that of the source's ``positions``, if it has any."""
    positions = positions_of(source)
    return np.arange(len(indices)) if positions is None else np.argsort(positions[indices], kind="stable")
