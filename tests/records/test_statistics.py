"""Statistics of methods: textbook examples with their printed numbers, and what must hold for all results."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import trim_mean

from petlbench.records.aggregate import runs_frame
from petlbench.records.statistics import Comparison, compare, critical_difference, friedman_test, holm, mean_ranks, wilcoxon_p
from tests.record_factory import TASKS, make_grid, make_record

# Demšar 2006 (JMLR 7), table 6: AUC of C4.5 and of three versions of it on 14 data sets. Where two cells of a row print alike, the printed
# ranks tell them apart: the last cell of "voting" is lowered by 0.0001.
DEMSAR = np.array(
    [
        [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
        [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
        [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.975, 0.946],
        [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.9749, 0.970],
    ]
)
CLASSIFIERS = ("C4.5", "+m", "+cf", "+m+cf")


def compared(values: dict[str, list[list[float]]]) -> Comparison:
    """Method -> task -> accuracies of seeds 0, 1, ..."""
    tasks = TASKS[: max(map(len, values.values()))]
    records = [
        make_record(method, task, seed, accuracy)
        for method, of_method in values.items()
        for task, of_task in zip(tasks, of_method, strict=False)
        for seed, accuracy in enumerate(of_task)
    ]
    return compare(runs_frame(records), tasks)


def test_mean_ranks_of_demsars_example() -> None:
    assert mean_ranks(DEMSAR) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)


def test_friedman_of_demsars_example() -> None:
    """The paper's 9.28 is without the correction for ties, of which there are sum(t**3 - t) = 78 in 14 data sets of 4 ranks."""
    found = friedman_test(CLASSIFIERS, DEMSAR)
    assert found.statistic * (1 - 78 / (14 * (4**3 - 4))) == pytest.approx(9.28, abs=5e-3)


def test_critical_differences_of_demsars_table_5() -> None:
    """q = 2.569 for 4 methods and 3.164 for 10; the example's critical difference is 1.25."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    for methods, q in {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}.items():
        assert critical_difference(methods, 14) == pytest.approx(q * math.sqrt(methods * (methods + 1) / (6 * 14)), abs=1e-3)


def test_iman_davenports_f_is_that_of_an_analysis_of_variance_of_the_ranks() -> None:
    found = friedman_test(CLASSIFIERS, DEMSAR)
    ranks = np.array([pd.Series(column).rank(ascending=False) for column in DEMSAR.T])  # (tasks, methods)
    between = 14 * ((ranks.mean(axis=0) - 2.5) ** 2).sum() / 3
    within = ((ranks - ranks.mean(axis=0)) ** 2).sum() / (3 * 13)
    assert found.iman_davenport == pytest.approx(between / within)


def test_friedman_of_hollander_and_wolfes_runners() -> None:
    """Hollander & Wolfe 1973, p. 140: three ways of rounding first base, 22 runners; chi-square 11.143, p 0.003805 (as R prints it)."""
    times = """5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35 5.45 5.50 5.35
    5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95 5.50 5.50 5.40 5.45 5.55 5.50
    5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55 6.30 6.30 6.25"""
    found = friedman_test(("round out", "narrow", "wide"), np.array(times.split(), dtype=float).reshape(22, 3).T)
    assert (found.statistic, found.p) == (pytest.approx(11.143, abs=5e-4), pytest.approx(0.003805, abs=5e-7))


def test_wilcoxon_of_hollander_and_wolfes_patients() -> None:
    """Hollander & Wolfe 1973, p. 29: depression of 9 patients before and after; one-sided p 0.01953."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert wilcoxon_p(before - after) == pytest.approx(2 * 0.01953, abs=1e-5)


def test_wilcoxon_of_demsars_example_is_about_its_z() -> None:
    """R+ = 93, R- = 12, z = -2.54 without continuity or tie correction: p is 0.011."""
    assert wilcoxon_p(np.round(DEMSAR[1] - DEMSAR[0], 3)) == pytest.approx(0.011, abs=1e-3)


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
