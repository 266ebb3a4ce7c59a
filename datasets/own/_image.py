"""Image files of the user's own: what is one, and whether it is listed once."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from petlbench.errors import DataError


@dataclass(frozen=True)
class Image:
    """An image file of a split, as its folder or list has it."""

    path: str  # relative to the task's root
    label: str
    identity: object  # the same for every path to one file
    origin: str  # the list that names it; without one, the file
    line: int = 0  # of the list; 0: there is none

    @property
    def where(self) -> str:
        return f"{self.origin}, line {self.line}" if self.line else shown(self.origin)


def shown(path: str | Path) -> str:
    """Return a path for a message, which is one line also when the path is not UTF-8 or has characters that are not seen."""
    return str(path) if str(path).isprintable() else ascii(str(path))[1:-1]


def identity_of(path: Path, where: str = "") -> object:
    """Return what all paths to one file have in common: links and other spellings too. DataError, with ``where``, when there is no such file."""
    start = f"{where}: " if where else ""
    try:
        str(path).encode()
        found = path.stat()
    except UnicodeEncodeError:
        raise DataError(f"{start}{shown(path)}: its name is not UTF-8; rename it") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            raise DataError(
                f"{start}{shown(path)}: a link to {shown(path.readlink())}, where no file is; restore that or remove the link"
            ) from None
        reason = error.strerror if isinstance(error, OSError) else "its name has a NUL character"
        raise DataError(f"{start}there is no file {shown(path)} ({reason}); restore it or correct the list") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise DataError(f"{start}{shown(path)}: {kind}, where an image file is expected; remove it")
    return (found.st_dev, found.st_ino) if found.st_ino else path.resolve()


def is_file(path: Path) -> bool:
    """Return True for a file; False also for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_once(images: Iterable[Image]) -> None:
    """DataError for a file that is there twice under any spelling: train, val and test share none, and no file has two labels."""
    first: dict[object, Image] = {}
    for image in images:
        before = first.setdefault(image.identity, image)
        if before is image:
            continue
        if not image.line:
            raise DataError(f"{image.where}: the same file as {before.where}; an image belongs to one split and one class")
        place = f"line {before.line}" if before.origin == image.origin else before.where
        spelling = "" if before.path == image.path else f" as {shown(before.path)}"
        raise DataError(
            f"{image.where}: {shown(image.path)} was listed in {place} already{spelling}; an image belongs to one split and one class"
        )
