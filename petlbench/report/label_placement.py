"""Names beside the points of a scatter plot, placed so that they can be read.

Letters: P points, C candidate positions of a name, S samples on a leader line. Boxes are (left, bottom, right, top) and lengths are
typographic points (1/72 inch).
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]

_REACHES = (7.0, 11.0, 18.0, 27.0, 38.0, 52.0, 70.0)  # from a mark to the nearest edge of its name
_LEADER = 14.0  # from this reach on a line connects the two
_MARK = 5.0  # half the side of a mark
_FONT = 8.5


def place_labels(axes: Axes, points: Array, texts: list[str]) -> None:
    """Write a name beside each of the points, (P, 2) in data units. The figure's layout is final afterwards.

    Each name in turn takes the cheapest position around its mark, given the others, until none moves. Hiding a mark or a name, leaving
    the axes, crossing something with the leader line and being nearer to another mark have high costs, distance a low one.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = 72 / figure.dpi
    marks = axes.transData.transform(points).reshape(-1, 2) * scale
    sizes = [_size(axes, text) * scale for text in texts]
    frame = np.array(axes.bbox.extents) * scale
    reaches, offsets = _candidates(sizes)
    chosen = [0] * len(texts)
    for _ in range(20):
        before = list(chosen)
        for i in range(len(texts)):
            others = [j for j in range(len(texts)) if j != i]
            boxes = [_box(marks[j] + offsets[j][chosen[j]], sizes[j]) for j in others]
            lines = [_leader(marks[j], offsets[j][chosen[j]], reaches[chosen[j]]) for j in others]
            taken = np.array([*boxes, *np.hstack([marks - _MARK, marks + _MARK])])
            mine = _box(marks[i] + offsets[i], sizes[i])  # (C, 4)
            outside = np.maximum(frame[:2] + 2 - mine[:, :2], 0).sum(axis=1) + np.maximum(mine[:, 2:] - frame[2:] + 2, 0).sum(axis=1)
            cost = reaches + 50 * outside + 20 * _overlap(mine, taken).sum(axis=1)
            cost += 60 * _inside(np.concatenate([np.empty((0, 2)), *lines]), mine).sum(axis=1)
            cost += _is_misread(mine, marks, i) * np.where(reaches < _LEADER, 40, 10)
            others_taken = np.delete(taken, len(boxes) + i, axis=0)
            for candidate, (offset, reach) in enumerate(zip(offsets[i], reaches, strict=True)):
                cost[candidate] += 60 * _inside(_leader(marks[i], offset, reach), others_taken).sum()
            chosen[i] = int(np.argmin(cost))
        if chosen == before:
            break
    for i, text in enumerate(texts):
        candidate = chosen[i]
        line = {"arrowstyle": "-", "color": "0.55", "lw": 0.7, "shrinkA": 0, "shrinkB": 4} if reaches[candidate] >= _LEADER else None
        axes.annotate(
            text,
            points[i],
            offsets[i][candidate],
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            arrowprops=line,
            zorder=4,
        )


def _size(axes: Axes, text: str) -> Array:
    """Return width and height of a name, (2,) in pixels."""
    sample = axes.text(0.5, 0.5, text, fontsize=_FONT, transform=axes.transAxes)
    extent = sample.get_window_extent()
    sample.remove()
    return np.array([extent.width, extent.height])


def _candidates(sizes: list[Array]) -> tuple[Array, list[Array]]:
    """Return the reach of each candidate, (C,), and per name the offsets from its mark to its centre, (C, 2); preferred ones first."""
    directions = np.radians([0, 180, 90, 270, *(angle for angle in range(15, 360, 15) if angle % 90)])
    angles, reaches = (grid.ravel() for grid in np.meshgrid(directions, _REACHES))
    towards = np.column_stack([np.cos(angles), np.sin(angles)])
    preference = np.tile(np.linspace(0, 3, len(directions)), len(_REACHES))
    return reaches + preference, [towards * reaches[:, None] + np.clip(1.5 * towards, -1, 1) * size / 2 for size in sizes]


def _box(centres: Array, size: Array) -> Array:
    """Return boxes of a size, with a margin, around centres (..., 2): (..., 4)."""
    return np.concatenate([centres - size / 2 - 1, centres + size / 2 + 1], axis=-1)


def _leader(mark: Array, offset: Array, reach: float) -> Array:
    """Return points on the line from a mark to its name, (S, 2); none when they are close."""
    return mark + np.linspace(0.15, 0.9, 12)[:, None] * offset if reach >= _LEADER else np.empty((0, 2))


def _overlap(boxes: Array, others: Array) -> Array:
    """Return the shared area of boxes (C, 4) and others (M, 4): (C, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Array = np.prod(np.maximum(high - low, 0), axis=2)
    return shared


def _inside(points: Array, boxes: Array) -> Array:
    """Return 1 where one of the points (S, 2) lies in one of the boxes (C, 4), else 0: (C, S)."""
    held = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])
    return np.asarray(held.all(axis=2), dtype=np.float64)


def _is_misread(boxes: Array, marks: Array, own: int) -> Array:
    """Return 1 where a name in one of the boxes (C, 4) would be nearer to another of the marks (P, 2) than to its own, else 0: (C,)."""
    outside = np.maximum(np.maximum(boxes[:, None, :2] - marks, marks - boxes[:, None, 2:]), 0)  # (C, P, 2)
    gaps = np.hypot(outside[..., 0], outside[..., 1])
    elsewhere = np.hypot(*(marks - marks[own]).T) > 1  # distance cannot distinguish marks at one position
    return np.asarray((gaps[:, elsewhere] <= gaps[:, [own]] + 1).any(axis=1), dtype=np.float64)
