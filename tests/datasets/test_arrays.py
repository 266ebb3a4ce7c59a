"""Read arrays of one file in blocks: one thread reads for all that wait, and no block is read more often than necessary."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from petlbench.datasets.disk.layouts import _arrays
from petlbench.datasets.disk.layouts._arrays import Rows


class File:
    """``count`` images of 4x4, image i filled with i % 256; counts the reads and how often each row is read."""

    def __init__(self, count: int, block: int) -> None:
        self.reads = 0
        self.rows: Counter[int] = Counter()
        self.listing = Rows(Path("images"), np.arange(count), np.arange(count) % 3, self.fetch, block)

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert (np.diff(rows) > 0).all(), "the only order that h5py reads in"
        self.reads += 1
        time.sleep(0.01)  # others ask meanwhile
        self.rows.update(rows.tolist())
        return np.broadcast_to((rows % 256).astype(np.uint8)[:, None, None], (len(rows), 4, 4)).copy()


def values(listing: Rows, order: list[int]) -> list[int]:
    return [int(listing.decode(index)[0, 0, 0]) for index in order]


def test_threads_that_want_one_block_share_one_read() -> None:
    file = File(100, block=100)
    together = threading.Barrier(8)

    def decode(index: int) -> int:
        together.wait(10)
        return values(file.listing, [index])[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decode, range(8))) == list(range(8))
    assert file.reads == 1


@pytest.mark.parametrize("chosen", [100, 250])
def test_a_shuffled_part_has_blocks_of_its_own_images_only(chosen: int) -> None:
    file = File(2500, block=100)
    order = np.random.default_rng(0).permutation(2500)[:chosen]
    part = file.listing.take(order)
    assert values(part, list(range(chosen))) == (order % 256).tolist()
    assert file.reads == -(-chosen // 100) and sorted(file.rows) == sorted(order.tolist()) and set(file.rows.values()) == {1}


def test_an_image_may_be_drawn_twice() -> None:
    file = File(10, block=4)
    assert values(file.listing.take(np.array([7, 2, 7, 7])), [0, 1, 2, 3]) == [7, 2, 7, 7]
    assert file.reads == 1 and file.rows == {2: 1, 7: 1}


def test_no_more_bytes_are_kept_than_may_be_and_what_was_used_last_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrays, "HELD_BYTES", 3 * 160)  # three blocks of ten images of 16 bytes
    file = File(100, block=10)
    values(file.listing, [0, 10, 20, 0, 30])
    assert file.reads == 4
    values(file.listing, [0, 20, 30])
    assert file.reads == 4, "these are kept"
    values(file.listing, [10])
    assert file.reads == 5 and sum(block.nbytes for block in file.listing._held.values()) == 3 * 160


def test_two_blocks_are_kept_however_large_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that read ahead in the file need two blocks where one ends."""
    monkeypatch.setattr(_arrays, "HELD_BYTES", 0)
    file = File(100, block=10)
    values(file.listing, [9, 10, 8, 11, 9])
    assert file.reads == 2
