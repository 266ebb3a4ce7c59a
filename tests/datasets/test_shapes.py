"""Shapes with the latents of dSprites."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.datasets.mini import _shapes

LATENT = st.tuples(*(st.integers(0, n - 1) for n in _shapes.LATENTS)).map(np.array)
SYMMETRIC = st.tuples(st.integers(0, 1), *(st.integers(0, n - 1) for n in _shapes.LATENTS[1:])).map(np.array)


@given(LATENT)
def test_image_is_binary_and_the_shape_lies_inside(latent: np.ndarray) -> None:
    image = _shapes.render_shape(latent)
    assert image.shape == (64, 64) and image.dtype == np.uint8
    assert set(np.unique(image)) == {0, 255}
    assert not (image[0].any() or image[-1].any() or image[:, 0].any() or image[:, -1].any())


@given(SYMMETRIC)
def test_centre_of_mass_gives_x_and_y_back(latent: np.ndarray) -> None:
    rows, cols = np.nonzero(_shapes.render_shape(latent))
    assert round((cols.mean() + 0.5 - 16) * 31 / 32) == latent[3]
    assert round((rows.mean() + 0.5 - 16) * 31 / 32) == latent[4]


@pytest.mark.parametrize("scale", range(6))
def test_areas_follow_the_scale(scale: int) -> None:
    half = 11 * (0.5 + 0.1 * scale)
    square, ellipse = (np.count_nonzero(_shapes.render_shape(np.array([shape, scale, 7, 16, 16]))) for shape in (0, 1))
    assert square == pytest.approx(4 * half**2, rel=0.08)
    assert ellipse == pytest.approx(np.pi * 1.25 * 0.75 * half**2, rel=0.08)


def test_orientation_turns_the_shape_clockwise_on_the_screen() -> None:
    rows, cols = np.nonzero(_shapes.render_shape(np.array([1, 5, 5, 16, 16])))  # 46 degrees
    assert np.corrcoef(rows, cols)[0, 1] > 0.3


def test_latents_are_unique_over_all_splits_and_do_not_depend_on_the_count() -> None:
    drawn = [_shapes.draw_latents(split, 3000, seed=5) for split in ("train", "val", "test")]
    assert len({tuple(latent) for latents in drawn for latent in latents.tolist()}) == 9000
    np.testing.assert_array_equal(_shapes.draw_latents("val", 10, seed=5), drawn[1][:10])
    assert not np.array_equal(_shapes.draw_latents("val", 10, seed=6), drawn[1][:10])


def test_labels_are_those_of_vtab() -> None:
    latents = np.zeros((40, 5), dtype=np.int64)
    latents[:, 2] = np.arange(40)
    latents[:, 3] = np.arange(40) % 32
    assert _shapes.orientation_labels(latents).tolist() == [int(i // 2.5) for i in range(40)]
    assert _shapes.location_labels(latents)[:32].tolist() == [i // 2 for i in range(32)]
