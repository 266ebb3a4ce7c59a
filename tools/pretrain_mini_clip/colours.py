"""Named colours with jitter, and contrasting pairs of foreground and background."""

from __future__ import annotations

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "green": (30, 170, 50),
    "blue": (35, 60, 225),
    "yellow": (245, 225, 40),
    "orange": (250, 140, 20),
    "purple": (130, 40, 190),
    "pink": (250, 120, 190),
    "brown": (125, 75, 35),
    "cyan": (40, 210, 215),
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "black": (10, 10, 10),
}
NAMES = tuple(COLOURS)
MINIMUM_CONTRAST = 110.0  # Euclidean distance in 0..255 RGB; below it shapes get hard to see after the bottleneck


def jittered(rng: np.random.Generator, name: str, amount: int = 18) -> np.ndarray:
    """An instance of a named colour, (3,) float in 0..255."""
    shift = rng.integers(-amount, amount + 1, 3)
    return np.clip(np.array(COLOURS[name]) + shift, 0, 255).astype(np.float32)


def contrasting_pair(rng: np.random.Generator) -> tuple[str, np.ndarray, str, np.ndarray]:
    """Two named colours that can be told apart: (foreground name, RGB, background name, RGB)."""
    while True:
        first, second = (NAMES[k] for k in rng.integers(0, len(NAMES), 2))
        if first == second:
            continue
        foreground, background = jittered(rng, first), jittered(rng, second)
        if np.linalg.norm(foreground - background) >= MINIMUM_CONTRAST:
            return first, foreground, second, background
