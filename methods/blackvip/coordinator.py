"""The trainable part of BlackVIP: from an image's frozen feature to a prompt of the image's size (released code; body of the network in its order).

At 224 px and the released feature widths this is the released network. The rule for other input sizes is ours: as many doublings as possible, at
most five, from a grid of at least 4 x 4, with the first widths of the released network; the source has at least 1.5 times the feature's entries.
Learned scalars, trigger included:

    input   feature   C0   grid   doublings   source   trigger   total
    224     768       32   7      5           1,568    800       9,920
    224     768       64   7      5           3,136    2,368     11,488   (src_dim=3136)
    224     768       16   7      5           784      16        9,136    (src_dim=784)
    224     2,048     64   7      5           3,136    1,088     10,464   (groups of the first layer: 32)
    32      128       16   4      3           256      128       7,488
    32      192       32   4      3           512      320       7,680
    32      384       64   4      3           1,024    640       8,000
    32      768       128  4      3           2,048    1,280     8,896

Letters in shapes: B images, F feature width, C0 channels of the source, G side of the source's grid, S input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 32, 32, 16)  # output channels of the stages before the last
LAYERS_PER_STAGE = 4  # doubling, mixing, BatchNorm, GELU
SMALLEST_GRID = 4


@dataclass(frozen=True)
class Geometry:
    """Holds the size of the source and the depth of the decoder."""

    grid: int  # G
    channels: int  # C0
    stages: int  # doublings of the side
    groups: int  # of the first layer

    @property
    def source_width(self) -> int:
        """Feature and trigger together, C0 * G * G."""
        return self.channels * self.grid**2


def geometry(input_size: int, feature_width: int, source_width: int | None = None, groups: int | None = None) -> Geometry:
    """The decoder for an input size and a feature width. ``source_width``: another one than the rule gives; ``groups``: of the first layer, by
    default one per channel but at most 64. ValueError when no decoder can be built."""
    doublings = [n for n in range(1, len(WIDTHS) + 2) if input_size % 2**n == 0 and input_size >> n >= SMALLEST_GRID]
    if not doublings:
        raise ValueError(f"an input of {input_size} px cannot be halved to a whole grid of at least {SMALLEST_GRID} x {SMALLEST_GRID}")
    stages = doublings[-1]
    grid = input_size >> stages
    if source_width is None:
        channels = 1
        while 2 * channels * grid**2 < 3 * feature_width:
            channels *= 2
    else:
        channels, remainder = divmod(source_width, grid**2)
        if remainder or source_width <= feature_width:
            raise ValueError(f"src_dim must be a multiple of {grid**2} above the encoder's {feature_width} features, got {source_width}")
    possible = f"is a multiple of {groups}" if groups else f"divides {WIDTHS[0]} or is a multiple of it"
    groups = groups or min(channels, WIDTHS[0])
    if channels % groups or WIDTHS[0] % groups:
        raise ValueError(f"src_dim must be {grid**2} times a number that {possible}, got {channels * grid**2}, {channels} times")
    return Geometry(grid, channels, stages, groups)


class Decoder(nn.Module):
    """Features (B, F) to prompts (B, 3, S, S): F features and the trained trigger fill a grid of C0 channels, which transposed convolutions double
    in size stage by stage. The prompt is not bounded. ``parameters()`` has the order of the released code's flat vector."""

    def __init__(self, feature_width: int, shape: Geometry) -> None:
        super().__init__()
        self.shape = shape
        self.p_trigger = nn.Parameter(torch.rand(1, shape.source_width - feature_width) / 10)  # uniform in [0, 0.1)
        widths = (shape.channels, *WIDTHS[: shape.stages - 1])
        layers: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            doubled = WIDTHS[0] if stage == 0 else before
            groups = shape.groups if stage == 0 else before
            layers += [
                nn.ConvTranspose2d(before, doubled, kernel_size=2, stride=2, groups=groups),
                nn.ConvTranspose2d(doubled, after, kernel_size=1, bias=False),
                nn.BatchNorm2d(after),
                nn.GELU(),
            ]
        layers.append(nn.ConvTranspose2d(widths[-1], 3, kernel_size=2, stride=2, bias=False))
        self.body = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """The prompts, exact up to rounding but cheaper than layer by layer: the two convolutions of a stage are multiplied into one matrix, whose
        product holds the four positions that come of each in a row, so that a stage moves no data. Rows are brought in order once, at the end."""
        rows = self._source(features).flatten(2).transpose(1, 2)  # (B, G * G, C0)
        *stages, doubling = list[Any](self.body)
        for double, mix, norm, activation in zip(*[iter(stages)] * LAYERS_PER_STAGE, strict=True):
            rows = activation(_normalised(_double_and_mix(rows, double, mix), norm))
        last = doubling.weight.permute(0, 2, 3, 1).flatten(1)  # (C, 4 * 3)
        return self._in_order(rows @ last)

    def plain(self, features: Tensor) -> Tensor:
        """The prompts, layer by layer as released."""
        return self.body(self._source(features))

    def _source(self, features: Tensor) -> Tensor:
        trigger = self.p_trigger.expand(len(features), -1)
        return torch.cat([features, trigger], dim=1).view(-1, self.shape.channels, self.shape.grid, self.shape.grid)

    def _in_order(self, rows: Tensor) -> Tensor:
        """Rows by grid position, then by the position within each doubling, to (B, 3, S, S)."""
        stages, grid = self.shape.stages, self.shape.grid
        nested = rows.view(-1, grid, grid, *[2] * (2 * stages), 3)  # vertical and horizontal positions take turns
        vertical, horizontal = range(1, nested.ndim - 1, 2), range(2, nested.ndim - 1, 2)
        return nested.permute(0, -1, *vertical, *horizontal).reshape(len(nested), 3, grid << stages, grid << stages)


def _double_and_mix(rows: Tensor, double: nn.ConvTranspose2d, mix: nn.ConvTranspose2d) -> Tensor:
    """``mix(double(x))`` of positions as rows: (B, P, C) to (B, 4 P, O). With g groups the weights of ``double`` are (C, hidden / g, 2, 2)."""
    assert double.bias is not None
    mixing = mix.weight.flatten(1)  # (hidden, O)
    spread = double.weight.unflatten(0, (double.groups, -1))  # (g, C / g, hidden / g, 2, 2)
    weight = torch.einsum("gchyx,gho->gcyxo", spread, mixing.unflatten(0, (double.groups, -1))).reshape(double.in_channels, -1)
    bias = (double.bias @ mixing).repeat(4)
    return F.linear(rows, weight.T, bias).reshape(len(rows), -1, mixing.shape[1])


def _normalised(rows: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """``norm`` of rows (B, P, C), running statistics included. Written out because torch's own sums over this layout on a CPU one by one, which costs
    four digits at 224 px."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None and norm.momentum is not None and norm.num_batches_tracked is not None
    if norm.training:
        count = rows.shape[0] * rows.shape[1]
        batch_mean = rows.mean(dim=(0, 1))
        rows = rows - batch_mean
        batch_variance = rows.square().mean(dim=(0, 1))
        mean.lerp_(batch_mean, norm.momentum)
        variance.lerp_(batch_variance * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked += 1
        return torch.addcmul(norm.bias, rows, norm.weight * torch.rsqrt(batch_variance + norm.eps))
    return torch.addcmul(norm.bias, rows - mean, norm.weight * torch.rsqrt(variance + norm.eps))


def compose(images: Tensor, prompts: Tensor, strength: float, low: Tensor, high: Tensor) -> Tensor:
    """Images (B, 3, S, S) plus ``strength`` times their prompts, all normalised, cut off per channel where colours end: ``low`` and ``high`` (3, 1, 1).

    Released code; in colours from 0 to 1 the prompt is scaled by the channel's standard deviation, which the paper does not mention.
    """
    return torch.maximum(torch.minimum(images + strength * prompts, high), low)
