"""Prediction refinement: a small network on the logits, trained by back-propagation that ends at the model's answers.

Letters in shapes: B images, C classes, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .losses import refinement_loss


class Refinement(nn.Module):
    """W2 relu(W1 x + b1) + b2, (B, C) -> (B, C): what is added to the logits. 2 C H + H + C parameters, torch's initial values."""

    has_learned: Tensor  # whether a step was taken; what random weights add is no refinement

    def __init__(self, class_count: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(class_count, hidden)
        self.fc2 = nn.Linear(hidden, class_count)
        self.register_buffer("has_learned", torch.tensor(False))

    def forward(self, logits: Tensor) -> Tensor:
        return self.fc2(self.fc1(logits).relu())


def train_epoch(net: Refinement, optimizer: torch.optim.Optimizer, answers: Iterable[tuple[Tensor, Tensor]], weight: float) -> Tensor:
    """One step per mini-batch of logits (B, C) and labels (B,). The losses before each step, left on the device."""
    losses = []
    for logits, labels in answers:
        loss = refinement_loss(logits, logits + net(logits), labels, weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        net.has_learned.fill_(True)
        losses.append(loss.detach())
    return torch.stack(losses)
