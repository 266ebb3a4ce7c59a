"""White squares, ellipses and hearts on black, 64x64, with the latents of dSprites (Matthey et al. 2017)."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from ._raster import fill_polygon, reduce_by

SIZE = 64
LATENTS = (3, 6, 40, 32, 32)  # shape, scale, orientation, x, y; the number of values of each
FIRST = {"train": 0, "val": 200_000, "test": 400_000}  # where a split begins in the one permutation of all latents
OVERSAMPLING = 4


def draw_latents(split: str, count: int, seed: int) -> NDArray[np.int64]:
    """(count, 5): latents without replacement, also between splits, in the order of LATENTS."""
    chosen = np.random.default_rng(seed).permutation(int(np.prod(LATENTS)))[FIRST[split] :][:count]
    return np.stack(np.unravel_index(chosen, LATENTS), axis=1).astype(np.int64)


def location_labels(latents: NDArray[np.int64]) -> NDArray[np.int64]:
    """VTAB's 16 classes of the x position (0..31), two positions each."""
    return latents[:, 3] // 2


def orientation_labels(latents: NDArray[np.int64]) -> NDArray[np.int64]:
    """VTAB's 16 classes of the orientation (0..39), in turn three and two indices wide: floor(index / 2.5)."""
    return latents[:, 2] * 2 // 5


@functools.cache
def _outlines() -> tuple[NDArray[np.float64], ...]:
    """Return the three polygons (points, 2) at half-size 1, x to the right and y down."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    ellipse = np.stack([1.25 * np.cos(turn), 0.75 * np.sin(turn)], axis=1)
    heart = np.stack([16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], axis=1) / 15
    return square, ellipse, heart


def render_shape(latent: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One image (64, 64), values 0 and 255."""
    shape, scale, orientation, x, y = (int(value) for value in latent)
    angle = 2 * np.pi * orientation / 39
    cos, sin = np.cos(angle), np.sin(angle)
    points = _outlines()[shape] * (11 * (0.5 + 0.1 * scale))
    centre = (16 + 32 * x / 31, 16 + 32 * y / 31)
    placed = np.stack([points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos], axis=1) + centre
    drawn = np.zeros((SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), np.uint8)
    fill_polygon(drawn, placed * OVERSAMPLING, 255)
    return np.where(reduce_by(drawn, OVERSAMPLING) >= 128, np.uint8(255), np.uint8(0))
