"""Tell whether a file is still what it was when it was read, without reading it again."""

from __future__ import annotations

import os
import time

TICK = 20_000_000  # ns; two changes of a file that are closer may leave it with the same times


def state_text(found: os.stat_result) -> str:
    """Return a text that differs between two states of a file: its size, times and inode."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def is_settled(found: os.stat_result) -> bool:
    """Return True if any later change would give the file another state: its last one is long enough ago."""
    return time.time_ns() - found.st_ctime_ns > TICK
