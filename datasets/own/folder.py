"""Any image folder of the user's own as a task: ``task=folder:PATH`` with ``PATH/{train,val,test}/CLASS/IMAGE`` or ``PATH/labels.csv``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from petlbench.data.images import SUFFIXES, is_passed_over
from petlbench.data.task import SPLITS, TaskSpec, register_task_family
from petlbench.errors import DataError

from ._image import Image, identity_of, shown
from ._names import in_order
from ._user_task import path_of, user_task
from .csv import csv_task

NEEDS = "folder:PATH needs PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE"


def folder_task(location: str) -> TaskSpec:
    """Return a task over a folder: classes are the folders below train, which every split must share, with all images below each.

    What else lies there is left out with a warning; hidden files are passed over. DataError names what is missing.
    """
    root = path_of(location)
    if (root / "labels.csv").exists():
        return csv_task(str(root / "labels.csv"), name=f"folder:{location}")
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DataError(f"{root / split} is not a folder; {NEEDS}")
    classes = in_order(_class_folders(root / "train"))
    if not classes:
        raise DataError(f"{root / 'train'} has no folder of a class; {NEEDS}")
    images: dict[str, list[Image]] = {}
    left_out: list[str] = []
    for split in SPLITS:
        if (root / split).is_dir():
            images[split] = _read_split(root, split, classes, left_out)
    left_out += _other_folders(root, classes)
    return user_task(f"folder:{location}", root, images, root, left_out=left_out)


def _read_split(root: Path, split: str, classes: list[str], left_out: list[str]) -> list[Image]:
    """List the images of a split, class by class; add to ``left_out`` what is none."""
    folder = root / split
    if unknown := sorted(set(_class_folders(folder)) - set(classes)):
        raise DataError(f"{folder} has classes that train lacks: {', '.join(map(shown, unknown[:5]))}")
    images: list[Image] = []
    others: Counter[str] = Counter()
    links = 0
    for name in classes:
        found: dict[object, Image] = {}
        for path in _files_below(folder / name, others) if (folder / name).is_dir() else ():
            identity = identity_of(path)
            links += identity in found
            found.setdefault(identity, Image(path.relative_to(root).as_posix(), name, identity, str(path)))
        if not found:
            raise DataError(
                f"class folder {shown(folder / name)} has no images ({', '.join(sorted(SUFFIXES))}); fill it or remove the class everywhere"
            )
        images += found.values()
    apart = [entry.name for entry in _entries(folder) if not entry.is_dir()]
    unlabelled = [name for name in apart if _suffix(name) in SUFFIXES]
    others.update(_suffix(name) for name in apart if _suffix(name) not in SUFFIXES)
    if others:
        kinds = ", ".join(f"{shown(suffix) or 'without suffix'} {count:,}" for suffix, count in others.most_common())
        left_out.append(f"{others.total():,} files of {folder} are not images and were left out: {kinds}")
    if unlabelled:
        left_out.append(
            f"{len(unlabelled):,} images of {folder} lie in no folder of a class and were left out: {shown(unlabelled[0])} for one"
        )
    hidden = [entry for entry in os.scandir(folder) if is_passed_over(entry.name) and entry.is_dir()]
    if count := sum(1 for entry in hidden for _ in _files_below(Path(entry.path), Counter())):
        left_out.append(f"{count:,} images of {folder} lie in hidden folders and were left out: {shown(hidden[0].name)} for one")
    if links:
        left_out.append(f"{links:,} files of {folder} are links to images of the same class and were left out")
    return images


def _other_folders(root: Path, classes: list[str]) -> Iterator[str]:
    """Say which images lie beside the splits: in folders that look like splits too, such as ``validation``, or in none."""
    entries = _entries(root)
    if loose := [entry.name for entry in entries if _suffix(entry.name) in SUFFIXES and not entry.is_dir()]:
        yield f"{len(loose):,} images of {root} lie in no folder of a split and were left out: {shown(loose[0])} for one"
    for entry in entries:
        if entry.name in SPLITS or not entry.is_dir():
            continue
        if any(inside.name in classes if inside.is_dir() else _suffix(inside.name) in SUFFIXES for inside in _entries(entry.path)):
            count = sum(1 for _ in _files_below(Path(entry.path), Counter()))
            yield f"{count:,} images of {shown(entry.path)} were left out; the folders that are read are {', '.join(SPLITS)}"


def _files_below(folder: Path, others: Counter[str], above: tuple[object, ...] = ()) -> Iterator[Path]:
    """Yield the image files below a folder, in the order of their names, and count other files by suffix. DataError for a link that leads in a circle."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(f"{shown(folder)}: a link to a folder that it lies in; remove it")
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files_below(Path(entry.path), others, (*above, here))
        elif _suffix(entry.name) in SUFFIXES:
            yield Path(entry.path)
        else:
            others[_suffix(entry.name)] += 1


def _class_folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, sorted by name, without what is passed over everywhere. DataError when it cannot be read, or for a broken link."""
    try:
        entries = sorted((entry for entry in os.scandir(folder) if not is_passed_over(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be read ({error.strerror}); check that you may read it") from None
    for entry in entries:
        if entry.is_symlink() and not Path(entry.path).is_dir():
            identity_of(Path(entry.path))  # says what is wrong with it
    return entries


def _suffix(name: str) -> str:
    before, dot, after = name.rpartition(".")
    return dot + after.lower() if before else ""


register_task_family("folder", folder_task, __name__)
