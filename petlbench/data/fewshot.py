"""Few-shot sampling that draws the same images as CoOp's code for a seed (Dassl's generate_fewshot_dataset)."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from petlbench.errors import DataError

MAX_VAL_SHOTS = 4  # CoOp: min(shots, 4)


def draw(
    train: NDArray[np.int64], val: NDArray[np.int64], shots: int, seed: int, names: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of ``shots`` images per class from the train labels, then of ``min(shots, 4)`` from the val labels with the same generator.

    Classes come in the order of their first image. DataError when a class has too few training images; a short val class is kept whole.
    """
    generator = random.Random(seed)
    for name, count in zip(names, np.bincount(train, minlength=len(names)), strict=True):
        if count < shots:
            raise DataError(f"class '{name}' has {count} training images, fewer than protocol.shots={shots}; lower the shots")
    return _draw(generator, train, shots), _draw(generator, val, min(shots, MAX_VAL_SHOTS))


def _draw(generator: random.Random, labels: NDArray[np.int64], shots: int) -> NDArray[np.int64]:
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(index)
    chosen: list[int] = []
    for items in groups.values():
        chosen += generator.sample(items, shots) if len(items) >= shots else items
    return np.asarray(chosen, dtype=np.int64)
