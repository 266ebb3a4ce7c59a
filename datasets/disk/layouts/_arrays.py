"""Read images in arrays: CIFAR's pickles, MATLAB files, HDF5."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petlbench.data.listing import Arrays, Listing
from petlbench.errors import DataError

Fetch = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows (n,), ascending -> images (n, H, W) or (n, H, W, 3)
HELD_BYTES = 2**28  # of the blocks that a listing keeps in memory

_CIFAR_PARTS = {
    "cifar-10-batches-py": ({"trainval": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}, "labels"),
    "cifar-100-python": ({"trainval": ["train"], "test": ["test"]}, "fine_labels"),
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of numbers, texts and numpy arrays, which refuses anything else, since that could run code."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "encode"})
    _MODULES = frozenset({"numpy.core.multiarray", "numpy._core.multiarray", "numpy", "_codecs"})

    def find_class(self, module: str, name: str) -> Any:
        if module not in self._MODULES or name not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def cifar(folder: Path) -> dict[str, Listing]:
    """Read CIFAR-10 or CIFAR-100 from the files that torchvision's class unpacks."""
    parts, key = _CIFAR_PARTS[folder.name]
    return {part: _cifar_part([folder / name for name in names], key) for part, names in parts.items()}


def _cifar_part(files: list[Path], key: str) -> Arrays:
    """Read rows of 3072 bytes: red, green and blue plane of 32 x 32."""
    images, labels, names = [], [], []
    for path in files:
        content = _unpickled(path)
        try:
            images.append(np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += [int(label) for label in content[key]]
            names += [f"{path.name}_{index:05d}" for index in range(len(images[-1]))]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a batch of CIFAR images ({error!r}); unpack the archive again") from None
    return Arrays(np.concatenate(images), labels, names, files[0].parent)


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _load(file)
    except Exception as error:  # broken bytes make pickle raise errors of many kinds
        raise DataError(f"{path}: cannot be read ({error}); unpack the archive again") from None


def _load(file: BinaryIO) -> Any:
    return _ArraysOnly(file, encoding="latin1").load()  # as Python 2 wrote them


def mat(path: Path, key: str) -> NDArray[Any]:
    """Read one array of a MATLAB file. DataError when it cannot be read or lacks it."""
    from scipy.io import loadmat  # here, because it takes a while

    try:
        return np.asarray(loadmat(str(path), variable_names=[key])[key])
    except Exception as error:  # scipy lets errors of many kinds through
        raise DataError(f"{path}: cannot be read as a MATLAB file with '{key}' ({error!r}); fetch it again") from None


def svhn(path: Path) -> Rows:
    """Read X (32, 32, 3, N) and y (N, 1), where 10 is the digit 0."""
    labels = mat(path, "y").ravel().astype(np.int64) % 10
    return Rows(path, np.arange(len(labels)), labels, lambda rows: mat(path, "X").transpose(3, 0, 1, 2)[rows], block=len(labels))


def pcam(folder: Path, stem: str) -> Rows:
    """Read ``STEM_x.h5`` with images x (N, 96, 96, 3) and ``STEM_y.h5`` with labels y (N, 1, 1, 1). Needs h5py."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(f"{folder}: PatchCamelyon's files need h5py; install it with: pip install 'petlbench[data]'") from None
    path = folder / f"{stem}_x.h5"
    try:
        with h5py.File(folder / f"{stem}_y.h5") as file:
            labels = np.asarray(file["y"]).ravel()

        def fetch(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
            with h5py.File(path) as file:
                return np.asarray(file["x"][rows])

        return Rows(path, np.arange(len(labels)), labels, fetch, block=1024)
    except (OSError, KeyError) as error:
        raise DataError(f"{folder}: {stem}_x.h5 and {stem}_y.h5 cannot be read ({error}); fetch them again") from None


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
