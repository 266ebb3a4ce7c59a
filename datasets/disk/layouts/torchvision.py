"""Layout ``torchvision``: folders as torchvision's dataset classes make them below their root, read without torchvision.

Most have no split that a suite uses as it is: see ``_splits``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from petlbench.data.listing import Files, Listing
from petlbench.errors import DataError

from ..facts import Dataset, SuiteEntry
from . import LocatedDataset, _arrays
from ._lists import class_folders, class_names_below, numbered_lines, position_in, read_text
from ._splits import Original, for_suite

NOT_CLASSES = ("BACKGROUND_Google", "Faces_easy")  # of Caltech101, for CoOp


def read(root: Path, dataset: Dataset, entry: SuiteEntry) -> LocatedDataset | None:
    """Read the dataset and make the suite's splits of it."""
    for marker in _MARKERS[dataset.name]:
        if (root / marker).exists():
            original = _READERS[dataset.name]((root / marker).parent, entry, dataset.class_count(entry))
            return None if original is None else for_suite(root, "torchvision", original, dataset, entry)
    return None


def expected(dataset: Dataset, entry: SuiteEntry) -> str | None:
    """See Layout."""
    return _MARKERS[dataset.name][0]


def _cifar(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    return Original(folder, _arrays.cifar(folder))


def _svhn(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    return Original(folder, {"trainval": _arrays.svhn(folder / "train_32x32.mat"), "test": _arrays.svhn(folder / "test_32x32.mat")})


def _pcam(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    stem = "camelyonpatch_level_2_split"
    return Original(folder, {part: _arrays.pcam(folder, f"{stem}_{name}") for part, name in _PCAM.items()})


def _flowers(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    """``setid.mat`` lists numbers of images, ``imagelabels.mat`` has the class of each, both from 1."""
    [labels] = _arrays.labels_of(folder / "imagelabels.mat", "labels")
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    parts: dict[str, Listing] = {}
    for part, numbers in zip(keys, _arrays.labels_of(folder / "setid.mat", *keys.values()), strict=True):
        if numbers.max() > len(labels):
            raise DataError(f"{folder / 'setid.mat'}: lists image {numbers.max()} and imagelabels.mat has {len(labels)}; unpack both again")
        parts[part] = Files(folder / "jpg", [f"image_{number:05d}.jpg" for number in numbers], labels[numbers - 1] - 1)
    return Original(folder, parts)


def _food(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    return Original(
        folder, {part: _listed(folder, f"meta/{name}.txt", classes) for part, name in (("trainval", "train"), ("test", "test"))}
    )


def _dtd(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    return Original(folder, {part: _listed(folder, f"labels/{part}1.txt", classes) for part in ("train", "val", "test")})


def _listed(folder: Path, file: str, classes: int) -> Files:
    """Lines ``CLASS/NAME`` with or without suffix, below ``images/``; classes by name."""
    names = read_text(folder / file).split()
    if not names:
        raise DataError(f"{folder / file}: lists no images; unpack the dataset again")
    labels = _labels([name.partition("/")[0] for name in names], class_names_below(folder / "images", classes), folder / file)
    return Files(folder / "images", [name if name.endswith(".jpg") else f"{name}.jpg" for name in names], labels)


def _eurosat(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    images = folder / "2750"
    return Original(images, {"all": class_folders(images, position_in(class_names_below(images, classes)))})


def _caltech(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    """CoOp leaves out two folders and sorts by case; VTAB has all and does not."""
    images = folder / "101_ObjectCategories"
    if entry.uses_all_images:
        return Original(images, {"all": class_folders(images, position_in(sorted(class_names_below(images, classes), key=str.lower)))})
    names = class_names_below(images, classes, NOT_CLASSES)
    everything = class_folders(images, position_in([*names, *NOT_CLASSES]))
    return Original(images, {"all": everything.take(np.flatnonzero(everything.labels < classes))})


def _pets(folder: Path, entry: SuiteEntry, classes: int) -> Original:
    """Lines ``NAME CLASS SPECIES BREED``, classes from 1."""
    parts: dict[str, Listing] = {}
    for part in ("trainval", "test"):
        file = folder / "annotations" / f"{part}.txt"
        lines = "\n".join(" ".join(line.split()[:2]) for line in read_text(file).splitlines() if not line.startswith("#"))
        names, numbers = numbered_lines(lines, str(file))
        parts[part] = Files(folder / "images", [f"{name}.jpg" for name in names], np.asarray(numbers) - 1)
    return Original(folder, parts)


def _sun397(folder: Path, entry: SuiteEntry, classes: int) -> Original | None:
    """``ClassName.txt`` lists folders; the official lists of partition 1, where they were unpacked as well, name files below them."""
    names_of_classes = read_text(folder / "SUN397/ClassName.txt").split()
    images = folder / "SUN397"
    if entry.uses_all_images:
        found = [(name, sorted(file.name for file in (images / name[1:]).glob("*.jpg"))) for name in names_of_classes]
        names = [f"{name[1:]}/{file}" for name, files in found for file in files]
        return Original(images, {"all": Files(images, names, np.repeat(np.arange(len(found)), [len(files) for _, files in found]))})
    parts: dict[str, Listing] = {}
    for part, name in (("trainval", "Training_01.txt"), ("test", "Testing_01.txt")):
        file = next((lists / name for lists in (images, folder, folder / "SUN397_Partitions") if (lists / name).is_file()), None)
        if file is None:
            return None
        paths = read_text(file).split()
        parts[part] = Files(
            images, [path[1:] for path in paths], _labels([path.rpartition("/")[0] for path in paths], names_of_classes, file)
        )
    return Original(images, parts)


def _labels(names: list[str], classes: list[str], origin: Path) -> list[int]:
    label_of, labels = position_in(classes), []
    for number, name in enumerate(names, start=1):
        label = label_of(name)
        if label is None:
            raise DataError(f"{origin}, line {number}: '{name}' is none of the {len(classes)} classes; unpack the dataset again")
        labels.append(label)
    return labels


_PCAM = {"train": "train", "val": "valid", "test": "test"}
_MARKERS: dict[str, tuple[str, ...]] = {  # below the data root: what shows that the dataset is there, in its folder
    "cifar10": ("cifar-10-batches-py/test_batch",),
    "cifar100": ("cifar-100-python/test",),
    "svhn": ("train_32x32.mat", "svhn/train_32x32.mat"),
    "patch_camelyon": ("pcam/camelyonpatch_level_2_split_test_x.h5",),
    "oxford_flowers": ("flowers-102/setid.mat", "oxford_flowers/setid.mat"),
    "food101": ("food-101/meta",),
    "dtd": ("dtd/dtd/labels", "dtd/labels"),
    "eurosat": ("eurosat/2750",),
    "caltech101": ("caltech101/101_ObjectCategories", "caltech-101/101_ObjectCategories"),
    "oxford_pets": ("oxford-iiit-pet/annotations", "oxford_pets/annotations"),
    "sun397": ("SUN397", "sun397/SUN397"),
}
_READERS: dict[str, Callable[[Path, SuiteEntry, int], Original | None]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "patch_camelyon": _pcam,
    "oxford_flowers": _flowers,
    "food101": _food,
    "dtd": _dtd,
    "eurosat": _eurosat,
    "caltech101": _caltech,
    "oxford_pets": _pets,
    "sun397": _sun397,
}
