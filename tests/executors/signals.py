"""Signals of processes that tests start."""

from __future__ import annotations

import signal


def hear_signals() -> None:
    """Undo what this session may have inherited from a shell that started it in the background."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
