"""The two objectives of CraFT. Each module is drawn towards the labels and towards the answers of the other one, which it cannot change.

Letters in shapes: P prompt contexts (any leading dimensions), B images, C classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def divergence(reference: Tensor, other: Tensor) -> Tensor:
    """Mean over the images of KL(softmax(reference) || softmax(other)) of logits (..., B, C): (...)."""
    log_p, log_q = reference.log_softmax(dim=-1), other.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean(dim=-1)


def fitness(logits: Tensor, labels: Tensor, refined: Tensor | None = None, weight: float = 0.0) -> Tensor:
    """What prompt generation minimises: CE(Y_I, y) + weight * KL(q || p), with p of the model's logits Y_I (P, B, C) and q of the refined ones: (P,)."""
    correct = logits.log_softmax(dim=-1).gather(-1, labels.expand(logits.shape[:-1]).unsqueeze(-1))
    cross_entropy = -correct.squeeze(-1).mean(dim=-1)
    return cross_entropy if refined is None else cross_entropy + weight * divergence(refined, logits)


def refinement_loss(logits: Tensor, refined: Tensor, labels: Tensor, weight: float = 0.0) -> Tensor:
    """What prediction refinement minimises: CE(Y_O, y) + weight * KL(p || q), with q of the refined logits Y_O (B, C) and p constant."""
    cross_entropy = F.cross_entropy(refined, labels)
    return cross_entropy + weight * divergence(logits, refined) if weight else cross_entropy
