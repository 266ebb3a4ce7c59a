"""Visual prompt tuning, shallow and deep (Jia et al. 2022, arXiv 2203.12119, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petlbench import GradientMethod, register_method
from petlbench.nn import Prompts, insert


@dataclass
class VPTConfig:
    prompt_length: int = 10  # p; parameters: p * D shallow, depth * p * D deep
    deep: bool = True  # new prompts for every block; false: for the first block only
    dropout: float = 0.1  # dropout rate of the prompts; the released runs use 0.1 deep, 0.0 shallow
    project_from: int | None = None  # width of the prompts before a shared linear projection; null: none

    def __post_init__(self) -> None:
        if self.prompt_length < 1:
            raise ValueError(f"prompt_length must be an int >= 1, got {self.prompt_length}")


@register_method("vpt", VPTConfig, cite="arXiv:2203.12119")
class VPT(GradientMethod):
    """p learned tokens between the class token and the patches. Tokens carry no position; outputs at deep prompts are thrown away."""

    def adapt(self, vit: VisionTransformer) -> None:
        config: VPTConfig = self.config
        prompts = Prompts(
            config.prompt_length,
            vit.embed_dim,
            len(vit.blocks),
            vit.patch_embed.patch_size[0],
            deep=config.deep,
            project_from=config.project_from,
            dropout=config.dropout,
        )
        insert(vit, prompts)

    def build_head(self, feature_width: int, class_count: int) -> nn.Module:
        """Kaiming-normal weights (fan out) and the bias of a prior of 0.01 in every class, -log(99) (released code)."""
        head = nn.Linear(feature_width, class_count)
        nn.init.kaiming_normal_(head.weight, a=0, mode="fan_out")
        nn.init.constant_(head.bias, -math.log(99.0))
        return head

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Everything but the head's bias, the projection's bias included (released code)."""
        return name != "head.bias"
