"""Answers that can be differentiated once with respect to the query, while the graph through the model stays on the model's side."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from petlbench.access.border import on_our_side
from petlbench.errors import AccessError

VJP = Callable[[Tensor], tuple[Tensor, ...]]  # gradient of the answer -> gradients of the inputs that require one
ForwardFn = Callable[[Tensor, Tensor | None], tuple[Tensor, VJP]]


class Graphs:
    """The vector-Jacobian products of a model's answers, each kept until it is used or its answer is deleted. They are on the model's side: an answer
    refers to them weakly."""

    def __init__(self) -> None:
        self.vjps: dict[int, VJP] = {}
        self._numbers = itertools.count(1)

    def keep(self, vjp: VJP) -> GraphHandle:
        """Keep a product and return the handle that an answer holds in place of its graph."""
        number = next(self._numbers)
        self.vjps[number] = vjp
        handle = GraphHandle(weakref.ref(self), number)
        weakref.finalize(handle, _drop, weakref.ref(self), number)
        return handle


def differentiable(forward: ForwardFn, images: Tensor, tokens: Tensor | None, graphs: Graphs) -> Tensor:
    """Return ``forward`` of images (B, 3, S, S) and tokens (B, K, V); a gradient reaches those of them that require one."""
    return _ThroughTheModel.apply(images, tokens, forward, graphs)


class _ThroughTheModel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, images: Tensor, tokens: Tensor | None, model_forward: ForwardFn, graphs: Graphs
    ) -> Tensor:
        wants_images, wants_tokens, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        asked = images.detach().requires_grad_(wants_images)
        answer, vjp = model_forward(asked, None if tokens is None else tokens.detach().requires_grad_(wants_tokens))
        ctx.handle = graphs.keep(vjp)  # type: ignore[attr-defined]
        return answer

    @staticmethod
    @once_differentiable
    @on_our_side
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = iter(take_vjp(ctx.handle)(*gradients))  # type: ignore[attr-defined]
        return tuple(next(found) if is_wanted else None for is_wanted in ctx.needs_input_grad)  # type: ignore[attr-defined]


@dataclass(eq=False)  # a weak reference to it can be taken, and it is itself only
class GraphHandle:
    """Refers to a graph on the model's side; the graph is dropped with the handle."""

    _graphs: weakref.ref[Graphs]
    _number: int


def _drop(graphs: weakref.ref[Graphs], number: int) -> None:
    if (held := graphs()) is not None:
        held.vjps.pop(number, None)


def take_vjp(handle: GraphHandle) -> VJP:
    """Remove and return the product of a graph. AccessError the second time, and after the run."""
    held = handle._graphs()
    if held is None or handle._number not in held.vjps:
        raise AccessError("an answer can be differentiated once, and before its run has ended; for another gradient query the model again")
    return held.vjps.pop(handle._number)
