"""Plots of a comparison: mean ranks with Nemenyi's critical difference, and Pareto fronts of accuracy against each cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from petlbench.access.rungs import BOXES
from petlbench.analysis.aggregate import ranked_columns
from petlbench.analysis.columns import COLUMNS
from petlbench.analysis.formats import human_count
from petlbench.analysis.statistics import ALPHA, Comparison, Friedman
from petlbench.analysis.tradeoffs import COSTS
from petlbench.report.label_placement import place_labels
from petlbench.report.plots import add_footer, add_legend, empty_figure, save_figure, suite_of, wrapped
from petlbench.report.style import PALETTE, STYLES

_LINE = 0.24  # inches from one name of the critical-difference diagram to the next
_BAR = 0.13  # and from one bar to the next
_LEAST = 0.1  # least cost on a logarithmic axis, such as seconds; less is drawn at 0


def write_ranking_plots(
    part: pd.DataFrame, trade: pd.DataFrame, comparison: Comparison, source: str, folder: Path, name: str
) -> list[Path]:
    """Draw FOLDER/pareto-NAME.png and .svg and, if ranks can be tested, critical_difference-NAME."""
    figures = {"pareto": pareto_fronts(part, trade, source)}
    if comparison.friedman is not None:
        figures["critical_difference"] = critical_difference_diagram(comparison, comparison.friedman, suite_of(part), source)
    return [path for plot, figure in figures.items() for path in save_figure(figure, folder, f"{plot}-{name}")]


def critical_difference_diagram(comparison: Comparison, friedman: Friedman, suite: str, source: str) -> Figure:
    """Draw mean ranks on a line, best on the left; a bar joins methods that Nemenyi's test does not distinguish (Demšar 2006, figure 1)."""
    ranked = comparison.methods.sort_values("mean_rank", kind="stable")
    names, ranks = [wrapped(str(method)) for method in ranked["method"]], ranked["mean_rank"].to_numpy(float)
    by_name = dict(zip(ranked["method"], ranks, strict=True))
    count, left = len(names), (len(names) + 1) // 2
    top = _BAR * (len(friedman.groups) + 1)  # inches from the axis to the first name
    depth = top + _LINE * left
    beside = 0.6 + 0.085 * max(len(line) for name in names for line in name.splitlines())
    width = max(7.0, 0.4 * count + 2 * beside)
    figure = empty_figure(width, depth + 2.3, f"{suite}: mean ranks over {len(comparison.tasks)} tasks")
    axes = figure.subplots()
    axes.set_xlim(1, count)
    axes.set_ylim(depth, -0.55)
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        is_left = i < left
        height = top + _LINE * ((i if is_left else count - 1 - i) + 0.5)
        end, shift = (1.0, -8) if is_left else (float(count), 8)
        axes.plot([rank, rank, end], [0, height, height], color="0.35", lw=0.9, solid_capstyle="round", clip_on=False, zorder=2)
        axes.plot([rank], [0], marker="o", ms=4, color="0.35", clip_on=False, zorder=3)
        text = f"{name}  {rank:.2f}" if is_left else f"{rank:.2f}  {name}"
        where: dict[str, Any] = {"textcoords": "offset points", "ha": "right" if is_left else "left", "va": "center"}
        axes.annotate(text, (end, height), (shift, 0), fontsize=9, annotation_clip=False, **where)
    for i, group in enumerate(friedman.groups):
        height, ends = _BAR * (i + 1), [by_name[group[0]], by_name[group[-1]]]
        axes.plot(
            [ends[0] - 0.04, ends[1] + 0.04],
            [height, height],
            color=PALETTE["vermilion"],
            lw=3,
            solid_capstyle="round",
            zorder=4,
            clip_on=False,
        )
    reach = min(float(count), 1 + friedman.critical_difference)
    axes.annotate("", (1, -0.3), (reach, -0.3), arrowprops={"arrowstyle": "|-|,widthA=0.25,widthB=0.25", "shrinkA": 0, "shrinkB": 0})
    wide = " (wider than the axis)" if reach < 1 + friedman.critical_difference else ""
    label = f"critical difference {friedman.critical_difference:.2f}{wide}"
    axes.annotate(label, (1, -0.3), (0, 4), textcoords="offset points", fontsize=8.5, annotation_clip=False)
    axes.xaxis.tick_top()
    axes.spines["top"].set_position(("data", 0))
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_major_locator(FixedLocator(range(1, count + 1, max(1, round(count / 8)))))
    axes.yaxis.set_visible(False)
    p = "< 0.001" if friedman.p < 0.001 else f"{friedman.p:.2g}"
    note = f"Orange bars join methods that Nemenyi's test does not distinguish (level {ALPHA}). Friedman p {p}."
    left_out = f" Without {', '.join(comparison.left_out)}: no result on some task." if comparison.left_out else ""
    add_footer(figure, source, " ".join([note + left_out, *friedman.warnings]))
    return figure


def pareto_fronts(part: pd.DataFrame, trade: pd.DataFrame, source: str) -> Figure:
    """Draw mean accuracy (percent) against each cost; methods on the front are named and joined, the others grey."""
    known = {cost: trade[f"front_{cost}"].notna() for cost in COSTS}
    drawn = [cost for cost in COSTS if known[cost].any()]
    rows = (len(drawn) + 1) // 2
    figure = empty_figure(11.0, 1.3 + 3.9 * max(1, rows), f"{suite_of(part)}: accuracy at what it cost")
    panels = figure.subplots(max(1, rows), 2, squeeze=False).ravel()
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    points = [_panel(axes, part[known[cost]], trade[known[cost]], cost) for axes, cost in zip(panels, drawn, strict=False)]
    for axes in panels[: len(drawn)]:
        axes.set_ylabel(f"mean test accuracy over {len(ranked_columns(part))} tasks (%)", fontsize=9)
    add_legend(figure, part)
    left_out = ", ".join(part["method"][part["mean"].isna()])
    note = "Named and joined: no other method is as accurate for less. Queries: only of models that are queried."
    add_footer(figure, source, note + (f" Not drawn, because results of a task are missing: {left_out}." if left_out else ""))
    for axes, (positions, names) in zip(panels, points, strict=False):
        place_labels(axes, positions, names)
        for text in axes.texts:
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})  # where the line runs below it
    return figure


def _panel(axes: Axes, part: pd.DataFrame, trade: pd.DataFrame, cost: str) -> tuple[NDArray[np.float64], list[str]]:
    """Draw one cost; return the positions of the marks in data units, and the names of those on the front."""
    costs, means = part[COSTS[cost]].to_numpy(float), part["mean"].to_numpy(float)
    on_front = trade[f"front_{cost}"].to_numpy(bool)
    order = np.lexsort((means[on_front], costs[on_front]))
    _cost_axis(axes, costs)
    axes.step(costs[on_front][order], means[on_front][order], where="post", color="0.55", lw=1.0, zorder=1)
    for access, x, y, is_best in zip(part["access"], costs, means, on_front, strict=True):
        colour, marker = STYLES[BOXES[access]]
        axes.plot([x], [y], marker=marker, ms=7 if is_best else 5.5, color=colour if is_best else "0.75", mec="white", mew=0.7, zorder=3)
    axes.set_xlabel(COLUMNS[COSTS[cost]].axis)
    axes.grid(color="0.93")
    axes.margins(y=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    names = [wrapped(method) if is_best else "" for method, is_best in zip(part["method"], on_front, strict=True)]
    return np.column_stack([costs, means]), names


def _cost_axis(axes: Axes, costs: NDArray[np.float64]) -> None:
    """Scale the axis: logarithmic if costs differ by more than a factor of ten, with room for costs near 0; else linear from 0."""
    low, high = float(min(costs[costs >= _LEAST], default=1.0)), float(max([*costs, 1.0]))
    if (costs < _LEAST).any():
        low = 10.0 ** math.floor(math.log10(low))
        axes.set_xscale("symlog", linthresh=low, linscale=0.4)
        axes.set_xlim(-0.4 * low, 3 * high)
        axes.xaxis.set_major_locator(FixedLocator([0.0, *(10.0**k for k in range(-1, 13) if low <= 10.0**k <= 3 * high)]))
    elif high < 10 * low:
        axes.set_xlim(0, 1.15 * high)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    else:
        axes.set_xscale("log")
        axes.set_xlim(low / 2, 2 * high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 10 else human_count(value)))
