"""NOAH's few-shot lists as a task: ``task=noah:FOLDER/annotations/train_meta.list.num_shot_16.seed_0``, validated and tested on the lists beside it."""

from __future__ import annotations

from pathlib import Path

from petlbench.data.task import TaskSpec, register_task_family
from petlbench.errors import DataError

from ..disk.layouts._lists import labelled_lines, read_text
from ._image import Image, identity_of, is_file
from ._user_task import path_of, user_task

LISTS = {"val": "val_meta.list", "test": "test_meta.list"}
IMAGES = ("images", ".", "jpg")  # below the dataset's folder


def noah_task(location: str) -> TaskSpec:
    """Return a task over lists of ``NAME LABEL``; the shots and the seed are those of the training list. DataError names what is missing.

    The lists have no class names: ``names.txt`` beside the images gives them.
    """
    train = path_of(location)
    lists = {"train": train} | {split: train.with_name(name) for split, name in LISTS.items()}
    lines = {split: _lines(file) for split, file in lists.items()}
    first = lines["train"][0][1]
    root = next((train.parents[1] / name for name in IMAGES if is_file(train.parents[1] / name / first)), None)
    if root is None:
        raise DataError(f"{train} lists {first}, which is in none of {', '.join(IMAGES)} below {train.parents[1]}; unpack the images there")
    for split, listed in lines.items():
        if missing := next((name for _, name, _ in listed if not is_file(root / name)), None):
            raise DataError(f"{root / missing} is listed to {split} and is not there; restore it or correct the list")
    images = {
        split: [
            Image(name, str(label), identity_of(root / name, f"{lists[split]}, line {number}"), str(lists[split]), number)
            for number, name, label in listed
        ]
        for split, listed in lines.items()
    }
    return user_task(f"noah:{location}", root, images, train, shown="class {}")


def _lines(file: Path) -> list[tuple[int, str, int]]:
    lines = labelled_lines(read_text(file), str(file))
    if not lines:
        raise DataError(f"{file} lists no images")
    return lines


register_task_family("noah", noah_task, __name__)
