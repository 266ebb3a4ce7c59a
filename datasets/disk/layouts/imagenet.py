"""Layout ``imagenet``: ImageNet's folders named after WordNet ids, and the four sets that show a shift, which are tested on only.

ImageNet: ``imagenet/images/{train,val}/WNID/``, or without ``images/`` as torchvision has it. The official validation images are the test images; there
are no others to validate on. ImageNetV2's folders are named after the label itself, as a number: as texts they would sort 0, 1, 10, 100.
"""

from __future__ import annotations

from pathlib import Path

from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry, wordnet_ids
from . import LocatedDataset
from ._lists import class_folders, position_in, read_text

PARTS = {"train": "train", "test": "val"}
NAMES = "classnames.txt"  # "WNID NAME" per line; CoOp's, where it is there


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """ImageNet, or a test set that shifts it."""
    files = dataset.imagenet
    if files is None:
        return None
    known = position_in(wordnet_ids())
    for folder in (root / name for name in files.folders):
        if entry.trained_on is not None and folder.is_dir():
            return LocatedDataset("imagenet", folder, {"test": class_folders(folder, _number if files.numbered else known)})
        if entry.trained_on is None and all((folder / part).is_dir() for part in PARTS.values()):
            splits = {split: class_folders(folder / part, known) for split, part in PARTS.items()}
            return LocatedDataset("imagenet", folder, splits, _names(folder, folder.parent))
    return None


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    if dataset.imagenet is None:
        return None
    below = "{train,val}/WNID/" if entry.trained_on is None else "LABEL/" if dataset.imagenet.numbered else "WNID/"
    return f"{dataset.imagenet.folders[0]}/{below}"


def _number(folder: str) -> int | None:
    return int(folder) if folder.isdecimal() and int(folder) < len(wordnet_ids()) else None


def _names(*folders: Path) -> tuple[str, ...] | None:
    """The names of classnames.txt in the first folder that has it."""
    path = next((folder / NAMES for folder in folders if (folder / NAMES).is_file()), None)
    if path is None:
        return None
    pairs = [line.strip().partition(" ") for line in read_text(path).splitlines() if line.strip()]
    if tuple(identifier for identifier, _, _ in pairs) != wordnet_ids():
        raise DataError(f"{path}: expected the {len(wordnet_ids())} WordNet ids of ImageNet in order; restore or remove this file")
    return tuple(" ".join(name.split()) for _, _, name in pairs)
