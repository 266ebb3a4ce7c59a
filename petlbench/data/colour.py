"""Colour operations on batches of uint8 images, each with the bytes that Pillow gives for one image, on whatever device the batch lies.

B: images; images are (B, H, W, 3) uint8, factors (B,). The arithmetic of Pillow's C code is followed to the bit: 32-bit blends that are cut off, luminance
in 16-bit fixed point, hue and saturation in 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMINANCE = (19595, 38470, 7471)  # of red, green and blue, in 1 / 65536


def div_exact_(values: Tensor, divisor: float) -> Tensor:
    """Divide in place with the same bits on every device: to divide by a Python number, a GPU multiplies by its rounded reciprocal."""
    return values.div_(torch.full((), divisor, dtype=values.dtype, device=values.device))


def greyscale(images: Tensor) -> Tensor:
    """Luminance (B, H, W, 1), uint8, as ``convert("L")``."""
    red, green, blue = (weight * channel for weight, channel in zip(_LUMINANCE, images.int().unbind(-1), strict=True))
    return (red + green + blue + 32768 >> 16).to(torch.uint8).unsqueeze(-1)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """``ImageEnhance.Brightness``: blended with black."""
    return _blended(torch.zeros_like(images), images, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """``ImageEnhance.Contrast``: blended with the mean luminance, rounded."""
    grey = greyscale(images)
    mean = (div_exact_(grey.sum((1, 2, 3), dtype=torch.int64).double(), grey[0].numel()) + 0.5).to(torch.uint8)
    return _blended(mean.view(-1, 1, 1, 1).expand_as(images), images, factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """``ImageEnhance.Color``: blended with the luminance."""
    return _blended(greyscale(images).expand_as(images), images, factors)


def _blended(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    low = base.float()
    mixed = low + factors.float().view(-1, 1, 1, 1) * (images.float() - low)
    return mixed.clamp_(0, 255).to(torch.uint8)  # cut off, not rounded


def hue(images: Tensor, factors: Tensor) -> Tensor:
    """torchvision's ``adjust_hue`` on Pillow images: the 8-bit hue moves by ``int(255 * factor)``, round the circle."""
    angle, strength, value = _to_hsv(images)
    steps = (factors.double() * 255).to(torch.int32).view(-1, 1, 1)
    return _from_hsv((angle + steps) % 256, strength, value)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """``ImageOps.solarize``: values from the threshold on are inverted."""
    return torch.where(images.int() < threshold, images, 255 - images)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value (B, H, W), int32 in 0..255."""
    red, green, blue = images.int().unbind(-1)
    high, low = images.amax(-1).int(), images.amin(-1).int()
    spread = (high - low).clamp(min=1).float()
    to_red, to_green, to_blue = ((high - channel).float() / spread for channel in (red, green, blue))
    turned = torch.where(
        red == high,
        to_blue - to_green,
        torch.where(green == high, (2.0 + to_red.double() - to_blue).float(), (4.0 + to_green.double() - to_red).float()),
    )
    angle = torch.remainder(div_exact_(turned.double(), 6.0) + 1.0, 1.0).float()
    is_grey = high == low
    hue_byte = (angle.double() * 255.0).int().masked_fill(is_grey, 0)
    strength = ((spread / high.clamp(min=1).float()).double() * 255.0).int().masked_fill(is_grey, 0)
    return hue_byte, strength, high


def _from_hsv(angle: Tensor, strength: Tensor, value: Tensor) -> Tensor:
    """(B, H, W, 3) uint8."""
    position = div_exact_(angle.double() * 6.0, 255.0).float()
    sector = position.floor()
    rest = (position - sector).float()
    part = div_exact_(strength.float(), 255.0)
    low = _rounded(value.float() * (1.0 - part))
    falling = _rounded(value.float() * (1.0 - part * rest))
    rising = _rounded(value.float() * (1.0 - part * (1.0 - rest)))
    high = value.to(torch.uint8)
    choices = torch.stack(
        [
            torch.stack(colour, -1)
            for colour in (
                (high, rising, low),
                (falling, high, low),
                (low, high, rising),
                (low, falling, high),
                (rising, low, high),
                (high, low, falling),
            )
        ]
    )  # (6, B, H, W, 3)
    index = (sector.long() % 6)[None, ..., None].expand(1, *choices.shape[1:])
    return choices.gather(0, index)[0]


def _rounded(values: Tensor) -> Tensor:
    """Round half away from zero, as C does."""
    return (values + 0.5).floor().clamp(0, 255).to(torch.uint8)
