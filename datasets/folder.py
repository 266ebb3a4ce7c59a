"""Any image folder of the user's own as a task: ``task=folder:PATH`` with ``PATH/{train,val,test}/CLASS/*.jpg``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petlbench.data.images import SUFFIXES, decode_file
from petlbench.data.task import SPLITS, ImageSource, TaskSpec, register_task_family
from petlbench.errors import DataError

VAL_EVERY = 5  # without a val folder every fifth training image of a class validates


class FileSource:
    """Images that are files, decoded when they are asked for."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        self.paths = paths
        self.labels = np.asarray(labels, dtype=np.int64)

    def decode(self, index: int) -> NDArray[np.uint8]:
        return decode_file(self.paths[index])


def folder_task(location: str) -> TaskSpec:
    """A task over a folder: classes are the sorted folder names below train, which every split must share. DataError names what is missing."""
    root = Path(location).expanduser()
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DataError(f"{root / split} is not a folder; folder:PATH needs PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE")
    classes = tuple(sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if len(classes) < 2:
        raise DataError(f"{root / 'train'} has {len(classes)} class folders, at least 2 are needed")
    files = {split: _list(root / split, classes) for split in SPLITS if (root / split).is_dir()}
    if "val" not in files:
        files["val"] = [pair for label in range(len(classes)) for pair in _of_class(files["train"], label)[VAL_EVERY - 1 :: VAL_EVERY]]
        if not files["val"]:
            raise DataError(f"{root} has no val folder, and no class has the {VAL_EVERY} training images of which one could validate")
        held_out = set(files["val"])
        files["train"] = [pair for pair in files["train"] if pair not in held_out]

    def source(split: str) -> ImageSource:
        return FileSource([path for path, _ in files[split]], [label for _, label in files[split]])

    return TaskSpec(
        name=f"folder:{location}",
        class_names=classes,
        templates=("a photo of a {}.",),
        revision=_revision(root, files),
        source=source,
        sizes={split: len(pairs) for split, pairs in files.items()},
        description=f"image folder {root}",
    )


def _list(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    pairs = []
    for label, name in enumerate(classes):
        images = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
        if not images:
            raise DataError(
                f"class folder {folder / name} has no images ({', '.join(sorted(SUFFIXES))}); fill it or remove the class everywhere"
            )
        pairs += [(path, label) for path in images]
    unknown = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")} - set(classes)
    if unknown:
        raise DataError(f"{folder} has classes that train lacks: {', '.join(sorted(unknown)[:5])}")
    return pairs


def _of_class(pairs: list[tuple[Path, int]], label: int) -> list[tuple[Path, int]]:
    return [pair for pair in pairs if pair[1] == label]


def _revision(root: Path, files: dict[str, list[tuple[Path, int]]]) -> str:
    """Changes when a file is added, removed, renamed or rewritten."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for path, label in files[split]:
            status = path.stat()
            digest.update(f"{split} {path.relative_to(root)} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


register_task_family("folder", folder_task, __name__)
