"""Filling polygons and discs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from petlbench.datasets.mini._raster import fill_disc, fill_polygon, reduce_by

COORDINATE = st.floats(-5, 25, allow_nan=False)
POLYGON = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=8).map(np.array)


def centre_is_inside(points: np.ndarray, row: int, col: int) -> bool:
    """Even-odd rule with a ray to the left, one pixel at a time."""
    x, y = col + 0.5, row + 0.5
    inside = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and (x0 * (y1 - y) + x1 * (y - y0)) / (y1 - y0) <= x:
            inside = not inside
    return inside


@given(POLYGON)
def test_a_pixel_is_filled_when_its_centre_is_inside(points: np.ndarray) -> None:
    canvas = np.zeros((12, 16), np.uint8)
    fill_polygon(canvas, points, 7)
    expected = np.array([[7 * centre_is_inside(points, row, col) for col in range(16)] for row in range(12)])
    np.testing.assert_array_equal(canvas, expected)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 2 * np.pi))
def test_faces_that_share_an_edge_neither_overlap_nor_leave_a_gap(x: int, y: int, angle: float) -> None:
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    corners = np.array([(-x, -y), (x, -y), (x, y), (-x, y)]) @ turn + 10.3
    parts = [np.zeros((21, 21), np.uint8) for _ in range(3)]
    for canvas, chosen in zip(parts, ([0, 1, 2, 3], [0, 1, 2], [0, 2, 3]), strict=True):
        fill_polygon(canvas, corners[chosen], 1)
    np.testing.assert_array_equal(parts[0], parts[1] + parts[2])


@given(COORDINATE, COORDINATE, st.floats(0.1, 12))
def test_a_disc_holds_the_centres_within_its_radius(x: float, y: float, radius: float) -> None:
    canvas = np.zeros((12, 16, 3), np.uint8)
    fill_disc(canvas, (x, y), radius, (1, 2, 3))
    rows, cols = np.mgrid[0:12, 0:16] + 0.5
    is_inside = (cols - x) ** 2 + (rows - y) ** 2 <= radius**2
    np.testing.assert_array_equal(canvas, is_inside[..., None] * np.array([1, 2, 3]))


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
@given(data=st.data())
def test_reducing_takes_the_mean_of_blocks(shape: tuple[int, ...], data: st.DataObject) -> None:
    canvas = data.draw(arrays.arrays(np.uint8, shape))
    expected = np.stack([np.stack([canvas[i : i + 3, j : j + 3].mean(axis=(0, 1)) for j in range(0, 9, 3)]) for i in range(0, 6, 3)])
    np.testing.assert_array_equal(reduce_by(canvas, 3), np.rint(expected))
