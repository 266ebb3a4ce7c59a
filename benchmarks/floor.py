"""The floor of a training step: the matrix products that no implementation of a method on a frozen backbone can leave out.

A product of f FLOPs in the forward pass is followed in the backward pass by up to two more of f each: the gradient of its input (the
activation gradient) and the gradient of its weight. A frozen weight needs no gradient; an input needs one only when something that is
trained lies before it. So a full step is about 3 f over all products, a PETL method that changes the first block about 2 f, and a method
that trains the last blocks only has the whole forward pass but the backward pass of those blocks alone. Attention multiplies activations
with activations: where it needs a backward pass, it needs both gradients. What needs a gradient is read off a real training step
(:class:`GradientWatch`), not off a method's name.

Left out, so that the bound stays a lower one: everything that is not a matrix product, the method's own products, the head, and the tokens
that prompts add. A learner that keeps the activations below the first trained block does less than the forward pass and may beat the floor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

ATTENTION = ".attn"  # end of the name under which a block's two products of activations with activations are counted


@dataclass(frozen=True)
class Needed:
    """Names of the products whose gradients a training step needs."""

    of_input: frozenset[str]
    of_weight: frozenset[str]  # of attention: of its second operand


def forward_products(vit: Any, input_size: int) -> dict[str, float]:
    """FLOPs of the matrix products of one image's forward pass by the module that makes them; the patch embedding's convolution is one.

    A multiplication and an addition are two. Attention is counted in its plain form: torch's counter does not know all fused kernels.
    """
    image = torch.zeros(1, 3, input_size, input_size, device=next(vit.parameters()).device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        vit(image)
    totals = {
        path.partition(".")[2]: float(sum(by_operator.values()))
        for path, by_operator in counter.get_flop_counts().items()
        if path.startswith(type(vit).__name__)
    }
    return own_counts(totals)


def training_flops(vit: nn.Module, products: Mapping[str, float], batch: int, watch: GradientWatch) -> dict[str, float]:
    """FLOPs of a batch: of its forward pass and of the floor of its training step."""
    needed = watch.needed(vit, products.keys())
    return {"forward": batch * sum(products.values()), "step": batch * floor_flops(products, needed)}


def own_counts(totals: Mapping[str, float]) -> dict[str, float]:
    """Turn counts of modules with all that is in them into counts without their children, zeros left out; "" is the whole network."""
    own = dict(totals)
    for name, total in totals.items():
        parent = name.rpartition(".")[0]
        if name and parent in own:
            own[parent] -= total
    return {name: count for name, count in own.items() if count}


def floor_flops(products: Mapping[str, float], needed: Needed) -> float:
    """FLOPs of the forward pass, the activation gradients and the weight gradients that are needed."""
    return sum(flops * (1 + (name in needed.of_input) + (name in needed.of_weight)) for name, flops in products.items())


class GradientWatch:
    """Notes for every module whether the input of its last call required a gradient, from creation to :meth:`stop`."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._handle = register_module_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            self._seen[module] = inputs[0].requires_grad

    def stop(self) -> None:
        self._handle.remove()

    def needed(self, vit: nn.Module, products: Collection[str]) -> Needed:
        """Return which of the products need gradients. A module that was replaced since is found under its name; one that never ran needs none."""
        trained = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
        attention = {name for name in products if name.endswith(ATTENTION) and self._saw_gradient(vit, f"{name}.proj")}
        linear = {name for name in products if not name.endswith(ATTENTION)}
        return Needed(
            of_input=frozenset(attention | {name for name in linear if self._saw_gradient(vit, name)}),
            of_weight=frozenset(attention | {name for name in linear if f"{name}.weight" in trained}),
        )

    def _saw_gradient(self, vit: nn.Module, name: str) -> bool:
        return self._seen.get(vit.get_submodule(name), False)
