"""Learning-rate schedules."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.scheduler.cosine_lr import CosineLRScheduler

from petlbench.config.settings import Train
from petlbench.optim.schedule import factor, learning_rate

NOAH = Train(schedule="timm_cosine", epochs=100, warmup_epochs=10, learning_rate=1e-3, warmup_learning_rate=1e-6, min_learning_rate=1e-5)


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


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1e-6), (1, 1e-6), (2, 1.009e-4), (50, 5.2055e-4), (99, 1.098e-5)])
def test_noahs_and_spts_epochs_run_at_the_rates_of_their_released_code(epoch: int, expected: float) -> None:
    assert learning_rate(epoch, NOAH) == pytest.approx(expected, rel=5e-4)  # printed with four digits


@pytest.mark.parametrize(("warmup", "total"), [(10, 100), (3, 20), (0, 12), (1, 2)])
def test_timm_cosine_is_timms_scheduler_stepped_with_the_number_of_the_epoch_that_has_ended(warmup: int, total: int) -> None:
    recipe = dataclasses.replace(NOAH, epochs=total, warmup_epochs=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = CosineLRScheduler(optimizer, t_initial=total, lr_min=1e-5, warmup_t=warmup, warmup_lr_init=1e-6)
    rates = []
    for epoch in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    assert [learning_rate(epoch, recipe) for epoch in range(total)] == pytest.approx(rates, rel=1e-12)


def test_a_warm_up_and_a_cosine_may_begin_and_end_above_zero() -> None:
    recipe = Train(epochs=6, warmup_epochs=2, learning_rate=1.0, warmup_learning_rate=0.2, min_learning_rate=0.4)
    assert [learning_rate(position, recipe) for position in (0, 1, 2, 4, 6)] == pytest.approx([0.2, 0.6, 1.0, 0.7, 0.4])


def test_a_rate_per_256_images_is_scaled_and_its_ends_are_not() -> None:
    recipe = Train(learning_rate=2.0, scale_learning_rate=True, batch_size=64, warmup_learning_rate=0.1, min_learning_rate=0.3)
    assert [learning_rate(epoch, recipe) for epoch in (0, 10, 100)] == pytest.approx([0.1, 0.5, 0.3])


def test_vps_rates_are_those_of_its_released_code() -> None:
    """Per step: (s + 1) / W of the rate in the warm-up of W steps, then half a cosine down over the rest."""
    recipe = Train(epochs=3, warmup_epochs=0.5, learning_rate=40.0, schedule="vp_cosine", schedule_step="step")
    rates = [learning_rate(step / 8, recipe, 1 / 8) for step in range(24)]
    assert rates[:5] == pytest.approx([10, 20, 30, 40, 40])
    assert rates[4:] == pytest.approx([20 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


def test_blackvips_white_box_rates_are_those_of_its_released_code() -> None:
    """Per epoch: 0.1, then e / W of the rate, then a half cosine that would last as long as all epochs together."""
    recipe = Train(epochs=10, warmup_epochs=4, learning_rate=40.0, warmup_learning_rate=0.1, schedule="dassl_cosine")
    rates = [learning_rate(epoch, recipe) for epoch in range(10)]
    assert rates[:4] == pytest.approx([0.1, 10, 20, 30])
    assert rates[4:] == pytest.approx([20 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(6)])


def pgns_rates(epochs: int, warmup: float, **settings: float) -> list[float]:
    recipe = Train(epochs=epochs, warmup_epochs=warmup, learning_rate=0.4, schedule="pgn_cosine", **settings)  # type: ignore[arg-type]
    return [learning_rate(epoch, recipe) for epoch in range(epochs)]


def test_pgns_rates_are_those_of_its_released_code() -> None:
    """Per epoch: 1 / W of the rate twice, then e / W, then half a cosine down to a hundredth of it, which no epoch reaches."""
    rates = pgns_rates(6, 2)
    assert rates[:3] == pytest.approx([0.2, 0.2, 0.4])
    assert rates[2:] == pytest.approx([0.004 + 0.396 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])


def test_pgns_rate_may_end_higher_than_at_a_hundredth() -> None:
    assert pgns_rates(5, 0, min_learning_rate=0.1)[-1] > 0.1
    assert pgns_rates(5, 0, min_learning_rate=0.001) == pgns_rates(5, 0)


def test_pgns_rates_without_a_warm_up_begin_at_the_highest_and_may_be_a_warm_up_only() -> None:
    assert pgns_rates(4, 0)[0] == 0.4
    assert pgns_rates(3, 4) == pytest.approx([0.1, 0.1, 0.2])
    assert pgns_rates(1, 1) == [0.4]


def test_a_warm_up_that_no_epoch_of_a_cosine_follows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_epochs must lie in \[0, epochs\), got 3 of 3"):
        Train(epochs=3, warmup_epochs=3)


@pytest.mark.parametrize(("schedule", "step"), [("timm_cosine", "step"), ("dassl_cosine", "step"), ("vp_cosine", "epoch")])
def test_a_schedule_is_stepped_as_its_code_steps_it(schedule: Any, step: Any) -> None:
    with pytest.raises(ValueError, match=f"schedule={schedule} changes once per "):
        Train(schedule=schedule, schedule_step=step)
