"""Read files that somebody else may have put there."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petlbench.errors import RecordError

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file. RecordError for anything else; reading a pipe or a device might never end.

    ``most``: bytes; a larger file is refused unread.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise RecordError(f"{path}: {size:,} bytes, expected {most:,} at most; move it away")
        return file.read()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file's content. RecordError for anything else."""
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(mode := os.fstat(file.fileno()).st_mode):
                raise RecordError(f"{path}: expected a file, this is {_KINDS.get(stat.S_IFMT(mode), 'something else')}; move it away")
            yield file
    except IsADirectoryError:
        raise RecordError(f"{path}: expected a file, this is a folder; move it away") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise RecordError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
