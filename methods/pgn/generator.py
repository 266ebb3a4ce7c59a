"""Generate prompts from an image: a small network mixes a library of tokens (Loedeman et al. 2022, arXiv 2210.06466; released code).

Letters in shapes: B images, S side, K prompts of an image, N tokens of the library, D token width, r rank.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import ConfigError
from petlbench.torchvision_ops import define_missing_schemas

define_missing_schemas()

from torchvision.models import resnet18  # noqa: E402 (the call has to come first)

SPREAD = 0.02  # standard deviation of a library and of fixed prompts at the start


class Generator(nn.Module):
    """coefficients A(x) (B, K, N) over a library L (N, D), and prompts A(x) L.

    ``network``: normalised images (B, 3, S, S) to (B, K N); it sees them with a shorter side of ``resolution``.
    """

    def __init__(
        self, network: nn.Module, library: nn.Module, prompts: int, mixing: Literal["softmax", "sigmoid"], resolution: int
    ) -> None:
        super().__init__()
        self.network = network
        self.tokens = library
        self.prompts = prompts
        self.mixing = mixing
        self.resolution = resolution

    @property
    def library(self) -> Tensor:
        """L (N, D)."""
        return self.tokens()

    def coefficients(self, images: Tensor) -> Tensor:
        """A (B, K, N): over the library they sum to one under softmax, each lies in 0..1 under sigmoid."""
        seen = resized(images, self.resolution).contiguous()  # in channels-last, torch 2.13's smallest convolutions write past their memory
        try:
            outputs = self.network(seen)
        except ValueError:  # of torch's BatchNorm, for one image of which one position is left
            raise ConfigError(
                "a batch of one image has no statistics to normalise with; set train.drop_last=true or another train.batch_size"
            ) from None
        logits = outputs.unflatten(1, (self.prompts, -1))
        return logits.softmax(dim=-1) if self.mixing == "softmax" else logits.sigmoid()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (B, K, N) and prompts (B, K, D)."""
        coefficients = self.coefficients(images)
        return coefficients, mix(coefficients, self.library)


def mix(coefficients: Tensor, library: Tensor) -> Tensor:
    """Coefficients (B, K, N) and tokens (N, D), or patches (N, 3, P, P), to prompts (B, K, D) or (B, K, 3, P, P)."""
    return torch.tensordot(coefficients, library, dims=1)


def resized(images: Tensor, side: int) -> Tensor:
    """Images whose shorter side is ``side``, bilinear and without antialias (released code)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    if short == side:
        return images
    return F.interpolate(images, size=(side * height // short, side * width // short), mode="bilinear", align_corners=False)


class Library(nn.Module):
    """N trainable tokens of width D. ``rank`` r: as a product of (N, r) and (r, D), r (N + D) parameters.

    The factorisation is this project's; the released library is full. Either starts with entries of variance 0.02^2.
    """

    def __init__(self, size: int, width: int, rank: int | None = None) -> None:
        super().__init__()
        self.vectors = nn.Parameter(SPREAD * torch.randn(rank or size, width))
        self.mixture = None if rank is None else nn.Parameter(torch.randn(size, rank) / rank**0.5)

    def forward(self) -> Tensor:
        return self.vectors if self.mixture is None else self.mixture @ self.vectors


class FixedPrompts(nn.Module):
    """The same K prompts for every image ("IIP"): VPT-shallow with the prompts last, as the ablation without a generator."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(SPREAD * torch.randn(count, width))

    @property
    def library(self) -> Tensor:
        """(K, D): every prompt is one of its tokens."""
        return self.vectors

    def coefficients(self, images: Tensor) -> Tensor:
        """(B, K, K)."""
        return torch.eye(len(self.vectors), device=images.device).expand(len(images), -1, -1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, K, D)."""
        return self.vectors.expand(len(images), -1, -1)


class ResNet10(nn.Module):
    """The released network: a stem, G groups of b blocks with c0 2^g channels, a linear layer on the pooled channels.

    Names of its parts are those of the released checkpoints.
    """

    def __init__(self, outputs: int, channels: int = 16, groups: int = 4, blocks_per_group: int = 1, max_pool: bool = True) -> None:
        super().__init__()
        widths = [channels * 2**group for group in range(groups) for _ in range(blocks_per_group)]
        stem = [_conv3(3, channels, stride=2), nn.BatchNorm2d(channels), nn.ReLU()]
        self.input_net = nn.Sequential(*stem, *([nn.MaxPool2d(3, stride=2, padding=1)] if max_pool else []))
        self.blocks = nn.Sequential(*(Block(before, width) for before, width in zip([channels, *widths], widths, strict=False)))
        self.output_net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, outputs)."""
        return self.output_net(self.blocks(self.input_net(images)))


class Block(nn.Module):
    """relu(net(x) + skip(x)). Where the channels double the resolution halves, and the skip is a convolution with a bias and no norm."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.net = nn.Sequential(
            _conv3(before, width, stride), nn.BatchNorm2d(width), nn.ReLU(), _conv3(width, width), nn.BatchNorm2d(width)
        )
        self.downsample = None if stride == 1 else nn.Conv2d(before, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x) + (x if self.downsample is None else self.downsample(x)))


def _conv3(before: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, width, 3, stride, padding=1, bias=False)


def resnet18_of(outputs: int) -> nn.Module:
    """torchvision's ResNet-18 with random weights: (B, 3, S, S) to (B, outputs)."""
    return resnet18(num_classes=outputs)
