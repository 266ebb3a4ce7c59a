"""Transform decoded images to a backbone's input, with the results of torchvision's transforms on Pillow images.

Resizing and windows that have to be resized are done image by image; all other operations are tensor operations on whole batches, on the device where
a batch lies. What is random is drawn first, as numbers, and applied afterwards, so that a seed gives the same views however images are stored.
Letters in shapes: B images of a batch, S input side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from petlbench.config.augment import (
    WINDOWS,
    Flip,
    Greyscale,
    Interpolation,
    Jitter,
    Operation,
    RandomResizedCrop,
    Solarize,
    VerticalFlip,
    parse,
)
from petlbench.data import colour
from petlbench.errors import DataError

Pixels = NDArray[np.uint8]  # (H, W, 3)
Box = tuple[int, int, int, int]  # top, left, height, width

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}
_MOST_PIXELS = 2**27  # of a resized image, 400 MB: a narrow one becomes very long when its shorter side is enlarged
_TRIES = 10  # for a random window before the centre is taken


@dataclass(frozen=True)
class Form:
    """The deterministic part of a transform: resize, then cut at the centre."""

    mode: Literal["squash", "short", "native"]  # to a square, the shorter side, or not at all
    size: int = 0  # side in pixels; of native 0
    interpolation: Interpolation = "bicubic"
    cut: int | None = None  # side of the square at the centre; None: nothing is cut off

    @property
    def side(self) -> int | None:
        """Side of the resulting images, when all of them are squares of one size."""
        return self.cut or (self.size if self.mode == "squash" else None)

    @property
    def words(self) -> str:
        """The form as text."""
        resize = self.mode if self.mode == "native" else f"{self.mode} {self.size} {self.interpolation}"
        return resize + (f", centre {self.cut}" if self.cut else "")

    def __call__(self, image: Pixels) -> Pixels:
        """Apply the form. An image that has been resized but not cut is only cut."""
        height, width = image.shape[:2]
        if self.mode == "squash":
            height, width = self.size, self.size
        elif self.mode == "short" and height < width:
            height, width = self.size, int(self.size * width / height)
        elif self.mode == "short":
            height, width = int(self.size * height / width), self.size
        if height * width > _MOST_PIXELS:
            raise DataError(
                f"an image of {image.shape[1]} x {image.shape[0]} pixels would be resized to {width} x {height}; "
                "remove it, or set protocol.resize_mode=squash"
            )
        image = resized(image, height, width, self.interpolation)
        if self.cut is None:
            return image
        top, left = round((height - self.cut) / 2), round((width - self.cut) / 2)  # as torchvision's CenterCrop
        return image[top : top + self.cut, left : left + self.cut]


def resized(image: Pixels, height: int, width: int, interpolation: Interpolation) -> Pixels:
    """Resize with Pillow's antialiased filters; ``bilinear_aliased`` is torchvision's for tensors with antialias=False, which is TensorFlow's, rounded."""
    if image.shape[:2] == (height, width):
        return image
    if interpolation == "bilinear_aliased":
        channels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        enlarged = torch.nn.functional.interpolate(channels, (height, width), mode="bilinear", align_corners=False)
        return enlarged[0].round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(image).resize((width, height), _FILTERS[interpolation]))


@dataclass(frozen=True)
class Draws:
    """Random numbers for the views of a batch."""

    window: Tensor | None  # (B, ...): of the operation that chooses a window, if there is one
    others: tuple[Tensor, ...]  # (B, ...) each, of the other operations in their order


@dataclass(frozen=True)
class Transform:
    """Augment and normalise stored images."""

    form: Form  # of images that are not augmented; its cut is S
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"  # of training images, as a protocol says it

    @property
    def size(self) -> int:
        """S."""
        assert self.form.cut is not None
        return self.form.cut

    @cached_property
    def window(self) -> Operation | None:
        """The operation that chooses a window of the image."""
        return next((operation for operation in parse(self.augment) if isinstance(operation, WINDOWS)), None)

    @cached_property
    def _others(self) -> tuple[Operation, ...]:
        return tuple(operation for operation in parse(self.augment) if not isinstance(operation, WINDOWS))

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw the random numbers of ``count`` views."""
        window = _sample(self.window, count, generator) if self.window else None
        return Draws(window, tuple(_sample(operation, count, generator) for operation in self._others))

    def view(self, image: Pixels, drawn: Tensor) -> Pixels:
        """Return the window (S, S, 3) of one image. ``drawn``: the image's row of ``Draws.window``."""
        if isinstance(self.window, RandomResizedCrop):
            top, left, height, width = random_resized_box(self.window, int(drawn), *image.shape[:2])
            return resized(image[top : top + height, left : left + width], self.size, self.size, self.window.interpolation)
        top, left = (int(offset) for offset in crop_offsets(drawn, torch.tensor(image.shape[:2]), self.size))
        return image[top : top + self.size, left : left + self.size]

    def finish(self, views: Tensor, draws: Draws | None) -> Tensor:
        """Apply the operations after the window, in place, and normalise: (B, S, S, 3) uint8 to (B, 3, S, S) float32."""
        for operation, drawn in zip(self._others, draws.others, strict=True) if draws else ():
            views = _applied(operation, views, drawn)
        mean, std = (to_device(torch.tensor(values).repeat(self.size), views.device) for values in (self.mean, self.std))
        rows = colour.div_exact_(views.flatten(2).float(), 255)  # (B, S, 3 S): long rows are faster
        rows = rows.sub_(mean).div_(std)  # the order of torchvision's ToTensor and Normalize, so that results are equal
        return rows.view(views.shape).permute(0, 3, 1, 2)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for the GPU; from pinned memory, because a copy from other memory waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not tensor.is_cuda else tensor.to(device)


def crop_offsets(drawn: Tensor, shapes: Tensor, size: int) -> Tensor:
    """Return top and left of windows from numbers in [0, 1) and image shapes, all (..., 2): every position is equally likely."""
    return (drawn * (shapes - size + 1)).long()


def random_resized_box(window: RandomResizedCrop, seed: int, height: int, width: int) -> Box:
    """Return the window that torchvision's RandomResizedCrop chooses after ``torch.manual_seed(seed)``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(1).uniform_(low, high, generator=generator)

    log_ratio = torch.log(torch.tensor([window.narrow, window.wide])).tolist()
    for _ in range(_TRIES):
        area = height * width * uniform(window.low, window.high).item()
        ratio = torch.exp(uniform(*log_ratio)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(torch.randint(margin + 1, (1,), generator=generator)) for margin in (height - h, width - w))
            return top, left, h, w
    w = min(width, round(height * window.wide))
    h = min(height, round(width / window.narrow))
    return (height - h) // 2, (width - w) // 2, h, w


def _sample(operation: Operation, count: int, generator: torch.Generator) -> Tensor:
    """Draw (B,) seeds or decisions, (B, 2) window positions, or for jitter (B, 9): a decision, four factors, the ranks of the four."""
    match operation:
        case RandomResizedCrop():
            return torch.randint(2**62, (count,), generator=generator)
        case Flip(p) | VerticalFlip(p) | Greyscale(p) | Solarize(p=p):
            return torch.rand(count, generator=generator) < p
        case Jitter(hue=turn, p=p):
            happens = torch.rand(count, 1, generator=generator) < p
            shares = torch.rand(count, 4, generator=generator)
            order = torch.rand(count, 4, generator=generator).argsort(1)
            lows = [max(0.0, 1 - strength) for strength in (operation.brightness, operation.contrast, operation.saturation)]
            highs = [1 + strength for strength in (operation.brightness, operation.contrast, operation.saturation)]
            low, high = torch.tensor([*lows, -turn]), torch.tensor([*highs, turn])
            return torch.cat([happens, low + shares * (high - low), order], dim=1)
        case _:
            return torch.rand(count, 2, generator=generator, dtype=torch.float64)


def _applied(operation: Operation, views: Tensor, drawn: Tensor) -> Tensor:
    if isinstance(operation, Jitter):
        return _jittered(operation, views, drawn)
    chosen = to_device(drawn.nonzero()[:, 0], views.device)
    images = views.index_select(0, chosen)
    match operation:
        case Flip():
            images = images.flip(2)
        case VerticalFlip():
            images = images.flip(1)
        case Greyscale():
            images = colour.greyscale(images).expand_as(images)
        case Solarize(threshold):
            images = colour.solarize(images, threshold)
    return views.index_copy_(0, chosen, images)


def _jittered(jitter: Jitter, views: Tensor, drawn: Tensor) -> Tensor:
    happens, factors, order = drawn[:, 0] > 0, drawn[:, 1:5], drawn[:, 5:]
    steps = (colour.brightness, colour.contrast, colour.saturation, colour.hue)
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    for rank in range(4):
        for number, (step, strength) in enumerate(zip(steps, strengths, strict=True)):
            rows = (happens & (order[:, rank] == number)).nonzero()[:, 0]
            if strength and len(rows):
                chosen, amounts = (to_device(some, views.device) for some in (rows, factors[rows, number]))
                views.index_copy_(0, chosen, step(views.index_select(0, chosen), amounts))
    return views
