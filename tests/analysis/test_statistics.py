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
from scipy.stats import rankdata, trim_mean, wilcoxon

from petlbench.analysis.aggregate import runs_frame
from petlbench.analysis.statistics import Comparison, compare, critical_difference, friedman_test, holm, mean_ranks, wilcoxon_p
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


def test_wilcoxon_of_demsars_example_is_exact_where_the_paper_approximates() -> None:
    """R+ = 93 and R- = 12, zeros split. The paper's z = -2.54 has p 0.011; of the 4096 signs of the 12 differences 16 give as much, on either side."""
    differences = np.round(DEMSAR[1] - DEMSAR[0], 3)
    ranks = rankdata(np.abs(differences))
    assert ranks[differences > 0].sum() + ranks[differences == 0].sum() / 2 == 93
    assert wilcoxon_p(differences) == 32 / 4096


def test_wilcoxon_ranks_zeros_and_gives_half_of_them_to_each_side() -> None:
    """Ranks 3 and 4 of 3 to 8 are negative: of the 64 choices of signs, 7 have negative ranks of at most 7, and 7 positive ones."""
    assert wilcoxon_p(np.array([0.0, 0.0, -1.0, -2.0, 3.0, 4.0, 5.0, 6.0])) == 14 / 64


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7))
@settings(max_examples=20)
def test_wilcoxon_with_ties_is_that_of_all_signs(differences: list[int]) -> None:
    values = np.array(differences, dtype=float)
    expected = wilcoxon(values, zero_method="zsplit").pvalue if values.any() else 1.0
    assert wilcoxon_p(values) == pytest.approx(expected, abs=1e-12)


def test_wilcoxon_with_ties_on_many_tasks_goes_through_sums_not_signs() -> None:
    """Two million signs of 21 ranks: the chance that none of 20 equal differences is negative, and that the largest one is not."""
    assert wilcoxon_p(np.array([1.0] * 20 + [2.0])) == 2 / 2**21


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_nor_changes_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert (corrected >= np.array(p_values)).all() and (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(p_values)]) >= 0).all()
    assert corrected.min() == min(1.0, min(p_values) * len(p_values))


def test_methods_that_never_differ_are_not_told_apart() -> None:
    found = friedman_test(("a", "b", "c"), np.full((3, 5), 70.0))
    assert (found.statistic, found.p, found.iman_davenport, found.groups) == (0.0, 1.0, 0.0, (("a", "b", "c"),))
    assert wilcoxon_p(np.zeros(20)) == 1.0


def test_what_differs_in_the_last_bit_only_is_a_tie() -> None:
    assert list(mean_ranks(np.array([[0.1 + 0.2], [0.3]]))) == [1.5, 1.5]
    assert compared({"lora": [[0.1 + 0.2]], "full": [[0.3]]}).pairs.iloc[0]["ties"] == 1


def test_ranks_on_one_task_are_not_tested() -> None:
    assert compared({"lora": [[80]], "full": [[70]], "bar": [[60]]}).friedman is None


def test_a_perfect_order_of_methods_has_an_infinite_f() -> None:
    found = friedman_test(("a", "b", "c"), np.array([[90.0] * 9, [80.0] * 9, [70.0] * 9]))
    assert (found.statistic, found.iman_davenport, found.iman_davenport_p) == (pytest.approx(18.0), math.inf, 0.0)


def test_groups_are_the_largest_sets_within_the_critical_difference() -> None:
    """Ranks 1, 2, 3 and 4 on 24 tasks, where Nemenyi's difference is 0.96: nothing joins; on 12 it is 1.35: neighbours do."""
    cells = np.array([[90.0], [80.0], [70.0], [60.0]])
    assert friedman_test("abcd", np.repeat(cells, 24, axis=1)).groups == ()
    assert friedman_test("abcd", np.repeat(cells, 12, axis=1)).groups == (("a", "b"), ("b", "c"), ("c", "d"))


def test_the_interquartile_mean_is_the_trimmed_mean_of_all_runs() -> None:
    """Agarwal et al. 2021 (rliable): ``trim_mean(scores, 0.25, axis=None)``, runs of all tasks together."""
    found = compared({"lora": [[10, 20, 99], [39, 40], [50, 0, 60, 70]], "full": [[1], [2], [3]]})
    assert found.methods.set_index("method")["iqm"].to_dict() == {"lora": trim_mean([10, 20, 99, 39, 40, 50, 0, 60, 70], 0.25), "full": 2.0}


def test_wins_ties_and_losses_are_counted_on_the_means_of_tasks() -> None:
    found = compared({"lora": [[80, 90], [60], [70], [71]], "full": [[85, 85], [50], [70], [72]]})
    line = found.pairs.iloc[0]
    assert (line["method"], line["other"], line["wins"], line["ties"], line["losses"]) == ("lora", "full", 1, 2, 1)
    assert line["difference"] == pytest.approx((0 + 10 + 0 - 1) / 4)


def test_a_seed_that_lacks_a_task_has_no_mean() -> None:
    found = compared({"lora": [[80, 90], [60]], "full": [[70, 71], [50, 51]]})
    assert found.seeds.loc["full"].to_list() == [60.0, 61.0]
    assert found.seeds.loc["lora", 0] == 70.0 and math.isnan(found.seeds.loc["lora", 1])


def test_a_method_without_a_result_of_a_task_is_left_out_by_name() -> None:
    found = compared({"lora": [[80], [60]], "full": [[70], [50]], "bar": [[10]]})
    assert found.left_out == ("bar",) and set(found.methods["method"]) == {"lora", "full"}


def test_a_method_at_two_rungs_is_two_methods() -> None:
    rungs = ("SCORES", "GRADIENTS")
    records = [make_record("vp", task, access=rung, settings={"rung": rung}) for task in TASKS[:2] for rung in rungs]
    assert set(compare(runs_frame(records), TASKS[:2]).methods["method"]) == {"vp at SCORES", "vp at GRADIENTS"}


def test_runs_of_two_protocols_are_not_compared() -> None:
    with pytest.raises(ValueError, match="several backbones or protocols"):
        compare(runs_frame([make_record(), make_record("full", protocol="p-2")]), TASKS[:1])


def test_nothing_to_compare_is_an_empty_comparison() -> None:
    found = compare(runs_frame([make_record(task=TASKS[0])]), TASKS[:2])
    assert found.methods.empty and found.pairs.empty and found.friedman is None and found.left_out == ("lora",)


def test_the_interval_is_that_of_the_tasks_when_seeds_agree() -> None:
    """One of two tasks drawn twice: the mean is 20, 50 or 80, with 20 and 80 a quarter of the time each."""
    line = compared({"lora": [[20, 20, 20], [80, 80, 80]]}).methods.iloc[0]
    assert (line["mean_low"], line["mean"], line["mean_high"]) == (20.0, 50.0, 80.0)


def test_the_interval_is_that_of_the_seeds_when_there_is_one_task() -> None:
    line = compared({"lora": [[40, 60]]}).methods.iloc[0]
    assert (line["mean_low"], line["mean"], line["mean_high"]) == (40.0, 50.0, 60.0)


def test_as_many_seeds_are_drawn_as_a_task_has() -> None:
    """With seeds 0 and 100 a task is drawn at 0 a quarter of the time, however many seeds the other task has: 25 is at the 2.5 percentile."""
    assert compared({"lora": [[0, 100], [50] * 12]}).methods.iloc[0]["mean_low"] == 25.0


def test_the_difference_of_two_methods_is_drawn_on_the_same_tasks() -> None:
    """Tasks as unlike as can be, and one method always 5 points above the other."""
    line = compared({"lora": [[95], [15], [55]], "full": [[90], [10], [50]]}).pairs.iloc[0]
    assert (line["difference_low"], line["difference_high"]) == (pytest.approx(5.0), pytest.approx(5.0))


def test_the_seeds_of_two_methods_are_drawn_independently() -> None:
    """Seeds have nothing in common: the difference of 0 points goes from -20 to 20."""
    line = compared({"lora": [[40, 60]], "full": [[40, 60]]}).pairs.iloc[0]
    assert (line["difference_low"], line["difference_high"]) == (-20.0, 20.0)


def test_a_methods_interval_does_not_depend_on_what_it_is_compared_with() -> None:
    runs = runs_frame(make_grid(("lora", "full", "bar")))
    alone, among = compare(runs[runs["method"] == "full"], TASKS), compare(runs, TASKS)
    pd.testing.assert_frame_equal(
        alone.methods.drop(columns="mean_rank"),
        among.methods[among.methods["method"] == "full"].drop(columns="mean_rank").reset_index(drop=True),
    )


cells = arrays(float, st.tuples(st.integers(2, 4), st.integers(2, 5), st.integers(1, 3)), elements=st.integers(0, 100).map(float))


@given(cells)
@settings(max_examples=25)
def test_intervals_hold_within_what_was_measured_and_ranks_add_up(values: NDArray[np.float64]) -> None:
    methods = ("lora", "full", "bar", "bbt")[: len(values)]
    found = compared({method: of_method.tolist() for method, of_method in zip(methods, values, strict=True)})
    for line in found.methods.to_dict("records"):
        own = values[methods.index(line["method"])]
        assert own.min() <= line["mean_low"] <= line["mean_high"] <= own.max()
        assert own.min() - 1e-9 <= line["iqm_low"] <= line["iqm_high"] <= own.max() + 1e-9
    assert found.methods["mean_rank"].sum() == pytest.approx(sum(range(1, len(methods) + 1)))
    assert (found.pairs[["wins", "ties", "losses"]].sum(axis=1) == values.shape[1]).all()
    assert (found.pairs["p_holm"] >= found.pairs["p_wilcoxon"]).all()


@pytest.mark.parametrize(
    ("methods", "tasks", "seeds", "warning"),
    [
        (
            2,
            5,
            3,
            "Too few tasks (5) for Wilcoxon's test: no p can be below 0.062.",
        ),
        (3, 6, 3, "Too few tasks (6) for Wilcoxon's test of 3 pairs: no p can be below 0.094 after Holm's correction."),
        (4, 2, 3, "Too few tasks (2) for Nemenyi's test of 4 methods: it cannot distinguish any two."),
        (6, 6, 3, "Friedman's p is approximate with 6 methods on 6 tasks."),
        (2, 6, 2, "Fewer than 3 seeds on a task: all methods. Their intervals say little about seeds."),
    ],
)
def test_too_few_tasks_or_seeds_are_said(methods: int, tasks: int, seeds: int, warning: str) -> None:
    names = ("bar", "bbt", "craft", "full", "lora", "vp")[:methods]
    found = compare(runs_frame(make_grid(names, TASKS[:tasks], range(seeds))), TASKS[:tasks])
    assert warning in found.warnings


def test_methods_with_few_seeds_are_named() -> None:
    found = compared({"lora": [[80, 81, 82]], "full": [[70, 71]], "bar": [[60]]})
    assert found.warnings[-1].startswith("Fewer than 3 seeds on a task: full, bar. ")


def test_enough_tasks_and_seeds_are_not_warned_about() -> None:
    tasks = tuple(f"vtab/task{i}" for i in range(19))
    assert compare(runs_frame(make_grid(("bar", "bbt", "craft", "full", "lora", "vp"), tasks)), tasks).warnings == ()
