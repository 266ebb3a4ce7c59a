"""Learning-rate schedules as plain functions of the position in training."""

from __future__ import annotations

import math


def factor(position: float, warmup: float, total: float, shape: str = "cosine") -> float:
    """The multiplier of the base learning rate at a position, all three in epochs: linear from 0 over the warm-up, then half a cosine to 0.

    VPT's released code steps it once per epoch: epoch 0 of a warm-up runs at 0 and the last epoch keeps a small rate (arXiv 2203.12119, code).
    """
    if position < warmup:
        return position / warmup
    if shape == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (position - warmup) / (total - warmup)))
