"""Any image folder of the user's own as a task: ``task=folder:PATH`` with ``PATH/{train,val,test}/CLASS/*.jpg`` or ``PATH/labels.csv``."""

from __future__ import annotations

from pathlib import Path

from petlbench.data.images import SUFFIXES
from petlbench.data.task import SPLITS, TaskSpec, register_task_family
from petlbench.errors import DataError

from ._user_task import Pairs, user_task
from .csv import csv_task


def folder_task(location: str) -> TaskSpec:
    """Return a task over a folder: classes are the sorted folder names below train, which every split must share. DataError names what is missing."""
    root = Path(location).expanduser()
    if (root / "labels.csv").exists():
        return csv_task(str(root / "labels.csv"), name=f"folder:{location}")
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DataError(f"{root / split} is not a folder; folder:PATH needs PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE")
    classes = sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = {split: _list(root, split, classes) for split in SPLITS if (root / split).is_dir()}
    return user_task(f"folder:{location}", root, classes, files)


def _list(root: Path, split: str, classes: list[str]) -> Pairs:
    folder = root / split
    pairs = []
    for label, name in enumerate(classes):
        images = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
        if not images:
            raise DataError(
                f"class folder {folder / name} has no images ({', '.join(sorted(SUFFIXES))}); fill it or remove the class everywhere"
            )
        pairs += [(path.relative_to(root).as_posix(), label) for path in images]
    unknown = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")} - set(classes)
    if unknown:
        raise DataError(f"{folder} has classes that train lacks: {', '.join(sorted(unknown)[:5])}")
    return pairs


register_task_family("folder", folder_task, __name__)
