"""The files of one store: written once, and compared with their digest when a process opens them first. N: images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from petlbench.data.split import Images, Ragged, Split
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form, Pixels
from petlbench.errors import DataError

FILES = ("pixels.bin", "shapes.npy", "labels.npy")  # written last, meta.json says that a store is complete
_BUFFER = 2**20  # bytes that are hashed at a time

Stamp = tuple[int, ...]  # of a file: what changes when it is replaced or written to


class Damaged(DataError):
    """A store does not hold what was written to it."""


@dataclass(frozen=True)
class Meta:
    """The content of ``meta.json``."""

    task: str
    split: str
    revision: str
    form: str  # in words
    images: int
    digest: str  # see Split; of the sizes too when there are several
    shape: tuple[int, int] | None  # height and width of all images; None: there are several
    key: str  # name of the folder


_META = TypeAdapter(Meta)


def write(work: Path, images: Iterable[Pixels], labels: NDArray[np.int64], **facts: str) -> None:
    """Write a store into an empty folder. ``facts``: the texts of Meta, without the digest."""
    digest = hashlib.sha256(label_bytes(labels))
    shapes = []
    with (work / "pixels.bin").open("wb") as file:  # written, not mapped: on a full disk a map kills the process
        for image in images:
            pixels = np.ascontiguousarray(image)
            file.write(pixels.data)
            digest.update(pixels.data)
            shapes.append(image.shape[:2])
    sizes = np.array(shapes, dtype=np.int64)
    digest.update(_size_bytes(sizes))
    np.save(work / "shapes.npy", sizes)
    np.save(work / "labels.npy", labels)
    shape = None if _differ(sizes) else (int(sizes[0, 0]), int(sizes[0, 1]))
    write_meta(work, Meta(images=len(sizes), digest=digest.hexdigest(), shape=shape, **facts))


def write_meta(folder: Path, meta: Meta) -> None:
    """Write what says that a store is complete."""
    (folder / "meta.json").write_text(json.dumps(dataclasses.asdict(meta)))


def read_meta(folder: Path) -> Meta:
    """Return what a store says about itself; Damaged when it cannot be read."""
    try:
        return _META.validate_json(_plain(folder / "meta.json").read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"meta.json: {' '.join([*map(str, first['loc']), first['msg']])}") from None
    except (OSError, ValueError) as error:
        raise Damaged(str(error)) from None


def read(folder: Path, spec: TaskSpec, split: str, form: Form, images: int | None = None) -> Split:
    """Return the images of a store as memory maps. Damaged, with the reason, when they are not those that were stored for this split in this form.

    Sizes are compared always, the content with its digest when this process reads the files first or they have changed. ``images``: how many there are.
    """
    meta = read_meta(folder)
    wanted = {"task": spec.name, "split": split, "revision": spec.revision, "form": form.words, "images": images, "key": folder.name}
    for name, value in wanted.items():
        if value is not None and getattr(meta, name) != value:
            raise Damaged(f"meta.json: {name} is {getattr(meta, name)!r}, {value!r} expected")
    try:
        files = [_plain(folder / name) for name in FILES]
        pixels = np.memmap(files[0], dtype=np.uint8, mode="r")
        shapes, labels = _array(files[1], (meta.images, 2)), _array(files[2], (meta.images,))
        held = np.prod(shapes, axis=1, dtype=np.float64).sum()  # floats do not overflow
        if shapes.min() < 1 or pixels.size != 3 * held:
            raise ValueError(f"{pixels.size:,} bytes of pixels for images of {held:,.0f} pixels")
        if not _differ(shapes) and tuple(shapes[0]) != meta.shape:
            raise ValueError(f"the images have {shapes[0].tolist()} pixels, {meta.shape} expected")
        if labels.min() < 0 or labels.max() >= len(spec.class_names):
            raise ValueError(f"labels from {labels.min()} to {labels.max()} for {len(spec.class_names)} classes")
        if _digest(folder, tuple(_stamp(file) for file in files)) != meta.digest:
            raise ValueError("pixels, labels or sizes have changed since they were written")
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise Damaged(str(error)) from None
    rows = pixels.reshape(-1, 3)
    stored: Images = Ragged(rows, shapes) if _differ(shapes) else rows.reshape(len(shapes), *shapes[0], 3)
    return Split(stored, labels, meta.digest, form)


def label_bytes(labels: NDArray[np.int64]) -> bytes:
    """Return labels as digests see them."""
    return np.ascontiguousarray(labels, dtype="<i8").tobytes()


def _size_bytes(shapes: NDArray[np.int64]) -> bytes:
    return shapes.astype("<i8").tobytes() if _differ(shapes) else b""


def _differ(shapes: NDArray[np.int64]) -> bool:
    return bool((shapes != shapes[0]).any())


@lru_cache(maxsize=4096)  # a bench opens the same stores for every run
def _digest(folder: Path, stamps: tuple[Stamp, ...]) -> str:
    """Hash what a store holds, once for each state of its files."""
    digest = hashlib.sha256(label_bytes(np.load(folder / "labels.npy", allow_pickle=False)))
    buffer = bytearray(_BUFFER)
    with (folder / "pixels.bin").open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    digest.update(_size_bytes(np.load(folder / "shapes.npy", allow_pickle=False)))
    return digest.hexdigest()


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _plain(file: Path) -> Path:
    """Return a file that may be opened: a pipe in its place would block."""
    if not file.is_file():
        raise ValueError(f"{file.name} is missing or no plain file")
    return file


def _array(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read integers of a known shape; mapped first, so that a header cannot ask for more memory than the file has bytes."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.shape != shape:
        raise ValueError(f"{file.name} is no array {shape} of int64")
    return np.array(array)
