"""SPSA on functions whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petlbench.optim.spsa import SPSA, SPSAConfig, segmented_uniform
from tests.near import assert_near

TARGET = torch.linspace(-1, 1, 20)


def distance(candidates: Tensor) -> Tensor:
    return (candidates - TARGET).square().sum(dim=1)


def listed(*perturbations: Tensor) -> Callable[[int], Tensor]:
    left = iter(perturbations)
    return lambda length: next(left)


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.0}, {"one_sided": True}, {"sequential_exact": True}], ids=str)
def test_it_comes_near_the_minimum(settings: dict[str, bool]) -> None:
    optimizer = SPSA(torch.zeros(20), SPSAConfig(step=0.02, **settings))
    for _ in range(300):
        optimizer.step(distance)
    assert distance(optimizer.vector[None]) < 0.05 * distance(torch.zeros(1, 20))


@given(slope=st.floats(-10, 10), repeats=st.integers(1, 4), one_sided=st.booleans(), seed=st.integers(0, 1000))
def test_the_estimate_of_a_straight_line_is_its_slope(slope: float, repeats: int, one_sided: bool, seed: int) -> None:
    optimizer = SPSA(torch.zeros(1), SPSAConfig(perturbation=0.5, repeats=repeats, one_sided=one_sided), seed=seed)
    optimizer.step(lambda candidates: slope * candidates[:, 0])
    assert optimizer.gradient.item() == pytest.approx(slope, abs=1e-4)


def test_candidates_come_in_pairs_ahead_of_and_behind_the_solution() -> None:
    start, deltas = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, -1.0], [-0.5, 0.75]])
    asked = []
    SPSA(start, SPSAConfig(perturbation=0.1, repeats=2), listed(*deltas)).step(lambda rows: asked.append(rows) or rows.sum(dim=1))
    expected = [start + 0.1 * deltas[0], start - 0.1 * deltas[0], start + 0.1 * deltas[1], start - 0.1 * deltas[1]]
    assert_near(asked, [torch.stack(expected)])


def test_one_sided_differences_share_one_query_of_the_solution() -> None:
    start, deltas = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, -1.0], [-0.5, 0.75]])
    asked = []
    config = SPSAConfig(perturbation=0.1, repeats=2, one_sided=True)
    SPSA(start, config, listed(*deltas)).step(lambda rows: asked.append(rows) or rows.sum(dim=1))
    assert_near(asked, [torch.stack([start, start + 0.1 * deltas[0], start + 0.1 * deltas[1]])])


@pytest.mark.parametrize(("one_sided", "queries"), [(False, 10), (True, 6)])
def test_sequential_exact_asks_for_one_loss_at_a_time_and_takes_the_same_step(one_sided: bool, queries: int) -> None:
    solutions, calls = [], []
    for sequential in (False, True):
        optimizer = SPSA(torch.zeros(20), SPSAConfig(one_sided=one_sided, sequential_exact=sequential))
        calls.append([])
        optimizer.step(lambda rows: calls[-1].append(len(rows)) or distance(rows))
        solutions.append(optimizer.vector)
    assert calls == [[queries], [1] * queries]
    assert torch.equal(*solutions)


def test_gains_and_momentum_follow_the_released_arithmetic() -> None:
    """Two steps by hand: m = g, then beta * m + g; w - a_i * (g + beta * m)."""
    config = SPSAConfig(step=0.5, step_offset=1.0, step_decay=1.0, perturbation=0.1, perturbation_decay=1.0, momentum=0.5, repeats=1)
    optimizer = SPSA(torch.zeros(1), config, listed(torch.ones(1), torch.ones(1)))
    scales = []
    for _ in range(2):
        optimizer.step(lambda rows: scales.append(rows[0] - rows[1]) or 4 * rows[:, 0])
    assert_near(torch.cat(scales), torch.tensor([0.2, 0.1]))  # 2 * c / i
    first = 0 - 0.5 / 2 * (4 + 0.5 * 4)
    second = first - 0.5 / 3 * (4 + 0.5 * (0.5 * 4 + 4))
    assert optimizer.vector.item() == pytest.approx(second, abs=1e-5)


def test_without_momentum_a_step_is_the_estimate_times_the_gain() -> None:
    optimizer = SPSA(torch.zeros(20), SPSAConfig(momentum=0.0))
    optimizer.step(distance)
    assert_near(optimizer.vector, -optimizer.config.step_gain(1) * optimizer.gradient)


def test_a_step_gives_the_mean_loss_of_its_last_repeat() -> None:
    found = []
    loss = SPSA(torch.zeros(20), SPSAConfig(repeats=3)).step(lambda rows: found.append(distance(rows)) or found[-1])
    assert_near(loss, found[0][-2:].mean())


@given(st.integers(0, 2**31))
def test_perturbations_stay_away_from_zero_and_take_both_signs(seed: int) -> None:
    drawn = segmented_uniform(seed)(500)
    assert drawn.abs().min() >= 0.5 and drawn.abs().max() <= 1
    assert 150 < (drawn > 0).sum() < 350


def test_a_seed_decides_the_perturbations() -> None:
    draws = [torch.stack([draw(10), draw(10)]) for draw in map(segmented_uniform, (1, 1, 2))]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2]) and not torch.equal(*draws[0])


@given(st.integers(0, 2**32 - 1))
def test_perturbations_do_not_follow_what_the_same_seed_drew_for_the_start(seed: int) -> None:
    torch.manual_seed(seed)
    start = torch.rand(1000)
    perturbation = segmented_uniform(seed)(1000)
    for drawn in (perturbation, perturbation.abs()):
        assert abs(torch.corrcoef(torch.stack([start, drawn]))[0, 1]) < 0.3


def test_the_start_is_not_written_to() -> None:
    start = torch.zeros(20)
    SPSA(start, SPSAConfig()).step(distance)
    assert torch.equal(start, torch.zeros(20))


@pytest.mark.parametrize(
    ("field", "value"),
    [("step", 0.0), ("perturbation", -1.0), ("repeats", 0), ("momentum", 1.0), ("step_decay", -0.1), ("perturbation", float("nan"))],
)
def test_a_setting_that_cannot_work_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"spsa\.{field} must"):
        SPSAConfig(**{field: value})
