"""Small trainable modules beside or behind frozen ones: the one building block of LoRA and of all adapters.

Letters in shapes: B images, N tokens, D block width, r bottleneck.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from petlbench.nn.linear import Dropout, TunedLinear

ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "gelu": nn.GELU, "relu": nn.ReLU}
_FUSED = ("q", "k", "v")  # thirds of timm's fused qkv output
_BRANCHES = {"attn_branch": ("norm1", "drop_path1"), "mlp_branch": ("norm2", "drop_path2")}
_MODULES = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "attn": "attn", "mlp": "mlp"}
LINEARS = ("q", "k", "v", "qkv", "proj", "fc1", "fc2")
PLACES = (*LINEARS, "attn", "mlp", *_BRANCHES)


class QuickGELU(nn.Module):
    """z * sigmoid(1.702 z), the activation of OpenAI's CLIP."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(1.702 * z)


ACTIVATIONS["quick_gelu"] = QuickGELU


class Delta(nn.Module):
    """scale * up(dropout(act(down(dropout(z))))): (..., in) -> (..., out), dropped for whole images at a rate of ``drop_path``.

    LoRA is the case without activation and biases (arXiv 2106.09685, section 4.1), an adapter the case with both (arXiv 1902.00751, section 2.1).
    ``down`` starts Kaiming-uniform (a = sqrt 5) and ``up`` at zero, so training starts from the frozen model while gradients reach both within two steps.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        bottleneck: int,
        *,
        activation: str = "none",
        bias: bool = False,
        scale: float = 1.0,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width_in, bottleneck, bias=bias)
        self.up = nn.Linear(bottleneck, width_out, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        self.input_dropout = Dropout(input_dropout)
        self.hidden_dropout = Dropout(hidden_dropout)
        self.drop_path = DropPath(drop_path)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        if bias:
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)

    def forward(self, z: Tensor) -> Tensor:
        z = self.up(self.hidden_dropout(self.activation(self.down(self.input_dropout(z)))))
        return self.drop_path(z if self.scale == 1.0 else self.scale * z)

    @property
    def is_linear(self) -> bool:
        """Return True if it only adds a low-rank matrix to the weight it stands beside: then it can be merged, and :class:`TunedLinear` computes it."""
        return isinstance(self.activation, nn.Identity) and self.up.bias is None

    def factors(self) -> tuple[Tensor, Tensor]:
        """A: (r, in) and scale * B: (out, r)."""
        return self.down.weight, self.up.weight if self.scale == 1.0 else self.scale * self.up.weight

    def gate(self, batch: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Dropout between A and B and the dropped images as one factor of A x: (*batch, r) or smaller; None when nothing is dropped."""
        if not self.training or self.hidden_dropout.p == self.drop_path.drop_prob == 0.0:
            return None
        shape = (*batch, self.down.out_features) if self.hidden_dropout.p else (batch[0], *(1 for _ in batch[1:]), 1)
        return self.drop_path(self.hidden_dropout(like.new_ones(shape)))


def widths(block: Any, place: str) -> tuple[int, int]:
    """Input and output width of a place in a timm block."""
    if place in _FUSED:
        return block.attn.qkv.in_features, block.attn.qkv.out_features // 3
    if place in LINEARS:
        linear = block.get_submodule(_MODULES[place])
        return linear.in_features, linear.out_features
    return block.attn.qkv.in_features, block.attn.qkv.in_features


def attach(block: Any, place: str, delta: nn.Module, position: Literal["beside", "after"] = "beside") -> None:
    """Let a module act at a place of a timm block: ``beside`` adds its answer to what goes in, ``after`` its answer to what comes out.

    Places: the linears ``q k v qkv proj fc1 fc2``, the modules ``attn`` and ``mlp``, and the residual branches ``attn_branch`` and ``mlp_branch``,
    whose input is the block's state before the norm and whose output is what the residual adds. The module becomes ``block.petl.PLACE``.
    """
    if "petl" not in block._modules:
        block.add_module("petl", nn.ModuleDict())
    container: nn.ModuleDict = block.petl
    if place not in PLACES or place in container:
        raise ValueError(
            f"cannot attach at '{place}': {'taken already' if place in container else 'known places are ' + ', '.join(PLACES)}"
        )
    container[place] = delta
    if place in _BRANCHES:
        _attach_to_branch(block, place, delta, position)
    elif place in LINEARS:
        tuned_linear(block, place).add_module_at(place if place in _FUSED else None, delta, position)
    else:
        block.get_submodule(_MODULES[place]).register_forward_hook(partial(_add, delta, position))


def tuned_linear(block: Any, place: str) -> TunedLinear:
    """The layer at one of the places ``q k v qkv proj fc1 fc2`` of a timm block; the first call puts it where the frozen one was."""
    path = "attn.qkv" if place in _FUSED else _MODULES[place]
    linear = block.get_submodule(path)
    if not isinstance(linear, TunedLinear):
        linear = TunedLinear(linear, _FUSED if path == "attn.qkv" else (place,))
        block.set_submodule(path, linear)
    return linear


def merge(vit: Any) -> None:
    """Fold what stands beside the linears of a timm ViT, and their trained entries and biases, into plain layers of the same outputs.

    ValueError, with nothing changed, when a module there has an activation and cannot be folded.
    """
    tuned = [(name, module) for name, module in vit.named_modules() if isinstance(module, TunedLinear)]
    for name, plain in [(name, module.merged()) for name, module in tuned]:
        vit.set_submodule(name, plain)
    for block in vit.blocks:
        for place in set(getattr(block, "petl", ())) & set(LINEARS):
            del block.petl[place]


def _add(delta: nn.Module, position: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + delta(inputs[0] if position == "beside" else output)


def _attach_to_branch(block: Any, place: str, delta: nn.Module, position: str) -> None:
    norm, exit_ = (block.get_submodule(name) for name in _BRANCHES[place])
    if position == "after":
        exit_.register_forward_hook(partial(_add, delta, position))
        return
    kept: dict[str, Any] = {}  # the branch's input, from the norm's call to the exit's
    norm.register_forward_pre_hook(partial(_keep, kept))
    exit_.register_forward_hook(partial(_add_kept, kept, delta))


def _keep(kept: dict[str, Any], _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    kept["input"] = inputs[0]


def _add_kept(kept: dict[str, Any], delta: nn.Module, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + delta(kept.pop("input"))
