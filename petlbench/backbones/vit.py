"""Changes to timm's vision transformer: skip work whose result is not read, and take extra tokens.

Letters in shapes: B images, K extra tokens, N tokens of the image, D width, P patch side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn


def end_with_the_class_token(vit: Any) -> None:
    """Let the last block of a timm ViT that is read at its class token compute the MLP for that token alone, or for those that it is read at: the same
    scores and gradients, and about 1 / (1.5 L) of the work of all L blocks saved. Other poolings and block types are left unchanged."""
    if isinstance(vit, VisionTransformer) and vit.global_pool == "token" and type(last := vit.blocks[-1]) is Block:
        last.forward = partial(_first_only, last, 2 if is_distilled(vit) else 1)


def is_distilled(vit: nn.Module) -> bool:
    """Return True for a distilled DeiT: it is read at the mean of its class token and its distillation token, which is the second one."""
    return isinstance(vit, VisionTransformerDistilled)


def _first_only(block: Block, count: int, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """timm's ``Block.forward`` with the tokens behind the first ``count``, (B, N, D), dropped between attention and MLP: (B, count, D)."""
    attention = block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
    x = x[:, :count] + block.drop_path1(block.ls1(attention))[:, :count]
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def takes_tokens(vit: nn.Module) -> bool:
    """Return True if a tower takes extra tokens: a ViT that is read at its class token, since a mean over tokens would include them."""
    return isinstance(vit, VisionTransformer) and vit.global_pool == "token"


@contextmanager
def appended(vit: VisionTransformer, tokens: Tensor) -> Iterator[None]:
    """Append extra tokens (B, K, D) behind [CLS, patches] in forward passes within the block, without a position, as the released code of PGN
    (arXiv 2210.06466) inserts prompts: after the position embedding, before ``norm_pre``, which is a CLIP tower's ln_pre and normalises them as well.
    timm calls it in every ViT, if only as an Identity."""

    def append(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([inputs[0], tokens.to(inputs[0].dtype)], dim=1),)  # autocast computes in another number format than the caller

    hook = vit.norm_pre.register_forward_pre_hook(append)
    try:
        yield
    finally:
        hook.remove()


def patch_size(vit: nn.Module) -> int | None:
    """Return the side P of the patches that become one token each; None when the tower takes none, or embeds patches by more than one affine map."""
    if not isinstance(vit, VisionTransformer) or not takes_tokens(vit):
        return None
    embedding = vit.patch_embed
    if type(projection := embedding.proj) is not nn.Conv2d or not isinstance(embedding.norm, nn.Identity):
        return None
    height, width = projection.kernel_size
    return height if height == width else None


def embed_patches(vit: VisionTransformer, patches: Tensor) -> Tensor:
    """Embed normalised patches (B, K, 3, P, P) as tokens (B, K, D), without positions."""
    return vit.patch_embed.proj(patches.flatten(0, 1)).flatten(1).unflatten(0, patches.shape[:2])
