"""Twelve grey procedural textures, 64x64, named after attributes of the Describable Textures Dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 64
NOISE = 6.0  # standard deviation, grey levels
MIN_CONTRAST = 80  # grey levels
Field = NDArray[np.float64]  # (SIZE, SIZE)


@dataclass(frozen=True)
class Waves:
    """Rotated axes in pixels, a frequency in cycles per pixel, phases in radians, and the generator for what a pattern still needs."""

    u: Field
    v: Field
    frequency: float
    p: float
    q: float
    rng: np.random.Generator

    @property
    def omega(self) -> float:
        return 2 * np.pi * self.frequency

    @property
    def sine_u(self) -> Field:
        return np.sin(self.omega * self.u + self.p)

    @property
    def sine_v(self) -> Field:
        return np.sin(self.omega * self.v + self.q)

    def from_cell_centre(self) -> tuple[Field, Field]:
        """Offsets from the centre of the cell of the square lattice with period 1 / frequency, each in periods, -0.5..0.5."""
        shifts = self.p / (2 * np.pi), self.q / (2 * np.pi)
        return (self.frequency * self.u + shifts[0]) % 1 - 0.5, (self.frequency * self.v + shifts[1]) % 1 - 0.5


def _pixels() -> tuple[Field, Field]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    return x, y


def _smooth_noise(rng: np.random.Generator, cells: int) -> Field:
    """Standard normal noise on a grid of cells x cells, enlarged bicubically."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float64)


def _lined(w: Waves) -> Field:
    return (1 + w.sine_u) / 2


def _banded(w: Waves) -> Field:
    return np.where(w.sine_u > 0, 1.0, 0.0)


def _chequered(w: Waves) -> Field:
    return np.where(w.sine_u * w.sine_v > 0, 1.0, 0.0)


def _polka_dotted(w: Waves) -> Field:
    du, dv = w.from_cell_centre()
    return np.where(du**2 + dv**2 < w.rng.uniform(0.05, 0.1), 1.0, 0.0)


def _grid(w: Waves) -> Field:
    du, dv = w.from_cell_centre()  # the lattice lines are half a period away from the centres
    return np.where(np.maximum(abs(du), abs(dv)) > 0.3, 1.0, 0.0)


def _zigzagged(w: Waves) -> Field:
    triangle = 4 * abs((w.frequency / 2 * w.v + w.q / (2 * np.pi)) % 1 - 0.5) - 1
    return np.where(np.sin(w.omega * w.u + w.p + np.pi * triangle) > 0, 1.0, 0.0)


def _blotchy(w: Waves) -> Field:
    noise = _smooth_noise(w.rng, 4) + _smooth_noise(w.rng, 8) / 2 + _smooth_noise(w.rng, 16) / 3
    return np.asarray((noise - noise.min()) / (noise.max() - noise.min()))


def _marbled(w: Waves) -> Field:
    return (1 + np.sin(w.omega * w.u + w.p + 3 * _smooth_noise(w.rng, 4))) / 2


def _sprinkled(w: Waves) -> Field:
    density = w.rng.uniform(0.01, 0.04)
    seeds = np.pad(w.rng.random((SIZE, SIZE)) < density, 1)
    specks = np.lib.stride_tricks.sliding_window_view(seeds, (3, 3)).any(axis=(2, 3))
    return np.where(specks, 1.0, 0.0)


def _cracked(w: Waves) -> Field:
    points = w.rng.uniform(0, SIZE, (w.rng.integers(15, 41), 2, 1, 1))
    x, y = _pixels()
    distances: Field = np.partition(np.hypot(x - points[:, 0], y - points[:, 1]), 1, axis=0)
    gap: Field = distances[1] - distances[0]
    return np.clip(gap / 3, 0, 1)


def _spiralled(w: Waves) -> Field:
    centre_x, centre_y = w.rng.uniform(SIZE / 4, 3 * SIZE / 4, 2)
    hand = 2 * int(w.rng.integers(2)) - 1
    x, y = _pixels()
    dx, dy = x - centre_x, y - centre_y
    phase: Field = w.omega * np.hypot(dx, dy) + hand * np.arctan2(dy, dx) + w.p
    return (1 + np.sin(phase)) / 2


def _woven(w: Waves) -> Field:
    over = np.sin(w.omega * w.u / 2 + w.p) * np.sin(w.omega * w.v / 2 + w.q) > 0
    along_u, along_v = np.sin(1.5 * w.omega * w.v + w.q), np.sin(1.5 * w.omega * w.u + w.p)
    return (1 + np.where(over, along_u, along_v)) / 2


PATTERNS: dict[str, Callable[[Waves], Field]] = {
    "lined": _lined,
    "banded": _banded,
    "chequered": _chequered,
    "polka-dotted": _polka_dotted,
    "grid": _grid,
    "zigzagged": _zigzagged,
    "blotchy": _blotchy,
    "marbled": _marbled,
    "sprinkled": _sprinkled,
    "cracked": _cracked,
    "spiralled": _spiralled,
    "woven": _woven,
}


def draw_texture_label(rng: np.random.Generator) -> int:
    """Draw the label, first of all draws of an image: its pattern, an index into PATTERNS."""
    return int(rng.integers(len(PATTERNS)))


def render_texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image (64, 64), the label included in its draws."""
    pattern = list(PATTERNS.values())[draw_texture_label(rng)]
    angle = rng.uniform(0, 2 * np.pi)
    frequency = rng.uniform(0.05, 0.1)  # more would alias in images reduced to 32 pixels
    p, q = rng.uniform(0, 2 * np.pi, 2)
    low = high = 0
    while abs(high - low) < MIN_CONTRAST:
        low, high = (int(level) for level in rng.integers(0, 256, 2))
    x, y = _pixels()
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    amount = pattern(Waves(u, v, frequency, p, q, rng))
    noisy = low + (high - low) * amount + rng.normal(0, NOISE, (SIZE, SIZE))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
