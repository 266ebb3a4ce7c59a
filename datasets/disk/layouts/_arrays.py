"""Read images in arrays: CIFAR's pickles, MATLAB files, HDF5. Nothing in a file is trusted: types, shapes and numbers are those that are expected."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petlbench.data.listing import Arrays, Listing
from petlbench.errors import DataError

from . import _pickles
from ._apart import read_apart

Fetch = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows (n,), ascending -> images (n, H, W) or (n, H, W, 3)
HELD_BYTES = 2**28  # of the blocks that a listing keeps in memory
_PCAM_BLOCK = 4096  # images, 113 MB

_CIFAR_PARTS = {
    "cifar-10-batches-py": ({"trainval": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}, "labels"),
    "cifar-100-python": ({"trainval": ["train"], "test": ["test"]}, "fine_labels"),
}


def cifar(folder: Path) -> dict[str, Listing]:
    """Read CIFAR-10 or CIFAR-100 from the files that torchvision's class unpacks."""
    parts, key = _CIFAR_PARTS[folder.name]
    return {part: _cifar_part([folder / name for name in names], key) for part, names in parts.items()}


def _cifar_part(files: list[Path], key: str) -> Arrays:
    """Read rows of 3072 bytes: red, green and blue plane of 32 x 32."""
    images, labels, names = [], [], []
    for path in files:
        rows, numbers = _cifar_batch(path, key)
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += numbers
        names += [f"{path.name}_{index:05d}" for index in range(len(numbers))]
    return Arrays(np.concatenate(images), labels, names, files[0].parent)


def _cifar_batch(path: Path, key: str) -> tuple[NDArray[np.uint8], list[int]]:
    """Return images (n, 3072) and their labels. DataError when the file holds anything else."""
    try:
        content = _pickles.load(readable(path, _pickles.MOST_BYTES).read_bytes())
        rows, labels = content["data"], content[key]
        labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3072,):
            raise ValueError("its data are no rows of 3072 bytes")
        if not isinstance(labels, list) or len(labels) != len(rows) or not all(type(label) is int for label in labels):
            raise ValueError(f"it has no {key} for its {len(rows):,} images")
        return rows, labels
    except KeyError as error:
        raise DataError(f"{path}: not a batch of CIFAR images (it has no {error}); unpack the archive again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a batch of CIFAR images ({str(error)[:200]}); unpack the archive again") from None


def readable(path: Path, most: int) -> Path:
    """Return a file that may be opened. ValueError for a pipe, which would block, and for more than ``most`` bytes."""
    if not path.is_file():
        raise ValueError("it is missing or no plain file")
    if path.stat().st_size > most:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, at most {most:,} expected")
    return path


def labels_of(path: Path, *keys: str, least: int = 1) -> list[NDArray[np.int64]]:
    """Read arrays of whole numbers (N,), of at least ``least``, from a MATLAB or HDF5 file. DataError when they hold others."""
    return [whole_numbers(path, key, numbers.ravel(), least) for key, numbers in zip(keys, _small(path, keys), strict=True)]


def names_and_labels(path: Path, names_key: str, labels_key: str) -> tuple[list[str], NDArray[np.int64]]:
    """Read texts and whole numbers from 1 on, (N,) each, from a MATLAB file. DataError when they are anything else."""
    names, numbers = _small(path, (names_key, labels_key))
    labels = whole_numbers(path, labels_key, numbers.ravel(), 1)
    if names.dtype.kind != "U" or names.size != labels.size:
        raise DataError(f"{path}: '{names_key}' holds other things than {labels.size} texts; fetch it again")
    return [str(name) for name in names.ravel()], labels


def whole_numbers(path: Path, key: str, numbers: NDArray[Any], least: int) -> NDArray[np.int64]:
    """Return labels of any shape as integers. DataError when they are none, or less than ``least``."""
    is_whole = numbers.dtype.kind in "biuf" and numbers.size > 0 and (numbers == np.floor(numbers)).all()
    if not is_whole or numbers.min() < least or numbers.max() >= 2**31:
        raise DataError(f"{path}: '{key}' holds other things than whole numbers from {least} on; fetch it again")
    return numbers.astype(np.int64)


def _small(path: Path, keys: tuple[str, ...]) -> list[NDArray[Any]]:
    """Read arrays of labels or names, once for each state of the file: a run asks several times, and each takes a process."""
    try:
        status = path.stat()
        return _kept(path, keys, status.st_ino, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:
        raise _unreadable(path, keys, error) from None


@lru_cache(maxsize=64)
def _kept(path: Path, keys: tuple[str, ...], *stamp: int) -> list[NDArray[Any]]:
    return read_apart(path, *keys)


def _unreadable(path: Path, keys: tuple[str, ...], error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read for {', '.join(keys)} ({error}); fetch it again")


def svhn(path: Path) -> Rows:
    """Read X (32, 32, 3, N) and y (N, 1), where 10 is the digit 0."""
    [digits] = labels_of(path, "y")
    if digits.max() > 10:
        raise DataError(f"{path}: 'y' holds {digits.max()}, digits from 1 to 10 expected; fetch it again")

    def fetch(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return _images(path, "X", (32, 32, 3, len(digits))).transpose(3, 0, 1, 2)[rows]

    return Rows(path, np.arange(len(digits)), digits % 10, fetch, block=len(digits))


def pcam(folder: Path, stem: str) -> Rows:
    """Read ``STEM_x.h5`` with images x (N, 96, 96, 3) and ``STEM_y.h5`` with labels y (N, 1, 1, 1). Needs h5py."""
    if find_spec("h5py") is None:
        raise DataError(f"{folder}: PatchCamelyon's files need h5py; install it with: pip install 'petlbench[data]'")
    path = folder / f"{stem}_x.h5"
    [labels] = labels_of(folder / f"{stem}_y.h5", "y", least=0)
    return Rows(path, np.arange(len(labels)), labels, lambda rows: _images(path, "x", (len(rows), None, None, 3), rows), block=_PCAM_BLOCK)


def _images(path: Path, key: str, shape: tuple[int | None, ...], rows: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    """Read images from a MATLAB or HDF5 file. ``shape``: None stands for any size. DataError when they have another shape or type."""
    try:
        [images] = read_apart(path, key, rows=rows)
    except (OSError, ValueError) as error:
        raise _unreadable(path, (key,), error) from None
    fits = len(images.shape) == len(shape) and all(size in (None, found) for size, found in zip(shape, images.shape, strict=True))
    if images.dtype != np.uint8 or not fits:
        raise DataError(f"{path}: '{key}' is {images.dtype} {images.shape}, expected uint8 {shape}; fetch it again")
    return images


class Rows(Listing):
    """Images (N, H, W) or (N, H, W, 3) inside a file, of which a block is read when an image in it is asked for, and kept for a while.

    A block is up to ``block`` images of this listing that follow one another in the file, whatever the order of the split; those that are kept take
    up ``HELD_BYTES``, or are two. A thread that asks for a block that another is reading waits for it.
    """

    is_uniform = True

    def __init__(self, path: Path, rows: NDArray[np.int64], labels: ArrayLike, fetch: Fetch, block: int) -> None:
        super().__init__([str(row) for row in rows], labels)
        self.path = path
        self.positions = rows
        self.fetch = fetch
        self.block = block
        self._held: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()  # the block that was used last is the last
        self._lock = threading.Lock()

    def location(self, index: int) -> str:
        return f"{self.path}:{self.positions[index]}"

    def read(self, index: int) -> bytes:
        return self.decode(index).tobytes()

    def fingerprint(self) -> str:
        """Hash the file's size and the rows: the file has one version, and is too large to be read for this."""
        return hashlib.sha256(np.concatenate([[self.path.stat().st_size], self.positions]).astype("<i8").tobytes()).hexdigest()

    def take(self, indices: NDArray[np.int64]) -> Rows:
        return Rows(self.path, self.positions[indices], self.labels[indices], self.fetch, self.block)

    def decode(self, index: int) -> NDArray[np.uint8]:
        number, within = divmod(int(self._row_order[1][index]), self.block)
        image = self._block(number)[within]
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)

    @cached_property
    def _row_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows in the order of the file, each once even when drawn twice; and for each image the position of its row among them."""
        ascending, ranks = np.unique(self.positions, return_inverse=True)
        return ascending, ranks

    def _block(self, number: int) -> NDArray[np.uint8]:
        with self._lock:
            if number not in self._held:
                rows = self._row_order[0][number * self.block : (number + 1) * self.block]
                try:
                    self._held[number] = self.fetch(rows)
                except (OSError, IndexError, ValueError) as error:
                    raise DataError(f"{self.path}: its images {rows[0]} to {rows[-1]} cannot be read ({error}); fetch it again") from None
            self._held.move_to_end(number)
            while len(self._held) > 2 and sum(block.nbytes for block in self._held.values()) > HELD_BYTES:  # threads may be at work on two
                self._held.popitem(last=False)
            return self._held[number]
