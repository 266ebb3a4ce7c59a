"""Images that are decoded whenever they are read, and ordered work on images in several threads.

Pillow and zlib release Python's lock, so threads use all cores.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from petlbench.data.listing import Listing
from petlbench.data.source import ImageSource, Indices, positions_of, take
from petlbench.data.transforms import Form, Pixels
from petlbench.errors import DataError

J = TypeVar("J")
R = TypeVar("R")


class Tally:
    """A thread-safe counter."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, number: int = 1) -> None:
        with self._lock:
            self.count += number


def in_order(work: Callable[[J], R], jobs: Iterable[J], ahead: int) -> Iterator[R]:
    """Yield the result of ``work`` for every job, in order, from as many threads as torch has; at most ``ahead`` results wait to be taken."""
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


def formed(source: ImageSource, form: Form, index: int) -> Pixels:
    """Decode an image and bring it into a form. DataError, with its place, when that fails."""
    image = source.decode(index)
    try:
        return form(image)
    except DataError as error:
        place = source.location(index) if isinstance(source, Listing) else f"image {index}"
        raise DataError(f"{place}: {error}") from None


class Streamed:
    """A source's images in a form, decoded every time."""

    def __init__(self, source: ImageSource, form: Form, tally: Tally) -> None:
        self.labels = source.labels
        self.positions = positions_of(source)
        self._source = source
        self._form = form
        self._tally = tally

    def decode(self, index: int) -> Pixels:
        self._tally.add()
        return formed(self._source, self._form, index)

    def take(self, indices: Indices) -> Streamed:
        """Return some of the images, in the given order."""
        return Streamed(take(self._source, indices), self._form, self._tally)
