"""Tokens beside those of the image: appended last and without a position, as the released code of PGN (arXiv 2210.06466) inserts prompts.

Letters in shapes: B images, K extra tokens, N tokens of the image, D width, P patch side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def takes_tokens(vit: nn.Module) -> bool:
    """Whether a tower has a place for extra tokens: a ViT that is read at its class token, since a mean over tokens would take them in."""
    return isinstance(vit, VisionTransformer) and vit.global_pool == "token"


@contextmanager
def appended(vit: VisionTransformer, tokens: Tensor) -> Iterator[None]:
    """While this lasts, forward passes carry extra tokens (B, K, D) behind [CLS, patches]: after the position embedding, before ``norm_pre``, which
    is a CLIP tower's ln_pre and normalises them as well. timm calls it in every ViT, if only as an Identity."""

    def append(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([inputs[0], tokens.to(inputs[0].dtype)], dim=1),)  # autocast computes in another number format than the caller

    hook = vit.norm_pre.register_forward_pre_hook(append)
    try:
        yield
    finally:
        hook.remove()


def patch_size(vit: nn.Module) -> int | None:
    """Side P of the patches that become tokens one by one; None when the tower takes none, or embeds them by more than one affine map."""
    if not isinstance(vit, VisionTransformer) or not takes_tokens(vit):
        return None
    embedding = vit.patch_embed
    if type(projection := embedding.proj) is not nn.Conv2d or not isinstance(embedding.norm, nn.Identity):
        return None
    height, width = projection.kernel_size
    return height if height == width else None


def embed_patches(vit: VisionTransformer, patches: Tensor) -> Tensor:
    """Tokens (B, K, D) of normalised patches (B, K, 3, P, P), without positions."""
    return vit.patch_embed.proj(patches.flatten(0, 1)).flatten(1).unflatten(0, patches.shape[:2])
