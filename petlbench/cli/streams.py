"""Standard output and errors that never end a command: what they cannot say is written another way, and a reader that has gone is no error."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

_SPELT = {"±": "+/-", "–": "-", "−": "-", "…": "...", "·": "*", "†": "+", "’": "'", "“": '"', "”": '"', "×": "x", "→": "->"}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Write characters that an encoding lacks as ASCII says them, or as Python's escapes."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_SPELT.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in lacking), error.end


codecs.register_error("petlbench.spell", _spell)


class _Output(io.FileIO):
    """A file that drops what cannot be written."""

    lost: OSError | None = None  # the first error

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.lost = self.lost or error
            return len(content)


def open_streams() -> bool:
    """Replace standard output and errors of this process. Streams of a test or a notebook only get the spelling: then False, the process is not ours."""
    is_own = False
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by the caller; its number must not become that of a file that a run opens
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (open as long as the process)
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper) and _number(stream) == number:
            output = io.BufferedWriter(_Output(number, "w", closefd=False))
            lines = stream.line_buffering or number == 2
            setattr(sys, name, io.TextIOWrapper(output, stream.encoding, "petlbench.spell", line_buffering=lines))
            is_own = True
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="petlbench.spell")
    return is_own


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def lost_output() -> OSError | None:
    """Flush standard output; return why some of it was lost, unless its reader, such as head, had seen enough."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Output):
        return None
    sys.stdout.flush()
    return None if raw.lost is None or raw.lost.errno == errno.EPIPE else raw.lost
