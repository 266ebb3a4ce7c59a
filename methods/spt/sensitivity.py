"""Score how much each weight of a frozen backbone matters for a task by its squared gradient (released code, engine.py: get_sensitivity)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.errors import Diverged

from .candidates import located

_CHUNK = 1 << 22  # scores that are ranked at a time: a single topk over 86 million takes 1.4 GB besides

Part = tuple[slice, slice]  # rows of a parameter, and their places in the flat scores


def accumulate(vit: VisionTransformer, head: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, training: bool) -> Tensor:
    """Scores of all candidates, flat, float32: the squared gradient of each batch's mean cross entropy, summed over the batches.

    One forward and one backward pass per batch of images (B, 3, S, S) and labels (B,). Gradients are squared and dropped one parameter at a time
    while the backward pass runs, so the scores are the only tensor of the backbone's size. ``training``: with drop-path, drawn from torch's
    global generator, as in the released code. Weights are only read; flags, gradients, hooks and modes are afterwards what they were.
    Diverged when the loss is not finite or does not depend on the backbone.
    """
    parts: dict[str, list[Part]] = {}
    end = 0
    for candidate, place in located(vit):
        parts.setdefault(place.parameter, []).append((place.rows, slice(end, end + candidate.size)))
        end += candidate.size
    parameters = {name: vit.get_parameter(name) for name in parts}
    scores = torch.zeros(end, device=next(iter(parameters.values())).device)
    with _left_as_found(vit, head), ExitStack() as hooks, torch.enable_grad():
        for module in (vit, head):
            module.requires_grad_(False).train(training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(True).grad = None
            handle = parameter.register_post_accumulate_grad_hook(partial(_add_square, scores, parts[name]))
            hooks.callback(handle.remove)
        for images, labels in batches:
            F.cross_entropy(head(vit(images)), labels).backward()
    if not 0 < (largest := float(scores.max())) < math.inf:
        raise Diverged(
            f"the largest sensitivity of a weight is {largest}: the loss on the scored batches is not finite or does not depend on the backbone"
        )
    return scores


def ranking(scores: Tensor, count: int) -> Tensor:
    """Indices (int64) of the ``count`` largest scores, the largest first; of all when there are fewer."""
    best, values = torch.empty(0, dtype=torch.long, device=scores.device), scores[:0]
    for start, chunk in zip(range(0, len(scores), _CHUNK), scores.split(_CHUNK), strict=True):
        indices = torch.cat([best, torch.arange(start, start + len(chunk), device=scores.device)])
        values, chosen = torch.cat([values, chunk]).topk(min(count, len(indices)))
        best = indices[chosen]
    return best


def _add_square(scores: Tensor, parts: list[Part], parameter: Tensor) -> None:
    assert parameter.grad is not None
    for rows, places in parts:
        gradient = parameter.grad[rows].reshape(-1)
        scores[places].addcmul_(gradient, gradient)
    parameter.grad = None


@contextmanager
def _left_as_found(*modules: nn.Module) -> Iterator[None]:
    """Put every parameter's flag and gradient and every module's mode back, also after an error."""
    parameters = [(p, p.requires_grad, p.grad) for module in modules for p in module.parameters()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad).grad = gradient
        for part, mode in modes:
            part.training = mode
