"""SSF: every operation of the frozen network gets a learned scale and shift of its channels (Lian et al. 2022, arXiv 2210.08823, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petlbench import GradientMethod, register_method


class ScaleShift(nn.Module):
    """y * scale + shift, one of each per channel: (..., D) -> (..., D). Starts at N(1, 0.02) and N(0, 0.02), near the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(nn.init.normal_(torch.empty(width), mean=1.0, std=0.02))
        self.shift = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))

    def forward(self, y: Tensor) -> Tensor:
        return torch.addcmul(self.shift, y, self.scale)


@register_method("ssf", cite="arXiv:2210.08823")
class SSF(GradientMethod):
    """y * scale + shift behind the patch embedding, every linear layer and every LayerNorm. ViT-B/16: 205,824 scalars."""

    def adapt(self, vit: VisionTransformer) -> None:
        widths: dict[nn.Module, int] = {vit.patch_embed: vit.embed_dim}
        for module in vit.modules():
            if isinstance(module, nn.Linear):
                widths[module] = module.out_features
            elif isinstance(module, nn.LayerNorm):
                widths[module] = module.normalized_shape[-1]
        for module, width in widths.items():
            module.add_module("ssf", ScaleShift(width))
            module.register_forward_hook(_rescale)


def _rescale(module: Any, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.ssf(output)
