"""Adapters: small bottleneck networks inside frozen blocks (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al.; AdaptFormer, arXiv 2205.13535)."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from petlbench import GradientMethod, register_method
from petlbench.nn import PLACES, Delta, attach, widths
from petlbench.nn.deltas import ACTIVATIONS


@dataclass
class AdapterConfig:
    bottleneck: int = 8  # h; parameters per adapter of width D: 2 D h + h + D
    after: tuple[str, ...] = ("mlp_branch",)  # modules whose output goes through an adapter with a skip (sequential)
    beside: tuple[str, ...] = ()  # modules whose input goes through an adapter that is added to the output (parallel)
    activation: str = "gelu"  # activation between the two layers: none, gelu, quick_gelu or relu
    scale: float = 1.0  # s, factor of the adapter's output
    dropout: float = 0.0  # rate of the dropout after the activation
    bias: bool = True  # give both layers a bias
    train_norms: bool = False  # train the LayerNorms, too, as Houlsby et al. do

    def __post_init__(self) -> None:
        places = [*self.after, *self.beside]
        unknown = set(places) - set(PLACES)
        if unknown or not places or len(set(places)) < len(places):
            raise ValueError(f"after and beside must name some of {', '.join(PLACES)}, each once, got {', '.join(places) or 'none'}")
        if self.bottleneck < 1:
            raise ValueError(f"bottleneck must be an int >= 1, got {self.bottleneck}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got '{self.activation}'")


@register_method("adapter", AdapterConfig, cite="arXiv:1902.00751")
class Adapter(GradientMethod):
    """z + s * (U act(V z + c1) + c2), with V: (h, D), U: (D, h).

    Only U and the biases start at zero: with V at zero as well, as in one released baseline, no gradient would ever reach either matrix.
    """

    def adapt(self, vit: VisionTransformer) -> None:
        config: AdapterConfig = self.config
        for block in vit.blocks:
            for place in config.beside:
                attach(block, place, self._delta(*widths(block, place)), "beside")
            for place in config.after:
                width = widths(block, place)[1]
                attach(block, place, self._delta(width, width), "after")
        if config.train_norms:
            for module in vit.modules():
                if isinstance(module, nn.LayerNorm):
                    module.requires_grad_(True)

    def _delta(self, width_in: int, width_out: int) -> Delta:
        config: AdapterConfig = self.config
        return Delta(
            width_in,
            width_out,
            config.bottleneck,
            activation=config.activation,
            bias=config.bias,
            scale=config.scale,
            hidden_dropout=config.dropout,
        )
