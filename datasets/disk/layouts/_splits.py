"""Splits that are made here, from a dataset as its authors distribute it, where a suite's own lists of images are not on the disk.

CoOp's code makes its splits by the rules below as well, once, and its authors share the resulting files: results on splits made here are close to
those, but not on the same images, and say so. VTAB's 1000 images are a prefix of an order that only TFDS has, so that they are drawn anew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from petlbench.data.listing import Files, Listing
from petlbench.data.task import GENERATED, RESAMPLED
from petlbench.errors import DataError

from .._facts import Dataset, SuiteEntry
from . import LocatedDataset
from ._lists import read_json

SEED = 1
LISTED = "vpt-list"
VTAB_DRAW = (800, 200)
VTAB_LISTS = ("vtab_trainval_splits.json", "vtab-1k/vtab_trainval_splits.json")  # VPT's: the file names of the drawn images of some tasks
_KEYS = {  # of the tasks there whose test images are known as well
    "cifar100": "cifar(num_classes=100)",
    "dtd": "dtd",
    "oxford_flowers": "oxford_flowers102",
    "oxford_pets": "oxford_iiit_pet",
    "clevr_count": 'clevr(task="count_all")',
    "clevr_dist": 'clevr(task="closest_object_distance")',
    "kitti_dist": 'kitti(task="closest_vehicle_distance")',
}
_NAMES = TypeAdapter(dict[str, dict[str, list[str]]])
Splits = dict[str, Listing]


@dataclass(frozen=True)
class Original:
    """A dataset as its authors distribute it."""

    root: Path
    parts: Mapping[str, Listing]  # {all}, {trainval, test} or {train, val, test}


def for_suite(root: Path, layout: str, original: Original, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """The splits that a suite makes of a dataset; None when the parts do not suffice. ``root``: the data root, where lists of VTAB's images may lie."""
    for name, part in original.parts.items():
        if len(part) == 0:
            raise DataError(f"{original.root}: no images for '{name}'; unpack the dataset again")
    file = next((root / name for name in VTAB_LISTS if (root / name).is_file()), None)
    if entry.suite == "vtab" and dataset.name in _KEYS and file is not None:
        return LocatedDataset(layout, original.root, _listed(file, _KEYS[dataset.name], original.parts), split=LISTED)
    rule = _RULES.get((entry.suite, dataset.name)) or _RULES.get((entry.suite, ""))
    made = None if rule is None else rule(original.parts)
    return None if made is None else LocatedDataset(layout, original.root, made[0], split=made[1])


def three_way(parts: Mapping[str, Listing]) -> tuple[Splits, str]:
    """CoOp: of the images of each class half train, a fifth validates, the rest tests."""
    pool = _joined(parts)
    train, val, test = _cut_classes(pool, lambda n: (round(0.5 * n), round(0.2 * n)))
    return {"train": train, "val": val, "test": test}, GENERATED


def four_fifths(parts: Mapping[str, Listing]) -> tuple[Splits, str] | None:
    """CoOp: of the training images of each class a fifth validates; the test images are the official ones."""
    if "trainval" not in parts:
        return None
    val, train = _cut_classes(parts["trainval"], lambda n: (round(0.2 * n),))
    return {"train": train, "val": val, "test": parts["test"]}, GENERATED


def seven_tenths(parts: Mapping[str, Listing]) -> tuple[Splits, str]:
    """BlackVIP's SVHN: of the training images of each class three tenths validate."""
    train, val = _cut_classes(parts["trainval"], lambda n: (round(0.7 * n),))
    return {"train": train, "val": val, "test": parts["test"]}, GENERATED


def official(parts: Mapping[str, Listing]) -> tuple[Splits, str]:
    """The authors' own parts."""
    return {("train" if name == "trainval" else name): part for name, part in parts.items()}, "published"


def vtab(parts: Mapping[str, Listing], test_share: float | None = None) -> tuple[Splits, str] | None:
    """VTAB: 800 and 200 images, evenly from what trains and what validates; ``test_share`` of the whole tests where no part does."""
    if "all" in parts:
        if test_share is None:
            return None
        order = _permutation(len(parts["all"]))
        n_test = round(test_share * len(order))
        parts = {"test": parts["all"].take(np.sort(order[:n_test])), "trainval": parts["all"].take(order[n_test:])}
    if "trainval" in parts:
        pool = parts["trainval"].take(_permutation(len(parts["trainval"]))[: sum(VTAB_DRAW)])
        n_train = round(len(pool) * VTAB_DRAW[0] / sum(VTAB_DRAW))
        train, val = pool.take(np.arange(n_train)), pool.take(np.arange(n_train, len(pool)))
    else:
        train, val = (
            parts[part].take(_permutation(len(parts[part]))[:size]) for part, size in zip(("train", "val"), VTAB_DRAW, strict=True)
        )
    return {"train": train, "val": val, "test": parts["test"]}, RESAMPLED


def vtab_caltech(parts: Mapping[str, Listing]) -> tuple[Splits, str] | None:
    """Caltech101 in VTAB: 30 images of each class train and validate, the others test."""
    trainval, test = _cut_classes(parts["all"], lambda n: (min(30, n // 2),))
    return vtab({"trainval": trainval, "test": test})


def _listed(file: Path, key: str, parts: Mapping[str, Listing]) -> Splits:
    """VTAB's own 1000 images, by their file names."""
    lists = read_json(file, _NAMES)
    chosen = lists.get(key) or lists.get(f"vtab-{key}")
    if chosen is None or not {"train", "val"} <= set(chosen):
        raise DataError(f"{file}: has no lists for {key}; fetch it again or remove it")
    splits: Splits = {"test": parts["test"]}
    for split in ("train", "val"):
        pool = parts.get("trainval", parts.get(split))
        assert pool is not None, "either part is there"
        place = {Path(name).name: index for index, name in enumerate(pool.names)}
        if strangers := [name for name in chosen[split] if Path(name).name not in place]:
            raise DataError(f"{file}: lists {strangers[0]} for {key}, which is not among the {split} images; unpack the dataset again")
        splits[split] = pool.take(np.asarray([place[Path(name).name] for name in chosen[split]], dtype=np.int64))
    return splits


def halves(part: Listing) -> tuple[Listing, Listing]:
    """Two random halves, each in the order of the whole."""
    order, half = _permutation(len(part)), len(part) // 2
    return part.take(np.sort(order[:half])), part.take(np.sort(order[half:]))


_COOP = ("blackvip16", "craft15", "pgn12")
_THREE_WAY = ("caltech101", "dtd", "eurosat", "food101", "oxford_flowers", "resisc45")
_FOUR_FIFTHS = ("oxford_pets", "stanford_cars", "sun397", "clevr_count")
_TEST_SHARE = {"eurosat": 0.2, "resisc45": 0.2, "sun397": 0.2, "dsprites_loc": 0.1, "dsprites_ori": 0.1}
_Rule = Callable[[Mapping[str, Listing]], tuple[Splits, str] | None]
_RULES: dict[tuple[str, str], _Rule] = {  # (suite, dataset), or (suite, "") for the others
    **{(suite, name): three_way for suite in _COOP for name in _THREE_WAY},
    **{(suite, name): four_fifths for suite in _COOP for name in _FOUR_FIFTHS},
    **{(suite, "fgvc_aircraft"): official for suite in _COOP},
    ("blackvip16", "svhn"): seven_tenths,
    ("pgn12", ""): official,
    ("fgvc", ""): official,
    ("vtab", "caltech101"): vtab_caltech,
    **{("vtab", name): partial(vtab, test_share=share) for name, share in _TEST_SHARE.items()},
    ("vtab", ""): vtab,
}


def _cut_classes(pool: Listing, sizes: Callable[[int], Sequence[int]]) -> list[Listing]:
    """Shuffle the images of each class and cut them into parts of the given sizes and a last one of what remains, class by class."""
    generator = random.Random(SEED)
    parts: list[list[int]] = []
    for label in np.unique(pool.labels):
        members = np.flatnonzero(pool.labels == label).tolist()
        generator.shuffle(members)
        ends = [0, *np.cumsum(sizes(len(members))).tolist(), len(members)]
        parts = parts or [[] for _ in ends[1:]]
        for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True):
            part.extend(members[start:end])
    return [pool.take(np.asarray(part, dtype=np.int64)) for part in parts]


def _permutation(n: int) -> NDArray[np.int64]:
    order = list(range(n))
    random.Random(SEED).shuffle(order)
    return np.asarray(order, dtype=np.int64)


def _joined(parts: Mapping[str, Listing]) -> Listing:
    """All images of a dataset of files."""
    if "all" in parts:
        return parts["all"]
    names: list[str] = []
    for part in parts.values():
        assert isinstance(part, Files)
        names += part.names
    root = next(part.root for part in parts.values() if isinstance(part, Files))
    return Files(root, names, np.concatenate([part.labels for part in parts.values()]))
