"""Accuracy against cost: PPT, accuracy per query, accuracy at equal cost, and Pareto fronts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from petlbench.analysis.aggregate import ranked_columns, runs_behind
from petlbench.analysis.columns import COLUMNS
from petlbench.records.schema import CurvePoint

PPT_SCALE = 1e7  # C of the formula
COSTS = {column.front: name for name, column in COLUMNS.items() if column.front}  # -> leaderboard column
FRONT_COLUMNS = [f"front_{cost}" for cost in COSTS]
TRADEOFF_COLUMNS = ["method", "access", "mean", "ppt", "accuracy_per_1000_queries", "queries_with_tuning", *FRONT_COLUMNS]


def ppt(accuracy: float, parameters: float) -> float:
    """Performance-parameter trade-off: M exp(-log10(P / 10^7 + 1)), M the accuracy as a fraction, P the trainable parameters (V-PETL Bench).

    P is everything that is trained and stored for a task except the head, wherever it lies: in the backbone, or beside it as a coordinator or a prompt.
    """
    return accuracy / 100.0 * math.exp(-math.log10(parameters / PPT_SCALE + 1.0))


def tradeoffs(part: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """``TRADEOFF_COLUMNS`` for the rows of one of the ``comparable_parts``, in their order.

    PPT is withheld (NaN) where half of the backbone or more is trained, as in full fine-tuning, which the formula is not about. Queries are
    images of all phases; there are none at WEIGHTS. A front's cell is NA where the mean or the cost is unknown.
    """
    sizes = runs_behind(part, runs).groupby("method")["params_backbone"].max()
    efficient = (part["access"] != "WEIGHTS") | (part["params_trainable"] < part["method"].map(sizes) / 2)
    figures = [
        ppt(mean, size) if ok else math.nan for mean, size, ok in zip(part["mean"], part["params_trainable"], efficient, strict=True)
    ]
    per_query = part["mean"] / (part["queries"].where(part["queries"] > 0) / 1000.0)
    frame = part[["method", "access", "mean"]].assign(
        ppt=figures, accuracy_per_1000_queries=per_query, queries_with_tuning=part["queries_with_tuning"]
    )
    return frame.assign(**{name: _front(part, column) for name, column in zip(FRONT_COLUMNS, COSTS.values(), strict=True)})


def pareto_front(costs: NDArray[np.float64], accuracies: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (M,) True where no other method is as accurate at lower cost, or more accurate at no higher cost."""
    cheaper, better = costs[:, None] - costs, accuracies - accuracies[:, None]  # (M, M): by how much column j beats row i
    dominated = (cheaper >= 0) & (better >= 0) & ((cheaper > 0) | (better > 0))
    return np.logical_not(dominated.any(axis=1))


def accuracy_at_budgets(part: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracies of methods that learn by queries at their last evaluation before they exceed a training budget.

    Columns: method, unit (images, contexts), budget, accuracy. Budgets are 1 and 3 times powers of ten; a method has rows from its first evaluation on.
    """
    rows = []
    for unit, found in curves(part, runs).items():
        sent = [count for points in found.values() for count, _ in points]
        budgets = [budget for k in range(15) for budget in (10**k, 3 * 10**k) if min(sent, default=0) <= budget <= max(sent, default=-1)]
        for method, points in found.items():
            reached = {budget: [accuracy for count, accuracy in points if count <= budget] for budget in budgets}
            rows += [(method, unit, budget, accuracies[-1]) for budget, accuracies in reached.items() if accuracies]
    return pd.DataFrame(rows, columns=["method", "unit", "budget", "accuracy"])


def curves(part: pd.DataFrame, runs: pd.DataFrame) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return unit (images, contexts) -> method -> points (sent, mean accuracy in percent over tasks and seeds), for methods with all tasks.

    The tasks are those that rank. A point counts if every run of the method has it: means over different tasks do not compare.
    """
    behind = runs_behind(part, runs)
    behind = behind[behind["task"].isin(ranked_columns(part))]
    complete = set(part["method"][part["mean"].notna()])
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"images": {}, "contexts": {}}
    for method, of_method in behind.groupby("method"):
        for unit, of_unit in found.items():
            points = _common_points(of_method["curve"], unit)
            if str(method) in complete and points:
                of_unit[str(method)] = points
    return found


def _common_points(runs: Iterable[Sequence[CurvePoint]], unit: str) -> list[tuple[float, float]]:
    """Return the mean points that all runs of a method have, without those at 0 sent."""
    accuracies: dict[int, list[float]] = defaultdict(list)
    count = 0
    for curve in runs:
        count += 1
        for sent, accuracy in {getattr(point, unit): point.accuracy for point in curve}.items():  # the last of several with the same count
            accuracies[sent].append(accuracy)
    return [(float(sent), float(np.mean(values))) for sent, values in sorted(accuracies.items()) if sent and len(values) == count]


def _front(part: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Return True for rows on the front of accuracy against a cost; NA where either is unknown."""
    known = part[part["mean"].notna() & part[column].notna()]
    on_front = pareto_front(known[column].to_numpy(float), known["mean"].to_numpy(float))
    return pd.Series(on_front, index=known.index, dtype="boolean").reindex(part.index)
