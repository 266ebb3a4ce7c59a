"""Print tables as wide as the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from petlbench.errors import printable

WIDTH = 120  # columns of a log file or a pipe, which have no width of their own


class Terminal(Console):
    """A console for text from outside: it prints such text as it is, without markup, and what a terminal would obey as escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)


def table_console() -> Console:
    """Return standard output, as wide as the terminal, or WIDTH columns where there is none."""
    console = Terminal()
    if not console.is_terminal:
        console.width = WIDTH
    return console


def print_rows(rows: Sequence[Mapping[str, Any]], right: Sequence[str] = ()) -> None:
    """Print rows with the same keys as a table, the columns ``right`` aligned to the right. Prints nothing when there are no rows."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))  # no markup
    table_console().print(table)
