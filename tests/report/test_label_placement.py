"""Names beside points: readable, within the axes, and not mistaken for the name of a neighbour."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from petlbench.report.label_placement import place_labels


def empty_axes() -> Axes:
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return axes


def placed(points: list[tuple[float, float]]) -> tuple[Axes, list[Bbox]]:
    """Return the axes and the boxes of the names in pixels, without leader lines."""
    axes = empty_axes()
    place_labels(axes, np.array(points), [f"method {i}" for i in range(len(points))])
    axes.figure.draw_without_rendering()
    return axes, [Text.get_window_extent(name) for name in axes.texts]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda p: (p[0] / 8, p[1] / 8)), min_size=1, max_size=8, unique=True))
@settings(max_examples=15)
def test_names_hide_nothing_and_stay_within_the_axes(points: list[tuple[float, float]]) -> None:
    axes, names = placed(points)
    assert not [pair for pair in itertools.combinations(names, 2) if pair[0].overlaps(pair[1])]
    marks = axes.transData.transform(points)
    assert not [mark for name in names for mark in marks if name.contains(*mark)]
    assert all(axes.bbox.contains(*name.min) and axes.bbox.contains(*name.max) for name in names)


# Six marks within a centimetre: without care, names end up beside the wrong mark (first) and lines run through names (second).
CLUSTERS = (
    [(0.532, 0.522), (0.521, 0.549), (0.481, 0.516), (0.532, 0.545), (0.506, 0.46), (0.493, 0.559)],
    [(0.514, 0.534), (0.502, 0.501), (0.491, 0.56), (0.483, 0.458), (0.481, 0.471), (0.486, 0.472)],
)


@pytest.mark.parametrize("points", CLUSTERS)
def test_a_name_is_nearest_to_its_own_mark_or_has_a_line_to_it(points: list[tuple[float, float]]) -> None:
    axes, names = placed(points)
    marks = axes.transData.transform(points)
    for own, (text, name) in enumerate(zip(axes.texts, names, strict=True)):
        gaps = [np.hypot(max(name.x0 - x, x - name.x1, 0), max(name.y0 - y, y - name.y1, 0)) for x, y in marks]
        assert np.argmin(gaps) == own or has_line(text)


@pytest.mark.parametrize("points", CLUSTERS)
def test_no_line_runs_through_the_name_of_another(points: list[tuple[float, float]]) -> None:
    axes, names = placed(points)
    for own, (mark, text, name) in enumerate(zip(axes.transData.transform(points), axes.texts, names, strict=True)):
        centre = (name.min + name.max) / 2
        line = [mark + part * (centre - mark) for part in np.linspace(0.1, 0.95, 40)] if has_line(text) else []
        assert not [point for point in line for other, box in enumerate(names) if other != own and box.contains(*point)]


def has_line(text: Text) -> bool:
    return isinstance(text, Annotation) and text.arrow_patch is not None


def test_points_in_one_place_all_get_their_name() -> None:
    _, names = placed([(0.3, 0.3)] * 4)
    assert not [pair for pair in itertools.combinations(names, 2) if pair[0].overlaps(pair[1])]


def test_no_points_no_names() -> None:
    axes = empty_axes()
    place_labels(axes, np.empty((0, 2)), [])
    assert not axes.texts
