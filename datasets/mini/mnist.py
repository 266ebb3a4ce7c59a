"""Biased-MNIST and Loc-MNIST of BlackVIP (arXiv 2303.14773), made from MNIST's own files with the draws of the released generators.

The originals are folders of images that were made once; here an image is made when it is stored. Two things differ: inside a class the images come in
MNIST's order, there as a folder was listed; and what validates are training images that are not trained on, there Biased-MNIST's test set.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import math
import random
import zlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petlbench.data.source import ImageSource, RenderedSource, take
from petlbench.data.task import GENERATED, DiskTask, Location, TaskSpec, register_task
from petlbench.errors import DataError

from ..disk import facts
from ..disk.facts import Dataset, SuiteEntry
from . import _digits

FOLDERS = ("MNIST/raw", "mnist/raw", "mnist")  # below the data root; the first is torchvision's
PARTS = {"train": "train", "test": "t10k"}  # how the names of a part's two files begin
KINDS = ("images-idx3", "labels-idx1")
SIZES = {"train": 60_000, "test": 10_000}
SEED = 1  # of the generators, anew for each part; for Loc-MNIST the original's
_MOST_BYTES = 2**28  # of a file, unpacked; the largest of MNIST has 47 MB
CANVAS, DIGIT_SIZE = 224, 28
JPEG_QUALITY = 95  # OpenCV's default; the composites are JPEG files
VERSION = "1"  # of what is made here of MNIST's files

Grey = NDArray[np.uint8]  # (N, 28, 28)
Indices = NDArray[np.int64]  # (N,)
Maker = Callable[[str, Grey, Indices], RenderedSource]  # part, its images and labels -> the task's
_log = logging.getLogger("petlbench.data")


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of bytes, compressed by gzip or not. DataError when it is invalid."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); download it again") from None
    if len(data) > _MOST_BYTES:
        raise DataError(f"{path} holds more than {_MOST_BYTES:,} bytes; download it again")
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < start:
        raise DataError(f"{path} is not an idx file of {dimensions} dimensions; download it again")
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if len(data) - start != math.prod(shape):
        raise DataError(f"{path} says it holds {' x '.join(map(str, shape))} bytes, and it holds {len(data) - start:,}; download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read(folder: Path, part: str) -> tuple[Grey, Indices]:
    """Read the images and labels of a split of MNIST."""
    files = [_file(folder, part, kind) for kind in KINDS]
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1).astype(np.int64)
    if images.shape[1:] != (DIGIT_SIZE, DIGIT_SIZE) or len(images) != len(labels) or set(labels.tolist()) != set(range(10)):
        raise DataError(f"{files[0]} and {files[1]} are not 28 x 28 images and their labels 0 to 9; download them again")
    return images, labels


def _file(folder: Path, part: str, kind: str) -> Path:
    names = [f"{PARTS[part]}-{kind}-ubyte{suffix}" for suffix in ("", ".gz")]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{folder} has no {' and no '.join(names)}; MNIST is four files")
    return found


def _biased(rho: Mapping[str, float]) -> Maker:
    """Make Biased-MNIST. ``rho``: for each split the share of images whose colour is that of their class."""

    def make(part: str, images: Grey, labels: Indices) -> RenderedSource:
        order, colours = _digits.biased_colours(labels, rho[part], np.random.RandomState(SEED).shuffle)
        return RenderedSource(labels[order], lambda index: _digits.colour_background(images[order[index]], int(colours[index])))

    return make


def _located(scale: int) -> Maker:
    """Make Loc-MNIST. ``scale``: side of the distractor over that of the digit."""

    def make(part: str, images: Grey, labels: Indices) -> RenderedSource:
        digits, places = zip(*_digits.original_placements(labels, np.random.RandomState(SEED).randint, CANVAS, DIGIT_SIZE), strict=True)
        sizes = {"canvas": CANVAS, "digit_size": DIGIT_SIZE, "distractor_size": DIGIT_SIZE * scale}

        def render(index: int) -> NDArray[np.uint8]:
            place = places[index]
            return _as_jpeg(_digits.compose(images[digits[index]], images[place.distractor], place, **sizes))

        return RenderedSource(labels[np.array(digits)], render)

    return make


def _as_jpeg(grey: Grey) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file).convert("RGB"))


def _open(name: str, dataset: Dataset, entry: SuiteEntry, make: Maker, val_share: float, val_is_apart: bool, root: Path) -> TaskSpec | None:
    """Return the task over MNIST's files below a data root, None when they are not there.

    ``val_share``: of the training images of each class, the share that validates. ``val_is_apart``: these are not trained on; else few-shot draws take
    training images from all, and those that were drawn do not validate.
    """
    assert entry.names is not None and entry.template is not None
    folder = _folder(root)
    if folder is None:
        return None
    parts = {part: _read(folder, part) for part in PARTS}
    for part, (images, _) in parts.items():
        if len(images) != SIZES[part]:
            _log.warning("%s: %s has %s %s images of %s", name, folder, f"{len(images):,}", part, f"{SIZES[part]:,}")
    made = cache(lambda part: make(part, *parts[part]))

    @cache
    def chosen() -> Indices:
        return _held_out(made("train").labels, val_share)

    def source(split: str) -> ImageSource:
        whole: RenderedSource = made("test" if split == "test" else "train")
        if split == "val":
            return take(whole, chosen())
        return take(whole, np.delete(np.arange(len(whole.labels)), chosen())) if split == "train" and val_is_apart else whole

    return TaskSpec(
        name=name,
        class_names=facts.class_names(entry.names).names,
        templates=(entry.template,),
        revision=_revision(name, parts),
        source=source,
        description=dataset.about,
        layout="mnist",
        split=GENERATED,
        val_in_train=None if val_is_apart else chosen(),
    )


def _held_out(labels: Indices, share: float) -> Indices:
    """Return positions, ascending: of each class, shuffled by ``random.Random(0)``, the first ``share``, rounded."""
    held_out: list[int] = []
    for label in range(10):
        members = np.flatnonzero(labels == label).tolist()
        random.Random(0).shuffle(members)
        held_out += members[: max(1, round(share * len(members)))]
    return np.asarray(sorted(held_out), dtype=np.int64)


def _revision(name: str, parts: Mapping[str, tuple[Grey, Indices]]) -> str:
    digest = hashlib.sha256(f"{name} {VERSION}".encode())
    for images, labels in parts.values():
        digest.update(images.tobytes() + labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _folder(root: Path) -> Path | None:
    """Return the folder of MNIST's files below a data root."""
    folders = (root / folder for folder in FOLDERS)
    return next((folder for folder in folders if any(folder.glob(f"{PARTS['train']}-images-idx3-ubyte*"))), None)


def _locate(root: Path) -> Location | None:
    folder = _folder(root)
    if folder is None:
        return None
    for part in PARTS:
        for kind in KINDS:
            _file(folder, part, kind)  # DataError when it is not there
    return Location("mnist", folder)


def _register(variant: str, dataset_name: str, make: Maker, val_share: float, val_is_apart: bool, is_first: bool) -> None:
    """Register a variant of a dataset in each suite that has the dataset; the first variant takes the dataset's name and aliases."""
    dataset = facts.datasets()[dataset_name]
    for entry in dataset.suites.values():
        name = f"{entry.suite}/{variant}"
        sizes = {split: getattr(entry, split) for split in ("train", "val", "test")}
        task = DiskTask(
            name=name,
            classes=dataset.classes,
            sizes={split: size for split, size in sizes.items() if size is not None},
            template=entry.template,
            expected=lambda: (f"{FOLDERS[0]}/{PARTS['train']}-images-idx3-ubyte and three more files of MNIST",),
            downloads=facts.downloads(dataset.name),
            is_lossless=dataset.lossless,
            source=", ".join(dataset.urls),
            locate=_locate,
            open=partial(_open, name, dataset, entry, make, val_share, val_is_apart),
        )
        aliases = (dataset.name, *dataset.aliases) if is_first else ()
        register_task(task, __name__, aliases=[f"{entry.suite}/{alias}" for alias in aliases])


_EASY, _HARD = {"train": 0.8, "test": 0.2}, {"train": 0.9, "test": 0.1}
_register("biased_mnist_easy", "biased_mnist", _biased(_EASY), 0.1, val_is_apart=False, is_first=True)
_register("biased_mnist_hard", "biased_mnist", _biased(_HARD), 0.1, val_is_apart=False, is_first=False)
_register("loc_mnist_1_1", "loc_mnist", _located(1), 0.2, val_is_apart=True, is_first=True)
_register("loc_mnist_1_4", "loc_mnist", _located(4), 0.2, val_is_apart=True, is_first=False)
