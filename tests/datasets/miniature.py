"""Datasets of a few images, written in the layouts that the readers know: the structure is the real one, the sizes are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VTAB_SIZES = {"train800": 8, "val200": 4, "test": 6}  # images of a split
PER_CLASS = {"train": 4, "val": 2, "test": 2}
CLASSES = ("red_thing", "green_thing", "blue_thing")


def picture(label: int, index: int, size: tuple[int, int] = (18, 14)) -> NDArray[np.uint8]:
    """A noisy image (H, W, 3) whose dominant colour is the class, all of them different; ``size`` is width, height."""
    noise = np.random.default_rng([label, index]).integers(0, 90, (size[1], size[0], 3))
    noise[..., label % 3] += 120
    return noise.astype(np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def vtab_task(root: Path, folder: str, sizes: Mapping[str, int] = VTAB_SIZES) -> Path:
    """``root/vtab-1k/FOLDER`` with its four lists. Labels are 0 and 1 in turn: every task has these."""
    task, start, lines = root / "vtab-1k" / folder, 0, {}
    for split, count in sizes.items():
        lines[split] = [f"images/{split}/{i:06d}.jpg {i % 2}" for i in range(count)]
        for i in range(count):
            save(task / f"images/{split}/{i:06d}.jpg", picture(i % 2, start + i))
        start += count
    lines["train800val200"] = [*lines["train800"], *lines["val200"]]
    for split, listed in lines.items():
        (task / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return task


def zipped(task: Path) -> Path:
    """The folder of a VTAB task as the archive FOLDER.zip instead."""
    archive = shutil.make_archive(str(task), "zip", task.parent, task.name)
    shutil.rmtree(task)
    return Path(archive)


def split_entries(classes: Sequence[str] = CLASSES, suffix: str = ".jpg") -> dict[str, list[tuple[str, int, str]]]:
    """Rows [relative path, label, class name] of a CoOp split file."""
    rows, start = {}, 0
    for split, count in PER_CLASS.items():
        numbers = range(start, start + count)
        rows[split] = [(f"{name}/image_{i:04d}{suffix}", label, name) for label, name in enumerate(classes) for i in numbers]
        start += count
    return rows


def write_images(folder: Path, rows: Iterable[tuple[str, int, str]]) -> None:
    """The images of some rows; the same row always gives the same file."""
    for name, label, _ in rows:
        save(folder / name, picture(label, sum(name.encode())))


def coop(folder: Path, images: str, split_file: str, entries: Mapping[str, list[tuple[str, int, str]]] | None = None) -> Path:
    """A dataset in CoOp's layout: the images below ``folder/images`` and the split file in ``folder``."""
    rows = split_entries() if entries is None else dict(entries)
    for of_split in rows.values():
        write_images(folder / images, of_split)
    (folder / split_file).write_text(json.dumps(rows))
    return folder


def vpt_fgvc(folder: Path, images: str, ids: Sequence[int] = (3, 7, 1), splits: Sequence[str] = ("train", "val", "test")) -> Path:
    """A dataset with VPT's JSON files, whose class ids have gaps."""
    rows = split_entries()
    for split in splits:
        write_images(folder / images, rows[split])
        (folder / f"{split}.json").write_text(json.dumps({name: ids[label] for name, label, _ in rows[split]}))
    return folder


def image_folders(folder: Path, names: Sequence[str], per_class: int = 3, first: int = 0) -> Path:
    """``folder/NAME/*.jpg``, the label being the position of the name."""
    for label, name in enumerate(names):
        for i in range(first, first + per_class):
            save(folder / name / f"img_{i:03d}.JPEG", picture(label, i))
    return folder
