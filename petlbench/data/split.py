"""A split in memory: images of one form, stored or decoded when they are read, and their labels.

Letters in shapes: N images, P pixels of all of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petlbench.data.source import Concatenation, ImageSource, RenderedSource, take
from petlbench.data.transforms import Form, Pixels


class Ragged:
    """Images of different sizes that lie one after another in one array."""

    def __init__(self, pixels: NDArray[np.uint8], shapes: NDArray[np.int64], starts: NDArray[np.int64] | None = None) -> None:
        self.pixels = pixels  # (P, 3), usually a memory map
        self.shapes = shapes  # (N, 2): heights and widths
        self.starts = np.cumsum(shapes.prod(1)) - shapes.prod(1) if starts is None else starts  # (N,): the first pixel of each

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Pixels:
        (height, width), start = self.shapes[index], self.starts[index]
        return self.pixels[start : start + height * width].reshape(height, width, 3)

    def take(self, indices: NDArray[np.int64]) -> Ragged:
        """Return some of the images, in the given order, without a copy."""
        return Ragged(self.pixels, self.shapes[indices], self.starts[indices])


Images = NDArray[np.uint8] | Ragged | ImageSource  # in an array (N, H, W, 3), in one of several sizes, or decoded when they are read


@dataclass(frozen=True)
class Split:
    """Images of one form and their labels (N,) int64."""

    images: Images
    labels: NDArray[np.int64]
    digest: str  # SHA-256 of pixels and labels; of a split that is not stored, of its revision, form and labels
    form: Form | None = None  # of the images; None: as they are evaluated

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def source(self) -> ImageSource:
        """The images as a source that gives one at a time."""
        return RenderedSource(self.labels, self.images.__getitem__) if isinstance(self.images, (np.ndarray, Ragged)) else self.images

    def take(self, indices: NDArray[np.int64]) -> Split:
        """Return some of the images, in the given order; the digest depends on the whole split's and on the choice."""
        images: Images
        match self.images:
            case np.ndarray():
                images = np.asarray(self.images)[indices]  # of a memory map too: a copy
            case Ragged():
                images = self.images.take(indices)
            case source:
                images = take(source, indices)
        return Split(images, self.labels[indices], digest_of_part(self.digest, indices), self.form)


def joined(first: Split, second: Split) -> Split:
    """Concatenate two splits of one form."""
    arrays = [part.images for part in (first, second) if isinstance(part.images, np.ndarray)]
    one_size = len(arrays) == 2 and arrays[0].shape[1:] == arrays[1].shape[1:]
    images: Images = np.concatenate(arrays) if one_size else Concatenation([first.source, second.source])
    return Split(images, np.concatenate([first.labels, second.labels]), f"{first.digest}+{second.digest}", first.form)


def digest_of_part(whole: str, indices: NDArray[np.int64]) -> str:
    """Return the digest of some images of a split, in their order. ``whole``: the split's digest."""
    return hashlib.sha256(whole.encode() + np.asarray(indices, dtype="<i8").tobytes()).hexdigest()
