"""Sources that read many images at once: each block is read once for a store, and once at most for a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from petlbench.data.batches import Batches
from petlbench.data.source import Concatenation, ImageSource, RenderedSource
from petlbench.data.split import Split
from petlbench.data.store import TaskStore, entries
from petlbench.data.streaming import Streamed, Tally
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form, Transform
from petlbench.datasets.disk.layouts import _arrays
from petlbench.datasets.disk.layouts._arrays import Rows

SQUARE, NATIVE = Form("squash", 6), Form("native")
COUNT, BLOCK = 400, 20


class File:
    """Images of noise in blocks; counts how often one is read."""

    def __init__(self) -> None:
        self.reads = 0
        self.images = np.random.default_rng(0).integers(0, 256, (COUNT, 5, 4, 3), dtype=np.uint8)

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.reads += 1
        return self.images[rows]

    def shuffled(self, seed: int = 1) -> Rows:
        rows = np.random.default_rng(seed).permutation(COUNT)
        return Rows(Path("images"), rows, rows % 3, self.fetch, BLOCK)


class Backwards:
    """Images of several sizes, stored in a file from the last to the first; records the order in which they are read."""

    def __init__(self, count: int) -> None:
        self.labels = np.zeros(count, np.int64)
        self.positions = np.arange(count)[::-1]
        self.read: list[int] = []

    def decode(self, index: int) -> NDArray[np.uint8]:
        self.read.append(index)
        return picture(index)


def picture(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, (3 + index % 3, 4 + index % 2, 3), dtype=np.uint8)


def task(source: ImageSource, revision: str) -> TaskSpec:
    return TaskSpec("mock/blocks", ("a", "b", "c"), ("{}",), revision, lambda split: source)


def rendered(source: ImageSource) -> RenderedSource:
    """Return the same images, read in the order of the split."""
    return RenderedSource(source.labels, source.decode)


@pytest.fixture
def one_block_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep one block in memory, or two where one ends."""
    monkeypatch.setattr(_arrays, "HELD_BYTES", 0)


@pytest.mark.usefixtures("cache", "one_block_is_kept")
@pytest.mark.parametrize("form", [SQUARE, NATIVE, Form("short", 6)])
@pytest.mark.parametrize("chosen", [None, 100])
def test_a_store_reads_each_block_once_however_the_split_is_shuffled(form: Form, chosen: int | None) -> None:
    file = File()
    store = TaskStore(task(file.shuffled(), "1"), 1)
    part = None if chosen is None else np.random.default_rng(2).permutation(COUNT)[:chosen]
    if part is not None:
        store._limit = 20_000  # more than the part, less than the whole
    split = store.open("train", form, part)
    assert [entry.images for entry in entries()] == [chosen or COUNT]
    estimates = form.side is None and chosen is not None  # of the whole, which turned out too large
    assert file.reads == (chosen or COUNT) // BLOCK + estimates
    source = file.shuffled()
    for place, index in enumerate(range(COUNT) if part is None else part):
        assert np.array_equal(split.source.decode(place), form(source.decode(int(index)))) and split.labels[place] == source.labels[index]


@pytest.mark.parametrize("form", [SQUARE, NATIVE])
def test_the_files_of_a_store_do_not_depend_on_the_order_in_which_images_are_read(form: Form, cache: Path) -> None:
    several = Backwards(7)
    sources = [File().shuffled(), several, Concatenation([File().shuffled(), several], [0, 1])]
    for number, source in enumerate(sources):
        in_disorder, in_order = (
            TaskStore(task(some, f"{number} {which}"), 9).open("train", form).digest
            for which, some in enumerate((source, rendered(source)))
        )
        assert in_disorder == in_order
    for name in ("pixels.bin", "shapes.npy", "labels.npy"):
        written = [file.read_bytes() for file in cache.rglob(name)]
        assert len(written) == 6 and len(set(written)) == 3
    assert not list(cache.rglob("unordered.bin")), "what lay there meanwhile is gone"
    assert not (set(range(7)) - set(several.read))


@pytest.mark.usefixtures("cache")
def test_a_store_is_read_in_the_order_of_the_file() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    source = Backwards(7)
    TaskStore(task(source, "1"), 1).open("train", SQUARE)
    torch.set_num_threads(before)
    assert source.read == [6, 5, 4, 3, 2, 1, 0]


def _streamed(source: ImageSource, batch_size: int, seed: int | None) -> Batches:
    split = Split(Streamed(source, SQUARE, Tally()), source.labels, "digest", SQUARE)
    shuffled = None if seed is None else torch.Generator().manual_seed(seed)
    return Batches(split, Transform(Form("squash", 6, cut=6), (0.0,) * 3, (1.0,) * 3), batch_size, torch.device("cpu"), shuffled)


@pytest.mark.usefixtures("one_block_is_kept")
def test_a_streamed_batch_reads_a_block_once_at_most() -> None:
    file = File()
    batches = _streamed(file.shuffled(), 100, seed=0)
    for _ in range(2):
        list(batches)
    assert file.reads <= 2 * 4 * COUNT // BLOCK, "passes, batches of a pass, blocks"


def test_streamed_passes_read_a_file_once_that_fits_into_what_is_kept() -> None:
    file = File()
    batches = _streamed(file.shuffled(), 30, seed=0)
    for _ in range(3):
        list(batches)
    assert file.reads == COUNT // BLOCK


@pytest.mark.parametrize("seed", [None, 3])
def test_streamed_images_keep_the_order_of_the_batch(seed: int | None) -> None:
    source = File().shuffled()
    for (images, labels), (expected, expected_labels) in zip(
        _streamed(source, 64, seed), _streamed(rendered(source), 64, seed), strict=True
    ):
        assert torch.equal(images, expected) and torch.equal(labels, expected_labels)


def test_a_part_of_a_stream_reads_its_own_images_only() -> None:
    file = File()
    part = Streamed(file.shuffled(), SQUARE, Tally()).take(np.arange(0, COUNT, COUNT // BLOCK))
    for index in range(len(part.labels)):
        part.decode(index)
    assert len(part.labels) == BLOCK and file.reads == 1
