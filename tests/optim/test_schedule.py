"""Learning-rate schedules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.optim.schedule import factor


def test_ten_epochs_of_warm_up_and_a_hundred_in_all_are_vpts_schedule() -> None:
    rates = [factor(epoch, 10, 100) for epoch in range(100)]
    assert rates[:11] == pytest.approx([epoch / 10 for epoch in range(11)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_the_first_epoch_of_a_warm_up_runs_at_zero() -> None:
    assert factor(0, 10, 100) == 0


def test_without_a_warm_up_the_first_epoch_runs_at_the_full_rate() -> None:
    assert factor(0, 0, 100) == 1


def test_a_constant_schedule_stays_at_the_full_rate_after_its_warm_up() -> None:
    assert [factor(epoch, 2, 5, "constant") for epoch in range(5)] == [0, 0.5, 1, 1, 1]


@given(st.floats(0, 50), st.floats(0, 49), st.floats(0, 1, exclude_max=True))
def test_a_rate_never_leaves_zero_to_one(length: float, warmup: float, place: float) -> None:
    total = warmup + length + 1
    assert 0 <= factor(place * total, warmup, total) <= 1


@given(st.integers(0, 20), st.integers(21, 100))
def test_after_the_warm_up_the_rate_only_falls(warmup: int, total: int) -> None:
    rates = [factor(epoch, warmup, total) for epoch in range(warmup, total)]
    assert rates == sorted(rates, reverse=True) and rates[-1] > 0
