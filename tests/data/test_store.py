"""Every image is decoded once, a store is there whole or not at all, and what is too large for one is decoded as it is read."""

from __future__ import annotations

import errno
import multiprocessing
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from petlbench.data.split import Split, joined
from petlbench.data.store import TaskStore, entries, evict
from petlbench.data.task import RenderedSource, TaskSpec
from petlbench.data.transforms import Form
from petlbench.errors import DataError

SIZES = {"train": 6, "val": 3, "test": 4}


SQUARE = Form("squash", 8)
NATIVE = Form("native")


class Renderer:
    """Images of several sizes that count how often they were asked for, and that fail at one if told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: Counter[tuple[str, int]] = Counter()
        self.fails_at = fails_at

    def source(self, split: str) -> RenderedSource:
        def render(index: int) -> NDArray[np.uint8]:
            self.calls[split, index] += 1
            if split == "val" and index == self.fails_at:
                raise RuntimeError("killed")
            return np.random.default_rng([len(split), index]).integers(0, 256, (11 + index % 2, 17, 3), dtype=np.uint8)

        return RenderedSource(np.arange(SIZES[split]) % 3, render)

    def spec(self, **changes: Any) -> TaskSpec:
        facts = {"name": "mock/noise", "class_names": ("a", "b", "c"), "templates": ("{}",), "revision": "1", "source": self.source}
        return TaskSpec(**(facts | changes))


def opened(spec: TaskSpec, form: Form = SQUARE, limit_mb: int = 1) -> tuple[dict[str, Split], int]:
    """All splits, and how many images were decoded for them."""
    store = TaskStore(spec, limit_mb)
    splits = {split: store.open(split, form) for split in SIZES}
    return splits, store.tally.count


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("form", [SQUARE, NATIVE, Form("short", 8), Form("short", 8, cut=4)])
def test_every_image_is_decoded_once_and_by_the_second_run_not_at_all(form: Form) -> None:
    renderer = Renderer()
    counts = [opened(renderer.spec(), form)[1] for _ in range(2)]
    assert counts == [13, 0]
    assert set(renderer.calls.values()) == {1} and len(renderer.calls) == 13


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("form", [SQUARE, NATIVE, Form("short", 8), Form("short", 8, cut=4)])
def test_a_reopened_store_holds_the_same_pixels_labels_and_digests(form: Form) -> None:
    renderer = Renderer()
    first, second = (opened(renderer.spec(), form)[0] for _ in range(2))
    for split, size in SIZES.items():
        for index in range(size):
            assert np.array_equal(second[split].images[index], form(renderer.source(split).decode(index)))
        assert second[split].labels.tolist() == (np.arange(size) % 3).tolist()
        assert first[split].digest == second[split].digest


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("changes", [{"revision": "2"}, {"name": "mock/other"}])
def test_another_revision_or_task_has_a_store_of_its_own(changes: dict[str, Any]) -> None:
    opened(Renderer().spec())
    assert opened(Renderer().spec(**changes))[1] == 13


@pytest.mark.usefixtures("cache")
def test_another_size_has_a_store_of_its_own() -> None:
    opened(Renderer().spec())
    splits, decoded = opened(Renderer().spec(), Form("squash", 9))
    images = splits["train"].images
    assert isinstance(images, np.ndarray) and (decoded, images.shape) == (13, (6, 9, 9, 3))


@pytest.mark.usefixtures("cache")
def test_the_digest_sees_a_change_of_one_label() -> None:
    def relabelled(split: str) -> RenderedSource:
        source = Renderer().source(split)
        source.labels[0] = 2
        return source

    first, second = opened(Renderer().spec())[0], opened(Renderer().spec(revision="2", source=relabelled))[0]
    assert all(first[split].digest != second[split].digest for split in SIZES)


def test_a_crash_in_the_middle_leaves_nothing_that_counts_as_a_store(cache: Path) -> None:
    with pytest.raises(RuntimeError):
        TaskStore(Renderer(fails_at=1).spec(), 1).open("val", SQUARE)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert opened(Renderer().spec())[1] == 13


def test_what_a_killed_process_left_behind_is_not_read_and_goes_away(cache: Path) -> None:
    opened(Renderer().spec())
    for meta in list(cache.rglob("meta.json")):
        meta.parent.rename(meta.parent.with_name(f".building-{meta.parent.name}"))
    assert opened(Renderer().spec())[1] == 13
    assert not list(cache.rglob(".building-*"))


def test_a_damaged_store_is_named(cache: Path) -> None:
    opened(Renderer().spec())
    images = next(cache.rglob("pixels.bin"))
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"image cache .* is damaged .*; delete that folder and run again"):
        opened(Renderer().spec())


def test_a_full_disk_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"cannot write the image cache .*: No space left on device; set PETLBENCH_CACHE.*or make room"):
        opened(Renderer().spec())
    monkeypatch.undo()
    assert not entries() and not list(cache.rglob(".building-*"))


def test_a_disk_without_room_is_known_before_anything_is_decoded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"No space left on device; .* with room for 0 MB, or make room with petlbench data clean"):
        opened(renderer.spec())
    assert not renderer.calls and not list(cache.rglob(".building-*"))


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PETLBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write the image cache .*set PETLBENCH_CACHE to a writable folder"):
        opened(Renderer().spec())


def test_threads_that_want_the_same_store_build_it_once(cache: Path) -> None:
    renderer, results = Renderer(), []
    threads = [threading.Thread(target=lambda: results.append(opened(renderer.spec()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len({splits["test"].digest for splits, _ in results}) == 1
    assert set(renderer.calls.values()) == {1} and sum(decoded for _, decoded in results) == 13
    assert len(list(cache.rglob("meta.json"))) == len(SIZES)


def _open_in_process(start: Any, answers: Any) -> None:
    start.wait()
    splits, decoded = opened(Renderer().spec())
    answers.put((splits["test"].digest, decoded))


@pytest.mark.usefixtures("cache")
def test_processes_that_want_the_same_store_build_it_once() -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_open_in_process, args=(start, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    digests, decoded = zip(*[answers.get(timeout=30) for _ in workers], strict=True)
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(set(digests)) == 1 and sum(decoded) == 13


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sizes": {"test": 5}}, r"mock/noise: 5 test images expected, 4 found"),
        ({"class_names": ("a", "b")}, r"mock/noise: train label 2 has no class; there are 2 class names"),
        ({"source": lambda split: RenderedSource([-1], Renderer().source(split).decode)}, r"train label -1 has no class"),
        ({"source": lambda split: RenderedSource([], Renderer().source(split).decode)}, r"mock/noise: the train split is empty"),
    ],
)
def test_a_source_that_is_not_what_its_task_declares_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        opened(Renderer().spec(**changes))


@pytest.mark.usefixtures("cache")
def test_a_part_of_a_split_has_a_digest_of_its_choice_and_order() -> None:
    split = opened(Renderer().spec())[0]["train"]
    digests = [split.take(np.array(chosen)).digest for chosen in ([0, 1], [1, 0], [0, 2])]
    assert len({split.digest, *digests}) == 4
    assert split.take(np.array([0, 1])).digest == digests[0]


@pytest.mark.usefixtures("cache")
@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_part_of_images_of_several_sizes_has_them_in_its_order(order: list[int], count: int) -> None:
    whole = opened(Renderer().spec(), NATIVE)[0]["train"]
    part = whole.take(np.array(order[:count]))
    assert len(part) == len(part.labels) == count
    for place, index in enumerate(order[:count]):
        assert np.array_equal(part.images[place], whole.images[index]) and part.labels[place] == whole.labels[index]


@pytest.mark.parametrize("form", [SQUARE, NATIVE])
def test_what_is_too_large_is_decoded_as_it_is_read(cache: Path, form: Form) -> None:
    renderer = Renderer()
    store = TaskStore(renderer.spec(), limit_mb=0)
    split = store.open("train", form)
    before = store.tally.count
    assert before == (0 if form is SQUARE else 6)  # without a fixed size a sample is decoded to estimate it
    for _ in range(2):
        assert np.array_equal(split.images[4], form(renderer.source("train").decode(4)))
    assert store.tally.count == before + 2 and not entries()


def _limited(renderer: Renderer) -> TaskStore:
    """A store that has room for five of the six training images."""
    store = TaskStore(renderer.spec(), 1)
    store._limit = 5 * 8 * 8 * 3
    return store


@pytest.mark.usefixtures("cache")
def test_of_a_split_that_is_too_large_the_chosen_images_are_stored() -> None:
    renderer, chosen = Renderer(), np.array([4, 1, 5])
    part = _limited(renderer).open("train", SQUARE, chosen)
    assert sorted(renderer.calls) == [("train", 1), ("train", 4), ("train", 5)]
    assert part.labels.tolist() == [1, 1, 2]
    for place, index in enumerate(chosen):
        assert np.array_equal(part.images[place], SQUARE(renderer.source("train").decode(int(index))))
    again = _limited(renderer)
    assert again.open("train", SQUARE, chosen).digest == part.digest and again.tally.count == 0
    assert [(entry.split, entry.images) for entry in entries()] == [("train", 3)]


def test_the_chosen_images_of_a_stored_split_are_not_stored_again(cache: Path) -> None:
    opened(Renderer().spec())
    store = TaskStore(Renderer().spec(), 1)
    assert store.open("train", SQUARE, np.array([1, 2])).labels.tolist() == [1, 2]
    assert store.tally.count == 0 and len(entries()) == len(SIZES)


@pytest.mark.usefixtures("cache")
def test_labels_of_a_stored_split_need_no_source() -> None:
    opened(Renderer().spec())

    def gone(split: str) -> RenderedSource:
        raise DataError(f"{split} is gone")

    store = TaskStore(Renderer().spec(source=gone), 1)
    assert store.labels("train", SQUARE).tolist() == [0, 1, 2, 0, 1, 2]
    assert len(store.open("train", SQUARE)) == 6


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("form", [SQUARE, NATIVE])
@pytest.mark.parametrize("limit_mb", [0, 1])
def test_joined_splits_have_the_images_of_both_in_order(form: Form, limit_mb: int) -> None:
    splits = opened(Renderer().spec(), form, limit_mb)[0]
    both = joined(splits["train"], splits["val"])
    assert len(both) == len(both.images) == 9 and both.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    for index in range(9):
        part, place = ("train", index) if index < 6 else ("val", index - 6)
        assert np.array_equal(both.images[index], splits[part].images[place])


@pytest.mark.usefixtures("cache")
def test_stores_are_listed_and_can_be_evicted_one_by_one() -> None:
    opened(Renderer().spec())
    opened(Renderer().spec(), NATIVE)
    listed = entries()
    assert [(entry.task, entry.split, entry.form, entry.images) for entry in listed] == [
        ("mock/noise", split, form, SIZES[split]) for split in ("test", "train", "val") for form in ("native", "squash 8 bicubic")
    ]
    assert all(entry.bytes > SIZES[entry.split] * 8 * 8 * 3 and entry.used > 0 for entry in listed)
    images = opened(Renderer().spec())[0]["test"].images
    before = np.array(images)
    evict(listed[1])
    assert len(entries()) == 5 and np.array_equal(images, before)
    assert opened(Renderer().spec())[1] == SIZES["test"]


def test_what_is_no_store_is_listed_too(cache: Path) -> None:
    (cache / "store" / "mock-noise" / "0123").mkdir(parents=True)
    (cache / "store" / "mock-noise" / "0123" / "train.npy").write_bytes(b"old")
    [entry] = entries()
    assert (entry.task, entry.split, entry.form, entry.bytes) == ("mock-noise", "?", "unfinished or damaged", 3)
    evict(entry)
    assert not entries()


@pytest.mark.usefixtures("cache")
def test_a_large_store_says_before_it_is_built_how_large_it_will_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("petlbench.data.store._ANNOUNCED_MB", 0)
    TaskStore(Renderer().spec(), 1).open("train", SQUARE)
    assert "mock/noise: storing 6 train images once, about 0 MB, in " in caplog.text
