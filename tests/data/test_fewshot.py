"""Few-shot draws are those of CoOp's code, image for image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.data.fewshot import draw
from petlbench.errors import DataError

NAMES = ("a", "b", "c")
TRAIN, VAL = np.arange(30) % 3, np.arange(15) % 3

# seed -> indices drawn from TRAIN, then from VAL, by CoOp's code with 4 shots
DRAWN_BY_COOP = {
    1: ([6, 3, 12, 0, 22, 28, 25, 16, 20, 11, 5, 26], [0, 9, 3, 12, 10, 7, 13, 1, 14, 2, 5, 11]),
    2: ([0, 3, 24, 6, 7, 13, 25, 22, 11, 2, 8, 29], [9, 6, 12, 3, 13, 7, 1, 10, 8, 11, 5, 14]),
    3: ([9, 24, 6, 21, 28, 22, 4, 13, 2, 23, 14, 26], [3, 12, 6, 9, 13, 10, 4, 1, 5, 14, 8, 11]),
}


@pytest.mark.parametrize("seed", DRAWN_BY_COOP)
def test_a_seed_draws_the_images_that_coop_draws(seed: int) -> None:
    train, val = draw(TRAIN, VAL, 4, seed, NAMES)
    assert (train.tolist(), val.tolist()) == DRAWN_BY_COOP[seed]


def test_validation_gets_four_images_per_class_at_most() -> None:
    _, val = draw(TRAIN, VAL, 5, 1, NAMES)
    assert np.bincount(VAL[val]).tolist() == [4, 4, 4]


def test_a_validation_class_with_too_few_images_is_kept_whole() -> None:
    _, val = draw(TRAIN, np.array([0, 1, 0, 1, 0, 1]), 4, 1, NAMES)
    assert val.tolist() == [0, 2, 4, 1, 3, 5]


SHORT = np.arange(6) % 2  # three images for each of two classes


@pytest.mark.parametrize(("shortage", "drawn"), [("keep", [0, 2, 4, 1, 3, 5]), ("repeat", [0, 4, 4, 0, 2, 3, 3, 5, 1, 1])])
def test_a_short_class_is_kept_whole_as_coop_does_or_drawn_from_repeatedly_as_craft_does(shortage: Any, drawn: list[int]) -> None:
    train, _ = draw(SHORT, SHORT, 5, 1, ("a", "b"), shortage)
    assert train.tolist() == drawn


@given(st.integers(1, 8), st.integers(0, 99))
def test_images_that_are_drawn_to_train_on_do_not_validate(shots: int, seed: int) -> None:
    places = np.arange(0, 30, 2)
    train, val = draw(TRAIN, TRAIN[places], shots, seed, NAMES, val_in_train=places)
    without, _ = draw(TRAIN, VAL, shots, seed, NAMES)
    assert train.tolist() == without.tolist() and not set(places[val]) & set(train)
    assert max(np.bincount(TRAIN[places[val]])) <= min(shots, 4)


def test_a_class_with_too_few_training_images_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'b' has 2 training images, fewer than protocol\.shots=3; lower the shots"):
        draw(np.array([0, 1, 0, 1, 0, 2, 2, 2]), VAL, 3, 1, NAMES)


def test_a_class_without_any_training_image_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'c' has 0 training images"):
        draw(np.array([0, 1, 0, 1]), VAL, 1, 1, NAMES)


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 5), st.integers(0, 99))
def test_every_class_gets_exactly_the_shots_without_repetition(labels: list[int], shots: int, seed: int) -> None:
    train = np.array([0, 1, 2] * shots + labels)
    chosen, _ = draw(train, VAL, shots, seed, NAMES)
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.bincount(train[chosen], minlength=3).tolist() == [shots] * 3
