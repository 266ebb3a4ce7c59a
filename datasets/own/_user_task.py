"""Build a task over the user's own image files: classes, held-out splits, revision."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from petlbench.data.digests import digests_of
from petlbench.data.listing import Files
from petlbench.data.task import SPLITS, TaskSpec, warn_once
from petlbench.errors import DataError

from ._image import Image, check_once
from ._names import check_names, has_control, in_order, read_names

Pairs = list[tuple[str, int]]  # path relative to the root, label
EVERY = 5  # of the images of a class, one is held out


def path_of(location: str) -> Path:
    """Return the path that the user named. DataError for one that no file system or record can hold."""
    if has_control(location):
        raise DataError(f"the path {location!a} has control characters or bytes that are not UTF-8; rename it, or make a link to it")
    try:
        path = Path(location).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the path {location} cannot be looked up ({reason}); correct it") from None
    return path


def hold_out(images: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """Return the remaining images, and every fifth image of each class."""
    seen: Counter[str] = Counter()
    remaining: list[Image] = []
    held_out: list[Image] = []
    for image in images:
        seen[image.label] += 1
        (remaining if seen[image.label] % EVERY else held_out).append(image)
    return remaining, held_out


def user_task(
    name: str, root: Path, images: dict[str, list[Image]], origin: Path, shown: str = "{}", left_out: Sequence[str] = ()
) -> TaskSpec:
    """Return a task over the images of train, test and perhaps val; without val every fifth training image of a class validates.

    Labels are the classes, in the order of ``in_order``. ``ROOT/names.txt`` gives them names for prompts, one per line; else the names are the
    labels as ``shown``. ``origin``: the table, list or folder, for messages. ``left_out``: what to warn of. DataError names what is wrong.
    """
    by_line = sorted(chain.from_iterable(images.values()), key=lambda image: image.line)
    check_once(by_line)
    for split in ("train", "test"):
        if not images.get(split):
            raise DataError(f"{origin} has no {split} images")
    first: dict[str, Image] = {}
    for image in by_line:
        first.setdefault(image.label, image)
    check_names((label, image.where) for label, image in first.items())
    trained = {image.label for image in images["train"]}
    if untrained := next((image for label, image in first.items() if label not in trained), None):
        raise DataError(f"{untrained.where}: class '{untrained.label}' has no training image; add one or remove the class")
    labels = in_order(first)
    if len(labels) < 2:
        raise DataError(f"{origin} has 1 class, at least 2 are needed")
    if "val" not in images:
        remaining, held_out = hold_out(images["train"])
        if not held_out:
            raise DataError(f"{origin} has no val split, and no class has the {EVERY} training images of which one could validate")
        images = {"train": remaining, "val": held_out, "test": images["test"]}
    for text in left_out:
        warn_once(text)
    label_of = {label: index for index, label in enumerate(labels)}
    files: dict[str, Pairs] = {split: [(image.path, label_of[image.label]) for image in listed] for split, listed in images.items()}
    classes = [shown.format(label.strip()) for label in labels]
    listed_names = root / "names.txt"
    names = read_names(listed_names, classes) if listed_names.exists() else tuple(classes)
    return TaskSpec(
        name=name,
        class_names=names,
        templates=("a photo of a {}.",),
        revision=_revision(root, names, files),
        source=lambda split: Files(root, [path for path, _ in files[split]], [label for _, label in files[split]]),
        sizes={split: len(pairs) for split, pairs in files.items()},
        description=f"images of {root}",
        left_out=tuple(left_out),
    )


def _revision(root: Path, names: Sequence[str], files: dict[str, Pairs]) -> str:
    """Return a hash of the class names and of each split's files in their order: path, label and content. An unchanged file is not read again."""
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for split in SPLITS:
        digests = digests_of([f"{root}/{path}" for path, _ in files[split]])
        for (path, label), content in zip(files[split], digests, strict=True):
            digest.update(json.dumps([split, path, label, content]).encode())
    return digest.hexdigest()[:16]
