"""Random gradient-free steps on functions whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petlbench.optim.rgf import RGF, RGFConfig, normal
from tests.near import assert_near

TARGET = torch.linspace(-1, 1, 20)


def distance(candidates: Tensor) -> Tensor:
    return (candidates - TARGET).square().sum(dim=1)


def listed(*directions: Tensor) -> Callable[[int], Tensor]:
    left = iter(directions)
    return lambda length: next(left)


def test_it_comes_near_the_minimum() -> None:
    optimizer = RGF(torch.zeros(20), RGFConfig())
    for _ in range(300):
        optimizer.step(distance, rate=0.05)
    assert distance(optimizer.vector[None]) < 0.05 * distance(torch.zeros(1, 20))


@given(slope=st.floats(-10, 10), directions=st.integers(1, 4), seed=st.integers(0, 1000))
def test_the_estimate_of_a_straight_line_is_its_slope(slope: float, directions: int, seed: int) -> None:
    optimizer = RGF(torch.zeros(1), RGFConfig(directions, smoothing=0.5), seed=seed)
    optimizer.step(lambda candidates: slope * candidates[:, 0], rate=1.0)
    assert optimizer.gradient.item() == pytest.approx(slope, abs=1e-4)


def test_it_asks_about_the_solution_and_a_point_on_each_direction() -> None:
    start = torch.tensor([1.0, 2.0])
    asked = []
    optimizer = RGF(start, RGFConfig(2, smoothing=0.1), listed(torch.tensor([3.0, 4.0]), torch.tensor([0.0, -2.0])))
    loss = optimizer.step(lambda rows: asked.append(rows) or rows.sum(dim=1), rate=1.0)
    assert_near(asked, [torch.stack([start, start + torch.tensor([0.06, 0.08]), start - torch.tensor([0.0, 0.1])])])
    assert loss == 3.0


def test_a_step_averages_the_slopes_along_its_directions_and_scales_by_the_length() -> None:
    slopes = torch.tensor([5.0, -3.0])
    optimizer = RGF(torch.zeros(2), RGFConfig(2), listed(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])))
    optimizer.step(lambda rows: rows @ slopes, rate=0.1)
    assert_near(optimizer.gradient, slopes)  # 2 / 2 of each
    assert_near(optimizer.vector, -0.1 * slopes)


def test_a_seed_decides_the_directions() -> None:
    first, again, other = (RGF(torch.zeros(20), RGFConfig(), seed=seed) for seed in (1, 1, 2))
    for optimizer in (first, again, other):
        optimizer.step(distance, rate=0.1)
    assert torch.equal(first.vector, again.vector)
    assert not torch.equal(first.vector, other.vector)


@given(st.integers(0, 2**32 - 1))
def test_directions_do_not_follow_what_the_same_seed_drew_for_the_start(seed: int) -> None:
    torch.manual_seed(seed)
    assert abs(torch.corrcoef(torch.stack([torch.randn(1000), normal(seed)(1000)]))[0, 1]) < 0.3


def test_the_start_stays_as_it_was() -> None:
    start = torch.zeros(20)
    RGF(start, RGFConfig()).step(distance, rate=0.1)
    assert not start.any()


@pytest.mark.parametrize(
    ("settings", "message"), [({"directions": 0}, "rgf.directions must be"), ({"smoothing": 0.0}, "rgf.smoothing must be")]
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RGFConfig(**settings)  # type: ignore[arg-type]
