"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

WIDTH = 120  # columns of a log file or a pipe, which have no width of their own


def table_console() -> Console:
    """Standard output: as wide as the terminal, or WIDTH where there is none."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    return console
