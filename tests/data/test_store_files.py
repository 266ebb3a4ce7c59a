"""Keep stores on disk complete or not at all, whatever other processes build, share, damage or delete."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from petlbench.data.source import RenderedSource
from petlbench.data.store import TaskStore, entries, evict
from petlbench.data.task import TaskSpec
from petlbench.errors import DataError

from .rendered import NATIVE, SIZES, SQUARE, Renderer, opened


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


def test_what_a_killed_deletion_left_behind_is_replaced(cache: Path) -> None:
    opened(Renderer().spec())
    for meta in list(cache.rglob("meta.json")):
        meta.unlink()
    assert [opened(Renderer().spec())[1] for _ in range(2)] == [13, 0]


def test_a_full_disk_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:  # a plain undo() would undo the test's own cache as well
        patch.setattr(Path, "open", full)
        with pytest.raises(DataError, match=r"cannot write the image cache .*: No space left on device; set PETLBENCH_CACHE.*or make room"):
            opened(Renderer().spec())
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


def in_two_suites(**changes: Any) -> list[int]:
    """Count the decoded images for each of two suites that share a dataset on disk."""
    return [opened(Renderer().spec(name=f"{suite}/noise", **({"layout": "folders"} | changes)))[1] for suite in ("first", "second")]


@pytest.mark.usefixtures("cache")
def test_suites_that_have_a_dataset_in_common_store_it_once() -> None:
    assert in_two_suites() == [13, 0]
    listed = entries()
    assert [(entry.task, entry.split) for entry in listed] == [
        (f"{s}/noise", split) for s in ("first", "second") for split in sorted(SIZES)
    ]
    pixels = 13 * 8 * 8 * 3
    assert pixels < sum(entry.bytes for entry in listed) < 2 * pixels, "what is shared counts once"
    for entry in listed[:3]:
        evict(entry)
    store = TaskStore(Renderer().spec(name="second/noise", layout="folders"), 1)
    assert np.array_equal(store.open("test", SQUARE).images[2], SQUARE(Renderer().source("test").decode(2))) and store.tally.count == 0


@pytest.mark.usefixtures("cache")
def test_images_that_are_made_here_are_shared_with_no_other_suite() -> None:
    """Their revisions are arbitrary words, which another suite may use too."""
    assert in_two_suites(layout="") == [13, 13]


@pytest.mark.usefixtures("cache")
def test_where_files_cannot_be_linked_every_suite_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert in_two_suites() == [13, 13]


def test_a_damaged_store_is_not_shared(cache: Path) -> None:
    opened(Renderer().spec(name="first/noise", layout="folders"))
    for file in cache.rglob("pixels.bin"):
        file.write_bytes(b"")
    assert opened(Renderer().spec(name="second/noise", layout="folders"))[1] == 13


@pytest.mark.usefixtures("cache")
def test_a_store_that_is_being_built_is_not_deleted_under_the_hands_of_its_builder() -> None:
    threads: list[threading.Thread] = []

    class Watched(Renderer):
        def source(self, split: str) -> RenderedSource:
            source = super().source(split)

            def decode(index: int) -> NDArray[np.uint8]:
                if not threads:
                    [entry] = entries()
                    threads.append(threading.Thread(target=evict, args=[entry]))
                    threads[0].start()
                    threads[0].join(0.1)
                return source.decode(index)

            return RenderedSource(source.labels, decode)

    TaskStore(Watched().spec(), 1).open("train", SQUARE)
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert [(entry.split, entry.images) for entry in entries()] == [("train", 6)]


@pytest.mark.usefixtures("cache")
def test_few_images_are_in_memory_while_a_store_is_built() -> None:
    alive, most = 0, 0

    class Counted:
        labels = np.zeros(60, np.int64)

        def decode(self, index: int) -> NDArray[np.uint8]:
            nonlocal alive, most
            image = np.zeros((8, 8, 3), np.uint8)
            weakref.finalize(image, ended)
            alive += 1
            most = max(most, alive)
            return image

    def ended() -> None:
        nonlocal alive
        alive -= 1

    TaskStore(TaskSpec("mock/counted", ("a",), ("{}",), "1", lambda part: Counted()), 1).open("train", SQUARE)
    # per thread four and one that it releases, one in between, one that is written
    assert most <= 5 * torch.get_num_threads() + 2 and alive == 0


@pytest.mark.usefixtures("cache")
def test_reading_a_store_counts_as_use() -> None:
    opened(Renderer().spec())
    for entry in entries():
        os.utime(entry.folder / "meta.json", (1000, 1000))
    TaskStore(Renderer().spec(), 1).open("val", SQUARE)
    assert [entry.split for entry in entries() if entry.used > 1000] == ["val"]


def test_what_is_no_store_is_listed_too(cache: Path) -> None:
    (cache / "store" / "mock-noise" / "0123").mkdir(parents=True)
    (cache / "store" / "mock-noise" / "0123" / "train.npy").write_bytes(b"old")
    [entry] = entries()
    assert (entry.task, entry.split, entry.form, entry.bytes) == ("mock-noise", "?", "unfinished or damaged", 3)
    evict(entry)
    assert not entries()


LONG = "folder:/" + "/".join(["дата" * 20, "猫" * 60, "x" * 200])


@pytest.mark.parametrize("name", ["+".join(f"vtab/task_{number:02}_of_many" for number in range(19)), LONG])
def test_a_task_with_a_long_name_is_stored_in_one_folder(name: str, cache: Path) -> None:
    assert len(name) > 300
    assert [opened(Renderer().spec(name=name))[1] for _ in range(2)] == [13, 0]
    assert {entry.task for entry in entries()} == {name} and len(list((cache / "store").iterdir())) == 1


@pytest.mark.parametrize("names", [("a/b-c", "a-b/c"), ("folder:/猫", "folder:/犬"), ("folder:a b", "folder:a_b"), (LONG, LONG + "y")])
def test_names_that_differ_only_in_what_a_path_leaves_out_share_no_store(names: tuple[str, str], cache: Path) -> None:
    assert [opened(Renderer().spec(name=name))[1] for name in names] == [13, 13]
    assert len(list((cache / "store").iterdir())) == 2


def test_a_cache_whose_own_name_is_too_long_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLBENCH_CACHE", str(cache / ("x" * 300)))
    with pytest.raises(DataError, match=r"cannot write the image cache .*: File name too long; set PETLBENCH_CACHE"):
        opened(Renderer().spec())
