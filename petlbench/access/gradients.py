"""Answers that can be differentiated once with respect to what was asked, while the graph through the model stays on the model's side."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from petlbench.errors import AccessError

Pull = Callable[[Tensor], tuple[Tensor, ...]]  # a gradient with respect to the answer to those with respect to what requires one
Ask = Callable[[Tensor, Tensor | None], tuple[Tensor, Pull]]

_graphs: dict[int, Pull] = {}  # on the model's side
_receipts = itertools.count(1)


def differentiable(ask: Ask, images: Tensor, tokens: Tensor | None) -> Tensor:
    """What ``ask`` answers about images (B, 3, S, S) and tokens (B, K, W); a gradient reaches those of them that require one."""
    return _ThroughTheModel.apply(images, tokens, ask)


class _ThroughTheModel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, tokens: Tensor | None, ask: Ask) -> Tensor:
        wants_images, wants_tokens, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        asked = images.detach().requires_grad_(wants_images)
        answer, pull = ask(asked, None if tokens is None else tokens.detach().requires_grad_(wants_tokens))
        ctx.receipt = _Receipt(pull)  # type: ignore[attr-defined]
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pulled = iter(_redeem(ctx.receipt.number)(*gradients))  # type: ignore[attr-defined]
        return tuple(next(pulled) if is_wanted else None for is_wanted in ctx.needs_input_grad)  # type: ignore[attr-defined]


class _Receipt:
    """A number that stands for a graph on the model's side; the graph is dropped with the number."""

    def __init__(self, pull: Pull) -> None:
        self.number = next(_receipts)
        _graphs[self.number] = pull
        weakref.finalize(self, _graphs.pop, self.number, None)


def _redeem(number: int) -> Pull:
    """The way back through a graph, which is let go of. AccessError the second time."""
    if number not in _graphs:
        raise AccessError("an answer can be differentiated once; for another gradient ask the model again")
    return _graphs.pop(number)
