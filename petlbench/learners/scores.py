"""Accuracy from class scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from petlbench.data.joined import JoinedTask, part_of_class
from petlbench.data.task import TaskSpec
from petlbench.records.schema import PartMetrics


def mask_classes(scores: Tensor, labels: Sequence[int] | None) -> Tensor:
    """Set scores (N, C) to -inf for all labels except these; None keeps all."""
    if labels is None:
        return scores
    others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    others[list(labels)] = False
    return scores.masked_fill(others, -math.inf)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the percentage of rows of scores (N, C) whose largest entry is the label."""
    correct = scores.argmax(dim=1).cpu() == labels.cpu()
    return 100.0 * int(correct.sum()) / len(correct)


def accuracies_of_parts(spec: TaskSpec, scores: Tensor, labels: Tensor) -> dict[str, PartMetrics]:
    """Return the accuracies of each part of a joined task, from scores (N, C) and labels (N,); empty for other tasks."""
    if not isinstance(spec, JoinedTask):
        return {}
    part_index, found = torch.tensor(part_of_class(spec)), {}
    for index, part in enumerate(spec.parts):
        of_part = part_index[labels] == index
        among_all, among_own = scores[of_part], scores[of_part].masked_fill(part_index != index, -torch.inf)
        right = [100.0 * (some.argmax(dim=1) == labels[of_part]).double().mean().item() for some in (among_all, among_own)]
        found[part.name] = PartMetrics(accuracy=right[0], own_accuracy=right[1], samples=int(of_part.sum()))
    return found
