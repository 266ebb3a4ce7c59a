"""Learned tokens in a vision transformer (VPT, arXiv 2203.12119, section 3.2).

Letters in shapes: B images, p prompts, K prompt width, D block width, L blocks, P patch side.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """Prompt tokens for the first block, and for every later one when ``deep``; an optional shared projection from K to D."""

    def __init__(
        self, length: int, width: int, depth: int, patch_size: int, *, deep: bool, project_from: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        prompt_width = project_from or width  # K
        self.length = length
        self.prompt_input = nn.Parameter(torch.empty(1, length, prompt_width))
        self.prompt_deep = nn.Parameter(torch.empty(depth - 1, length, prompt_width)) if deep and depth > 1 else None
        self.prompt_proj = nn.Linear(prompt_width, width) if project_from else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        bound = initial_bound(patch_size, prompt_width)
        for prompts in (self.prompt_input, self.prompt_deep):
            if prompts is not None:
                nn.init.uniform_(prompts, -bound, bound)
        if isinstance(self.prompt_proj, nn.Linear):
            nn.init.kaiming_normal_(self.prompt_proj.weight, a=0, mode="fan_out")

    def tokens(self, block: int, like: Tensor) -> Tensor:
        """The prompts of a block, (B, p, D), in the batch size, type and device of a token sequence. Each image has its own dropout mask."""
        prompts = self.prompt_input[0] if block == 0 else self.prompt_deep[block - 1]  # type: ignore[index]
        projected = self.prompt_proj(prompts).to(like.dtype)
        return self.dropout(projected.expand(len(like), -1, -1))


def initial_bound(patch_size: int, prompt_width: int) -> float:
    """Half-width of the uniform start: Xavier's bound with the pixels of one patch as fan-in, sqrt(6 / (3 P^2 + K)) (released code)."""
    return math.sqrt(6.0 / (3 * patch_size**2 + prompt_width))


def insert(vit: Any, prompts: Prompts) -> None:
    """Put prompts between the prefix tokens and the patches of a timm ViT: inserted before block 0, overwritten before each later one when deep."""
    vit.add_module("prompts", prompts)
    prefix, blocks = vit.num_prefix_tokens, list(vit.blocks)
    for index, block in enumerate(blocks if prompts.prompt_deep is not None else blocks[:1]):
        block.register_forward_pre_hook(partial(_place, prompts, index, prefix))


def _place(prompts: Prompts, index: int, prefix: int, _block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    tokens: Tensor = inputs[0]
    replaced = 0 if index == 0 else prompts.length
    placed = torch.cat([tokens[:, :prefix], prompts.tokens(index, tokens), tokens[:, prefix + replaced :]], dim=1)
    return (placed, *inputs[1:])
