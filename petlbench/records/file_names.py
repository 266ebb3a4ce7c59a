"""Names as parts of paths, whatever is in them and however long they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_LONGEST = 80  # of the 255 bytes that file systems give to a name; the rest is for what is put before and behind


def slug(name: str, longest: int = _LONGEST) -> str:
    """Letters, digits, dot, dash and underscore, and not more than ``longest`` of them. Several names may share one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:longest].strip(".") or "_"


def file_part(name: str) -> str:
    """A name as one part of a path, another one for every name: ``mini/digits`` is ``mini-digits``.

    Where the name cannot be read back from that, 8 hexadecimal digits of its hash follow.
    """
    short = slug(name.replace("/", "-"))
    if short.replace("-", "/") == name:
        return short
    return f"{short}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def exists(path: Path) -> bool:
    """Whether there is a file or folder; False as well where there can be none, for which ``Path.exists`` raises an OSError."""
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False
