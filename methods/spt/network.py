"""The network that a selection describes: modules at structured matrices, whole vectors, single entries, and the class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.nn import Delta, TunedLinear, attach, tuned_linear, widths

from .selection import Module, Selection


@dataclass(frozen=True)
class Modules:
    """Sets how the modules at structured matrices are built and trained."""

    kind: Module
    rank: int
    init: Literal["release", "zero_up"]
    dropout: float  # of a module's input, but beside proj
    drop_path: float  # of a module's output, per image


def tune(vit: Any, selection: Selection, modules: Modules, train_norm_entries: bool) -> None:
    """Make a timm ViT train what was selected, and its class token. Kept entries of norms train only when asked for, as in the released code."""
    vit.cls_token.requires_grad_(True)
    for candidate, is_structured in zip(selection.candidates, selection.structured.tolist(), strict=True):
        owner, _, leaf = candidate.name.rpartition(".")
        positions = selection.entries.get(candidate.name)
        if candidate.is_norm:
            if is_structured:
                vit.get_parameter(candidate.name).requires_grad_(True)
            elif positions is not None and train_norm_entries:
                _tuned_norm(vit, owner).train_entries(leaf, positions)
        elif is_structured or positions is not None:
            _, number, _, place = owner.split(".")
            _tune_linear(vit.blocks[int(number)], place, leaf, positions, modules)


def _tune_linear(block: Any, place: str, leaf: str, positions: Tensor | None, modules: Modules) -> None:
    """Without positions the weight gets a module or the bias trains whole; with them these entries train."""
    if leaf == "weight" and positions is None:
        attach(block, place, _module(block, place, modules), "beside" if modules.kind == "lora" or place == "proj" else "after")
        return
    linear: TunedLinear = tuned_linear(block, place)
    if positions is None:
        linear.train_whole_bias(place)
    elif leaf == "weight":
        linear.train_entries(place, positions)
    else:
        linear.train_bias_entries(place, positions)


def _module(block: Any, place: str, modules: Modules) -> Delta:
    """LoRA without a scale, or an adapter. The one at proj reads proj's input and drops nothing of it (released code)."""
    width_in, width_out = widths(block, place)
    is_adapter = modules.kind == "adapter"
    delta = Delta(
        width_out if is_adapter and place != "proj" else width_in,
        width_out,
        modules.rank,
        activation="gelu" if is_adapter else "none",
        bias=is_adapter,
        input_dropout=0.0 if place == "proj" else modules.dropout,
        drop_path=modules.drop_path,
    )
    if modules.init == "release":  # the released constructor initialises every linear layer again, so that up does not start at zero
        for linear in (delta.down, delta.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
    return delta


class TunedNorm(nn.LayerNorm):
    """A frozen LayerNorm of whose vectors single entries train; takes the frozen one's place and keeps its parameters."""

    def __init__(self, frozen: nn.LayerNorm) -> None:
        nn.Module.__init__(self)
        self.normalized_shape, self.eps, self.elementwise_affine = frozen.normalized_shape, frozen.eps, True
        self.weight, self.bias = frozen.weight, frozen.bias
        self.entries = nn.ParameterDict()
        self._positions: dict[str, Tensor] = {}

    def train_entries(self, leaf: str, positions: Tensor) -> None:
        """Train entries of ``weight`` or ``bias``; ``positions`` (K,)."""
        self.entries[leaf] = nn.Parameter(torch.zeros(len(positions), device=self.weight.device))
        self._positions[leaf] = positions.to(self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self._vector("weight"), self._vector("bias"), self.eps)

    def _vector(self, leaf: str) -> Tensor:
        frozen: Tensor = getattr(self, leaf)
        if leaf not in self.entries:
            return frozen
        return frozen.index_add(0, self._positions[leaf], self.entries[leaf])


def _tuned_norm(vit: Any, name: str) -> TunedNorm:
    norm = vit.get_submodule(name)
    if not isinstance(norm, TunedNorm):
        norm = TunedNorm(norm)
        vit.set_submodule(name, norm)
    return norm
