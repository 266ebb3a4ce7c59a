"""Candidates to select from, without weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from petlbench.methods.spt.candidates import Candidate, candidates


def on_meta(**sizes: Any) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(
            **{"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0, **sizes}
        )


@cache
def vit_b() -> tuple[Candidate, ...]:
    return tuple(candidates(on_meta(embed_dim=768, depth=12, num_heads=12)))


@cache
def tiny() -> tuple[Candidate, ...]:
    """Two blocks of width 16: 6,592 weights."""
    return tuple(candidates(on_meta()))


def start(found: tuple[Candidate, ...], name: str) -> int:
    """Flat position at which a candidate begins."""
    before = 0
    for candidate in found:
        if candidate.name == name:
            return before
        before += candidate.size
    raise KeyError(name)
