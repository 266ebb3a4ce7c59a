"""BitFit: only the biases are trained (Ben Zaken et al. 2021, arXiv 2106.10199; VPT's "Bias" baseline)."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from petlbench import GradientMethod, register_method


@register_method("bitfit", cite="arXiv:2106.10199")
class BitFit(GradientMethod):
    """Trains every bias of the tower: patch embedding, attention, MLP and LayerNorm. ViT-B/16: 102,912 scalars."""

    def adapt(self, vit: VisionTransformer) -> None:
        for name, parameter in vit.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
