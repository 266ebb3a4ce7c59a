"""Flat and shaded coloured shapes on plain or graded backgrounds."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "hexagon")
SUPERSAMPLE = 3
Point = tuple[float, float]


def _polygon(name: str) -> np.ndarray:
    """Corners of a shape of circumradius 1, (K, 2)."""
    if name == "cross":
        a = 0.33
        arm = [(a, a), (1, a), (1, -a), (a, -a), (a, -1), (-a, -1), (-a, -a), (-1, -a), (-1, a), (-a, a), (-a, 1), (a, 1)]
        return np.array(arm, float)
    corners = {"square": 4, "triangle": 3, "star": 10, "diamond": 4, "hexagon": 6}[name]
    angle = 2 * np.pi * np.arange(corners) / corners + (np.pi / 4 if name == "square" else -np.pi / 2)
    radius = np.where(np.arange(corners) % 2, 0.42, 1.0) if name == "star" else np.ones(corners)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    return np.asarray(points * np.array([0.65, 1.0]) if name == "diamond" else points)


POLYGONS = {name: _polygon(name) for name in SHAPES if name not in ("circle", "ring")}


class Scene:
    """A canvas of `size` pixels on which shapes are drawn with anti-aliasing; positions and radii are in final pixels."""

    def __init__(self, size: int, top: np.ndarray, bottom: np.ndarray) -> None:
        """Background: a vertical gradient between two RGB colours, (3,) each."""
        fine = size * SUPERSAMPLE
        self.size = size
        if np.array_equal(top, bottom):
            self.image = Image.new("RGB", (fine, fine), _rgb(top))
        else:
            ramp = np.linspace(0, 1, fine)[:, None, None]
            rows = (top * (1 - ramp) + bottom * ramp).astype(np.uint8)
            self.image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows, (fine, fine, 3))))
        self.background = _rgb((top + bottom) / 2)
        self.draw = ImageDraw.Draw(self.image)

    def add(self, name: str, centre: Point, radius: float, angle: float, colour: np.ndarray, *, shaded: bool = False) -> None:
        """Draw one shape; `shaded` adds a lit part."""
        x, y, radius = centre[0] * SUPERSAMPLE, centre[1] * SUPERSAMPLE, radius * SUPERSAMPLE
        self._fill(name, (x, y), radius, angle, _rgb(colour))
        if shaded and name != "ring":
            self._fill(name, (x - 0.2 * radius, y - 0.2 * radius), 0.5 * radius, angle, _rgb(colour + 0.45 * (255 - colour)))

    def _fill(self, name: str, centre: Point, radius: float, angle: float, colour: tuple[int, int, int]) -> None:
        x, y = centre
        if name in ("circle", "ring"):
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
            if name == "ring":
                inner = 0.55 * radius
                self.draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=self.background)
            return
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = POLYGONS[name] @ turn.T * radius + centre
        self.draw.polygon([(float(a), float(b)) for a, b in corners], fill=colour)

    def pixels(self) -> np.ndarray:
        """(size, size, 3) float32 in 0..255."""
        return np.asarray(self.image.reduce(SUPERSAMPLE), np.float32)


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    return red, green, blue


def separated_positions(rng: np.random.Generator, count: int, radius: float, size: int) -> np.ndarray:
    """Centres of `count` discs that do not overlap more than a little, (count, 2); the best of a few tries where it is tight."""
    best, best_gap = np.zeros((count, 2)), -1.0
    for _ in range(12):
        points = rng.uniform(radius, size - radius, (count, 2))
        if count == 1:
            return points
        distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(count) * size
        gap = float(distance.min())
        if gap > best_gap:
            best, best_gap = points, gap
        if gap > 2 * radius:
            break
    return best
