"""Glyph masks: digits and letters from the fonts that ship with matplotlib, and digits written by a jittered pen.

All masks are (H, W) uint8 images, 255 on the stroke, cropped to the stroke's bounding box. Coordinates of skeletons are in the
unit square, x to the right and y down.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Point = tuple[float, float]
Stroke = tuple[str, list[Point]]  # ("curve" or "line", control points)

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip
CANVAS = 64  # glyphs are drawn at twice the final size and reduced with anti-aliasing

# How people write the ten digits: two to five skeletons each.
SKELETONS: dict[str, list[list[Stroke]]] = {
    "0": [
        [("curve", [(0.5, 0), (0.15, 0.13), (0, 0.5), (0.15, 0.87), (0.5, 1), (0.85, 0.87), (1, 0.5), (0.85, 0.13), (0.5, 0)])],
        [("curve", [(0.62, 0.03), (0.25, 0.1), (0.05, 0.5), (0.2, 0.9), (0.5, 1), (0.8, 0.85), (0.95, 0.4), (0.75, 0.08), (0.4, 0.06)])],
        [("curve", [(0.45, 0), (0.1, 0.3), (0.08, 0.75), (0.45, 1), (0.88, 0.75), (0.9, 0.25), (0.55, 0), (0.35, 0.08)])],
    ],
    "1": [
        [("line", [(0.5, 0), (0.5, 1)])],
        [("line", [(0.25, 0.25), (0.5, 0), (0.5, 1)])],
        [("line", [(0.3, 0.2), (0.52, 0), (0.52, 1)]), ("line", [(0.25, 1), (0.8, 1)])],
        [("line", [(0.58, 0), (0.42, 1)])],
        [("line", [(0.15, 0.38), (0.55, 0), (0.5, 1)])],
    ],
    "2": [
        [("curve", [(0.05, 0.25), (0.25, 0.04), (0.6, 0), (0.88, 0.2), (0.75, 0.5), (0.4, 0.78), (0.02, 1)]),
         ("line", [(0.02, 1), (1, 1)])],
        [("curve", [(0.08, 0.2), (0.4, 0), (0.8, 0.1), (0.85, 0.38), (0.5, 0.7), (0.12, 0.96), (0.05, 0.82), (0.25, 0.76),
                    (0.6, 0.95), (1, 0.92)])],
        [("curve", [(0.1, 0.12), (0.5, 0), (0.85, 0.15), (0.75, 0.45), (0.1, 0.97)]), ("curve", [(0.1, 0.97), (0.5, 0.9), (0.95, 1)])],
        [("line", [(0.05, 0.05), (0.75, 0.03)]), ("curve", [(0.75, 0.03), (0.85, 0.3), (0.4, 0.75), (0.05, 1)]),
         ("line", [(0.05, 1), (0.9, 1)])],
    ],
    "3": [
        [("curve", [(0.05, 0.14), (0.4, 0), (0.85, 0.14), (0.78, 0.38), (0.38, 0.48)]),
         ("curve", [(0.38, 0.48), (0.85, 0.58), (0.92, 0.84), (0.5, 1), (0.03, 0.88)])],
        [("line", [(0.08, 0.02), (0.88, 0.02), (0.42, 0.4)]), ("curve", [(0.42, 0.4), (0.88, 0.5), (0.95, 0.8), (0.5, 1), (0.05, 0.9)])],
        [("curve", [(0.1, 0.1), (0.5, 0), (0.85, 0.18), (0.65, 0.42), (0.72, 0.52), (0.92, 0.75), (0.6, 0.98), (0.05, 0.95)])],
        [("curve", [(0.15, 0.05), (0.7, 0.02), (0.82, 0.25), (0.5, 0.45)]),
         ("curve", [(0.5, 0.45), (0.8, 0.55), (0.8, 0.8), (0.45, 0.98), (0.1, 1)])],
    ],
    "4": [
        [("line", [(0.65, 0), (0.02, 0.65), (1, 0.65)]), ("line", [(0.68, 0), (0.68, 1)])],
        [("line", [(0.25, 0), (0.05, 0.55), (0.95, 0.52)]), ("line", [(0.72, 0.2), (0.65, 1)])],
        [("curve", [(0.12, 0), (0.02, 0.42), (0.25, 0.6), (0.85, 0.5)]), ("line", [(0.9, 0), (0.75, 1)])],
        [("line", [(0.45, 0), (0.05, 0.6), (0.95, 0.68)]), ("line", [(0.6, 0.35), (0.5, 1)])],
        [("line", [(0.12, 0.02), (0.1, 0.5), (0.85, 0.5)]), ("line", [(0.85, 0), (0.82, 1)])],
    ],
    "5": [
        [("line", [(0.92, 0), (0.2, 0), (0.12, 0.42)]),
         ("curve", [(0.12, 0.42), (0.5, 0.34), (0.95, 0.6), (0.78, 0.93), (0.4, 1), (0, 0.9)])],
        [("curve", [(0.95, 0.02), (0.4, 0.03), (0.15, 0.4), (0.6, 0.45), (0.9, 0.7), (0.6, 0.98), (0.05, 0.93)])],
        [("line", [(0.85, 0.03), (0.25, 0.03), (0.2, 0.45)]), ("curve", [(0.2, 0.45), (0.7, 0.45), (0.85, 0.75), (0.5, 1), (0.1, 0.95)])],
        [("line", [(0.95, 0), (0.1, 0.05), (0.08, 0.5), (0.6, 0.45)]), ("curve", [(0.6, 0.45), (0.92, 0.65), (0.8, 0.95), (0.2, 1)])],
    ],
    "6": [
        [("curve", [(0.75, 0), (0.3, 0.25), (0.05, 0.65), (0.3, 0.98), (0.8, 0.9), (0.85, 0.6), (0.45, 0.5), (0.1, 0.7)])],
        [("curve", [(0.5, 0), (0.2, 0.35), (0.08, 0.75), (0.4, 1), (0.85, 0.85), (0.75, 0.6), (0.4, 0.6), (0.12, 0.82)])],
        [("curve", [(0.9, 0.08), (0.5, 0.02), (0.12, 0.35), (0.05, 0.75), (0.45, 1), (0.9, 0.78), (0.6, 0.48), (0.1, 0.62)])],
        [("curve", [(0.35, 0), (0.15, 0.5), (0.2, 0.9), (0.55, 1), (0.85, 0.8), (0.6, 0.58), (0.2, 0.75)])],
    ],
    "7": [
        [("line", [(0, 0.03), (1, 0), (0.35, 1)])],
        [("line", [(0, 0.03), (0.95, 0), (0.4, 1)]), ("line", [(0.2, 0.5), (0.9, 0.47)])],
        [("curve", [(0.02, 0.1), (0.45, 0.04), (0.98, 0.06), (0.7, 0.42), (0.45, 1)])],
        [("line", [(0.02, 0.2), (0.05, 0), (0.95, 0.02)]), ("curve", [(0.95, 0.02), (0.62, 0.45), (0.5, 1)])],
        [("line", [(0.1, 0.05), (0.85, 0.05), (0.6, 1)]), ("line", [(0.35, 0.55), (1, 0.5)])],
    ],
    "8": [
        [("curve", [(0.8, 0.12), (0.5, 0), (0.15, 0.15), (0.25, 0.4), (0.75, 0.6), (0.9, 0.82), (0.5, 1), (0.1, 0.82), (0.25, 0.6),
                    (0.72, 0.38), (0.85, 0.18), (0.65, 0.02)])],
        [("curve", [(0.5, 0), (0.2, 0.12), (0.22, 0.36), (0.5, 0.47), (0.78, 0.36), (0.8, 0.12), (0.5, 0)]),
         ("curve", [(0.5, 0.47), (0.12, 0.62), (0.15, 0.9), (0.5, 1), (0.85, 0.9), (0.88, 0.62), (0.5, 0.47)])],
        [("curve", [(0.95, 0.05), (0.5, 0.02), (0.2, 0.2), (0.5, 0.45), (0.8, 0.72), (0.5, 1), (0.2, 0.78), (0.5, 0.5), (0.9, 0.1)])],
    ],
    "9": [
        [("curve", [(0.9, 0.25), (0.6, 0), (0.15, 0.1), (0.1, 0.4), (0.5, 0.52), (0.85, 0.3), (0.9, 0.12)]),
         ("line", [(0.9, 0.1), (0.8, 1)])],
        [("curve", [(0.88, 0.2), (0.5, 0), (0.12, 0.2), (0.3, 0.5), (0.75, 0.42), (0.9, 0.2), (0.88, 0.6), (0.6, 0.95), (0.1, 0.95)])],
        [("curve", [(0.85, 0.08), (0.4, 0), (0.08, 0.25), (0.3, 0.5), (0.8, 0.35), (0.88, 0.05), (0.8, 0.5), (0.55, 1)])],
        [("curve", [(0.5, 0), (0.18, 0.12), (0.2, 0.4), (0.5, 0.48), (0.8, 0.35), (0.78, 0.08), (0.5, 0)]),
         ("curve", [(0.82, 0.2), (0.82, 0.65), (0.6, 0.98), (0.2, 0.9)])],
    ],
}  # fmt: skip


@cache
def _spline_weights(points: int, steps: int = 6) -> np.ndarray:
    """Uniform Catmull-Rom spline through `points` control points as one matrix, ((points - 1) * steps + 1, points)."""
    t = np.arange(steps) / steps
    basis = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1) / 2  # (steps, 4)
    weights = np.zeros(((points - 1) * steps + 1, points))
    for segment in range(points - 1):
        for offset in range(4):
            index = min(max(segment - 1 + offset, 0), points - 1)  # the ends are repeated
            weights[segment * steps : (segment + 1) * steps, index] += basis[:, offset]
    weights[-1, -1] = 1
    return weights


def handwritten(rng: np.random.Generator, digit: str) -> Image.Image:
    """One digit drawn with a round pen along a jittered skeleton; a cropped mask."""
    variants = SKELETONS[digit]
    strokes = variants[rng.integers(len(variants))]
    # One smooth deformation for the whole digit, one small independent shift per control point.
    jitter = rng.uniform(0.0, 0.065)
    wave = rng.normal(0, 0.055, (2, 2))
    phase = rng.uniform(0, 2 * np.pi, (2, 2))
    frequency = rng.uniform(0.5, 1.3, (2, 2))
    turn, slant = rng.normal(0, 0.10), rng.normal(0.08, 0.2)
    width = rng.uniform(0.5, 1.0) * (0.7 if digit == "1" else 1.0)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[width, -slant], [0, 1]])
    paths = []
    for kind, control in strokes:
        points = np.array(control)
        points = points + rng.normal(0, jitter, points.shape)
        points = points + (wave[:, :, None] * np.sin(2 * np.pi * frequency[:, :, None] * points.T[None] + phase[:, :, None])).sum(1).T
        if kind == "curve":
            points = _spline_weights(len(points)) @ points
        paths.append((points - 0.5) @ matrix.T)
    everything = np.concatenate(paths)
    low, extent = everything.min(0), np.ptp(everything, axis=0).max()
    pen = rng.uniform(0.08, 0.23) * CANVAS
    scale = (CANVAS - pen - 2) / max(extent, 1e-3)
    mask = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(mask)
    radius = pen / 2
    for path in paths:
        drawn = [(float(x), float(y)) for x, y in (path - low) * scale + radius + 1]
        draw.line(drawn, fill=255, width=max(round(pen), 1), joint="curve")
        for x, y in (drawn[0], drawn[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask.crop(mask.getbbox())


@cache
def _font_mask(font: str, character: str) -> Image.Image:
    """A character at twice the canvas size, cropped."""
    from matplotlib import get_data_path

    face = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", font + ".ttf"), 80)
    mask = Image.new("L", (160, 160))
    ImageDraw.Draw(mask).text((80, 80), character, fill=255, font=face, anchor="mm")
    return mask.crop(mask.getbbox())


def printed(rng: np.random.Generator, character: str) -> Image.Image:
    """A font glyph after an affine map and, in a third of the cases, with thickened strokes; a cropped mask."""
    source = _font_mask(FONTS[rng.integers(len(FONTS))], character)
    turn, slant = rng.normal(0, 0.12), rng.normal(0, 0.15)
    stretch = np.exp(rng.normal(0, 0.18))
    size = CANVAS * 0.7 / max(source.size)
    forward = (
        size
        * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        @ np.array([[1, slant], [0, 1]])
        @ np.diag([stretch, 1 / stretch])
    )
    inverse = np.linalg.inv(forward)
    offset = np.array(source.size) / 2 - inverse @ np.array([CANVAS / 2, CANVAS / 2])
    coefficients = (inverse[0, 0], inverse[0, 1], offset[0], inverse[1, 0], inverse[1, 1], offset[1])
    mask = source.transform((CANVAS, CANVAS), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    change = rng.random()
    if change < 0.35:
        mask = mask.filter(ImageFilter.MaxFilter(3 if change < 0.22 else 5))
    return mask.crop(mask.getbbox() or (0, 0, CANVAS, CANVAS))


def placed(masks: list[tuple[Image.Image, float, float, float]], size: int = 32, bottleneck: int | None = None) -> np.ndarray:
    """Compose (mask, height in px, left px, top px) on a canvas and pass it through a low resolution; (size, size) in [0, 1].

    The width follows the mask's aspect, at most the canvas. `bottleneck` reduces to that many pixels by block means and enlarges
    bilinearly, as low-resolution scans are shown; thin strokes lose contrast there, so the brightest pixel is raised to at least 0.7.
    """
    canvas = Image.new("L", (size, size))
    for mask, height, left, top in masks:
        rows = max(round(height), 1)
        columns = min(max(round(height * mask.width / mask.height), 1), size)
        small = mask.resize((columns, rows), Image.Resampling.BOX)
        canvas.paste(small, (round(left), round(top)), small)
    if bottleneck is not None and bottleneck < size:
        canvas = canvas.resize((bottleneck, bottleneck), Image.Resampling.BOX).resize((size, size), Image.Resampling.BILINEAR)
    levels = np.asarray(canvas, np.float32) / 255
    brightest = float(levels.max())
    return levels * (0.7 / brightest) if 0 < brightest < 0.7 else levels
