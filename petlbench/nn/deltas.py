"""Small trainable modules beside or behind frozen ones: the one building block of LoRA and of all adapters.

Letters in shapes: B images, N tokens, D block width, r bottleneck.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "gelu": nn.GELU, "relu": nn.ReLU}
_ROWS = {"q": 0, "k": 1, "v": 2}  # thirds of timm's fused qkv output
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
    """scale * up(dropout(act(down(z)))): (..., in) -> (..., out).

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
    ) -> None:
        super().__init__()
        self.down = nn.Linear(width_in, bottleneck, bias=bias)
        self.up = nn.Linear(bottleneck, width_out, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        self.input_dropout = nn.Dropout(input_dropout)
        self.hidden_dropout = nn.Dropout(hidden_dropout)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        if bias:
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)

    def forward(self, z: Tensor) -> Tensor:
        z = self.up(self.hidden_dropout(self.activation(self.down(self.input_dropout(z)))))
        return z if self.scale == 1.0 else self.scale * z

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The (out, in) matrix that this module adds to the weight it stands beside. ValueError when it is not linear."""
        if not isinstance(self.activation, nn.Identity) or self.up.bias is not None:
            raise ValueError("a module with an activation or biases cannot be merged into a weight")
        return self.scale * self.up.weight @ self.down.weight


def widths(block: Any, place: str) -> tuple[int, int]:
    """Input and output width of a place in a timm block."""
    if place in _ROWS or place == "qkv":
        width = block.attn.qkv.in_features
        return width, width if place in _ROWS else block.attn.qkv.out_features
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
    elif place in _ROWS:
        block.attn.qkv.register_forward_hook(partial(_add_to_rows, delta, _ROWS[place], position))
    else:
        block.get_submodule(_MODULES[place]).register_forward_hook(partial(_add, delta, position))


def _add(delta: nn.Module, position: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + delta(inputs[0] if position == "beside" else output)


def _add_to_rows(delta: nn.Module, third: int, position: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Add to the third of a fused (B, N, 3D) output that belongs to q, k or v. In place: the frozen linear does not need its output again."""
    width = output.shape[-1] // 3
    rows = output[..., third * width : (third + 1) * width]
    rows += delta(inputs[0] if position == "beside" else rows.clone())
    return output


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
