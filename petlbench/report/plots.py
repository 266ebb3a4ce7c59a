"""Plots of a leaderboard. Each function draws one comparable part (one suite, backbone and protocol) and returns a Figure."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from petlbench.access.rungs import BOXES
from petlbench.analysis.aggregate import ranked_columns, runs_behind, task_columns, task_labels
from petlbench.analysis.columns import COLUMNS
from petlbench.analysis.escape import plotted
from petlbench.analysis.formats import human_count
from petlbench.records.store import write_atomically
from petlbench.report.label_placement import place_labels
from petlbench.report.style import STYLES


def write_plots(part: pd.DataFrame, runs: pd.DataFrame, source: str, folder: Path, name: str) -> list[Path]:
    """Draw one comparable part of a leaderboard as FOLDER/PLOT-NAME.png and .svg; ``source`` is the line below every plot."""
    figures = {
        "accuracy_vs_parameters": accuracy_vs_parameters(part, source),
        "tasks": task_heatmap(part, source),
        "seeds": seed_spread(part, runs, source),
    }
    return [path for plot, figure in figures.items() for path in save_figure(figure, folder, f"{plot}-{name}")]


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes. It is laid out once, for the PNG: that takes longer than drawing."""
    paths = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        content = io.BytesIO()
        with rc_context({"svg.hashsalt": "petlbench"}):
            figure.savefig(content, format=suffix, dpi=150, metadata=metadata)
        figure.set_layout_engine("none")
        paths.append(folder / f"{name}.{suffix}")
        write_atomically(paths[-1], content.getvalue())
    return paths


def text_colour(red: float, green: float, blue: float) -> str:
    """Return black or white, whichever is more readable on a colour."""
    is_dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18  # luminance of equal contrast to both
    return "white" if is_dark else "black"


def accuracy_vs_parameters(part: pd.DataFrame, source: str) -> Figure:
    """Draw mean accuracy (percent) against trainable parameters without the head: logarithmic, with 0 left of a break."""
    shown = part[part["mean"].notna() & part["params_trainable"].notna()]
    sizes, accuracies = shown["params_trainable"].to_numpy(float), shown["mean"].to_numpy(float)
    figure = empty_figure(8.4, 5.8, f"{suite_of(part)}: accuracy against trainable parameters")
    axes = figure.subplots()
    edge = 10.0 ** math.floor(math.log10(min(sizes[sizes > 0], default=1e3)))  # the axis is logarithmic from here on
    end = 4 * max([*sizes, 5 * edge])
    axes.set_xscale("symlog", linthresh=edge, linscale=0.5)
    axes.set_xlim(-0.5 * edge, end)
    decades = [10.0**exponent for exponent in range(round(math.log10(edge)), math.floor(math.log10(end)) + 1)]
    axes.xaxis.set_major_locator(FixedLocator([0.0, *decades]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_count(value)))
    for shift in (-2, 2):  # the break between 0 and the first decade
        stroke = ((shift - 2, -5), (shift + 2, 5))
        axes.plot([edge / 2], [0], marker=stroke, ms=9, color="black", transform=axes.get_xaxis_transform(), clip_on=False, zorder=5)
    margin = max(2.0, 0.1 * float(np.ptp(accuracies))) if len(shown) else 0.0
    axes.set_ylim(max(0.0, min(accuracies, default=0.0) - margin), min(100.0, max(accuracies, default=100.0) + margin))
    axes.grid(color="0.92")
    for access, x, y in zip(shown["access"], sizes, accuracies, strict=True):
        colour, marker = STYLES[BOXES[access]]
        axes.plot([x], [y], marker=marker, color=colour, ms=7, mec="white", mew=0.8, zorder=3)
    axes.set_xlabel(COLUMNS["params_trainable"].axis)
    axes.set_ylabel(f"mean test accuracy over {len(ranked_columns(part))} tasks (%)")
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(figure, part)
    left_out = ", ".join(part["method"][~part.index.isin(shown.index)])
    add_footer(figure, source, f"Not drawn, because results of a task are missing: {left_out}." if left_out else "")
    place_labels(axes, np.column_stack([sizes, accuracies]), [wrapped(method) for method in shown["method"]])
    return figure


def task_heatmap(part: pd.DataFrame, source: str) -> Figure:
    """Draw accuracy (percent) of every method on every task as numbers, shaded by the distance to the column's best; best mean on top."""
    tasks = task_columns(part)
    values = part[[*tasks, "mean"]].to_numpy(float)  # (methods, tasks + 1)
    rows, columns = values.shape
    below = np.max(np.nan_to_num(values, nan=-math.inf), axis=0) - values
    width = max(6.5, 1.4 + 0.66 * columns + name_width(part))
    figure = empty_figure(width, 3.0 + 0.29 * rows, f"{suite_of(part)}: test accuracy per task (%)")
    axes = figure.subplots()
    axes.set_title("shaded by the distance to the best of each column, the best in bold", loc="left", fontsize=9)
    farthest = 10.0 * max(1, math.ceil(np.nanmax(below, initial=0) / 10))
    shades = ScalarMappable(PowerNorm(0.5, 0, farthest), colormaps["viridis_r"])  # square root: near the best, small distances matter
    x = [*map(float, range(columns - 1)), columns - 0.75]  # the mean stands apart
    for i, j in np.ndindex(rows, columns):
        corner = (x[j] - 0.5, i - 0.5)
        if math.isnan(values[i, j]):
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="0.8", hatch="////", linewidth=0))
            continue
        red, green, blue, _ = shades.to_rgba(below[i, j])
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=(red, green, blue), edgecolor="white", linewidth=0.8))
        colour, weight = text_colour(red, green, blue), "bold" if below[i, j] == 0 else "normal"
        axes.text(x[j], i, f"{values[i, j]:.1f}", ha="center", va="center", fontsize=8.5, color=colour, weight=weight)
    axes.set_xlim(-0.5, x[-1] + 0.5)
    _method_axis(axes, part)
    axes.xaxis.tick_top()
    axes.set_xticks(x, [*map(plotted, task_labels(tasks)), "mean"], rotation=35, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    scale = figure.colorbar(shades, ax=axes, location="bottom", fraction=0.05, shrink=0.6, aspect=35, pad=0.02)
    scale.set_label("percentage points below the column's best (square-root scale)", fontsize=9)
    scale.set_ticks([tick for tick in (0, 1, 5, *range(10, 100, 10)) if tick <= farthest])
    add_legend(figure, part)
    add_footer(figure, source, "Hatched: no result, and no mean over the tasks without it." if np.isnan(values).any() else "")
    return figure


def seed_spread(part: pd.DataFrame, runs: pd.DataFrame, source: str) -> Figure:
    """Draw the spread over seeds: the mean over tasks of each seed and, with several seeds, each run against its task's mean.

    The interval is Student's, two-sided, 95 %, over seeds that have every task; it is drawn for three or more such seeds.
    """
    tasks, ranked = task_columns(part), ranked_columns(part)
    behind = runs_behind(part, runs).set_index(["method", "access"]).sort_index()
    is_repeated = behind["seed"].nunique() > 1
    width = name_width(part) + (8.2 if is_repeated else 5.6)
    figure = empty_figure(width, 2.3 + 0.29 * len(part), f"{suite_of(part)}: spread over seeds")
    panels = figure.subplots(1, 2 if is_repeated else 1, sharey=True, width_ratios=(3, 2) if is_repeated else None, squeeze=False)[0]
    with_interval: list[str] = []
    too_few: list[str] = []
    incomplete: list[str] = []
    for i, (method, access) in enumerate(zip(part["method"], part["access"], strict=True)):
        colour, marker = STYLES[BOXES[access]]
        cells = behind.loc[[(method, access)]].pivot_table(index="task", columns="seed", values="accuracy").reindex(tasks)
        means = cells.reindex(ranked).mean(skipna=False).dropna().to_numpy(float)
        (with_interval if len(means) >= 3 else too_few if len(means) else incomplete).append(method)
        if len(means) >= 3:
            centre, half = float(np.mean(means)), _half_interval(means)
            panels[0].plot([centre - half, centre + half], [i, i], color=colour, lw=6, alpha=0.25, solid_capstyle="butt")
            panels[0].plot([centre, centre], [i - 0.28, i + 0.28], color=colour, lw=1.2)
        panels[0].plot(means, [i] * len(means), ls="none", marker=marker, color=colour, ms=5, mec="white", mew=0.5)
        if is_repeated:
            deviations = cells[cells.notna().sum(axis=1) > 1].sub(cells.mean(axis=1), axis=0).reindex(tasks)
            heights = np.repeat(i + (np.arange(len(tasks)) + 0.5) / len(tasks) * 0.7 - 0.35, cells.shape[1])
            panels[1].plot(deviations.to_numpy(float).ravel(), heights, ls="none", marker=".", ms=4.5, color=colour, mew=0)
    _method_axis(panels[0], part)
    panels[0].set_title("one mark per seed" + ("; band: 95 % t interval, line: mean" if with_interval else ""), loc="left", fontsize=9)
    panels[0].set_xlabel(f"mean test accuracy over {len(ranked)} tasks (%)")
    if is_repeated:
        panels[1].set_title("one dot per run, one line of dots per task", loc="left", fontsize=9)
        panels[1].set_xlabel("points from the task's mean over seeds")
        panels[1].axvline(0, color="0.6", lw=0.8, zorder=0)
        panels[1].tick_params(axis="y", length=0)
        edge = 1.1 * max(0.1, *np.abs(panels[1].get_xlim()))
        panels[1].set_xlim(-edge, edge)
    for axes in panels:
        for i in range(0, len(part), 2):
            axes.axhspan(i - 0.5, i + 0.5, color="0.965", zorder=-1, lw=0)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    add_legend(figure, part)
    notes = f"No interval, fewer than 3 seeds: {', '.join(too_few) if with_interval else 'all methods'}. " if too_few else ""
    add_footer(figure, source, notes + (f"No seed with results for all tasks: {', '.join(incomplete)}." if incomplete else ""))
    return figure


def _half_interval(values: NDArray[np.float64]) -> float:
    """Return half the width of the two-sided 95 % confidence interval of a mean, by Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def empty_figure(width: float, height: float, title: str) -> Figure:
    """Create an empty figure, sizes in inches, without a window or global state."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
    FigureCanvasAgg(figure)
    figure.suptitle(plotted(title), x=0.1 / width, ha="left", fontsize=12, weight="bold")
    return figure


def suite_of(part: pd.DataFrame) -> str:
    return str(part["suite"].iloc[0])


def wrapped(method: str) -> str:
    """Wrap a long name with settings onto two lines."""
    return plotted(textwrap.fill(method, max(28, math.ceil(0.6 * len(method)))))


def name_width(part: pd.DataFrame) -> float:
    """Return the width of method names beside the axes, inches."""
    return 0.4 + 0.08 * max(len(line) for method in part["method"] for line in wrapped(method).splitlines())


def add_legend(figure: Figure, part: pd.DataFrame) -> None:
    """Add a legend of the marks of boxes above the axes."""
    present = {BOXES[access] for access in part["access"]}
    boxes = [box for box in STYLES if box in present]
    marks = [Line2D([], [], ls="none", marker=STYLES[box][1], color=STYLES[box][0], ms=7) for box in boxes]
    spacing = {"handletextpad": 0.1, "columnspacing": 1.2, "borderaxespad": 0.2}
    figure.legend(marks, boxes, loc="outside upper right", ncols=len(boxes), frameon=False, fontsize=9, **spacing)


def add_footer(figure: Figure, source: str, note: str) -> None:
    """Add a note and the source below the axes; line breaks in the source fall between its items only."""
    width = int(figure.get_figwidth() * 18)  # characters of this size that fit
    unbroken = source.replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}·\N{NO-BREAK SPACE}", "\N{NO-BREAK SPACE}· ")
    lines = [line for text in (note, unbroken) for line in textwrap.wrap(text, width)]
    figure.supxlabel(plotted("\n".join(lines)), x=0.1 / figure.get_figwidth(), ha="left", fontsize=7.5, color="0.3")


def _method_axis(axes: Axes, part: pd.DataFrame) -> None:
    """Label the vertical axis with methods from top to bottom, each with the mark of its box."""
    axes.set_ylim(len(part) - 0.5, -0.5)
    axes.set_yticks(range(len(part)), [wrapped(method) for method in part["method"]])
    axes.tick_params(axis="y", length=0, pad=15)
    beside = offset_copy(axes.get_yaxis_transform(), axes.get_figure(root=True), -8, 0, units="points")
    for i, access in enumerate(part["access"]):
        colour, marker = STYLES[BOXES[access]]
        axes.plot([0], [i], marker=marker, color=colour, ms=5.5, mec="white", mew=0.6, transform=beside, clip_on=False)
