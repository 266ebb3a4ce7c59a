"""LoRA as the ``peft`` library computes it (Hu et al. 2021, arXiv 2106.09685), on this harness."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from petlbench import GradientMethod, register_method

_MODULES = {"qkv": r"attn\.qkv", "proj": r"attn\.proj", "fc1": r"mlp\.fc1", "fc2": r"mlp\.fc2"}


@dataclass
class LoRAPeftConfig:
    rank: int = 8  # r; parameters per matrix: r * (in + out)
    targets: tuple[str, ...] = (
        "qkv",
    )  # layers that get an update, some of qkv proj fc1 fc2; at the fused qkv one update is shared by q, k and v
    dropout: float = 0.0  # rate of the dropout on the input of the update

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be an int >= 1, got {self.rank}")
        unknown = set(self.targets) - set(_MODULES)
        if unknown or not self.targets:
            got = ", ".join(sorted(unknown)) or "none"
            raise ValueError(f"targets must be some of {', '.join(_MODULES)}, got {got} (method=lora updates q, k and v separately)")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


@register_method("lora_peft", LoRAPeftConfig, cite="arXiv:2106.09685")
class LoRAPeft(GradientMethod):
    """y = W x + b + B A x through peft's layers. On qkv it is the computation of ``lora`` with targets=[qkv], not of LoRA on q and v."""

    def adapt(self, vit: VisionTransformer) -> None:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds: it brings transformers along

        config: LoRAPeftConfig = self.config
        # A text is matched with whole module names. A list would be matched with their ends, and "proj" is also the end of patch_embed.proj.
        targets = rf"blocks\.\d+\.({'|'.join(_MODULES[name] for name in config.targets)})"
        settings = LoraConfig(
            r=config.rank,
            lora_alpha=config.rank,  # the scale is lora_alpha / r
            use_rslora=False,
            lora_dropout=config.dropout,
            target_modules=targets,
        )
        inject_adapter_in_model(settings, vit)
