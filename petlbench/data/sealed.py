"""Files of a cache that begin with the hash of their name and content. What is damaged, or lies under another's name, counts as absent."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from pathlib import Path

from petlbench.errors import RecordError
from petlbench.records.store import write_atomically

_log = logging.getLogger("petlbench.data")


def read_sealed(path: Path) -> bytes | None:
    """Return the content that was written under this name. None when there is none, or after a warning when it is damaged."""
    try:
        if not path.exists():
            return None
        seal, content = (path.read_bytes() if path.is_file() else b"").split(b"\n", 1)  # a pipe would block
        if seal != _seal(path, content):
            raise ValueError
    except (OSError, ValueError):
        _log.warning("%s is damaged; what it held is computed again", path)
        return None
    return content


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file, or not: a cache that cannot be written costs time, not the run."""
    with suppress(RecordError):
        write_atomically(path, _seal(path, content) + b"\n" + content)


def _seal(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + content).hexdigest().encode()
