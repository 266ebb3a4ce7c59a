"""File names from arbitrary names."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_LONGEST = 80  # of the 255 bytes that file systems allow; the rest is for prefixes and suffixes


def slug(name: str, longest: int = _LONGEST) -> str:
    """Reduce a name to at most ``longest`` letters, digits and the characters ``.-_@``. Several names may share a slug."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "_", name)[:longest].strip(".") or "_"


def file_part(name: str) -> str:
    """Return a unique file name for a name: ``mini-digits`` for ``mini/digits``.

    If the name cannot be recovered from it, 8 hexadecimal digits of the name's hash follow.
    """
    short = slug(name.replace("/", "-"))
    if short.replace("-", "/") == name:
        return short
    return f"{short}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def exists(path: Path) -> bool:
    """Return True if a file or folder exists; False also for impossible names, for which ``Path.exists`` raises an OSError."""
    try:
        return path.exists()
    except OSError:  # name too long
        return False
