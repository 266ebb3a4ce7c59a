"""Listings: a split of a dataset on a disk with labels and locations, before any image is decoded."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petlbench.data.images import MOST_BYTES, decode_bytes, read_bytes
from petlbench.errors import DataError

_DETOUR = re.compile(r"(^|/)\.{0,2}/")  # in a path that has a shorter spelling, such as a/../b
MANY = 100_000  # files, whose sizes take too long to ask for at the start of a run


class Listing(ABC):
    """An ImageSource whose images have names. ``names`` and ``labels`` (N,) are in the order of the split."""

    def __init__(self, names: Sequence[str], labels: ArrayLike) -> None:
        self.names = names
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        if len(self.labels) != len(names):
            some = f", {names[0]} for one," if len(names) else ""
            raise DataError(
                f"{len(names):,} images{some} have {len(self.labels):,} labels; their files do not belong together, fetch both again"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def location(self, index: int) -> str:
        """Return where an image lies, for messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return an image as it is stored. DataError when it cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash that does not depend on the folder or layout. Of files, which are not read, it covers the sizes, or, for more than ``MANY``,
        the names."""

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> Listing:
        """Return some of the images, in the given order."""

    def identities(self) -> Sequence[str]:
        """Return one text per image, the same for the same file in another listing; nothing for arrays and for more than ``MANY`` files."""
        return ()

    def check_files(self) -> None:  # noqa: B027 (images in arrays have no files of their own)
        """DataError when a listed file is not there. Quick: folders are listed, of more than ``MANY`` files none, and no file is opened."""

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Decode an image at native size, (H, W, 3) RGB. DataError, with its location, when that fails."""
        return decode_bytes(self.read(index), self.location(index))


class Files(Listing):
    """Image files: ``names`` are paths relative to ``root``."""

    def __init__(self, root: Path, names: Sequence[str], labels: ArrayLike) -> None:
        super().__init__(names, labels)
        self.root = root

    def location(self, index: int) -> str:
        return str(self.root / self.names[index])

    def read(self, index: int) -> bytes:
        return read_bytes(self.root / self.names[index])

    def fingerprint(self) -> str:
        if len(self) > MANY:
            return hashlib.sha256("\n".join(name.rpartition("/")[2] for name in self.names).encode()).hexdigest()
        return _hash_of_sizes([self._size(name) for name in self.names])

    def identities(self) -> Sequence[str]:
        if len(self) > MANY:
            return ()
        root = os.path.normpath(self.root)
        return [os.path.normpath(f"{root}/{name}") if _DETOUR.search(name) else f"{root}/{name}" for name in self.names]

    def check_files(self) -> None:
        folders: dict[str, set[str]] = {}
        for name in self.names if len(self) <= MANY else ():
            above, _, file = name.rpartition("/")
            if above not in folders:
                folders[above] = _names_in(self.root / above)
            if file not in folders[above]:
                self._size(name)  # which says what is wrong, unless the file system takes other spellings of a name

    def take(self, indices: NDArray[np.int64]) -> Files:
        return Files(self.root, [self.names[index] for index in indices], self.labels[indices])

    def _size(self, name: str) -> int:
        try:
            status = (self.root / name).stat()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{self.root / name}: listed, but cannot be read ({reason}); restore it or correct the list") from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{self.root / name}: listed, but no file; restore it or correct the list")
        return status.st_size


class ZipMembers(Listing):
    """Image files in a zip archive, which is not unpacked: ``names`` are its members."""

    def __init__(self, archive: Path, names: Sequence[str], labels: ArrayLike) -> None:
        super().__init__(names, labels)
        self.archive = archive

    def location(self, index: int) -> str:
        return f"{self.archive}:{self.names[index]}"

    def read(self, index: int) -> bytes:
        try:
            archive = _archive(self.archive)
            if (size := archive.getinfo(self.names[index]).file_size) > MOST_BYTES:
                raise ValueError(f"it unpacks to {size:,} bytes")
            return archive.read(self.names[index])
        except (OSError, KeyError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.location(index)}: cannot be read ({error}); fetch the archive again") from None

    def fingerprint(self) -> str:
        self.check_files()
        sizes = {member.filename: member.file_size for member in _archive(self.archive).infolist()}
        return _hash_of_sizes([sizes[name] for name in self.names])

    def identities(self) -> Sequence[str]:
        return self.names

    def check_files(self) -> None:
        members = set(_archive(self.archive).namelist())
        if missing := next((name for name in self.names if name not in members), None):
            raise DataError(f"{self.archive}: {missing} is listed, but not in the archive; fetch it again")

    def take(self, indices: NDArray[np.int64]) -> ZipMembers:
        return ZipMembers(self.archive, [self.names[index] for index in indices], self.labels[indices])


class Arrays(Listing):
    """Images that lie decoded in one array (N, H, W, 3) or (N, H, W) of uint8, perhaps a memory map. ``names`` are for messages."""

    is_uniform = True

    def __init__(self, images: NDArray[np.uint8], labels: ArrayLike, names: Sequence[str], origin: Path) -> None:
        super().__init__(names, labels)
        self.images = images
        self.origin = origin

    def location(self, index: int) -> str:
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


def _archive(path: Path) -> zipfile.ZipFile:
    """Return an open archive, which is opened again when another file has taken its place."""
    return _opened(path, path.stat().st_mtime_ns, os.getpid())


@lru_cache(maxsize=8)
def _opened(archive: Path, modified_ns: int, process: int) -> zipfile.ZipFile:
    """Open an archive and read its table of contents. Threads may share it, a forked process may not: it would share the file position."""
    return zipfile.ZipFile(archive)


def _names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder that can be looked at: not those of broken links."""
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except OSError:
        return set()


def _hash_of_sizes(sizes: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(sizes, dtype="<i8").tobytes()).hexdigest()
