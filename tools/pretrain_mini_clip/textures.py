"""Texture patterns m in [0, 1], (size, size), computed on a finer grid and averaged; named after attributes of DTD where one exists."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

FINE = 64  # patterns are evaluated on this grid and reduced, which anti-aliases their edges
Grid = np.ndarray
Plane = Any  # (FINE, FINE), float in [0, 1] or bool; numpy's functions are typed as Any
Pattern = Callable[[np.random.Generator, Grid, Grid, float], Plane]


@cache
def _grid() -> tuple[Grid, Grid]:
    y, x = np.mgrid[0:FINE, 0:FINE].astype(np.float32)
    return (x + 0.5) / FINE - 0.5, (y + 0.5) / FINE - 0.5


def _wave(u: Grid, frequency: float, phase: float) -> Plane:
    return np.sin(2 * np.pi * frequency * u + phase)


def _triangle(v: Grid) -> Plane:
    """Triangle wave of period 1 in [-1, 1]."""
    return 4 * np.abs(v - np.floor(v) - 0.5) - 1


def _cell(u: Grid) -> Plane:
    """Offset from the nearest cell centre of a lattice of period 1, in [-0.5, 0.5]."""
    return u - np.floor(u) - 0.5


def _smooth(rng: np.random.Generator, cells: int) -> Grid:
    """Smooth noise with about `cells` blobs per side, about unit variance."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((FINE, FINE), Image.Resampling.BICUBIC))


def _distances(rng: np.random.Generator, u: Grid, v: Grid, count: int) -> Plane:
    """Distances to `count` random points, the smallest two first, (2, FINE, FINE)."""
    points = rng.uniform(-0.55, 0.55, (count, 2)).astype(np.float32)
    square = (u[None] - points[:, 0, None, None]) ** 2 + (v[None] - points[:, 1, None, None]) ** 2
    return np.sqrt(np.partition(square, 1, axis=0)[:2])


def lined(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    return 0.5 + 0.5 * _wave(u, f, rng.uniform(0, 6.28))


def banded(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    return _wave(u, f, rng.uniform(0, 6.28)) > rng.uniform(-0.4, 0.4)


def chequered(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    return _wave(u, f, rng.uniform(0, 6.28)) * _wave(v, f, rng.uniform(0, 6.28)) > 0


def polka_dotted(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    rows = np.floor(v * f + 10)
    du, dv = _cell(u * f + rng.random() + 0.5 * (rows % 2) * (rng.random() < 0.5)), _cell(v * f)
    return du**2 + dv**2 < rng.uniform(0.2, 0.36) ** 2


def grid(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    thickness = rng.uniform(0.07, 0.14)
    return (np.abs(_cell(u * f + rng.random())) < thickness) | (np.abs(_cell(v * f + rng.random())) < thickness)


def zigzagged(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    bend = rng.uniform(0.25, 0.6) * _triangle(v * f * rng.uniform(0.4, 0.7) + rng.random())
    return _wave(u * f + bend, 1, rng.uniform(0, 6.28)) > 0


def blotchy(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    noise = _smooth(rng, int(rng.integers(3, 7))) + 0.4 * _smooth(rng, 11)
    return (noise - noise.min()) / (np.ptp(noise) + 1e-6)


def marbled(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    return 0.5 + 0.5 * np.sin(2 * np.pi * f * u + rng.uniform(2, 4) * _smooth(rng, int(rng.integers(3, 6))))


def sprinkled(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    pattern = np.zeros((FINE, FINE), bool)
    x, y = rng.integers(0, FINE - 4, (2, int(rng.integers(15, 90))))
    for dx, dy in np.ndindex(int(rng.integers(2, 5)), int(rng.integers(2, 5))):
        pattern[y + dy, x + dx] = True
    return pattern


def cracked(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    first, second = _distances(rng, u, v, int(rng.integers(10, 34)))
    return np.clip((second - first) / rng.uniform(0.03, 0.07), 0, 1)


def spiralled(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    du, dv = u - rng.uniform(-0.22, 0.22), v - rng.uniform(-0.22, 0.22)
    arms = int(rng.integers(1, 3)) * (1 if rng.random() < 0.5 else -1)
    return 0.5 + 0.5 * np.sin(2 * np.pi * f * np.hypot(du, dv) + arms * np.arctan2(dv, du) + rng.uniform(0, 6.28))


def woven(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    coarse = f * rng.uniform(0.4, 0.6)
    over = _wave(u, coarse, rng.uniform(0, 6.28)) * _wave(v, coarse, rng.uniform(0, 6.28)) > 0
    stripes: Plane = np.where(over, _wave(u, 1.5 * f, 0), _wave(v, 1.5 * f, 0))
    return 0.5 + 0.5 * stripes


def ringed(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    du, dv = u - rng.uniform(-0.22, 0.22), v - rng.uniform(-0.22, 0.22)
    return 0.5 + 0.5 * np.sin(2 * np.pi * f * np.hypot(du, dv) + rng.uniform(0, 6.28))


def radial(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    du, dv = u - rng.uniform(-0.2, 0.2), v - rng.uniform(-0.2, 0.2)
    return np.sin(int(rng.integers(4, 11)) * np.arctan2(dv, du) + rng.uniform(0, 6.28)) > 0


def bubbly(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    count = int(rng.integers(6, 18))
    points = rng.uniform(-0.5, 0.5, (count, 2)).astype(np.float32)
    radii = rng.uniform(0.05, 0.16, count).astype(np.float32)
    distance = np.hypot(u[None] - points[:, 0, None, None], v[None] - points[:, 1, None, None])
    return (np.abs(distance - radii[:, None, None]) < 0.025).any(0)


def bricked(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    row = np.floor(v * f + 10)
    joint = rng.uniform(0.06, 0.12)
    return (np.abs(np.abs(_cell(v * f + 10)) - 0.5) < joint) | (np.abs(_cell(u * f / 2 + 0.5 * (row % 2))) < joint / 2)


def honeycombed(rng: np.random.Generator, u: Grid, v: Grid, f: float) -> Plane:
    f = 0.75 * f
    a = np.stack([_cell(u * f), _cell(v * f / 1.732) * 1.732])
    b = np.stack([_cell(u * f + 0.5), _cell(v * f / 1.732 + 0.5) * 1.732])
    nearest = np.where((a**2).sum(0) < (b**2).sum(0), np.abs(a), np.abs(b))
    edge = np.maximum(nearest[0], 0.5 * nearest[0] + 0.866 * nearest[1])  # 0.5 on the border of the hexagon
    return edge > rng.uniform(0.38, 0.44)


TEXTURES: dict[str, Pattern] = {
    "lined": lined,
    "banded": banded,
    "chequered": chequered,
    "polka-dotted": polka_dotted,
    "grid": grid,
    "zigzagged": zigzagged,
    "blotchy": blotchy,
    "marbled": marbled,
    "sprinkled": sprinkled,
    "cracked": cracked,
    "spiralled": spiralled,
    "woven": woven,
    "ringed": ringed,
    "radial": radial,
    "bubbly": bubbly,
    "bricked": bricked,
    "honeycombed": honeycombed,
}


def texture(rng: np.random.Generator, name: str, size: int = 32) -> tuple[np.ndarray, float]:
    """A pattern (size, size) in [0, 1] and its angle in degrees.

    1.6 to 2.9 or 7 to 9.5 periods per image side: the task mini/textures, with 3.2 to 6.4, lies between and is not trained on.
    """
    angle = rng.uniform(0, np.pi)
    frequency = float(rng.uniform(1.6, 2.9) if rng.random() < 0.6 else rng.uniform(7.0, 9.5))
    x, y = _grid()
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    fine = TEXTURES[name](rng, u, v, frequency).astype(np.float32)
    factor = FINE // size
    return fine.reshape(size, factor, size, factor).mean((1, 3)), float(np.degrees(angle))
