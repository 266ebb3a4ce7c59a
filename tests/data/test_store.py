"""Every image is decoded once, resized as torchvision does, and a store is there whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from petlbench.data.store import open_store, resized
from petlbench.data.task import RenderedSource, TaskSpec
from petlbench.errors import DataError

SIZES = {"train": 6, "val": 3, "test": 4}


class Renderer:
    """Images that count how often they were asked for, and that fail at one if told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: Counter[tuple[str, int]] = Counter()
        self.fails_at = fails_at

    def source(self, split: str) -> RenderedSource:
        def render(index: int) -> NDArray[np.uint8]:
            self.calls[split, index] += 1
            if split == "val" and index == self.fails_at:
                raise RuntimeError("killed")
            return np.random.default_rng([len(split), index]).integers(0, 256, (11, 17, 3), dtype=np.uint8)

        return RenderedSource(np.arange(SIZES[split]) % 3, render)

    def spec(self, **changes: Any) -> TaskSpec:
        facts = {"name": "mock/noise", "class_names": ("a", "b", "c"), "templates": ("{}",), "revision": "1", "source": self.source}
        return TaskSpec(**(facts | changes))


def opened(spec: TaskSpec, size: int = 8) -> tuple[dict[str, Any], int]:
    return open_store(spec, size, "squash", "bicubic")


@pytest.mark.usefixtures("cache")
def test_every_image_is_decoded_once_and_by_the_second_run_not_at_all() -> None:
    renderer = Renderer()
    counts = [opened(renderer.spec())[1] for _ in range(2)]
    assert counts == [13, 0]
    assert set(renderer.calls.values()) == {1} and len(renderer.calls) == 13


@pytest.mark.usefixtures("cache")
def test_a_reopened_store_holds_the_same_pixels_labels_and_digests() -> None:
    renderer = Renderer()
    first, second = (opened(renderer.spec())[0] for _ in range(2))
    for split, size in SIZES.items():
        image = renderer.source(split).decode(size - 1)
        assert np.array_equal(second[split].images[size - 1], resized(image, 8, "squash", "bicubic"))
        assert np.array_equal(first[split].images, second[split].images)
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
    splits, decoded = opened(Renderer().spec(), size=9)
    assert (decoded, splits["train"].images.shape) == (13, (6, 9, 9, 3))


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
        opened(Renderer(fails_at=1).spec())
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert opened(Renderer().spec())[1] == 13


def test_what_a_killed_process_left_behind_is_not_read(cache: Path) -> None:
    opened(Renderer().spec())
    store = next(cache.rglob("meta.json")).parent
    store.rename(store.with_name(".building-killed"))
    (store.with_name(".building-killed") / "test.npy").unlink()
    assert opened(Renderer().spec())[1] == 13


def test_a_damaged_store_is_named(cache: Path) -> None:
    opened(Renderer().spec())
    images = next(cache.rglob("test.npy"))
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"image cache .* is damaged .*; delete that folder and run again"):
        opened(Renderer().spec())


def test_a_full_disk_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"cannot write the image cache .*: No space left on device; set PETLBENCH_CACHE"):
        opened(Renderer().spec())
    monkeypatch.undo()
    assert not list(cache.rglob("*.npy"))


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PETLBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write the image cache .*set PETLBENCH_CACHE to a writable folder"):
        opened(Renderer().spec())


def check_same_store_from_two_threads(spec: TaskSpec, results: list[tuple[dict[str, Any], int]]) -> None:
    threads = [threading.Thread(target=lambda: results.append(opened(spec))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_that_build_the_same_store_at_once_all_get_it_whole(cache: Path) -> None:
    results: list[tuple[dict[str, Any], int]] = []
    check_same_store_from_two_threads(Renderer().spec(), results)
    assert len(results) == 4
    assert len({splits["test"].digest for splits, _ in results}) == 1
    assert len(list(cache.rglob("meta.json"))) == 1


def _open_in_process(start: Any, answers: Any) -> None:
    start.wait()
    splits, _ = opened(Renderer().spec())
    answers.put((splits["test"].digest, int(splits["test"].images.sum())))


def test_processes_that_build_the_same_store_at_once_all_get_it_whole(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_open_in_process, args=(start, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert len({answers.get(timeout=30) for _ in workers}) == 1
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(cache.rglob("meta.json"))) == 1


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


MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR, "nearest": InterpolationMode.NEAREST}
SIDE = st.integers(1, 150)


@hypothesis_settings(max_examples=200)
@given(SIDE, SIDE, st.integers(1, 64), st.sampled_from(["squash", "short"]), st.sampled_from(sorted(MODES)))
def test_resizing_gives_the_bytes_that_torchvision_gives(height: int, width: int, size: int, mode: str, interpolation: str) -> None:
    image = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resize = Resize((size, size) if mode == "squash" else size, MODES[interpolation])
    expected = np.asarray(Compose([resize, CenterCrop(size)])(Image.fromarray(image)))
    assert np.array_equal(resized(image, size, mode, interpolation), expected)


@pytest.mark.parametrize(("height", "width"), [(45, 20), (20, 45), (321, 214), (214, 321), (330, 220), (220, 330)])
def test_the_longer_side_is_rounded_as_torchvision_rounds_it(height: int, width: int) -> None:
    """Sides where long * (size / short) in floating point falls just short of the whole number size * long / short."""
    size, image = 224, np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.asarray(Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])(Image.fromarray(image)))
    assert np.array_equal(resized(image, size, "short", "bicubic"), expected)
