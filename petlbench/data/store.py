"""Every image is decoded and resized once, into uint8 memory maps that all later runs share.

Layout: ``CACHE/TASK/KEY/{train,val,test}.npy``, ``labels-*.npy`` and ``meta.json``; KEY is the hash of task revision, size and interpolation.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petlbench.data.task import SPLITS, ImageSource, TaskSpec
from petlbench.errors import DataError

_FORMAT = 1  # of the files in a store folder
_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


@dataclass(frozen=True)
class Split:
    """Decoded images (N, H, W, 3) uint8, usually a memory map, and labels (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    digest: str  # SHA-256 over the pixels and labels of the whole stored split

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """A part of the split, in the given order; its digest depends on the parent's and on the choice."""
        digest = hashlib.sha256(self.digest.encode() + np.asarray(indices, dtype="<i8").tobytes()).hexdigest()
        return Split(self.images[indices], self.labels[indices], digest)


def cache_folder() -> Path:
    """``PETLBENCH_CACHE``, else the user's cache folder."""
    configured = os.environ.get("PETLBENCH_CACHE")
    return Path(configured) if configured else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petlbench"


def open_store(spec: TaskSpec, size: int, mode: str, interpolation: str) -> tuple[dict[str, Split], int]:
    """All splits of a task at a size, and how many images were decoded for it: none when a store exists already.

    ``mode``: ``squash`` resizes to (size, size), ``short`` the shorter side to size and cuts the centre square.
    """
    identity = json.dumps([_FORMAT, spec.revision, size, mode, interpolation])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder = cache_folder() / "store" / spec.name.replace("/", "-").replace(":", "-") / key
    decoded = 0
    if not (folder / "meta.json").exists():
        decoded = _build(spec, folder, lambda image: resized(image, size, mode, interpolation))
    try:
        digests = json.loads((folder / "meta.json").read_text())["digests"]
        splits = {
            split: Split(np.load(folder / f"{split}.npy", mmap_mode="r"), np.load(folder / f"labels-{split}.npy"), digests[split])
            for split in SPLITS
        }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the image cache {folder} is damaged ({error}); delete that folder and run again") from None
    return splits, decoded


def resized(image: NDArray[np.uint8], size: int, mode: str, interpolation: str) -> NDArray[np.uint8]:
    """(H, W, 3) to (size, size, 3) with Pillow's antialiased filters, as torchvision's transforms do on Pillow images."""
    height, width = image.shape[:2]
    target = (size, size)
    if mode == "short":
        target = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if target != (width, height):
        image = np.asarray(Image.fromarray(image).resize(target, _INTERPOLATIONS[interpolation]))
    top, left = round((image.shape[0] - size) / 2), round((image.shape[1] - size) / 2)
    return image[top : top + size, left : left + size]


def _build(spec: TaskSpec, folder: Path, resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> int:
    """Decode all splits beside the final place and move them there in one step, so that no reader ever meets half a store."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    except OSError as error:
        raise DataError(
            f"cannot write the image cache {folder.parent}: {error.strerror}; set PETLBENCH_CACHE to a writable folder"
        ) from None
    try:
        digests, decoded = {}, 0
        for split in SPLITS:
            source = _checked(spec, split)
            digests[split] = _write_split(work, split, source, resize)
            decoded += len(source.labels)
        (work / "meta.json").write_text(json.dumps({"task": spec.name, "revision": spec.revision, "digests": digests}))
        if not folder.exists():
            work.rename(folder)
    except OSError as error:
        if not (folder / "meta.json").exists():  # else another process was faster, and its store is as good
            raise DataError(
                f"cannot write the image cache {folder.parent}: {error.strerror}; set PETLBENCH_CACHE to a writable folder"
            ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return decoded


def _checked(spec: TaskSpec, split: str) -> ImageSource:
    """The source of a split. DataError when it is empty, has another size than registered or a label without a class."""
    source = spec.source(split)
    expected = spec.sizes.get(split)
    if expected is not None and len(source.labels) != expected:
        raise DataError(f"{spec.name}: {expected:,} {split} images expected, {len(source.labels):,} found")
    if len(source.labels) == 0:
        raise DataError(f"{spec.name}: the {split} split is empty")
    low, high = int(source.labels.min()), int(source.labels.max())
    if low < 0 or high >= len(spec.class_names):
        raise DataError(
            f"{spec.name}: {split} label {low if low < 0 else high} has no class; there are {len(spec.class_names)} class names"
        )
    return source


def _write_split(work: Path, split: str, source: ImageSource, resize: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> str:
    count = len(source.labels)
    first = resize(source.decode(0))
    digest = hashlib.sha256(np.ascontiguousarray(source.labels, dtype="<i8").tobytes())
    with (work / f"{split}.npy").open("wb") as file:  # written, not mapped: on a full disk a map kills the process
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape)})
        for index in range(count):
            pixels = np.ascontiguousarray(first if index == 0 else resize(source.decode(index))).tobytes()
            file.write(pixels)
            digest.update(pixels)
    np.save(work / f"labels-{split}.npy", source.labels)
    return digest.hexdigest()
