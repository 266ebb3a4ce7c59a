"""Read lists of images: lines, JSON, folders named after classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from petlbench.data.images import SUFFIXES
from petlbench.data.listing import Files
from petlbench.errors import DataError

T = TypeVar("T")
K = TypeVar("K", str, int)


def first_folder(root: Path, names: Iterable[str], holding: str = "") -> Path | None:
    """Return the first of several folders below a root that exists and has the entry ``holding``."""
    return next((root / name for name in names if (root / name / holding).exists() and (root / name).is_dir()), None)


def read_text(path: Path) -> str:
    """Read a text file. DataError when that fails."""
    if path.exists() and not path.is_file():  # a pipe would block
        raise DataError(f"{path}: is no plain file; this file belongs to the layout, restore it")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); this file belongs to the layout, restore it") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; fetch it again") from None


def read_json(path: Path, structure: TypeAdapter[T]) -> T:
    """Read a JSON file of a known structure. DataError names the entry that does not fit."""
    try:
        return structure.validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in first["loc"])
        raise DataError(f"{path}: not the expected split file{f', at {where}' if where else ''}: {first['msg']}; fetch it again") from None


def numbered_lines(text: str, origin: str) -> tuple[list[str], list[int]]:
    """Parse lines ``NAME LABEL``, split at the last blank since names may have some, to names and labels. DataError names a line that does not fit."""
    names, labels = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, label = line.rstrip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdecimal():
            raise DataError(f"{origin}, line {number}: expected a file name, a blank and a label, got '{line[:80]}'")
        names.append(name)
        labels.append(int(label))
    return names, labels


def class_folders(folder: Path, label_of: Callable[[str], int | None]) -> Files:
    """List the images below ``folder/CLASS/`` by label, then file name. DataError for a folder without a class (``label_of`` is None)."""
    labelled = []
    for entry in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        label = label_of(entry.name)
        if label is None:
            raise DataError(f"{entry}: this folder's name is no class of the dataset; move it elsewhere")
        labelled.append((label, entry.name))
    names: list[str] = []
    labels: list[int] = []
    for label, name in sorted(labelled):
        found = _images_in(folder / name, (folder / name).stat().st_mtime_ns)
        names += [f"{name}/{file}" for file in found]
        labels += [label] * len(found)
    return Files(folder, names, np.asarray(labels, dtype=np.int64))


@lru_cache(maxsize=4096)  # ImageNet has 2,000 such folders of 1.3 million files, which several tasks share
def _images_in(folder: Path, modified_ns: int) -> tuple[str, ...]:
    """Return the names of a folder's images, sorted. ``modified_ns`` changes whenever a file is added to or removed from it."""
    return tuple(sorted(file.name for file in os.scandir(folder) if f".{file.name.rpartition('.')[2].lower()}" in SUFFIXES))


def class_names_below(folder: Path, expected: int, leaving_out: Sequence[str] = ()) -> list[str]:
    """Return the names of the class folders, sorted. DataError when their number is not the expected one: labels would shift."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "." and entry.name not in leaving_out)
    if len(names) != expected:
        raise DataError(f"{folder}: {expected} class folders expected, {len(names)} found; unpack the dataset again")
    return names


def position_in(names: Sequence[K]) -> Callable[[K], int | None]:
    """Return a function from a name to its position, or None when it is not among the names."""
    positions = {name: position for position, name in enumerate(names)}
    return positions.get
