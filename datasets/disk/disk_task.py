"""Build tasks over datasets on a disk from the facts about them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petlbench.data.listing import Listing
from petlbench.data.task import NINETY_TEN, SPLITS, DiskTask, Location, TaskSpec, warn_once
from petlbench.errors import DataError

from . import facts
from .facts import Dataset, SuiteEntry
from .layouts import LocatedDataset, layout

_FORMAT = 1  # version of the data that a revision is a hash of


def disk_task(dataset: Dataset, entry: SuiteEntry) -> DiskTask:
    """Return the description of a suite's task, with functions that find and open its images."""
    sizes = {split: getattr(entry, split) for split in ("train", "val", "trainval", "test")}
    return DiskTask(
        name=_name(dataset, entry),
        classes=dataset.class_count(entry),
        sizes={split: size for split, size in sizes.items() if size is not None},
        template=entry.template,
        expected=lambda: _expected(dataset, entry),
        downloads=facts.downloads(dataset.name),
        is_lossless=dataset.lossless,
        source=_source(dataset, entry),
        locate=lambda root: _located(root, dataset, entry),
        open=lambda root: open_task(root, dataset, entry),
    )


def open_task(root: Path, dataset: Dataset, entry: SuiteEntry) -> TaskSpec | None:
    """Return the task over the images below a data root; None when they are not there. Warn of other sizes than registered; DataError for empty splits
    and wrong labels."""
    found = find(root, dataset, entry)
    if found is None:
        return None
    splits, how = dict(found.splits), found.split
    names = _class_names(found, dataset, entry)
    scored = _scored(entry)
    _check(_name(dataset, entry), found.root, splits, names, scored)
    _compare(_name(dataset, entry), found.root, splits, names, dataset, entry)
    val_in_train = None
    if "val" not in splits:
        val_in_train, how = ninety_ten(splits["train"]), NINETY_TEN
        splits["val"] = splits["train"].take(val_in_train)
    return TaskSpec(
        name=_name(dataset, entry),
        class_names=tuple(name.lower() for name in names) if entry.lowercase else names,
        templates=() if entry.template is None else (entry.template,),
        revision=_revision(splits),
        source=splits.__getitem__,
        sizes={split: len(splits[split]) for split in SPLITS},
        description=dataset.about,
        layout=found.layout,
        split=how,
        val_in_train=val_in_train,
        scored=scored,
    )


def find(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Return the dataset in the first layout that is there. A test set gets the training images of the dataset that it is trained on."""
    readers = (layout(name) for name in layouts_of(dataset, entry))
    found = next((found for reader in readers if (found := reader.read(root, dataset, entry)) is not None), None)
    if found is None or entry.trained_on is None:
        return found
    source = facts.datasets()[entry.trained_on]
    trained = find(root, source, source.suites[entry.suite])
    return None if trained is None else replace(found, splits={**trained.splits, "test": found.splits["test"]})


def layouts_of(dataset: Dataset, entry: SuiteEntry) -> tuple[str, ...]:
    """Return the names of a dataset's layouts that serve the entry's suite, in the order in which they are tried."""
    of_suite = facts.suite_data(entry.suite).layouts
    return tuple(name for name in dataset.layouts if of_suite is None or name in of_suite)


def ninety_ten(train: Listing) -> NDArray[np.int64]:
    """Return the positions in train, ascending, of the images that validate when a dataset has none for it.

    Of each class, sorted by name and shuffled by ``random.Random(0)``, the first tenth, rounded, and at least one where there are two.
    """
    chosen: list[int] = []
    for label in np.unique(train.labels):
        members = sorted(np.flatnonzero(train.labels == label).tolist(), key=lambda index: train.names[index])
        random.Random(0).shuffle(members)
        chosen += members[: max(1, round(0.1 * len(members)))] if len(members) > 1 else []
    return np.asarray(sorted(chosen), dtype=np.int64)


def _located(root: Path, dataset: Dataset, entry: SuiteEntry) -> Location | None:
    """See DiskTask. What is found would open, too, unless the content of a file is broken."""
    found = find(root, dataset, entry)
    if found is None:
        return None
    _check(_name(dataset, entry), found.root, found.splits, _class_names(found, dataset, entry), _scored(entry))
    for listing in found.splits.values():
        listing.check_files()
    return Location(found.layout, found.root)


def _scored(entry: SuiteEntry) -> tuple[int, ...] | None:
    return None if entry.scored is None else facts.subset(entry.scored)


def _expected(dataset: Dataset, entry: SuiteEntry) -> tuple[str, ...]:
    texts = (layout(name).expected(dataset, entry) for name in layouts_of(dataset, entry))
    beside = "" if entry.trained_on is None else f" beside {entry.trained_on}, which it trains on"
    return tuple(f"{text}{beside}" for text in texts if text is not None)


def _source(dataset: Dataset, entry: SuiteEntry) -> str:
    addresses = ", ".join(dataset.urls) or "its authors"
    terms = f" ({dataset.terms})" if dataset.terms else ""
    copies = f"; copies that nobody has checked: {', '.join(dataset.mirrors)}" if dataset.mirrors else ""
    beside = f"; and {entry.trained_on} from {', '.join(facts.datasets()[entry.trained_on].urls)}" if entry.trained_on else ""
    return addresses + terms + copies + beside


def _name(dataset: Dataset, entry: SuiteEntry) -> str:
    return f"{entry.suite}/{dataset.name}"


def _class_names(found: LocatedDataset, dataset: Dataset, entry: SuiteEntry) -> tuple[str, ...]:
    if found.class_names is not None:
        return found.class_names
    if entry.names is not None:
        return facts.class_names(entry.names).names
    return tuple(f"class {label}" for label in range(dataset.class_count(entry)))


def _check(task: str, root: Path, splits: Mapping[str, Listing], names: tuple[str, ...], scored: tuple[int, ...] | None) -> None:
    """Raise DataError for an empty split, a label without a class, and an image in two splits or with two labels."""
    for split, listing in splits.items():
        if len(listing) == 0:
            raise DataError(f"{task}: the {split} split in {root} is empty")
        allowed = np.asarray(scored if split == "test" and scored is not None else range(len(names)))
        wrong = np.flatnonzero(~np.isin(listing.labels, allowed))
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"{task}: {listing.location(first)} has label {listing.labels[first]}, which is none of its {len(allowed)} classes"
            )
    _check_apart(splits)


def _check_apart(splits: Mapping[str, Listing]) -> None:
    """Raise DataError for images in two splits, since accuracy would be too high, and for an image with two labels."""
    label_of: dict[str, int] = {}
    split_of: dict[str, str] = {}
    shared = [
        f"{listing.location(index)} ({split}) and {identity} ({before})"
        for split, listing in splits.items()
        for index, identity in enumerate(listing.identities())
        if (before := split_of.setdefault(identity, split)) != split
    ]
    if shared:
        raise DataError(f"{len(shared):,} images are in two splits: {shared[0]}; correct the lists, accuracy would be too high")
    for listing in splits.values():
        for identity, label in zip(listing.identities(), listing.labels.tolist(), strict=False):
            if label_of.setdefault(identity, label) != label:
                raise DataError(f"{identity} is listed with the labels {label_of[identity]} and {label}; correct the lists")


def _compare(task: str, root: Path, splits: dict[str, Listing], names: tuple[str, ...], dataset: Dataset, entry: SuiteEntry) -> None:
    """Warn of other sizes than registered and of classes without training images."""
    counts = {split: len(listing) for split, listing in splits.items()}
    counts["trainval"] = counts["train"] + counts.get("val", 0)
    other = [
        f"{count:,} {split} images of {size:,}" for split, count in counts.items() if (size := getattr(entry, split)) not in (None, count)
    ]
    if entry.scored is None and len(names) != dataset.class_count(entry):
        other.append(f"{len(names):,} classes of {dataset.class_count(entry):,}")
    if other:
        warn_once(f"{task} in {root} has {', '.join(other)}; petlbench data verify {task} says more")
    untrained = sorted(set(range(len(names))) - set(splits["train"].labels.tolist()))
    if untrained and not facts.suite_data(entry.suite).may_lack_classes:
        warn_once(f"{task} in {root}: {len(untrained)} of {len(names)} classes have no training image, '{names[untrained[0]]}' for one")


def _revision(splits: dict[str, Listing]) -> str:
    """Return a hash of the labels, the order and the stored sizes of the images, which does not depend on the layout or folder."""
    digest = hashlib.sha256(str(_FORMAT).encode())
    for split in SPLITS:
        digest.update(np.ascontiguousarray(splits[split].labels, dtype="<i8").tobytes() + splits[split].fingerprint().encode())
    return digest.hexdigest()[:16]
