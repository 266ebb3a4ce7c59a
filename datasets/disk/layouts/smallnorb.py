"""Layout ``smallnorb``: the binary files of small NORB. Azimuth and elevation of toys, seen by the first of its two cameras.

Train and test hold different toys. The published test images are cut into halves, one to validate on; VTAB's cut follows an order that only TFDS has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petlbench.data.listing import Arrays
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._lists import first_folder
from ._splits import Original, for_suite, halves
from ._vtab_labels import smallnorb_azimuth

FOLDERS = ("smallnorb", "smallNORB", ".")
STEMS = {"train": "smallnorb-5x46789x9x18x6x2x96x96-training", "test": "smallnorb-5x01235x9x18x6x2x96x96-testing"}
ELEVATION, AZIMUTH = 1, 2  # columns of the info file: instance, elevation, azimuth, lighting
_TYPES: dict[int, np.dtype[Any]] = {507333717: np.dtype("u1"), 507333716: np.dtype("<i4")}  # by the magic number


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read the images, as memory maps."""
    folder = first_folder(root, FOLDERS, f"{STEMS['train']}-dat.mat")
    if folder is None:
        return None
    parts = {part: _part(folder, stem, dataset) for part, stem in STEMS.items()}
    val, test = halves(parts["test"])
    return for_suite(root, "smallnorb", Original(folder, {"train": parts["train"], "val": val, "test": test}), dataset, entry)


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return f"{FOLDERS[0]}/{{{','.join(STEMS.values())}}}-{{dat,info}}.mat, without .gz"


def _part(folder: Path, stem: str, dataset: Dataset) -> Arrays:
    images, info = binary(folder / f"{stem}-dat.mat"), binary(folder / f"{stem}-info.mat")
    if images.ndim != 4 or images.dtype != np.uint8 or info.ndim != 2 or info.shape[1] <= AZIMUTH or len(images) != len(info):
        raise DataError(f"{folder}: {stem}-dat.mat and -info.mat do not belong together; unpack both again")
    labels = info[:, ELEVATION] if dataset.name == "smallnorb_ele" else smallnorb_azimuth(info[:, AZIMUTH])
    return Arrays(images[:, 0], labels, [str(index) for index in range(len(labels))], folder / f"{stem}-dat.mat")


def binary(path: Path) -> NDArray[Any]:
    """An array of NORB's format: type, number of dimensions, at least three sizes, data; all little-endian. DataError when it is none."""
    try:
        if not path.is_file():
            raise ValueError("no plain file")
        magic, dimensions = np.fromfile(path, dtype="<i4", count=2)
        if not 1 <= dimensions <= 4:
            raise ValueError(f"{dimensions} dimensions")
        stored = max(3, int(dimensions))
        shape = np.fromfile(path, dtype="<i4", count=stored, offset=8)[:dimensions]
        flat = np.memmap(path, dtype=_TYPES[int(magic)], mode="r", offset=4 * (2 + stored))
        if shape.min() < 0:
            raise ValueError(f"a shape of {shape.tolist()}")
        return flat.reshape(shape.tolist())
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a file of small NORB ({error!r}); unpack it again") from None
