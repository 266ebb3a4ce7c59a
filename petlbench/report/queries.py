"""Plots of queries: accuracy against images and contexts sent, and the rung of the access ladder that each method used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from petlbench.access.rungs import BOXES
from petlbench.analysis.aggregate import ranked_columns
from petlbench.analysis.escape import plotted
from petlbench.analysis.formats import human_count
from petlbench.analysis.tradeoffs import curves
from petlbench.report.plots import add_footer, empty_figure, name_width, save_figure, suite_of, wrapped
from petlbench.report.style import PALETTE, STYLES

_COLOURS = tuple(PALETTE.values())
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_RUNG_TEXTS = {
    "SCORES": "images in, class scores out",
    "CONTEXT": "prompt contexts in, class scores out",
    "FEATURES": "images in, embeddings out",
    "GRADIENTS": "gradients with respect to inputs",
    "WEIGHTS": "everything",
}
_LINE = 0.165  # inches between two names of the same column


def write_query_plots(part: pd.DataFrame, runs: pd.DataFrame, source: str, folder: Path, name: str) -> list[Path]:
    """Draw FOLDER/access-NAME.png and .svg, and query_accuracy-NAME if a method of a comparable part learned by queries."""
    figures = {"access": access_ladder(part, source)}
    if any(curve for of_unit in curves(part, runs).values() for curve in of_unit.values()):
        figures["query_accuracy"] = query_accuracy(part, runs, source)
    return [path for plot, figure in figures.items() for path in save_figure(figure, folder, f"{plot}-{name}")]


def query_accuracy(part: pd.DataFrame, runs: pd.DataFrame, source: str) -> Figure:
    """Draw mean test accuracy (percent) against images, and contexts if any, sent in training; methods without a curve as lines."""
    of_units = {unit: found for unit, found in curves(part, runs).items() if found}
    named = sorted({method for found in of_units.values() for method in found}, key=list(part["method"]).index)
    styles = {method: _style(i) for i, method in enumerate(named)}
    references = part[part["mean"].notna() & ~part["method"].isin(named)]
    right = name_width(references) if len(references) else 0.2
    height = max(4.8, 2.2 + _LINE * len(references))
    figure = empty_figure(1.2 + 4.6 * len(of_units) + right, height, f"{suite_of(part)}: accuracy against what was sent in training")
    panels = figure.subplots(1, len(of_units), sharey=True, squeeze=False)[0]
    for axes, (unit, found) in zip(panels, of_units.items(), strict=True):
        for mean in references["mean"]:
            axes.axhline(mean, color="0.8", lw=0.8, zorder=1)
        for method, points in found.items():
            colour, marker = styles[method]
            sent, accuracies = np.array(points).T
            axes.plot(sent, accuracies, color=colour, marker=marker, ms=5.5, mec="white", mew=0.6, lw=1.4, zorder=3)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_count(value)))
        axes.set_xlabel(f"{unit} sent per run")
        axes.grid(axis="x", color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"mean test accuracy over {len(ranked_columns(part))} tasks (%)")
    marks = [Line2D([], [], color=colour, marker=marker, ms=5.5, mec="white", mew=0.6, lw=1.4) for colour, marker in styles.values()]
    panels[0].legend(
        marks, list(map(plotted, named)), loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(named)), frameon=False, fontsize=8.5
    )
    _name_lines(panels[-1], references)
    note = "Grey lines: methods without a curve, where training sends nothing or the model is not queried."
    add_footer(figure, source, f"{note} Uploaded images are sent once, however many contexts they are scored in.")
    return figure


def _style(number: int) -> tuple[str, str]:
    """Return colour and marker; the first 49 differ."""
    turn, colour = divmod(number, len(_COLOURS))
    return _COLOURS[colour], _MARKERS[(colour + turn) % len(_MARKERS)]


def access_ladder(part: pd.DataFrame, source: str) -> Figure:
    """Draw every method on the highest rung that the meter saw it use, with its mean test accuracy (percent); lowest rung at the bottom."""
    seen = part["access_seen"].where(part["access_seen"] != "", part["access"])
    rungs = [rung for rung in BOXES if (seen == rung).any()]
    ordered = part.assign(seen=seen, height=seen.map(list(BOXES).index)).sort_values(["height", "mean"], na_position="first")
    figure = empty_figure(3.6 + name_width(part) + 3.0, 2.0 + 0.24 * len(part), f"{suite_of(part)}: the rung of access that was used")
    axes = figure.subplots()
    rows = list(range(len(ordered)))
    for row, (_, line) in zip(rows, ordered.iterrows(), strict=True):
        colour, marker = STYLES[BOXES[line["seen"]]]
        axes.plot([line["mean"]], [row], marker=marker, color=colour, ms=7, mec="white", mew=0.8, zorder=3)
        if line["seen"] != line["access"]:
            axes.annotate(
                f"granted {line['access']}", (line["mean"], row), xytext=(9, 0), textcoords="offset points", va="center", fontsize=7.5
            )
    for i, rung in enumerate(rungs):
        members = [row for row, found in zip(rows, ordered["seen"], strict=True) if found == rung]
        bottom, size = members[0] - 0.5, len(members)
        band = Rectangle(
            (0, bottom), 1, size, transform=axes.get_yaxis_transform(), facecolor="0.965" if i % 2 else "white", lw=0, zorder=-1
        )
        axes.add_patch(band)
        where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{rung}\n{_RUNG_TEXTS[rung]}", (1, bottom + size / 2), fontsize=8, annotation_clip=False, **where)
    axes.set_ylim(-0.5, len(ordered) - 0.5)
    axes.set_yticks(rows, [wrapped(method) for method in ordered["method"]])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"mean test accuracy over {len(ranked_columns(part))} tasks (%)")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    without = ", ".join(part["method"][part["mean"].isna()])
    add_footer(figure, source, f"No mark, because results of a task are missing: {without}." if without else "")
    return figure


def _name_lines(axes: Axes, references: pd.DataFrame) -> None:
    """Write the names of horizontal lines at the right edge, moved apart where they would touch."""
    ordered = references.sort_values("mean")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    gap = _LINE * (high - low) / (axes.bbox.height / figure.dpi)
    for height, (_, line) in zip(_apart(ordered["mean"].to_numpy(float), gap), ordered.iterrows(), strict=True):
        axes.annotate(
            f"{wrapped(line['method'])} {line['mean']:.1f}",
            (1, line["mean"]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.04, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color="0.25",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "lw": 0.7, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def _apart(values: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Move ascending values by as little as possible so that neighbours are a gap apart: blocks that would touch are centred on their mean."""
    blocks: list[tuple[float, int]] = []  # centre, members
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (second, n), (first, m) = blocks.pop(), blocks.pop()
            blocks.append(((first * m + second * n) / (m + n), m + n))
    return np.array([centre + gap * (i - (size - 1) / 2) for centre, size in blocks for i in range(size)])
