"""The picture of a study: val accuracy against each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from petlbench.analysis.escape import plotted
from petlbench.config.search import Choice, Range
from petlbench.report.plots import add_footer, empty_figure, save_figure
from petlbench.report.style import PALETTE
from petlbench.tuning.about import space_of
from petlbench.tuning.trial import Trial
from petlbench.tuning.tuned import StoredStudy

_COLUMNS = 4
_EDGE = 0.05  # of an axis, beyond the range that was searched
_SIDE = 3.0  # inches of one slice


def write_picture(study: StoredStudy, importance: Mapping[str, float], folder: Path) -> list[Path]:
    """Draw FOLDER/study-NAME.png and .svg."""
    return save_figure(slices(study, importance), folder, f"study-{study.about.name}")


def slices(study: StoredStudy, importance: Mapping[str, float]) -> Figure:
    """Draw val accuracy, percent, against every setting: a point per trial, later ones darker; the winner and the default settings are marked."""
    space, about = space_of(study.about), study.about
    columns = min(_COLUMNS, max(2, len(space)))
    rows = math.ceil(len(space) / columns)
    figure = empty_figure(
        0.6 + _SIDE * columns, 1.5 + _SIDE * rows, f"{about.method} on {about.task}: val accuracy of {len(study.trials)} trials"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (key, axis) in zip(panels, space.items(), strict=False):
        _slice(axes, key, axis, study)
        share = f"\nimportance {importance[key]:.2f}" if key in importance else ""
        axes.set_xlabel(plotted(f"{key}{share}"))
    for axes in panels[len(space) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("val accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    source = f"Source: study {about.name}, {about.sampler} seed {about.sampler_seed}, seeds {','.join(map(str, about.seeds))}, {about.code}"
    add_footer(figure, source, "Later trials are darker. Trials without a result lie at 0 %.")
    return figure


def _slice(axes: Axes, key: str, axis: Range | Choice, study: StoredStudy) -> None:
    ended = [trial for trial in study.trials if trial.outcome is not None]
    places = [_place(axis, trial.point[key]) for trial in ended]
    shades = [0.25 + 0.6 * (index + 1) / len(ended) for index in range(len(ended))]
    failed = [trial.state != "done" for trial in ended]
    for is_failed, marker, label in ((False, "o", "trial"), (True, "x", "failed or pruned")):
        shown = [index for index in range(len(ended)) if failed[index] == is_failed]
        if shown:
            axes.scatter(
                [places[index] for index in shown],
                [_score(ended[index]) for index in shown],
                c=[to_rgba(PALETTE["blue"], shades[index]) for index in shown],
                marker=marker,
                s=28,
                label=label,
            )
    for special, marker, colour, label in ((study.default, "s", "orange", "default settings"), (study.winner, "*", "vermilion", "winner")):
        if special is not None:
            size = 190 if marker == "*" else 90
            axes.scatter(
                [_place(axis, special.point[key])],
                [_score(special)],
                marker=marker,
                s=size,
                facecolors="none" if marker == "s" else PALETTE[colour],
                edgecolors=PALETTE[colour] if marker == "s" else "black",
                linewidths=1.6 if marker == "s" else 0.5,
                label=label,
                zorder=4,
            )
    if isinstance(axis, Choice):
        axes.set_xticks(range(axis.size), [plotted(_name(value)) for value in axis.values])
        axes.set_xlim(-0.5, axis.size - 0.5)
    elif axis.log:
        axes.set_xscale("log")
        axes.set_xlim(axis.low / (edge := (axis.high / axis.low) ** _EDGE), axis.high * edge)
    else:
        axes.set_xlim(axis.low - (edge := _EDGE * (axis.high - axis.low)), axis.high + edge)
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)


def _place(axis: Range | Choice, value: Any) -> float:
    return float(axis.values.index(value)) if isinstance(axis, Choice) else float(value)


def _score(trial: Trial) -> float:
    return math.nan if trial.outcome is None else trial.outcome.score


def _name(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
