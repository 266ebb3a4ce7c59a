"""LayerNorm tuning: only the scales and shifts of the normalisations are trained (row "LayerNorm" of arXiv 2409.16434)."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petlbench import GradientMethod, register_method


@register_method("norm", cite="arXiv:2409.16434")
class Norm(GradientMethod):
    """Trains weight and bias of every LayerNorm: two per block and the final one. ViT-B/16: 38,400 scalars."""

    def adapt(self, vit: VisionTransformer) -> None:
        for module in vit.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
