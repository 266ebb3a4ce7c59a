"""Decode every image once; decode splits that are too large for a store as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.data.source import RenderedSource
from petlbench.data.split import Split, joined
from petlbench.data.store import TaskStore, entries
from petlbench.data.transforms import Form
from petlbench.errors import DataError

from .rendered import NATIVE, SIZES, SQUARE, Renderer, opened


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
            assert np.array_equal(second[split].source.decode(index), form(renderer.source(split).decode(index)))
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


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("form", "shapes"), [(SQUARE, [(8, 8), (8, 8)]), (NATIVE, [(2, 8), (4, 4)])])
def test_the_digest_sees_a_change_of_one_pixel_and_of_two_sizes(form: Form, shapes: list[tuple[int, int]]) -> None:
    def flat(revision: str, shapes: list[tuple[int, int]], value: int) -> str:
        images = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
        images[-1][-1, -1, -1] = value
        spec = Renderer().spec(revision=revision, source=lambda split: RenderedSource([0] * 2, images.__getitem__))
        return TaskStore(spec, 1).open("train", form).digest

    digests = [flat("1", shapes, 0), flat("2", shapes, 1), flat("3", shapes[::-1], 0), flat("4", shapes, 0)]
    assert len(set(digests[:3])) == (2 if form is SQUARE else 3) and digests[3] == digests[0]


@pytest.mark.usefixtures("cache")
def test_the_digest_of_a_stream_says_revision_split_form_and_labels() -> None:
    def digest(split: str = "train", form: Form = SQUARE, **changes: Any) -> str:
        return TaskStore(Renderer().spec(**changes), 0).open(split, form).digest

    relabelled = {"source": lambda split: RenderedSource([2] * 6, Renderer().source(split).decode)}
    digests = [digest(), digest("val"), digest(form=Form("squash", 9)), digest(revision="2"), digest(**relabelled)]
    assert len(set(digests)) == 5 and digest() == digests[0]


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
        assert np.array_equal(part.source.decode(place), whole.source.decode(index)) and part.labels[place] == whole.labels[index]


@pytest.mark.parametrize("form", [SQUARE, NATIVE])
def test_what_is_too_large_is_decoded_as_it_is_read(cache: Path, form: Form) -> None:
    renderer = Renderer()
    store = TaskStore(renderer.spec(), limit_mb=0)
    split = store.open("train", form)
    before = store.tally.count
    assert before == (0 if form is SQUARE else 6)  # without a fixed size a sample is decoded to estimate it
    for _ in range(2):
        assert np.array_equal(split.source.decode(4), form(renderer.source("train").decode(4)))
    assert store.tally.count == before + 2 and not entries()


def _limited(renderer: Renderer) -> TaskStore:
    """Make a store that has room for five of the six training images."""
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
        assert np.array_equal(part.source.decode(place), SQUARE(renderer.source("train").decode(int(index))))
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
    assert len(both) == 9 and both.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    for index in range(9):
        part, place = ("train", index) if index < 6 else ("val", index - 6)
        assert np.array_equal(both.source.decode(index), splits[part].source.decode(place))


def test_joined_splits_of_two_sizes_have_the_images_of_both_and_a_digest_of_both() -> None:
    parts = [Split(np.full((2, side, 4, 3), side, np.uint8), np.zeros(2, np.int64), str(side)) for side in (4, 5)]
    both = joined(*parts)
    assert [both.source.decode(index).shape for index in range(4)] == [(4, 4, 3)] * 2 + [(5, 4, 3)] * 2
    assert len({both.digest, *(part.digest for part in parts), joined(*parts[::-1]).digest}) == 4


@pytest.mark.usefixtures("cache")
def test_a_large_store_says_before_it_is_built_how_large_it_will_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("petlbench.data.store._ANNOUNCED_MB", 0)
    TaskStore(Renderer().spec(), 1).open("train", SQUARE)
    assert "mock/noise: storing 6 train images once, about 0 MB, in " in caplog.text
