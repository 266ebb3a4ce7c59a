"""The image cache: every image is decoded and resized once, into uint8 memory maps that all later runs share.

Layout: ``CACHE/store/TASK/KEY/{pixels.bin,shapes.npy,labels.npy,meta.json}``, one folder for each split; KEY is the hash of the task's revision, the
split and the form of its images. Suites that have a dataset in common have its files in common, as hard links. What is damaged is built again. N: images.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from petlbench.config.cache_folder import cache_folder
from petlbench.data import store_files
from petlbench.data.source import ImageSource, Indices, is_uniform, reading_order, take
from petlbench.data.split import Ragged, Split, digest_of_part
from petlbench.data.streaming import Streamed, Tally, formed, in_order
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form, Pixels
from petlbench.errors import DataError
from petlbench.records.file_names import exists, file_part

_FORMAT = 3  # of the files in a store folder, and of how images become pixels
_SAMPLE = 16  # images that a store's size is estimated from
_ANNOUNCED_MB = 64  # smaller stores are built without a message
_AHEAD = 4  # images per thread that are decoded and not yet written, at most: photographs at native size are tens of MB each
_BUILDING = ".building-"  # prefix of the name of a store that is not complete
_log = logging.getLogger("petlbench.data")


@dataclass(frozen=True)
class Stored:
    """A store on disk."""

    folder: Path
    task: str
    split: str
    form: str  # in words
    images: int
    bytes: int
    used: float  # when it was last opened, in seconds since 1970


class TaskStore:
    """The splits of one task in any form, stored when they are first asked for and small enough."""

    def __init__(self, spec: TaskSpec, limit_mb: int) -> None:
        self.spec = spec
        self.tally = Tally()  # images decoded, for stores and by streams
        self._limit = limit_mb * 2**20
        self._sources: dict[str, ImageSource] = {}

    def labels(self, split: str, form: Form) -> NDArray[np.int64]:
        """Return the labels (N,) of a whole split."""
        with suppress(store_files.Damaged):  # which is said when it is opened
            return store_files.read(self._folder(split, form), self.spec, split, form, self.spec.sizes.get(split)).labels
        return self._source(split).labels

    def open(self, split: str, form: Form, part: NDArray[np.int64] | None = None) -> Split:
        """Open a split, or its images at the indices ``part``, in that order.

        When the split exceeds the limit, the part alone is stored; when that does too, images are decoded whenever they are read.
        """
        sample: dict[int, Pixels] = {}
        if (whole := self._stored(split, form, sample)) is not None:
            return whole if part is None else whole.take(part)
        if part is not None and (stored := self._stored(split, form, sample, part)) is not None:
            return stored
        source = self._source(split)
        identity = json.dumps([self.spec.revision, split, dataclasses.asdict(form)])
        digest = hashlib.sha256(identity.encode() + store_files.label_bytes(source.labels)).hexdigest()
        streamed = Split(Streamed(source, form, self.tally), source.labels, digest, form)
        return streamed if part is None else streamed.take(part)

    def _stored(self, split: str, form: Form, sample: dict[int, Pixels], part: NDArray[np.int64] | None = None) -> Split | None:
        """Read a store; build it first when needed. None when it would be too large."""
        folder = self._folder(split, form, part)
        count = self.spec.sizes.get(split) if part is None else len(part)
        if (found := self._opened(folder, split, form, count, warn=True)) is None:
            with _locked(folder, f"{self.spec.name}, {split}"):  # another process may have built it meanwhile
                if (found := self._opened(folder, split, form, count)) is None:
                    if not (self._linked(folder, split, form, count) or self._build(folder, split, form, sample, part)):
                        return None
                    found = store_files.read(folder, self.spec, split, form, count)
        with suppress(OSError):  # a cache that may only be read
            os.utime(folder / "meta.json")
        return found

    def _opened(self, folder: Path, split: str, form: Form, count: int | None, warn: bool = False) -> Split | None:
        """Read a store. None when it is not there or damaged, after a warning if so asked."""
        if not exists(folder / "meta.json"):
            return None
        try:
            return store_files.read(folder, self.spec, split, form, count)
        except store_files.Damaged as error:
            if warn:
                _log.warning("the image cache %s is damaged (%s); its images are decoded again", folder, error)
            return None

    def _linked(self, folder: Path, split: str, form: Form, count: int | None) -> bool:
        """Link the store of the same images that a task of another suite made. False when there is none, or the file system has no hard links.

        Only for datasets on a disk, whose revision is a hash of their content.
        """
        dataset = self.spec.name.partition("/")[2]
        others = _root().glob(f"*-{dataset}/{folder.name}") if self.spec.layout else ()
        for other in others:
            if other == folder:  # the damaged one that this replaces
                continue
            with suppress(DataError):
                meta = store_files.read_meta(other)
                store_files.read(other, replace(self.spec, name=meta.task), split, form, count)  # do not link a damaged store
                with _writing(folder) as work:
                    for name in store_files.FILES:
                        (work / name).hardlink_to(other / name)
                    store_files.write_meta(work, replace(meta, task=self.spec.name))
                return True
        return False

    def _build(self, folder: Path, split: str, form: Form, sample: dict[int, Pixels], part: NDArray[np.int64] | None) -> bool:
        """Build a store in a temporary folder and rename it, so that no reader sees an incomplete one. False when it would be too large."""
        indices = np.arange(len(self._source(split).labels)) if part is None else part
        source = take(self._source(split), indices)  # other images that it keeps in memory are freed with it
        order = reading_order(source, np.arange(len(indices)))

        def prepared(position: int) -> Pixels:
            index = int(indices[position])
            return sample[index] if index in sample else self._decoded(source, split, form, index, position)

        if form.side is None and not sample:
            count = 1 if is_uniform(source) else _SAMPLE
            some = order[np.unique(np.linspace(0, len(order) - 1, count).astype(int))].tolist()
            sample.update(zip(indices[some].tolist(), in_order(prepared, some, _SAMPLE), strict=True))
        per_image = form.side**2 * 3 if form.side else sum(image.nbytes for image in sample.values()) / len(sample)
        expected = round(per_image * len(indices))
        if expected > self._limit:
            return False
        if expected > _ANNOUNCED_MB * 2**20:
            _log.warning(
                "%s: storing %s %s images once, about %s MB, in %s", self.spec.name, f"{len(indices):,}", split, expected >> 20, folder
            )
        is_sorted = bool((np.diff(order) > 0).all())
        with _writing(folder, expected if is_sorted else 2 * expected) as work:
            images = in_order(prepared, order.tolist(), _AHEAD * torch.get_num_threads())
            arranged = images if is_sorted else _rearranged(work / "unordered.bin", images, order)
            facts = {"task": self.spec.name, "split": split, "revision": self.spec.revision, "form": form.words, "key": folder.name}
            store_files.write(work, arranged, source.labels, **facts)
        return True

    def _decoded(self, source: ImageSource, split: str, form: Form, index: int, position: int) -> Pixels:
        """Decode an image. ``index``: in the split; ``position``: in the source."""
        self.tally.add()
        try:
            return formed(source, form, position)
        except OSError as error:
            raise DataError(f"{self.spec.name}: {split} image {index} cannot be read: {error}") from None

    def _source(self, split: str) -> ImageSource:
        if split not in self._sources:
            self._sources[split] = _checked(self.spec, split)
        return self._sources[split]

    def _folder(self, split: str, form: Form, part: NDArray[np.int64] | None = None) -> Path:
        chosen = None if part is None else digest_of_part("", part)
        identity = json.dumps([_FORMAT, self.spec.revision, split, dataclasses.asdict(form), chosen])
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return _root() / file_part(self.spec.name) / key


def entries() -> list[Stored]:
    """Return all stores, by task and split. Those that cannot be read have their folder's name as task and "?" as split."""
    found = []
    for folder in sorted(_root().glob("*/*")) if _root().is_dir() else ():
        if not folder.is_dir():
            continue
        files = [path.stat() for path in folder.iterdir() if path.is_file()]
        size = sum(file.st_size // file.st_nlink for file in files)  # a file that suites share counts in equal parts
        try:
            meta, used = store_files.read_meta(folder), (folder / "meta.json").stat().st_mtime
            entry = Stored(folder, meta.task, meta.split, meta.form, meta.images, size, used)
        except (OSError, store_files.Damaged):
            entry = Stored(folder, folder.parent.name, "?", "unfinished or damaged", 0, size, folder.stat().st_mtime)
        found.append(entry)
    return sorted(found, key=lambda entry: (entry.task, entry.split, entry.form))


def evict(entry: Stored) -> None:
    """Delete a store. Runs that have it open keep their images. DataError when it cannot be deleted."""
    store = entry.folder.with_name(entry.folder.name.removeprefix(_BUILDING))
    try:
        with _locked(store, f"{entry.task}, {entry.split}"):
            if entry.folder.exists():  # else its build was completed, or someone else deleted it
                _remove(entry.folder)
    except OSError as error:
        raise DataError(f"cannot delete {entry.folder}: {error.strerror}; delete it by hand") from None


def _root() -> Path:
    return cache_folder() / "store"


def _remove(folder: Path) -> None:
    """Delete a store, or what lies in its place: of a link the link alone."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink()


@contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    """Let one process or thread at a time build or delete a store."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning("%s: waiting for another process that stores these images", what)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path, size: int = 0) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` at the end, or removed on failure. Errors of the disk become DataError."""
    work = folder.with_name(_BUILDING + folder.name)
    with _explained(folder, size):
        try:
            for left in (work, folder):  # damaged, or over from a process that was killed while it built or deleted
                with suppress(FileNotFoundError):
                    _remove(left)
            work.mkdir()
            if shutil.disk_usage(work).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield work
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _explained(folder: Path, size: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        room = f" with room for {size / 2**20:,.0f} MB, or make room with petlbench data clean" if error.errno == errno.ENOSPC else ""
        raise DataError(
            f"cannot write the image cache {folder.parent}: {error.strerror}; set PETLBENCH_CACHE to a writable folder{room}"
        ) from None


def _rearranged(file: Path, images: Iterable[Pixels], order: Indices) -> Iterator[Pixels]:
    """Yield images in the order of the split, given those of the positions ``order``. Meanwhile they lie in a file, which is removed at the end."""
    shapes = np.empty((len(order), 2), dtype=np.int64)
    with file.open("wb") as written:
        for position, image in zip(order, images, strict=True):
            written.write(np.ascontiguousarray(image).data)
            shapes[position] = image.shape[:2]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = np.cumsum(shapes[order].prod(1)) - shapes[order].prod(1)
    arranged = Ragged(np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, 3), shapes, first)
    yield from (arranged[position] for position in range(len(order)))
    file.unlink()


def _checked(spec: TaskSpec, split: str) -> ImageSource:
    """Return the source of a split. DataError when it is empty, has another size than registered or a label without a class."""
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
