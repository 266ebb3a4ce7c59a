"""CMA-ES: finds minima, stays within its bounds, is reproducible and leaves numpy's random state unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from petlbench.errors import Diverged
from petlbench.optim.evolution import CMAES, Vectors
from tests.near import assert_near

TARGET = np.array([0.5, -1.0, 2.0])


def squared_distance(candidates: Vectors) -> Vectors:
    return ((candidates - TARGET) ** 2).sum(axis=1)


def search(seed: int, iterations: int, bound: float | None = None) -> CMAES:
    strategy = CMAES(3, sigma=0.5, population=8, bound=bound, seed=seed)
    for _ in range(iterations):
        candidates = strategy.ask()
        strategy.tell(candidates, squared_distance(candidates))
    return strategy


def test_it_starts_at_zero() -> None:
    np.testing.assert_array_equal(search(0, iterations=0).mean, np.zeros(3))


def test_it_finds_the_minimum() -> None:
    found = search(0, iterations=60)
    assert_near(found.mean, TARGET, 2e-3, "sixty iterations end near the minimum, not at it")
    assert_near(found.best, TARGET, 2e-2, "one candidate around the mean")


def test_the_best_is_the_lowest_of_all_that_was_told() -> None:
    strategy, told = CMAES(3, sigma=0.5, population=8), []
    for _ in range(5):
        candidates = strategy.ask()
        strategy.tell(candidates, squared_distance(candidates))
        told.extend(candidates)
    np.testing.assert_array_equal(strategy.best, told[int(squared_distance(np.stack(told)).argmin())])


def test_candidates_stay_in_the_box() -> None:
    strategy = CMAES(3, sigma=5.0, population=50, bound=0.3)
    assert np.abs(strategy.ask()).max() <= 0.3


def test_seed_0_repeats_itself_and_seed_1_differs() -> None:
    np.testing.assert_array_equal(search(0, 5).ask(), search(0, 5).ask())
    assert not np.array_equal(search(0, 5).ask(), search(1, 5).ask())


def test_numpys_random_state_is_left_alone() -> None:
    before = np.random.get_state()  # noqa: NPY002
    search(0, 3)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_candidates_may_be_asked_for_and_not_told_in_many_dimensions() -> None:
    """The two-point step-size rule, cma 4.5's own choice from 300 dimensions on, fails here."""
    strategy = CMAES(300, sigma=1.0, population=6)
    for _ in range(3):
        candidates = strategy.ask()
        strategy.tell(candidates, (candidates**2).sum(axis=1))
        assert strategy.ask().shape == (6, 300)


def test_it_stops_where_nothing_more_can_be_gained() -> None:
    assert not search(0, iterations=10).stopped
    assert search(0, iterations=200).stopped


def test_a_fitness_that_is_not_finite_is_refused() -> None:
    strategy = CMAES(3, sigma=0.5, population=4)
    with pytest.raises(Diverged, match="the fitness of a candidate is nan; lower the search's sigma or bound it"):
        strategy.tell(strategy.ask(), [0.0, float("nan"), 1.0, 2.0])
