"""What scores say: which classes count, how many images are named correctly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from petlbench.data.joined import JoinedTask, part_of_class
from petlbench.data.task import TaskSpec
from petlbench.records.schema import PartMetrics


def mask_classes(scores: Tensor, labels: Sequence[int] | None) -> Tensor:
    """The scores (N, C), with -inf for all labels but these. None: all."""
    if labels is None:
        return scores
    others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    others[list(labels)] = False
    return scores.masked_fill(others, -math.inf)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percent of rows of (N, C) scores whose largest entry is the label."""
    correct = scores.argmax(dim=1).cpu() == labels.cpu()
    return 100.0 * int(correct.sum()) / len(correct)


def accuracies_of_parts(spec: TaskSpec, scores: Tensor, labels: Tensor) -> dict[str, PartMetrics]:
    """Of each of the tasks that were joined, from scores (N, C) and labels (N,); of a task that is one nothing."""
    if not isinstance(spec, JoinedTask):
        return {}
    places, found = torch.tensor(part_of_class(spec)), {}
    for place, part in enumerate(spec.parts):
        of_part = places[labels] == place
        among_all, among_own = scores[of_part], scores[of_part].masked_fill(places != place, -torch.inf)
        right = [100.0 * (some.argmax(dim=1) == labels[of_part]).double().mean().item() for some in (among_all, among_own)]
        found[part.name] = PartMetrics(accuracy=right[0], own_accuracy=right[1], samples=int(of_part.sum()))
    return found
