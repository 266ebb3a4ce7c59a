"""Images that are decoded whenever they are asked for, and work on images that several threads do without changing its order.

Pillow and zlib release Python's lock, so threads use all cores. N: images.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from petlbench.data.task import ImageSource
from petlbench.data.transforms import Form, Pixels

J = TypeVar("J")
R = TypeVar("R")


class Tally:
    """A count that threads may raise."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, number: int = 1) -> None:
        with self._lock:
            self.count += number


def in_order(work: Callable[[J], R], jobs: Iterable[J], ahead: int) -> Iterator[R]:
    """What ``work`` gives for every job, in their order. As many threads as torch has; at most ``ahead`` jobs are begun and not yet taken."""
    with ThreadPoolExecutor(min(torch.get_num_threads(), ahead)) as pool:
        begun: deque[Future[R]] = deque()
        try:
            for job in jobs:
                if len(begun) == ahead:
                    yield begun.popleft().result()
                begun.append(pool.submit(work, job))
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


class Streamed:
    """Images of a source (some of them, in a given order) in a stored form, decoded anew every time."""

    def __init__(self, source: ImageSource, form: Form, tally: Tally, indices: NDArray[np.int64] | None = None) -> None:
        self._source = source
        self._form = form
        self._tally = tally
        self._indices = np.arange(len(source.labels)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Pixels:
        self._tally.add()
        return self._form(self._source.decode(int(self._indices[index])))

    def take(self, indices: NDArray[np.int64]) -> Streamed:
        """Some of the images, in the given order."""
        return Streamed(self._source, self._form, self._tally, self._indices[indices])


class Indexed(Protocol):
    """A number of images, each of which can be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


class Chained:
    """Images of several sequences, one after another."""

    def __init__(self, parts: Sequence[Indexed]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Pixels:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]
