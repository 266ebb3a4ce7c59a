"""Answers that can be differentiated once with respect to what was asked, while the graph through the model stays on the model's side."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from petlbench.errors import AccessError

VJP = Callable[[Tensor], tuple[Tensor, ...]]  # a gradient with respect to the answer to those with respect to what requires one
ForwardFn = Callable[[Tensor, Tensor | None], tuple[Tensor, VJP]]


class Graphs:
    """The ways back through a model, each until it is used or its answer is gone. Held on the model's side only: an answer refers to them weakly."""

    def __init__(self) -> None:
        self.pulls: dict[int, VJP] = {}
        self._numbers = itertools.count(1)

    def receipt(self, pull: VJP) -> GraphHandle:
        """What an answer holds in place of its graph."""
        number = next(self._numbers)
        self.pulls[number] = pull
        receipt = GraphHandle(weakref.ref(self), number)
        weakref.finalize(receipt, _drop, weakref.ref(self), number)
        return receipt


def differentiable(ask: ForwardFn, images: Tensor, tokens: Tensor | None, graphs: Graphs) -> Tensor:
    """What ``ask`` answers about images (B, 3, S, S) and tokens (B, K, W); a gradient reaches those of them that require one."""
    return _ThroughTheModel.apply(images, tokens, ask, graphs)


class _ThroughTheModel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, tokens: Tensor | None, ask: ForwardFn, graphs: Graphs) -> Tensor:
        wants_images, wants_tokens, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        asked = images.detach().requires_grad_(wants_images)
        answer, pull = ask(asked, None if tokens is None else tokens.detach().requires_grad_(wants_tokens))
        ctx.receipt = graphs.receipt(pull)  # type: ignore[attr-defined]
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pulled = iter(take_vjp(ctx.receipt)(*gradients))  # type: ignore[attr-defined]
        return tuple(next(pulled) if is_wanted else None for is_wanted in ctx.needs_input_grad)  # type: ignore[attr-defined]


@dataclass(eq=False)  # a weak reference to it can be taken, and it is itself only
class GraphHandle:
    """Stands for a graph on the model's side; the graph is dropped with it."""

    _graphs: weakref.ref[Graphs]
    _number: int


def _drop(graphs: weakref.ref[Graphs], number: int) -> None:
    if (held := graphs()) is not None:
        held.pulls.pop(number, None)


def take_vjp(receipt: GraphHandle) -> VJP:
    """The way back through a graph, which is let go of. AccessError the second time, and after the run."""
    held = receipt._graphs()
    if held is None or receipt._number not in held.pulls:
        raise AccessError("an answer can be differentiated once, and before its run has ended; for another gradient ask the model again")
    return held.pulls.pop(receipt._number)
