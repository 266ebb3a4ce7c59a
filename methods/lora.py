"""LoRA: low-rank updates beside frozen weight matrices (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from petlbench import GradientMethod, register_method
from petlbench.nn import LINEARS, Delta, attach, widths


@dataclass
class LoRAConfig:
    rank: int = 8  # r; parameters per matrix: r * (in + out)
    scale: float = 1.0  # factor of the update, alpha / r of the paper
    targets: tuple[str, ...] = (
        "q",
        "v",
    )  # layers that get an update, some of q k v qkv proj fc1 fc2; qkv is one update that q, k and v share
    dropout: float = 0.0  # rate of the dropout on the input of the update

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be an int >= 1, got {self.rank}")
        unknown = set(self.targets) - set(LINEARS)
        if unknown or not self.targets:
            raise ValueError(f"targets must be some of {', '.join(LINEARS)}, got {', '.join(sorted(unknown)) or 'none'}")


@register_method("lora", LoRAConfig, cite="arXiv:2106.09685")
class LoRA(GradientMethod):
    """y = W x + b + scale * B A x, with A: (rank, in), B: (out, rank); B is zero at the start, so training starts from the frozen model."""

    def adapt(self, vit: VisionTransformer) -> None:
        config: LoRAConfig = self.config
        for block in vit.blocks:
            for name in config.targets:
                attach(block, name, Delta(*widths(block, name), config.rank, scale=config.scale, input_dropout=config.dropout))
