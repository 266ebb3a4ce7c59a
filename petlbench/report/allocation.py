"""Plots of where a method has its trainable parameters, for methods that choose it for every task."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from petlbench.analysis.aggregate import runs_behind, task_columns, task_labels
from petlbench.analysis.escape import plotted
from petlbench.analysis.formats import human_count
from petlbench.records.file_names import slug
from petlbench.report.plots import add_footer, empty_figure, save_figure, suite_of, text_colour

# In the order in which a block computes; "attn", "mlp" and "other" have a column only where something is trained there.
_OPERATIONS = ("norm1", "q", "k", "v", "proj", "attn", "norm2", "fc1", "fc2", "mlp", "other")
_ALWAYS = ("norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2")
_CELL = (0.37, 0.16)  # inches that a number of five characters fits into
_MOST_COLUMNS = 4
_UNTRAINED = (0.93, 0.93, 0.93, 1.0)


def write_allocation_plots(part: pd.DataFrame, runs: pd.DataFrame, source: str, folder: Path, name: str) -> list[Path]:
    """Draw FOLDER/METHOD_allocation_NAME.png and .svg for every method of a comparable part whose allocation is not the same on all tasks."""
    behind = runs_behind(part, runs)
    paths: list[Path] = []
    taken: set[str] = set()
    for method, of_method in behind.groupby("method"):
        places = mean_allocation(of_method)
        if places.nunique().gt(1).any():
            stem = slug(str(method)).strip("_")
            while stem in taken:
                stem += "_"
            taken.add(stem)
            figure = allocation_heatmaps(part, places, str(method), source)
            paths += save_figure(figure, folder, f"{stem}_allocation_{name}")
    return paths


def mean_allocation(runs: pd.DataFrame) -> pd.DataFrame:
    """Return trainable parameters, tasks x places (``3.q``, ``embed``), as means over the runs of a task. ``runs``: rows of ``runs_frame`` of one method.

    Runs without a recorded allocation do not count, nor do tasks with only such runs.
    """
    recorded = runs[runs["allocation"].map(bool)]
    places = pd.DataFrame(list(recorded["allocation"]), index=pd.Index(recorded["task"], name="task"))
    return places.fillna(0).groupby(level="task").mean()


def allocation_heatmaps(part: pd.DataFrame, places: pd.DataFrame, method: str, source: str) -> Figure:
    """Draw one panel per task: trainable parameters by block and operation on a logarithmic scale. ``places``: see ``mean_allocation``."""
    tasks = [task for task in task_columns(part) if task in places.index]
    cells, operations = _cells(places.loc[tasks])
    _, depth, _ = cells.shape
    outside = places[sorted(place for place in map(str, places) if "." not in place)].to_dict("index")
    totals = places.sum(axis=1)

    rows = math.ceil(len(tasks) / _MOST_COLUMNS)
    columns = math.ceil(len(tasks) / rows)
    width = max(6.5, 0.8 + columns * (0.2 + _CELL[0] * len(operations)))
    height = 1.6 + rows * (0.7 + _CELL[1] * depth)
    figure = empty_figure(width, height, textwrap.fill(f"{suite_of(part)}: where {method} has its trainable parameters", int(9 * width)))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    shades = ScalarMappable(_scale(cells), colormaps["viridis_r"])
    for i, (axes, task, label) in enumerate(zip(panels.flat, tasks, task_labels(tasks), strict=False)):
        _draw_cells(axes, cells[i], shades)
        axes.axvline(operations.index("norm2") - 0.5, color="white", lw=4)  # between attention and MLP
        axes.set_xticks(range(len(operations)), operations)
        axes.set_yticks(range(depth))
        axes.tick_params(length=0, labelsize=7.5)
        axes.spines[:].set_visible(False)
        _name_panel(axes, f"{label}: {_count(totals[task])}", outside[task])
    for axes in panels.flat[len(tasks) :]:
        axes.set_visible(False)
    figure.supylabel("block (0: next to the image)", fontsize=9)
    bar = figure.colorbar(shades, ax=panels, location="bottom", shrink=min(0.7, 4.5 / width), aspect=35, pad=0.15 / height)
    bar.ax.tick_params(labelsize=9)
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_count(value)))
    bar.set_label("trainable parameters at a place (logarithmic); grey without a number: none", fontsize=9)
    note = "Beside each task: its trainable parameters without the head. Numbers are means over seeds."
    missing = ", ".join(task_labels([task for task in task_columns(part) if task not in tasks]))
    add_footer(figure, source, f"{note} Not drawn, because no run recorded its allocation: {missing}." if missing else note)
    return figure


def _cells(places: pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """Return trainable parameters inside blocks, (tasks, blocks, operations), and the names of the operations."""
    inside = [place for place in map(str, places) if "." in place]
    used = {place.partition(".")[2] for place in inside if places[place].any()}
    operations = [name for name in _OPERATIONS if name in _ALWAYS or name in used]
    depth = 1 + max((int(place.partition(".")[0]) for place in inside), default=0)
    grid = [f"{block}.{operation}" for block in range(depth) for operation in operations]
    counts = places.reindex(columns=grid, fill_value=0.0).to_numpy(float)
    return counts.reshape(len(places), depth, len(operations)), operations


def _draw_cells(axes: Axes, cells: NDArray[np.float64], shades: ScalarMappable) -> None:
    """Draw shaded numbers (blocks, operations), block 0 at the bottom."""
    colours = shades.to_rgba(np.ma.masked_equal(cells, 0))
    colours[cells == 0] = _UNTRAINED
    blocks, operations = cells.shape
    axes.pcolormesh(np.arange(operations + 1) - 0.5, np.arange(blocks + 1) - 0.5, colours, edgecolors="white", linewidth=0.8)
    for (block, operation), count in np.ndenumerate(cells):
        if count:
            red, green, blue, _ = colours[block, operation]
            colour = text_colour(red, green, blue)
            axes.text(operation, block, _count(count), ha="center", va="center", fontsize=6.5, color=colour, in_layout=False)


def _name_panel(axes: Axes, name: str, outside: Mapping[Hashable, float]) -> None:
    """Write a panel's title, and below it the parameters outside the blocks: place -> count."""
    counts = ", ".join(f"{place} {_count(count)}" for place, count in outside.items() if count)
    line = f"outside the blocks: {counts}" if counts else ""
    axes.annotate(plotted(line), (0, 1), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points", fontsize=7.5, color="0.3")
    axes.set_title(plotted(name), loc="left", fontsize=9, weight="bold", pad=14 if outside else 4)


def _scale(cells: NDArray[np.float64]) -> LogNorm:
    """Scale from the power of ten below the smallest count, at least 1, to the largest count; at least one decade."""
    low = 10.0 ** math.floor(math.log10(max(1.0, min(cells[cells > 0], default=1.0))))
    return LogNorm(low, max(10 * low, cells.max()))


def _count(number: float) -> str:
    """Format a mean over seeds; it is below 1 where only few seeds train a parameter."""
    return "<1" if 0 < number < 1 else human_count(number)
