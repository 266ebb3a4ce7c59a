"""Fill polygons and discs on arrays, without antialiasing. Drawing libraries change their pixels between versions; a dataset must not.

Coordinates are (x, y) with y down; the pixel in row i and column j has its centre at (j + 0.5, i + 0.5) and is filled when its centre
is inside.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Canvas = NDArray[np.uint8]  # (H, W) or (H, W, channels)
Value = int | tuple[int, ...]


def fill_polygon(canvas: Canvas, points: NDArray[np.float64], value: Value) -> None:
    """Fill the polygon (points, 2), by the even-odd rule where it crosses itself."""
    height, width = canvas.shape[:2]
    xs, ys = points.T.tolist()
    first, last = max(0, math.floor(min(ys))), min(height, math.ceil(max(ys)))
    left, right = max(0, math.floor(min(xs))), min(width, math.ceil(max(xs)))
    if first >= last or left >= right:
        return
    span = right - left
    rows = np.arange(first, last) + 0.5
    starts = points[:, 1, None] <= rows  # (points, rows)
    ends = np.concatenate([starts[1:], starts[:1]])
    edge, row = np.nonzero(starts != ends)  # every pair of an edge and a row of centres that it crosses
    y = rows[row]
    x0, y0 = points[edge].T
    x1, y1 = points[(edge + 1) % len(points)].T
    x = (x0 * (y1 - y) + x1 * (y - y0)) / (y1 - y0)  # the same number from either end, so that neighbouring faces fit
    column = np.ceil(x - (left + 0.5)).clip(0, span).astype(np.int64)  # the first centre that is not to the left of the crossing
    crossings = np.bincount(row * (span + 1) + column, minlength=len(rows) * (span + 1)).reshape(len(rows), span + 1)
    is_inside = np.bitwise_and(crossings.cumsum(axis=1), 1).astype(bool)
    canvas[first:last, left : left + span][is_inside[:, :span]] = value


def fill_disc(canvas: Canvas, centre: tuple[float, float], radius: float, value: Value) -> None:
    """Fill a disc."""
    height, width = canvas.shape[:2]
    x, y = centre
    top, bottom = max(0, math.floor(y - radius)), min(height, math.ceil(y + radius))
    left, right = max(0, math.floor(x - radius)), min(width, math.ceil(x + radius))
    if top < bottom and left < right:
        dx, dy = np.arange(left, right) + 0.5 - x, np.arange(top, bottom) + 0.5 - y
        canvas[top:bottom, left:right][dx**2 + dy[:, None] ** 2 <= radius**2] = value


def reduce_by(canvas: Canvas, factor: int) -> Canvas:
    """Return the mean of blocks of factor x factor pixels, rounded."""
    sums = np.full_like(canvas[::factor, ::factor], factor**2 // 2, dtype=np.uint32)
    for i in range(factor):
        for j in range(factor):
            sums += canvas[i::factor, j::factor]
    return (sums // factor**2).astype(np.uint8)
