"""Statistics of methods on one suite, backbone and protocol: intervals, ranks and tests.

The unit of the tests is the task: seeds are averaged first, as runs of one task are not independent evidence about methods. Letters in shapes:
M methods, T tasks, S seeds, R bootstrap draws. Accuracies and differences are percent and points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2, f, friedmanchisquare, rankdata, studentized_range

ALPHA = 0.05
DRAWS = 2000  # of the bootstrap
METHOD_COLUMNS = ["method", "runs", "mean", "mean_low", "mean_high", "iqm", "iqm_low", "iqm_high", "mean_rank"]
PAIR_COLUMNS = [
    *("method", "other", "difference", "difference_low", "difference_high", "wins", "ties", "losses"),
    *("p_wilcoxon", "p_holm", "p_nemenyi"),
]
_EQUAL = 1e-9  # points; means of the same answers may differ in the last bit
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of whether methods differ, and the critical difference of mean ranks for pairs."""

    statistic: float  # chi-square with M - 1 degrees of freedom, corrected for ties
    p: float
    iman_davenport: float  # F with M - 1 and (M - 1)(T - 1) degrees of freedom; less conservative
    iman_davenport_p: float
    critical_difference: float  # of mean ranks, Nemenyi at ALPHA
    groups: tuple[tuple[str, ...], ...]  # methods, best first, that Nemenyi's test does not distinguish; maximal groups only
    warnings: tuple[str, ...]  # tests with too few tasks or methods


@dataclass(frozen=True)
class Comparison:
    """Methods with a result on every task, best mean first."""

    tasks: tuple[str, ...]
    methods: pd.DataFrame  # METHOD_COLUMNS
    pairs: pd.DataFrame  # PAIR_COLUMNS; ``method`` is the one with the higher mean
    seeds: pd.DataFrame  # mean over the tasks, one row per method, one column per seed; NaN where the seed lacks a task
    friedman: Friedman | None  # None with fewer than three methods or two tasks
    left_out: tuple[str, ...]  # methods that lack a task
    warnings: tuple[str, ...]  # tests with too few tasks, methods or seeds, including those of ``friedman``


def compare(runs: pd.DataFrame, tasks: Sequence[str]) -> Comparison:
    """Compare the methods of a ``runs_frame`` on some tasks. The runs must be of one backbone and protocol (see ``runs_behind``).

    The same runs give the same numbers: the bootstrap is seeded.
    """
    if len(runs[["backbone", "protocol"]].drop_duplicates()) > 1:
        raise ValueError("runs of several backbones or protocols cannot be compared; take those behind one of the comparable parts")
    names, seeds, scores = _scores(runs, tasks)
    means = np.array([[_mean(cell) for cell in of_method] for of_method in scores]).reshape(len(names), len(tasks))
    complete = np.flatnonzero(~np.isnan(means).any(axis=1))
    order = complete[np.argsort(-means[complete].mean(axis=1), kind="stable")]
    methods, scores, cells = [names[i] for i in order], scores[order], means[order]
    left_out = tuple(sorted(set(names) - set(methods)))
    ranks = mean_ranks(cells)
    drawn = [_bootstrap(of_method, method) for method, of_method in zip(methods, scores, strict=True)]
    friedman = friedman_test(methods, cells) if len(methods) > 2 and len(tasks) > 1 else None
    pairs = _pairs(methods, cells, [mean for mean, _ in drawn], ranks)
    rows = [
        [method, int(np.isfinite(runs_of).sum()), cell.mean(), *_interval(mean), _iqm(runs_of.reshape(1, -1))[0], *_interval(iqm), rank]
        for method, runs_of, cell, (mean, iqm), rank in zip(methods, scores, cells, drawn, ranks, strict=True)
    ]
    return Comparison(
        tasks=tuple(tasks),
        methods=pd.DataFrame(rows, columns=METHOD_COLUMNS),
        pairs=pairs,
        seeds=pd.DataFrame(scores.mean(axis=1), index=methods, columns=seeds),
        friedman=friedman,
        left_out=left_out,
        warnings=tuple(_warnings(methods, scores, friedman)),
    )


def row_names(frame: pd.DataFrame) -> pd.Series[str]:
    """Return the names of methods in a comparison, for runs or leaderboard rows: a method at two rungs gets two names."""
    rungs = frame.groupby("method")["access"].transform("nunique")
    return frame["method"].where(rungs == 1, frame["method"] + " at " + frame["access"])


def mean_ranks(cells: _Floats) -> _Floats:
    """Return (M,) ranks of methods, 1 for the highest accuracy, ties sharing, averaged over the tasks of (M, T)."""
    return rankdata(-_rounded(cells), axis=0).mean(axis=1)


def friedman_test(methods: Sequence[str], cells: _Floats) -> Friedman:
    """Compute Friedman's test on (M, T) accuracies with Iman and Davenport's F and Nemenyi's critical difference (Demšar 2006, JMLR 7, section 3.2)."""
    m, t = cells.shape
    cells = _rounded(cells)
    statistic = float(friedmanchisquare(*cells).statistic) if np.ptp(cells, axis=0).any() else 0.0
    rest = t * (m - 1) - statistic
    ratio = (t - 1) * statistic / rest if rest > 1e-9 else math.inf
    difference = critical_difference(m, t)
    return Friedman(
        statistic=statistic,
        p=float(chi2.sf(statistic, m - 1)),
        iman_davenport=ratio,
        iman_davenport_p=float(f.sf(ratio, m - 1, (m - 1) * (t - 1))),
        critical_difference=difference,
        groups=_groups(methods, mean_ranks(cells), difference),
        warnings=tuple(_warnings_of_ranks(m, t, difference)),
    )


def critical_difference(methods: int, tasks: int) -> float:
    """Return the difference of mean ranks that is significant at level ALPHA (Nemenyi's test; Demšar 2006, section 3.2.2)."""
    return float(studentized_range.ppf(1 - ALPHA, methods, math.inf)) / math.sqrt(2) * _rank_error(methods, tasks)


def holm(p_values: Sequence[float]) -> _Floats:
    """Correct p-values for their number (Holm 1979): step down, never decreasing, at most 1."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def _scores(runs: pd.DataFrame, tasks: Sequence[str]) -> tuple[list[str], list[int], _Floats]:
    """Return methods, seeds and accuracies (M, T, S), NaN where there is no run."""
    wide = runs.assign(method=row_names(runs)).pivot_table(index="method", columns=["task", "seed"], values="accuracy")
    methods, seeds = [str(name) for name in wide.index], sorted(int(seed) for seed in set(runs["seed"]))
    values = wide.reindex(columns=pd.MultiIndex.from_product([list(tasks), seeds])).to_numpy(float)
    return methods, seeds, values.reshape(len(methods), len(tasks), len(seeds))


def _mean(values: _Floats) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else math.nan


def _rounded(cells: _Floats) -> _Floats:
    """Round accuracies so that floating-point noise makes no difference."""
    return np.round(cells, 9)


def _bootstrap(scores: _Floats, method: str) -> tuple[_Floats, _Floats]:
    """Return bootstrap means and interquartile means (R,) of (T, S) accuracies: tasks are drawn, then seeds within each.

    All methods share the tasks of a draw, so that draws of two methods may be subtracted; each method has its own random stream
    for seeds, which does not depend on the other methods.
    """
    t, s = scores.shape
    tasks = np.random.default_rng(0).integers(t, size=(DRAWS, t))
    counts = np.isfinite(scores).sum(axis=1)  # (T,)
    packed = np.sort(scores, axis=1)  # NaN last
    indices = (np.random.default_rng([1, *method.encode()]).random((DRAWS, t, s)) * counts[tasks][..., None]).astype(int)
    drawn = packed[tasks[..., None], indices]  # (R, T, S)
    drawn[np.arange(s) >= counts[tasks][..., None]] = np.nan  # a task keeps its number of seeds
    return np.nanmean(drawn, axis=2).mean(axis=1), _iqm(drawn.reshape(DRAWS, -1))


def _iqm(values: _Floats) -> _Floats:
    """Return (R,) interquartile means of the rows of (R, N): without the highest and the lowest quarter, rounded down (Agarwal et al. 2021)."""
    ordered = np.sort(values, axis=1)  # NaN last
    counts = np.isfinite(ordered).sum(axis=1, keepdims=True)
    index, cut = np.arange(ordered.shape[1]), counts // 4
    kept = (index >= cut) & (index < counts - cut)
    return np.where(kept, ordered, 0.0).sum(axis=1) / kept.sum(axis=1)


def _interval(draws: _Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _pairs(methods: Sequence[str], cells: _Floats, drawn: Sequence[_Floats], ranks: _Floats) -> pd.DataFrame:
    m, t = cells.shape
    chosen = list(combinations(range(m), 2))
    distances = np.array([abs(float(ranks[i] - ranks[j])) for i, j in chosen]) * math.sqrt(2) / _rank_error(m, t) if chosen else np.empty(0)
    nemenyi = np.where(distances > 0, studentized_range.sf(distances, m, math.inf), 1.0) if chosen else distances
    rows = []
    for (i, j), p_nemenyi in zip(chosen, nemenyi.tolist(), strict=True):
        differences = _rounded(cells[i] - cells[j])
        counts = [int((differences > 0).sum()), int((differences == 0).sum()), int((differences < 0).sum())]
        interval = _interval(drawn[i] - drawn[j])
        rows.append([methods[i], methods[j], differences.mean(), *interval, *counts, wilcoxon_p(differences), p_nemenyi])
    frame = pd.DataFrame(rows, columns=[column for column in PAIR_COLUMNS if column != "p_holm"])
    return frame.assign(p_holm=holm(frame["p_wilcoxon"].to_list()))[PAIR_COLUMNS]


def wilcoxon_p(differences: _Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed ranks; ranks of zeros count half for each side (Demšar 2006, section 3.1.3).

    Exact, with or without ties: the distribution of the sum of positive ranks over all signs of the nonzero differences. (SciPy's ``wilcoxon`` is
    exact with ties only up to 13 tasks, where it enumerates all signs, which takes seconds per pair.)
    """
    twice = np.rint(2 * rankdata(np.abs(differences))).astype(int)  # shared ranks end in a half
    signed, positive = twice[differences != 0], int(twice[differences > 0].sum())
    chances = np.ones(1)  # of each sum
    for rank in signed:
        with_rank = np.zeros(len(chances) + rank)  # the rank is positive with one half, negative with the other
        with_rank[: len(chances)] = chances
        with_rank[rank:] += chances
        chances = with_rank / 2
    return min(1.0, 2 * float(min(chances[: positive + 1].sum(), chances[positive:].sum())))


def _rank_error(methods: int, tasks: int) -> float:
    """Return the standard error of a difference of mean ranks divided by sqrt(2), as in Demšar 2006."""
    return math.sqrt(methods * (methods + 1) / (6 * tasks))


def _groups(methods: Sequence[str], ranks: _Floats, difference: float) -> tuple[tuple[str, ...], ...]:
    """Return maximal groups of consecutive methods by rank whose first and last differ by less than ``difference``."""
    order = np.argsort(ranks, kind="stable")
    groups, reached = [], 0
    for start in range(len(order)):
        end = start + int(np.searchsorted(ranks[order[start:]], ranks[order[start]] + difference))
        if end - start > 1 and end > reached:
            groups.append(tuple(methods[i] for i in order[start:end]))
            reached = end
    return tuple(groups)


def _warnings(methods: Sequence[str], scores: _Floats, friedman: Friedman | None) -> list[str]:
    """Return warnings about tests and intervals with too few tasks, methods or seeds."""
    m, t, _ = scores.shape
    found = []
    pairs, least = m * (m - 1) // 2, 2.0 ** (1 - t)
    if m > 1 and pairs * least > ALPHA:
        of_pairs, corrected = (f" of {pairs} pairs", " after Holm's correction") if pairs > 1 else ("", "")
        found.append(f"Too few tasks ({t}) for Wilcoxon's test{of_pairs}: no p can be below {min(1.0, pairs * least):.2g}{corrected}.")
    found += friedman.warnings if friedman else ()
    few = [method for method, of_method in zip(methods, scores, strict=True) if np.isfinite(of_method).sum(axis=1).min() < 3]
    if few:
        named = "all methods" if len(few) == m > 1 else ", ".join(few)
        found.append(f"Fewer than 3 seeds on a task: {named}. Their intervals say little about seeds.")
    return found


def _warnings_of_ranks(methods: int, tasks: int, difference: float) -> Iterator[str]:
    if difference > methods - 1:
        yield f"Too few tasks ({tasks}) for Nemenyi's test of {methods} methods: it cannot distinguish any two."
    if tasks <= 10 or methods <= 5:
        yield f"Friedman's p is approximate with {methods} methods on {tasks} tasks."
