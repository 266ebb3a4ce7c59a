"""Small images of the user's own, as folders and as a table of the same files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from petlbench.data.load import find_task
from petlbench.data.task import TaskSpec
from petlbench.errors import DataError

PER_CLASS = {"train": 5, "test": 1}


def paint(path: Path) -> Path:
    """Write an image; all of them differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(str(path).encode(), "little")
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    picture.save(path, "JPEG" if path.suffix.lower() in (".jfif", ".jpe") else None)
    return path


def folders(root: Path, names: Sequence[str]) -> Path:
    """``ROOT/{train,test}/CLASS/N.png``."""
    for split, count in PER_CLASS.items():
        for name in names:
            for index in range(count):
                paint(root / split / name / f"{index}.png")
    return root


def rows(root: Path, names: Sequence[str]) -> list[list[str]]:
    """Rows FILE, LABEL, SPLIT of these folders."""
    return [[f"{split}/{name}/{index}.png", name, split] for split, count in PER_CLASS.items() for name in names for index in range(count)]


def table(root: Path, lines: Sequence[Sequence[str]], header: Sequence[str] = ("file", "label", "split"), between: str = ",") -> Path:
    """``ROOT/table.csv``."""
    (root / "table.csv").write_text("\n".join(between.join(line) for line in [header, *lines]) + "\n", encoding="utf-8")
    return root / "table.csv"


def opened(task: str) -> TaskSpec:
    spec = find_task(task)
    assert isinstance(spec, TaskSpec)
    return spec


def refusal(task: str) -> str:
    """Return the error that opening a task gives, which has to be one line."""
    try:
        find_task(task)
    except DataError as error:
        assert "\n" not in str(error) and str(error).isprintable()
        return str(error)
    raise AssertionError(f"{task} was not refused")
