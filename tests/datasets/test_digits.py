"""The colouring rule of Biased-MNIST and the composition rule of Loc-MNIST, for any labels, sizes and generator."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from petlbench.datasets.mini import _digits
from petlbench.datasets.mini._digits import Draw, Shuffle

LABELS = st.lists(st.integers(0, 9), max_size=150).map(lambda labels: np.array(labels, dtype=np.int64))
SHUFFLES = st.one_of(
    st.none(),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.RandomState(seed).shuffle),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).shuffle),
)
DRAWS = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.RandomState(seed).randint),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers),
)


def test_parts_are_disjoint_and_hold_every_class() -> None:
    covered = [i for part in _digits.PARTS.values() for i in range(part.start, part.stop)]
    assert covered == list(range(1797))
    for split in _digits.PARTS:
        images, labels = _digits.handwriting(split)
        assert images.shape == (len(labels), 8, 8) and images.max() == 255
        assert np.bincount(labels, minlength=10).min() > len(labels) / 20


@given(LABELS, st.floats(0, 1), SHUFFLES, st.integers(1, 9))
def test_every_image_is_coloured_once_and_by_the_rule(labels: np.ndarray, rho: float, shuffle: Shuffle | None, n_confusing: int) -> None:
    indices, colours = _digits.biased_colours(labels, rho, shuffle, n_confusing)
    assert sorted(indices.tolist()) == list(range(len(labels)))
    for digit in range(10):
        counts = np.bincount(colours[labels[indices] == digit], minlength=10)
        n_rest = counts.sum() - counts[digit]
        assert counts[digit] == int(counts.sum() * rho)
        others = {(digit + step) % 10 for step in range(1, n_confusing + 1)}
        assert set(np.flatnonzero(counts)) <= others | {digit}
        assert max(counts[list(others)]) == math.ceil(n_rest / n_confusing)


@given(LABELS, st.floats(0, 1))
def test_unshuffled_result_goes_by_colour_then_class(labels: np.ndarray, rho: float) -> None:
    indices, colours = _digits.biased_colours(labels, rho, None)
    keys = list(zip(colours.tolist(), labels[indices].tolist(), indices.tolist(), strict=True))
    assert keys == sorted(keys)


def test_shuffling_uses_the_given_generator_alone() -> None:
    labels = np.arange(200) % 10
    once, again, other = (_digits.biased_colours(labels, 0.8, np.random.RandomState(seed).shuffle) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


@given(arrays.arrays(np.uint8, (4, 5)), st.integers(0, 9), st.integers(0, 255))
def test_glyph_is_white_and_the_rest_has_the_colour(image: np.ndarray, colour: int, threshold: int) -> None:
    coloured = _digits.colour_background(image, colour, threshold)
    assert coloured.shape == (4, 5, 3) and coloured.dtype == np.uint8
    assert (coloured[image > threshold] == 255).all()
    assert (coloured[image <= threshold] == _digits.COLOURS[colour]).all()


def test_colours_differ_from_each_other_and_from_white() -> None:
    assert len({tuple(colour) for colour in _digits.COLOURS.tolist()} | {(255, 255, 255)}) == 11


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 10), st.integers(1, 10))), st.integers(10, 40))
def test_enlarging_agrees_with_bilinear_interpolation(image: np.ndarray, size: int) -> None:
    def along(values: np.ndarray) -> np.ndarray:
        positions = (np.arange(size) + 0.5) * len(values) / size - 0.5
        return np.interp(positions, np.arange(len(values)), values)

    expected = np.apply_along_axis(along, 1, np.apply_along_axis(along, 0, image.astype(np.float64)))
    enlarged = _digits.enlarge(image, size)
    assert enlarged.dtype == np.uint8
    assert abs(enlarged - expected).max() <= 1.01


@given(arrays.arrays(np.uint8, (7, 7)))
def test_same_size_keeps_every_pixel(image: np.ndarray) -> None:
    np.testing.assert_array_equal(_digits.enlarge(image, 7), image)


@given(DRAWS, st.integers(1, 40), st.integers(0, 60))
def test_digit_touches_the_border_and_stays_on_the_canvas(draw: Draw, digit_size: int, room: int) -> None:
    members = _digits.members_by_class(np.arange(30) % 10)
    place = _digits.draw_placement(draw, members, digit_size + room, digit_size)
    assert 0 <= place.row <= room and 0 <= place.col <= room
    assert {place.row, place.col} & {0, room}
    assert 0 <= place.distractor < 30


@pytest.mark.parametrize(("canvas", "digit_size", "distractor_size"), [(64, 16, 16), (64, 16, 32), (224, 28, 28), (224, 28, 112)])
@settings(max_examples=30)
@given(draw=DRAWS)
def test_digit_and_distractor_are_both_whole(canvas: int, digit_size: int, distractor_size: int, draw: Draw) -> None:
    rng = np.random.default_rng(0)
    digit, distractor = rng.integers(1, 256, (2, 8, 8)).astype(np.uint8)
    place = _digits.draw_placement(draw, _digits.members_by_class(np.arange(10)), canvas, digit_size)
    picture = _digits.compose(digit, distractor, place, canvas=canvas, digit_size=digit_size, distractor_size=distractor_size)
    start = (canvas - distractor_size) // 2
    at_border = picture[place.row : place.row + digit_size, place.col : place.col + digit_size]
    in_centre = picture[start : start + distractor_size, start : start + distractor_size]
    np.testing.assert_array_equal(at_border, _digits.enlarge(digit, digit_size))
    np.testing.assert_array_equal(in_centre, _digits.enlarge(distractor, distractor_size))
    assert np.count_nonzero(picture) == digit_size**2 + distractor_size**2


def test_original_order_is_class_by_class_with_one_generator() -> None:
    labels = np.array([3, 0, 9, 0, 3, 1, 2, 4, 5, 6, 7, 8])
    placed = list(_digits.original_placements(labels, np.random.RandomState(1).randint))
    assert [index for index, _ in placed] == [1, 3, 5, 6, 0, 4, 7, 8, 9, 10, 11, 2]
    first, second = (place for _, place in placed[:2])
    draw, members = np.random.RandomState(1).randint, _digits.members_by_class(labels)
    assert [first, second] == [_digits.draw_placement(draw, members, 224, 28) for _ in range(2)]
