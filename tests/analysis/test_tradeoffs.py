"""Trade accuracy against cost: the published formula with its numbers, and Pareto fronts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.analysis.aggregate import comparable_parts, leaderboard, runs_frame
from petlbench.analysis.tradeoffs import TRADEOFF_COLUMNS, accuracy_at_budgets, curves, pareto_front, ppt, tradeoffs
from petlbench.config.resolve import load_suite
from petlbench.records.schema import Record
from tests.record_factory import TASKS, make_record

ONE = {"mini": TASKS[:1]}


def part_and_runs(*records: Record) -> tuple[pd.DataFrame, pd.DataFrame]:
    return comparable_parts(leaderboard(records, ONE))[0], runs_frame(records)


@pytest.mark.parametrize(
    ("accuracy", "millions", "expected"),
    [(72.25, 0.29, 0.7136), (71.70, 2.38, 0.6535), (39.46, 6.37, 0.3186), (85.4, 28.34, 0.4764), (100.0, 10.0, 0.7401), (50.0, 0.0, 0.5)],
)
def test_ppt_of_published_rows(accuracy: float, millions: float, expected: float) -> None:
    assert ppt(accuracy, millions * 1e6) == pytest.approx(expected, abs=5e-5)


def test_ppt_counts_what_is_trained_without_the_head_and_is_withheld_where_half_the_backbone_is() -> None:
    records = [make_record("lora", accuracy=80, trainable=10_000_000), make_record("full", accuracy=90, trainable=11_000_000)]
    records.append(make_record("pgn", accuracy=70, trainable=30_000_000))  # a generator beside the backbone, which itself is not trained
    frame = tradeoffs(*part_and_runs(*records)).set_index("method")
    assert frame.loc["lora", "ppt"] == pytest.approx(0.8 * math.exp(-math.log10(2)))
    assert math.isnan(frame.loc["full", "ppt"])
    assert frame.loc["pgn", "ppt"] == pytest.approx(0.7 * math.exp(-math.log10(4)))


def test_accuracy_per_query_is_of_models_that_are_asked() -> None:
    frame = tradeoffs(*part_and_runs(make_record("bar", accuracy=60, queries=3000), make_record("lora", accuracy=90))).set_index("method")
    assert list(frame.reset_index().columns) == TRADEOFF_COLUMNS
    assert frame.loc["bar", "accuracy_per_1000_queries"] == 20.0
    assert math.isnan(frame.loc["lora", "accuracy_per_1000_queries"])
    assert frame.loc["bar", "front_queries"] and pd.isna(frame.loc["lora", "front_queries"])


def test_a_method_without_a_mean_is_on_no_front() -> None:
    records = [make_record("lora", accuracy=90), make_record("lora", TASKS[1], accuracy=90), make_record("bar", accuracy=10)]
    part = comparable_parts(leaderboard(records, {"mini": TASKS[:2]}))[0]
    frame = tradeoffs(part, runs_frame(records)).set_index("method")
    assert frame.loc["lora", "front_parameters"] and pd.isna(frame.loc["bar", "front_parameters"])


points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@given(points)
def test_a_front_holds_exactly_what_nothing_dominates(found: list[tuple[int, int]]) -> None:
    costs, accuracies = np.array(found, dtype=float).T
    for (cost, accuracy), is_best in zip(found, pareto_front(costs, accuracies), strict=True):
        beaten = any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in found)
        assert is_best != beaten


def test_accuracy_at_a_budget_is_the_last_look_before_it_was_spent() -> None:
    slow = make_record("blackvip", accuracy=50, curve=[(200, 0, 10.0), (900, 0, 30.0), (1100, 0, 50.0)])
    quick = make_record("craft", accuracy=60, curve=[(100, 40, 60.0)])
    frame = accuracy_at_budgets(*part_and_runs(slow, quick))
    assert frame[frame["unit"] == "images"].drop(columns="unit").to_numpy().tolist() == [
        ["blackvip", 300, 10.0],
        ["blackvip", 1000, 30.0],
        ["craft", 100, 60.0],
        ["craft", 300, 60.0],
        ["craft", 1000, 60.0],
    ]


def test_without_curves_there_are_no_budgets() -> None:
    assert accuracy_at_budgets(*part_and_runs(make_record())).empty


def test_curves_are_of_looks_that_all_runs_of_a_method_have_when_something_was_sent() -> None:
    records = [
        make_record("bar", accuracy=50, curve=[(0, 0, 5.0), (200, 0, 10.0), (400, 0, 50.0)]),
        make_record("bar", seed=1, accuracy=50, curve=[(0, 0, 5.0), (200, 0, 30.0), (300, 0, 70.0)]),
    ]
    assert curves(*part_and_runs(*records)) == {"images": {"bar": [(200.0, 20.0)]}, "contexts": {}}


def test_a_method_that_lacks_a_task_has_no_curve() -> None:
    records = [make_record("bar", curve=[(200, 0, 10.0)]), make_record("lora", TASKS[1])]
    part = comparable_parts(leaderboard(records, {"mini": TASKS[:2]}))[0]
    assert curves(part, runs_frame(records)) == {"images": {}, "contexts": {}}


def test_tasks_that_do_not_rank_are_not_in_a_curve() -> None:
    suite = load_suite("craft15")
    ranked = suite.groups[suite.ranked_by or ""]
    records = [make_record("bar", task, curve=[(200, 0, 10.0 if task in ranked else 90.0)]) for task in suite.tasks]
    part = comparable_parts(leaderboard(records, {"craft15": suite.tasks}))[0]
    assert curves(part, runs_frame(records))["images"] == {"bar": [(200.0, pytest.approx(10.0))]}
