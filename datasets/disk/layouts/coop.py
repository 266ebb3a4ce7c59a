"""Layout ``coop``: CoOp's folders with ``split_*.json``, which BlackVIP, CraFT and PGN use as well.

A split file has the keys train, val and test with rows [image path, label, class name]; rows keep their order, which few-shot draws depend on.
Image folders differ between the four (Flowers: ``jpg/`` in CoOp, ``images/`` in PGN): the first that has the first listed image is taken.
Aircraft has lists of its own. BlackVIP's SVHN has no test rows: they are all of ``test/``.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from petlbench.data.listing import Files
from petlbench.errors import DataError

from ..facts import CoopFiles, Dataset, SuiteEntry
from . import LocatedDataset
from ._lists import class_folders, first_folder, position_in, read_json, read_text

Rows = list[tuple[str, int, str]]
_SPLIT_FILE = TypeAdapter(dict[str, Rows])
AIRCRAFT_LISTS = {split: f"images_variant_{split}.txt" for split in ("train", "val", "test")}


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read a dataset with a split file, or Aircraft with its lists."""
    files = dataset.coop
    if files is None:
        return None
    if not files.splits:
        folder = first_folder(root, files.folders, "variants.txt")
        return None if folder is None else _aircraft(folder, folder / files.images[0])
    for split in files.splits:
        folder = first_folder(root, files.folders, split)
        if folder is not None:
            return _with_split_file(folder, folder / split, files)
    return None


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    files = dataset.coop
    if files is None:
        return None
    lists = files.splits[0] if files.splits else f"variants.txt and {' '.join(AIRCRAFT_LISTS.values())}"
    return f"{files.folders[0]}/{lists}, images below {files.folders[0]}/{files.images[0]}"


def _with_split_file(folder: Path, split_file: Path, files: CoopFiles) -> LocatedDataset:
    rows = read_json(split_file, _SPLIT_FILE)
    for split in ("train", "val"):
        if not rows.get(split):
            raise DataError(f"{split_file}: has no '{split}' rows; fetch it again")
    names = _class_names(rows["train"], split_file)
    for split, listed in rows.items():
        for path, label, name in listed:
            if 0 <= label < len(names) and names[label] != name:
                what = f"'{split}' gives {path} the label {label} and the name '{name}', other rows call {label} '{names[label]}'"
                raise DataError(f"{split_file}: {what}; fetch it again")
    images = _image_folder(folder, files.images, rows["train"][0][0], split_file)
    splits = {split: Files(images, [row[0] for row in listed], [row[1] for row in listed]) for split, listed in rows.items() if listed}
    if "test" not in splits:
        if not (folder / "test").is_dir():
            raise DataError(f"{split_file}: has no 'test' rows, and {folder / 'test'} is not there; one of them is needed")
        splits["test"] = class_folders(folder / "test", position_in(names))
    return LocatedDataset("coop", folder, splits, names)


def _class_names(rows: Rows, origin: Path) -> tuple[str, ...]:
    """Return the names of the labels 0 to C - 1. DataError for a gap."""
    names = {label: name for _, label, name in rows}
    if sorted(names) != list(range(len(names))):
        missing = min(set(range(max(names))) - set(names), default=min(names))
        raise DataError(f"{origin}: expected labels from 0 without a gap, but {missing} is wrong or has no training row; fetch it again")
    return tuple(names[label] for label in range(len(names)))


def _image_folder(folder: Path, alternatives: tuple[str, ...], first: str, origin: Path) -> Path:
    for name in alternatives:
        if (folder / name / first).is_file():
            return folder / name
    looked = ", ".join(str(folder / name) for name in alternatives)
    raise DataError(f"{origin} lists {first}, which is in none of {looked}; unpack the images there")


def _aircraft(folder: Path, images: Path) -> LocatedDataset:
    """Lines ``ID VARIANT``; the label is the variant's line in variants.txt."""
    variants = tuple(line.strip() for line in read_text(folder / "variants.txt").splitlines() if line.strip())
    label_of, splits = position_in(variants), {}
    for split, name in AIRCRAFT_LISTS.items():
        names, labels = [], []
        for number, line in enumerate(read_text(folder / name).splitlines(), start=1):
            identifier, _, variant = line.strip().partition(" ")
            label = label_of(variant)
            if label is None:
                raise DataError(f"{folder / name}, line {number}: '{variant}' is not in variants.txt")
            names.append(f"{identifier}.jpg")
            labels.append(label)
        splits[split] = Files(images, names, labels)
    return LocatedDataset("coop", folder, splits, variants)
