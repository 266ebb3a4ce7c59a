"""Read lists of images: lines, JSON, folders named after classes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from petlbench.data.images import SUFFIXES, is_passed_over
from petlbench.data.listing import Files
from petlbench.errors import DataError

T = TypeVar("T")
K = TypeVar("K", str, int)
LONGEST_LABEL = 9  # digits


def first_folder(root: Path, names: Iterable[str], holding: str = "") -> Path | None:
    """Return the first of several folders below a root that exists and has the entry ``holding``."""
    return next((root / name for name in names if (root / name / holding).exists() and (root / name).is_dir()), None)


def read_text(path: Path) -> str:
    """Read a text file. DataError when that fails."""
    if path.exists() and not path.is_file():  # a pipe would block
        raise DataError(f"{path}: is no plain file; this file belongs to the layout, restore it")
    try:
        return text_of(path)
    except UnicodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error}); fetch it again or save it as UTF-8") from None
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({error}); this file belongs to the layout, restore it") from None


def text_of(path: Path) -> str:
    """Return the content of a text file in UTF-8, with or without a mark of that at its start, whatever ends its lines. ValueError says what is wrong, as
    a UnicodeError when that is the text."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnicodeError(f"line {line} is not in UTF-8") from None
    if "\0" in text:
        raise UnicodeError(f"line {text[: text.index(chr(0))].count(chr(10)) + 1} has a NUL character and is not in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, structure: TypeAdapter[T]) -> T:
    """Read a JSON file of a known structure. DataError names the entry that does not fit, or that is there twice."""
    try:
        text = read_text(path)
        found = structure.validate_json(text)
        json.loads(text, object_pairs_hook=_without_repetition)
        return found
    except KeyError as error:
        raise DataError(f"{path}: has two entries for {error}; fetch it again") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in first["loc"])
        raise DataError(f"{path}: not the expected split file{f', at {where}' if where else ''}: {first['msg']}; fetch it again") from None


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """KeyError for a key that is there twice, of which a JSON reader would take the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return made


def numbered_lines(text: str, origin: str) -> tuple[list[str], list[int]]:
    """Parse lines ``NAME LABEL`` to names and labels. DataError names a line that does not fit."""
    lines = labelled_lines(text, origin)
    return [name for _, name, _ in lines], [label for _, _, label in lines]


def labelled_lines(text: str, origin: str) -> list[tuple[int, str, int]]:
    """Parse lines ``NAME LABEL``, split at the last blank since names may have some, to the line's number, name and label."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        name, _, label = line.rstrip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdecimal() or len(label) > LONGEST_LABEL:
            raise DataError(f"{origin}, line {number}: expected a file name, a blank and a label, got '{line[:80]}'")
        found.append((number, name.rstrip(), int(label)))
    return found


def class_folders(folder: Path, label_of: Callable[[str], int | None]) -> Files:
    """List the images below ``folder/CLASS/`` by label, then file name. DataError for a folder without a class (``label_of`` is None)."""
    labelled = []
    for entry in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_passed_over(entry.name)):
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
    return tuple(
        sorted(
            file.name
            for file in os.scandir(folder)
            if f".{file.name.rpartition('.')[2].lower()}" in SUFFIXES and not is_passed_over(file.name) and not file.is_dir()
        )
    )


def class_names_below(folder: Path, expected: int, leaving_out: Sequence[str] = ()) -> list[str]:
    """Return the names of the class folders, sorted. DataError when their number is not the expected one: labels would shift."""
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not is_passed_over(entry.name) and entry.name not in leaving_out
    )
    if len(names) != expected:
        raise DataError(f"{folder}: {expected} class folders expected, {len(names)} found; unpack the dataset again")
    return names


def position_in(names: Sequence[K]) -> Callable[[K], int | None]:
    """Return a function from a name to its position, or None when it is not among the names."""
    positions = {name: position for position, name in enumerate(names)}
    return positions.get
