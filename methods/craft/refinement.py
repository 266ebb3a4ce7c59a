"""Prediction refinement: a small network on the logits, trained by back-propagation that ends at the model's answers; and CraFT's two objectives.

Each objective draws one module towards the labels and towards the answers of the other module, which it cannot change.

Letters in shapes: P prompt contexts (any leading dimensions), B images, C classes, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def divergence(reference: Tensor, other: Tensor) -> Tensor:
    """Mean over the images of KL(softmax(reference) || softmax(other)) of logits (..., B, C): (...)."""
    log_p, log_q = reference.log_softmax(dim=-1), other.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean(dim=-1)


def fitness(logits: Tensor, labels: Tensor, refined: Tensor | None = None, weight: float = 0.0) -> Tensor:
    """Objective of prompt generation: CE(Y_I, y) + weight * KL(q || p), with p of the model's logits Y_I (P, B, C) and q of the refined ones: (P,)."""
    correct = logits.log_softmax(dim=-1).gather(-1, labels.expand(logits.shape[:-1]).unsqueeze(-1))
    cross_entropy = -correct.squeeze(-1).mean(dim=-1)
    return cross_entropy if refined is None else cross_entropy + weight * divergence(refined, logits)


def refinement_loss(logits: Tensor, refined: Tensor, labels: Tensor, weight: float = 0.0) -> Tensor:
    """Objective of prediction refinement: CE(Y_O, y) + weight * KL(p || q), with q of the refined logits Y_O (B, C) and p constant."""
    cross_entropy = F.cross_entropy(refined, labels)
    return cross_entropy + weight * divergence(logits, refined) if weight else cross_entropy


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
