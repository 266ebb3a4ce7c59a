"""NOAH's few-shot lists as a task: ``task=noah:FOLDER/annotations/train_meta.list.num_shot_16.seed_0``, validated and tested on the lists beside it."""

from __future__ import annotations

from pathlib import Path

from petlbench.data.task import TaskSpec, register_task_family
from petlbench.errors import DataError

from ..disk.layouts._lists import numbered_lines, read_text
from ._user_task import Pairs, user_task

LISTS = {"val": "val_meta.list", "test": "test_meta.list"}
IMAGES = ("images", ".", "jpg")  # below the dataset's folder


def noah_task(location: str) -> TaskSpec:
    """Return a task over lists of ``NAME LABEL``; the shots and the seed are those of the training list. DataError names what is missing.

    The lists have no class names: ``names.txt`` beside the images gives them.
    """
    train = Path(location).expanduser()
    files = {"train": _pairs(train)} | {split: _pairs(train.with_name(name)) for split, name in LISTS.items()}
    first = files["train"][0][0]
    root = next((train.parents[1] / name for name in IMAGES if (train.parents[1] / name / first).is_file()), None)
    if root is None:
        raise DataError(f"{train} lists {first}, which is in none of {', '.join(IMAGES)} below {train.parents[1]}; unpack the images there")
    classes = max(label for pairs in files.values() for _, label in pairs) + 1
    for split, pairs in files.items():
        if missing := next((name for name, _ in pairs if not (root / name).is_file()), None):
            raise DataError(f"{root / missing} is listed to {split} and is not there; restore it or correct the list")
    return user_task(f"noah:{location}", root, [f"class {label}" for label in range(classes)], files)


def _pairs(file: Path) -> Pairs:
    names, labels = numbered_lines(read_text(file), str(file))
    if not names:
        raise DataError(f"{file} lists no images")
    return list(zip(names, labels, strict=True))


register_task_family("noah", noah_task, __name__)
