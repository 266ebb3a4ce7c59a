"""Layout ``pgn_clevr``: CLEVR as the arrays that PGN's code writes, ``clevr/clevr_count/{train,val}_{images,labels}.npy``.

Labels are texts, ``count_3`` to ``count_10``; the official validation images are the test images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petlbench.data.listing import Arrays
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry, class_names
from . import LocatedDataset
from ._lists import position_in

FOLDER = "clevr/clevr_count"
PARTS = {"train": "train", "test": "val"}


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read the arrays, as memory maps."""
    folder = root / FOLDER
    if entry.names is None or not (folder / "train_images.npy").is_file():
        return None
    names = class_names(entry.names).names
    return LocatedDataset("pgn_clevr", folder, {split: _part(folder, part, names) for split, part in PARTS.items()}, names)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return f"{FOLDER}/{{train,val}}_{{images,labels}}.npy"


def _part(folder: Path, part: str, names: tuple[str, ...]) -> Arrays:
    path, label_of = folder / f"{part}_labels.npy", position_in(names)
    images, texts = _array(folder / f"{part}_images.npy"), _array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or texts.ndim != 1 or len(images) != len(texts):
        raise DataError(
            f"{folder}: {part}_images.npy has {images.dtype} {images.shape}, expected {len(texts)} images (N, H, W, 3) of uint8"
        )
    labels = []
    for text in texts:
        label = label_of(str(text).removeprefix("count_"))
        if label is None:
            raise DataError(f"{path}: '{text}' is no count between 3 and 10")
        labels.append(label)
    return Arrays(images, labels, [str(i) for i in range(len(labels))], folder / f"{part}_images.npy")


def _array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
        if not isinstance(array, np.ndarray):
            raise ValueError("no .npy file")
        return array
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable array ({error}); write it again") from None
