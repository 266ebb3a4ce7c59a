"""The gradient loop that every trained method shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.config.settings import Train
from petlbench.errors import ConfigError, Diverged
from petlbench.optim.precision import autocast
from petlbench.optim.schedule import learning_rate
from petlbench.optim.steps import Held, Steps, generators_of

CHECK_EVERY = 50  # steps between checks of the loss: a check waits for the device


class Epoch(NamedTuple):
    """One pass over the training images, as a method reports it."""

    epoch: int  # from 0
    loss: float  # mean over the pass
    learning_rate: float  # of its last step


class Examples(Protocol):
    """Batches of inputs and labels; iterating draws a new pass."""

    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


@dataclass
class TensorBatches:
    """Rows of a tensor (N, ...) with labels (N,), shuffled anew in each pass; for features that were computed once."""

    rows: Tensor
    labels: Tensor
    batch_size: int
    generator: torch.Generator
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.rows.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.begin()

    def begin(self, at: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a new pass from this one on."""
        for indices in torch.randperm(len(self.rows), generator=self.generator).split(self.batch_size)[at:]:
            chosen = indices.to(self.device)
            yield self.rows[chosen], self.labels[chosen]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)


def parameter_groups(model: nn.Module, weight_decay: float, decays: Callable[[str, nn.Parameter], bool]) -> list[dict[str, object]]:
    """The trainable parameters in two groups, with and without weight decay."""
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (with_decay if decays(name, parameter) else without).append(parameter)
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]


def build_optimizer(groups: list[dict[str, object]], recipe: Train) -> torch.optim.Optimizer:
    """SGD adds L2 decay to the gradient, AdamW decouples it."""
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.peak_learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.peak_learning_rate, fused=True)


def train(
    model: nn.Module,
    examples: Examples,
    recipe: Train,
    *,
    decays: Callable[[str, nn.Parameter], bool],
    precision: str = "fp32",
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
    forward: Callable[[Tensor], Tensor] | None = None,
    competing: Callable[[Tensor, Tensor], Tensor] = lambda scores, labels: scores,
    resumable: Steps = Steps(),  # noqa: B008 (immutable)
    held: Mapping[str, Held] | None = None,
) -> None:
    """Minimise the mean cross entropy. ``after_epoch`` is given one entry per epoch. Diverged as soon as a check finds the loss not finite.

    ``forward``: from inputs to scores (B, C), when it is not the model itself that is called. ``competing``: scores (B, C) and labels (B,) to the
    scores that the loss is of, -inf for classes that are not to compete. ``resumable``: ``data.steps``, which lets a rerun enter the loop where an
    interrupted one left it; ``held``: what else changes meanwhile.
    """
    forward = forward or model
    optimizer = build_optimizer(parameter_groups(model, recipe.weight_decay, decays), recipe)
    steps = len(examples)
    network: dict[str, Held] = {"learned": _learned(model), "generators": {str(at): one for at, one in enumerate(generators_of(model))}}
    for epoch in resumable.epochs(
        recipe.epochs, examples, network=network, optimizer=optimizer, gradients=_Gradients(optimizer), **held or {}
    ):
        model.train()
        # pending: images since the last optimiser step
        sums = epoch.tally(total=torch.zeros((), device=examples.device), seen=0, pending=0, rate=0.0)
        for inputs, labels in epoch:
            step = epoch.step
            position = epoch.number if recipe.schedule_step == "epoch" else epoch.number + step / steps
            sums.rate = learning_rate(position, recipe, 1 / steps)
            for group in optimizer.param_groups:
                group["lr"] = sums.rate
            with autocast(precision, examples.device):
                loss = F.cross_entropy(competing(forward(inputs), labels), labels, label_smoothing=recipe.label_smoothing)
            sums.pending += len(labels)
            (loss * len(labels) if recipe.accumulate > 1 else loss).backward()
            if epoch.number == step == 0:
                _check_all_reached(model)
            if (step + 1) % recipe.accumulate == 0 or step + 1 == steps:
                _update(optimizer, recipe, sums.pending)
                sums.pending = 0
            sums.total += loss.detach() * len(labels)
            sums.seen += len(labels)
            if (step + 1) % CHECK_EVERY == 0:
                _check_finite(sums.total, epoch.number, step)
        _check_finite(sums.total, epoch.number, steps - 1)
        after_epoch(Epoch(epoch=epoch.number, loss=sums.total.item() / sums.seen, learning_rate=sums.rate))
    model.eval()


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes in a network: the parameters that train, and the buffers."""
    parameters = dict(model.named_parameters())
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if tensor.requires_grad or name not in parameters}


class _Gradients:
    """The gradients that are added up for the next step of an optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": [parameter.grad for parameter in self._parameters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for parameter, gradient in zip(self._parameters, state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)


def _update(optimizer: torch.optim.Optimizer, recipe: Train, images: int) -> None:
    """One step. Accumulated gradients are sums over images: divided here, a short last batch counts for what it holds."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if recipe.accumulate > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(images)
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _check_finite(total: Tensor, epoch: int, step: int) -> None:
    if not torch.isfinite(total):
        raise Diverged(
            f"the training loss is {total.item()} in epoch {epoch}, step {step}; lower train.learning_rate or set train.clip_norm"
        )


def _check_all_reached(model: nn.Module) -> None:
    """Raise when a trainable parameter never enters the forward pass."""
    lost = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if lost:
        raise ConfigError(
            f"no gradient reaches {', '.join(lost[:5])}{' and others' if len(lost) > 5 else ''}: the module is not part of the forward pass"
        )
