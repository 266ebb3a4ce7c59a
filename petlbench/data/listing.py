"""One split of a dataset as it lies on a disk: labels and places, before any image is decoded."""

from __future__ import annotations

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petlbench.data.images import decode_bytes, read_bytes
from petlbench.errors import DataError

MANY = 100_000  # files: asking for the sizes of so many takes longer than a run should need to begin.


class Listing(ABC):
    """An ImageSource whose images have names. ``names`` and ``labels`` (N,) are in the order of the split."""

    def __init__(self, names: Sequence[str], labels: ArrayLike) -> None:
        self.names = names
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def place(self, index: int) -> str:
        """Where an image lies, for messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """An image as it is stored. DataError when it cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what is stored, the same wherever and in whatever layout it lies. Files are told apart by their sizes, or, where
        they are more than ``MANY``, by their names: none is read."""

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> Listing:
        """A part of the split, in the given order."""

    def decode(self, index: int) -> NDArray[np.uint8]:
        """The image at native size, (H, W, 3) RGB. DataError names the place when it cannot be read."""
        return decode_bytes(self.read(index), self.place(index))


class Files(Listing):
    """Image files: ``names`` are paths relative to ``root``."""

    def __init__(self, root: Path, names: Sequence[str], labels: ArrayLike) -> None:
        super().__init__(names, labels)
        self.root = root

    def place(self, index: int) -> str:
        return str(self.root / self.names[index])

    def read(self, index: int) -> bytes:
        return read_bytes(self.root / self.names[index])

    def fingerprint(self) -> str:
        if len(self) > MANY:
            return hashlib.sha256("\n".join(name.rpartition("/")[2] for name in self.names).encode()).hexdigest()
        return _hash_of_sizes([self._size(name) for name in self.names])

    def take(self, indices: NDArray[np.int64]) -> Files:
        return Files(self.root, [self.names[index] for index in indices], self.labels[indices])

    def _size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            raise DataError(f"{self.root / name}: listed, but cannot be read ({error.strerror}); restore it or correct the list") from None


class ZipMembers(Listing):
    """Image files in a zip archive, which is not unpacked: ``names`` are its members."""

    def __init__(self, archive: Path, names: Sequence[str], labels: ArrayLike) -> None:
        super().__init__(names, labels)
        self.archive = archive

    def place(self, index: int) -> str:
        return f"{self.archive}:{self.names[index]}"

    def read(self, index: int) -> bytes:
        try:
            return _opened(self.archive, os.getpid()).read(self.names[index])
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.place(index)}: cannot be read ({error}); fetch the archive again") from None

    def fingerprint(self) -> str:
        sizes = {member.filename: member.file_size for member in _opened(self.archive, os.getpid()).infolist()}
        if missing := [name for name in self.names if name not in sizes]:
            raise DataError(f"{self.archive}: {missing[0]} is listed, but not in the archive; fetch it again")
        return _hash_of_sizes([sizes[name] for name in self.names])

    def take(self, indices: NDArray[np.int64]) -> ZipMembers:
        return ZipMembers(self.archive, [self.names[index] for index in indices], self.labels[indices])


class Arrays(Listing):
    """Images that lie decoded in one array (N, H, W, 3) or (N, H, W) of uint8, perhaps a memory map. ``names`` say where in the source."""

    is_uniform = True

    def __init__(self, images: NDArray[np.uint8], labels: ArrayLike, names: Sequence[str], origin: Path) -> None:
        super().__init__(names, labels)
        self.images = images
        self.origin = origin

    def place(self, index: int) -> str:
        return f"{self.origin}:{self.names[index]}"

    def read(self, index: int) -> bytes:
        return np.ascontiguousarray(self.images[index]).tobytes()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for image in self.images:
            digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()

    def take(self, indices: NDArray[np.int64]) -> Arrays:
        return Arrays(self.images[indices], self.labels[indices], [self.names[index] for index in indices], self.origin)

    def decode(self, index: int) -> NDArray[np.uint8]:
        image = np.asarray(self.images[index])
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


@lru_cache(maxsize=8)
def _opened(archive: Path, process: int) -> zipfile.ZipFile:
    """An archive whose table of contents has been read. Threads may share it, a forked process may not: it would share the position."""
    return zipfile.ZipFile(archive)


def _hash_of_sizes(sizes: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(sizes, dtype="<i8").tobytes()).hexdigest()
