"""Handwritten digits of scikit-learn, and the rules of Biased-MNIST and Loc-MNIST for digits of any size and number.

The two rules follow the code released with BlackVIP (arXiv 2303.14773). They take their randomness as a function, so that numpy's
legacy generator (``np.random.RandomState(seed).shuffle`` or ``.randint``) reproduces the original and a ``Generator`` (``.shuffle``
or ``.integers``) gives our own data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]  # (H, W), or (N, H, W) for a stack
Indices = NDArray[np.int64]  # (N,)
Draw = Callable[[int], Any]  # n -> an integer, uniform in 0..n-1
Shuffle = Callable[[Any], None]  # in place

PARTS = {"train": slice(0, 1000), "val": slice(1000, 1297), "test": slice(1297, 1797)}  # of the 1797 images, in their own order

COLOURS = np.array(
    [
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (225, 225, 0), (225, 0, 225),
        (0, 255, 255), (255, 128, 0), (255, 0, 128), (128, 0, 255), (128, 128, 128),
    ],
    dtype=np.uint8,
)  # fmt: skip


@functools.cache
def _handwriting() -> tuple[Grey, Indices]:
    from sklearn.datasets import load_digits  # here, because it takes a second

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def handwriting(split: str) -> tuple[Grey, Indices]:
    """Return a split of the handwritten digits: images (N, 8, 8), stretched from 0..16 to 0..255, and labels (N,)."""
    images, labels = _handwriting()
    return images[PARTS[split]].copy(), labels[PARTS[split]].copy()


def enlarge(image: Grey, size: int) -> Grey:
    """Enlarge bilinearly, (H, W) to (size, size), in the integer arithmetic of OpenCV: the same on every machine. Not for reduction."""
    top, bottom, keep_top, keep_bottom = _neighbours(image.shape[0], size)
    left, right, keep_left, keep_right = _neighbours(image.shape[1], size)
    pixels = image.astype(np.int64)
    rows = (keep_left * pixels[:, left] + keep_right * pixels[:, right]) >> 4  # (H, size)
    above = (keep_top[:, None] * rows[top]) >> 16
    below = (keep_bottom[:, None] * rows[bottom]) >> 16
    return ((above + below + 2) >> 2).astype(np.uint8)


def _neighbours(source: int, target: int) -> tuple[Indices, Indices, Indices, Indices]:
    """Return for every target pixel its two source pixels and their weights, which add up to 2048."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = position.astype(np.int64)
    high_weight = np.rint(2048 * (position - low)).astype(np.int64)
    return low, np.minimum(low + 1, source - 1), 2048 - high_weight, high_weight


def biased_colours(labels: Indices, rho: float, shuffle: Shuffle | None, n_confusing: int = 9) -> tuple[Indices, Indices]:
    """Apply Biased-MNIST's rule: return the image at each position of the result, and its background colour (an index into COLOURS).

    Of the n images of class y, int(n * rho) get colour y; the rest is cut into chunks of one width, one for each of the next
    ``n_confusing`` colours (the last ones can be short or empty).
    ``shuffle=None`` leaves everything in order: colour by colour, class by class.
    """
    chunks: dict[tuple[int, int], Indices] = {}  # (colour, digit) -> images
    for digit in range(len(COLOURS)):
        members = np.flatnonzero(labels == digit)
        others = [(digit + step) % len(COLOURS) for step in range(1, n_confusing + 1)]
        if shuffle is not None:
            shuffle(members)
            shuffle(others)
        n_own = int(len(members) * rho)
        chunks[digit, digit] = members[:n_own]
        rest = members[n_own:]
        width = math.ceil(len(rest) / n_confusing)
        for j, colour in enumerate(others):
            chunks[colour, digit] = rest[j * width : (j + 1) * width]
    ordered = sorted(chunks)
    indices = np.concatenate([chunks[key] for key in ordered])
    colours = np.repeat([colour for colour, _ in ordered], [len(chunks[key]) for key in ordered])
    if shuffle is not None:
        order = np.arange(len(indices))
        shuffle(order)
        indices, colours = indices[order], colours[order]
    return indices, colours


def colour_background(image: Grey, colour: int, threshold: int = 0) -> NDArray[np.uint8]:
    """(H, W) to (H, W, 3): white where the grey value exceeds the threshold (0 in the original), the given colour elsewhere."""
    return np.where((image > threshold)[..., None], np.uint8(255), COLOURS[colour])


class Placement(NamedTuple):
    """Top-left corner of the labelled digit on the canvas, and the image in the centre that distracts."""

    row: int
    col: int
    distractor: int


def members_by_class(labels: Indices) -> list[Indices]:
    """Return the images of each of the ten classes, in order."""
    return [np.flatnonzero(labels == digit) for digit in range(10)]


def draw_placement(draw: Draw, members: list[Indices], canvas: int, digit_size: int) -> Placement:
    """Draw by Loc-MNIST's rule for one image: a position that touches the border, then a class and one of its images as distractor."""
    end = canvas - digit_size
    a = int(draw(end + 1))
    b = int(draw(end + 1)) if a in (0, end) else end * int(draw(2))
    row, col = (a, b) if draw(2) == 0 else (b, a)
    candidates = members[draw(len(members))]
    return Placement(row, col, int(candidates[draw(len(candidates))]))


def original_placements(labels: Indices, draw: Draw, canvas: int = 224, digit_size: int = 28) -> Iterator[tuple[int, Placement]]:
    """Yield (index of the labelled digit, its placement) in the original's order: class by class, one generator for the whole split."""
    members = members_by_class(labels)
    for own in members:
        for index in own:
            yield int(index), draw_placement(draw, members, canvas, digit_size)


def compose(digit: Grey, distractor: Grey, place: Placement, *, canvas: int, digit_size: int, distractor_size: int) -> Grey:
    """Return the grey canvas (canvas, canvas): the digit at its position, then the distractor over the centre."""
    picture = np.zeros((canvas, canvas), np.uint8)
    picture[place.row : place.row + digit_size, place.col : place.col + digit_size] = enlarge(digit, digit_size)
    corner = canvas // 2 - distractor_size // 2
    picture[corner : corner + distractor_size, corner : corner + distractor_size] = enlarge(distractor, distractor_size)
    return picture
