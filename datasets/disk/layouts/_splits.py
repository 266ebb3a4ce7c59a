"""Rules that split a dataset as its authors distribute it, for when a suite's own lists of images are not on the disk.

The facts name a rule for each dataset and suite. CoOp's code makes its splits by some of these rules, once, and its authors share the resulting files:
results on splits made here are close to those, but not on the same images, and say so. VTAB's 1000 images are a prefix of an order that only TFDS has,
so they are drawn anew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from petlbench.data.listing import Files, Listing
from petlbench.data.task import GENERATED, RESAMPLED
from petlbench.errors import DataError

from ..facts import Dataset, SplitRule, SuiteEntry, suite_data
from . import LocatedDataset
from ._lists import read_json

SEED = 1
LISTED = "vpt-list"
THOUSAND = (800, 200)  # images that train and validate
VPT_LISTS = (
    "vtab_trainval_splits.json",
    "vtab-1k/vtab_trainval_splits.json",
)  # file names of VTAB's drawn images, of the tasks with a ``vpt_list``
_NAMES = TypeAdapter(dict[str, dict[str, list[str]]])
Splits = dict[str, Listing]
Parts = Mapping[str, Listing]  # {all}, {trainval, test} or {train, val, test}
Made = tuple[Splits, str]  # splits, and how they came about


@dataclass(frozen=True)
class Original:
    """A dataset as its authors distribute it."""

    root: Path
    parts: Parts


def for_suite(root: Path, layout: str, original: Original, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Split a dataset for a suite; None when there is no rule or the parts do not suffice. ``root``: the data root, where VPT's lists may lie."""
    for name, part in original.parts.items():
        if len(part) == 0:
            raise DataError(f"{original.root}: no images for '{name}'; unpack the dataset again")
    file = next((root / name for name in VPT_LISTS if (root / name).is_file()), None)
    if entry.vpt_list is not None and file is not None:
        return LocatedDataset(layout, original.root, _listed(file, entry.vpt_list, original.parts), split=LISTED)
    rule = entry.split or suite_data(entry.suite).split
    made = None if rule is None else _RULES[rule](original.parts, entry)
    return None if made is None else LocatedDataset(layout, original.root, made[0], split=made[1])


def _three_way(parts: Parts, entry: SuiteEntry) -> Made | None:
    """CoOp: of the images of each class half train, a fifth validates, the rest tests."""
    train, val, test = _cut_classes(_joined(parts), lambda n: (round(0.5 * n), round(0.2 * n)))
    return {"train": train, "val": val, "test": test}, GENERATED


def _four_fifths(parts: Parts, entry: SuiteEntry) -> Made | None:
    """CoOp: of the training images of each class a fifth validates; the test images are the official ones."""
    if "trainval" not in parts:
        return None
    val, train = _cut_classes(parts["trainval"], lambda n: (round(0.2 * n),))
    return {"train": train, "val": val, "test": parts["test"]}, GENERATED


def _seven_tenths(parts: Parts, entry: SuiteEntry) -> Made | None:
    """BlackVIP's SVHN: of the training images of each class three tenths validate."""
    train, val = _cut_classes(parts["trainval"], lambda n: (round(0.7 * n),))
    return {"train": train, "val": val, "test": parts["test"]}, GENERATED


def _official(parts: Parts, entry: SuiteEntry) -> Made | None:
    """The authors' own splits."""
    return {("train" if name == "trainval" else name): part for name, part in parts.items()}, "published"


def _thousand(parts: Parts, entry: SuiteEntry) -> Made | None:
    """VTAB: 800 and 200 images, evenly from what trains and what validates; ``test_share`` of all images tests where no part does."""
    if "all" in parts:
        if entry.test_share is None:
            return None
        order = _permutation(len(parts["all"]))
        n_test = round(entry.test_share * len(order))
        parts = {"test": parts["all"].take(np.sort(order[:n_test])), "trainval": parts["all"].take(order[n_test:])}
    if "trainval" in parts:
        pool = parts["trainval"].take(_permutation(len(parts["trainval"]))[: sum(THOUSAND)])
        n_train = round(len(pool) * THOUSAND[0] / sum(THOUSAND))
        train, val = pool.take(np.arange(n_train)), pool.take(np.arange(n_train, len(pool)))
    else:
        train, val = (
            parts[part].take(_permutation(len(parts[part]))[:size]) for part, size in zip(("train", "val"), THOUSAND, strict=True)
        )
    return {"train": train, "val": val, "test": parts["test"]}, RESAMPLED


def _thousand_of_thirty_per_class(parts: Parts, entry: SuiteEntry) -> Made | None:
    """VTAB's Caltech101: 800 and 200 of 30 images per class, the other images test."""
    trainval, test = _cut_classes(parts["all"], lambda n: (min(30, n // 2),))
    return _thousand({"trainval": trainval, "test": test}, entry)


_RULES: dict[SplitRule, Callable[[Parts, SuiteEntry], Made | None]] = {
    "official": _official,
    "three_way": _three_way,
    "four_fifths": _four_fifths,
    "seven_tenths": _seven_tenths,
    "thousand": _thousand,
    "thousand_of_thirty_per_class": _thousand_of_thirty_per_class,
}


def _listed(file: Path, key: str, parts: Parts) -> Splits:
    """Return VTAB's own 1000 images, by their file names."""
    lists = read_json(file, _NAMES)
    chosen = lists.get(key) or lists.get(f"vtab-{key}")
    if chosen is None or not {"train", "val"} <= set(chosen):
        raise DataError(f"{file}: has no lists for {key}; fetch it again or remove it")
    splits: Splits = {"test": parts["test"]}
    for split in ("train", "val"):
        pool = parts.get("trainval", parts.get(split))
        assert pool is not None, "either part is there"
        position = {Path(name).name: index for index, name in enumerate(pool.names)}
        if strangers := [name for name in chosen[split] if Path(name).name not in position]:
            raise DataError(f"{file}: lists {strangers[0]} for {key}, which is not among the {split} images; unpack the dataset again")
        splits[split] = pool.take(np.asarray([position[Path(name).name] for name in chosen[split]], dtype=np.int64))
    return splits


def halves(part: Listing) -> tuple[Listing, Listing]:
    """Return two random halves, each in the order of the whole."""
    order, half = _permutation(len(part)), len(part) // 2
    return part.take(np.sort(order[:half])), part.take(np.sort(order[half:]))


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


def _joined(parts: Parts) -> Listing:
    """Return all images of a dataset of files."""
    if "all" in parts:
        return parts["all"]
    names: list[str] = []
    for part in parts.values():
        assert isinstance(part, Files)
        names += part.names
    root = next(part.root for part in parts.values() if isinstance(part, Files))
    return Files(root, names, np.concatenate([part.labels for part in parts.values()]))
