"""Few-shot sampling that draws the same images as CoOp's code for a seed (Dassl's generate_fewshot_dataset)."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petlbench.errors import DataError

MAX_VAL_SHOTS = 4  # CoOp: min(shots, 4)
Indices = NDArray[np.int64]
Shortage = Literal["refuse", "keep", "repeat"]


def draw(
    train: Indices,
    val: Indices,
    shots: int,
    seed: int,
    names: tuple[str, ...],
    shortage: Shortage = "refuse",
    val_in_train: Indices | None = None,
) -> tuple[Indices, Indices]:
    """Draw the indices of ``shots`` images per class from the train labels, then of ``min(shots, 4)`` from the val labels with the same generator.

    Classes come in the order of their first image. ``shortage``: a class with too few training images is refused with a DataError, kept whole
    (CoOp, BlackVIP) or drawn from with replacement (CraFT); a short val class is kept whole. ``val_in_train``: the positions in train of the val
    images; those drawn to train on do not validate.
    """
    generator = random.Random(seed)
    for name, count in zip(names, np.bincount(train, minlength=len(names)), strict=True):
        if count < shots and shortage == "refuse":
            raise DataError(
                f"class '{name}' has {count} training images, fewer than protocol.shots={shots}; lower the shots, or take what there is with "
                "protocol.shortage=keep"
            )
    chosen = _draw(generator, train, shots, shortage)
    free = np.arange(len(val)) if val_in_train is None else np.flatnonzero(~np.isin(val_in_train, chosen))
    return chosen, free[_draw(generator, val[free], min(shots, MAX_VAL_SHOTS), "keep")]


def _draw(generator: random.Random, labels: Indices, shots: int, shortage: Shortage) -> Indices:
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(index)
    chosen: list[int] = []
    for items in groups.values():
        if len(items) >= shots:
            chosen += generator.sample(items, shots)
        else:
            chosen += generator.choices(items, k=shots) if shortage == "repeat" else items
    return np.asarray(chosen, dtype=np.int64)
