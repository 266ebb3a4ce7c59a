"""Plots of token usage by class, for methods that mix prompts from a library of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from petlbench.analysis.escape import plotted
from petlbench.errors import RecordError
from petlbench.learners.token_usage import read_usage
from petlbench.records.file_names import slug
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.report.plots import add_footer, empty_figure, save_figure

_ROW = 0.16  # inches of a class
_TALLEST = 4.5  # inches of a panel
_LABELLED = 28  # classes whose names fit


@dataclass(frozen=True)
class _Panel:
    """Usage by one run: mean coefficients (rows, N) by class, or by task if several were joined."""

    title: str
    rows: tuple[str, ...]
    coefficients: NDArray[np.float64]


def write_usage_plots(results: Path, records: Sequence[Record]) -> list[Path]:
    """Draw plots/token_usage-METHOD-SUITE.png and .svg for every method whose runs recorded token usage, one panel per task.

    Tokens of different seeds are unrelated: the run of the smallest seed is drawn. Methods whose classes all use the same tokens, because
    their prompts do not depend on the image, are not drawn, nor are runs whose usage cannot be read (``unreadable_usage``).
    """
    found = sorted((record for record in records if _has_usage(record) and _is_readable(results, record)), key=_group)
    paths: list[Path] = []
    for (method, suite, backbone, protocol), group in groupby(found, key=_group):
        firsts = {record.task: record for record in sorted(group, key=lambda record: (-record.seed, record.created))}
        panels = [panel for task in sorted(firsts) for panel in _panels(results, firsts[task])]
        if any(np.ptp(panel.coefficients, axis=0).max() > 1e-6 for panel in panels):
            source = f"Source: {suite} · method {method} · backbone {backbone} · protocol {protocol}"
            name = f"token_usage-{slug(f'{method}-{suite}')}"
            if any(path.stem == name for path in paths):
                name += f"-{slug(f'{backbone}-{protocol}')}"
            paths += save_figure(
                usage_heatmaps(panels, f"{suite}: which tokens of its library {method} uses", source), results / "plots", name
            )
    return paths


def unreadable_usage(results: Path, records: Sequence[Record]) -> list[str]:
    """Return a line for each run whose token usage is recorded and cannot be read."""
    problems = []
    for record in filter(_has_usage, records):
        try:
            read_usage(_usage_file(results, record))
        except RecordError as error:
            problems.append(str(error))
    return problems


def _has_usage(record: Record) -> bool:
    return record.is_tested and record.token_usage is not None


def _is_readable(results: Path, record: Record) -> bool:
    return not unreadable_usage(results, [record])


def _usage_file(results: Path, record: Record) -> Path:
    assert record.token_usage is not None
    return RecordStore(results).path_of(record).parent / record.token_usage


def usage_heatmaps(panels: Sequence[_Panel], title: str, source: str) -> Figure:
    """Draw panels below each other. Tokens are sorted by the row that uses them most, then by coefficient, largest first."""
    heights = [min(_TALLEST, _ROW * len(panel.rows)) for panel in panels]
    figure = empty_figure(9.0, 1.6 + sum(heights) + 0.75 * len(panels), title)
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    highest = max(float(panel.coefficients.max()) for panel in panels)
    shades = ScalarMappable(PowerNorm(0.5, 0, highest), colormaps["viridis_r"])  # square root: most coefficients are small
    for one, panel in zip(axes, panels, strict=True):
        _draw(one, panel, shades)
    axes[-1].set_xlabel("tokens of the library, sorted by the class that uses them most", fontsize=9)
    bar = figure.colorbar(shades, ax=list(axes), location="bottom", shrink=0.5, aspect=35, pad=0.3 / figure.get_figheight())
    bar.set_label("mean coefficient (square-root scale)", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    note = (
        "Means over test images and prompts, of the smallest seed. On the right, effective tokens: exp of the entropy of a row, from 1 if it uses one"
        " token to their number if it uses all equally."
    )
    add_footer(figure, source, note)
    return figure


def _group(record: Record) -> tuple[str, str, str, str]:
    return record.method.name, record.suite, record.backbone.name, record.protocol.id


def _panels(results: Path, record: Record) -> Iterator[_Panel]:
    """Return the panels of a run: by class, and by task if several were joined."""
    assert record.metrics is not None
    usage = read_usage(_usage_file(results, record))
    coefficients = usage.coefficients.double().numpy()
    yield _Panel(f"{record.task}, seed {record.seed}", usage.class_names, coefficients)
    if parts := list(record.metrics.parts):
        of_part = [[name.startswith(f"{part} ") for name in usage.class_names] for part in parts]
        if not all(map(any, of_part)):
            return
        means = np.stack([coefficients[chosen].mean(axis=0) for chosen in of_part])
        served = effective(means.T, means.sum(axis=0))
        yield _Panel(f"the same by task, where a token serves {served:.1f} of {len(parts)}", tuple(parts), means)


def effective(rows: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """Return exp of the mean entropy of rows of shares, each divided by its sum first; between 1 and the number of columns."""
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-12)
    entropies = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)
    return float(np.exp(np.average(entropies, weights=weights)))


def _draw(axes: Axes, panel: _Panel, shades: ScalarMappable) -> None:
    values = panel.coefficients
    order = np.lexsort((-values.max(axis=0), values.argmax(axis=0)))
    rows, columns = values.shape
    axes.imshow(shades.to_rgba(values[:, order]), aspect="auto", interpolation="none", extent=(0.5, columns + 0.5, rows - 0.5, -0.5))
    axes.set_title(plotted(f"{panel.title}: {effective(values):.1f} of {columns} tokens in effect"), loc="left", fontsize=9, weight="bold")
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
    if rows <= _LABELLED:
        axes.set_yticks(range(rows), list(map(plotted, panel.rows)))
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(rows), [f"{effective(row[None]):.1f}" for row in values])
        beside.tick_params(length=0, labelsize=7)
        beside.spines[:].set_visible(False)
    else:
        axes.set_ylabel(f"{rows} classes", fontsize=8)
        axes.set_yticks([])
