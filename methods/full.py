"""Full fine-tuning: the upper end of the parameter axis."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from petlbench import GradientMethod, register_method


@register_method("full")
class Full(GradientMethod):
    """Every weight of the vision tower is trained."""

    def adapt(self, vit: VisionTransformer) -> None:
        vit.requires_grad_(True)
