"""Partial fine-tuning: the last blocks only (VPT's "Partial-k" baseline, arXiv 2203.12119, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from petlbench import GradientMethod, register_method
from petlbench.errors import ConfigError


@dataclass
class PartialConfig:
    blocks: int = 1  # k, number of last blocks that are trained

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks must be an int >= 1, got {self.blocks}")


@register_method("partial", PartialConfig, cite="arXiv:2203.12119")
class Partial(GradientMethod):
    """Trains every weight of the last k blocks and the final norm. ViT-B/16, k = 1: 7,089,408 scalars."""

    def adapt(self, vit: VisionTransformer) -> None:
        depth, count = len(vit.blocks), self.config.blocks
        if count > depth:
            raise ConfigError(f"method.blocks must be at most {depth}, the depth of this backbone, got {count}")
        for module in (*vit.blocks[depth - count :], vit.norm, vit.fc_norm):  # one of the norms is an Identity, as the pooling asks
            module.requires_grad_(True)
