"""Build a task over the user's own image files: held-out splits, class names, revision."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from petlbench.data.digests import digests_of
from petlbench.data.listing import Files
from petlbench.data.task import SPLITS, TaskSpec
from petlbench.errors import DataError

Pairs = list[tuple[str, int]]  # path relative to the root, label
EVERY = 5  # of the images of a class, one is held out


def hold_out(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return the remaining images, and every fifth image of each class."""
    seen: Counter[int] = Counter()
    remaining: Pairs = []
    held_out: Pairs = []
    for pair in pairs:
        seen[pair[1]] += 1
        (remaining if seen[pair[1]] % EVERY else held_out).append(pair)
    return remaining, held_out


def user_task(name: str, root: Path, classes: Sequence[str], files: dict[str, Pairs]) -> TaskSpec:
    """Return a task over the files of train, test and perhaps val; without val every fifth training image of a class validates.

    ``ROOT/names.txt`` gives the classes names for prompts, one per line; else ``classes`` are the names. DataError names what is wrong.
    """
    if len(classes) < 2:
        raise DataError(f"{root} has {len(classes)} class, at least 2 are needed")
    if "val" not in files:
        files = dict(zip(("train", "val"), hold_out(files["train"]), strict=True)) | {"test": files["test"]}
        if not files["val"]:
            raise DataError(f"{root} has no val split, and no class has the {EVERY} training images of which one could validate")
    names = _names(root / "names.txt", classes)
    return TaskSpec(
        name=name,
        class_names=names,
        templates=("a photo of a {}.",),
        revision=_revision(root, names, files),
        source=lambda split: Files(root, [path for path, _ in files[split]], [label for _, label in files[split]]),
        sizes={split: len(pairs) for split, pairs in files.items()},
        description=f"images of {root}",
    )


def _names(file: Path, classes: Sequence[str]) -> tuple[str, ...]:
    if not file.exists():
        return tuple(classes)
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != len(classes):
        raise DataError(
            f"{file} has {len(names)} names, and there are {len(classes)} classes; write one per line, in the order {', '.join(classes[:3])}, …"
        )
    return names


def _revision(root: Path, names: Sequence[str], files: dict[str, Pairs]) -> str:
    """Return a hash of the class names and of each split's files in their order: path, label and content. An unchanged file is not read again."""
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for split in SPLITS:
        digests = digests_of([f"{root}/{path}" for path, _ in files[split]])
        for (path, label), content in zip(files[split], digests, strict=True):
            digest.update(json.dumps([split, path, label, content]).encode())
    return digest.hexdigest()[:16]
