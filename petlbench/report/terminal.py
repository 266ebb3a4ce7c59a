"""Tables for a terminal of any width: names of rows are always shown, and columns that do not fit are left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_LEAST = 20  # characters to which a column that may wrap is narrowed before another is left out


@dataclass(frozen=True)
class TerminalColumn:
    """A column of text with its heading, which may have several lines."""

    heading: str
    cells: Sequence[Text]
    justify: Literal["left", "right"] = "left"
    may_wrap: bool = False
    is_kept: bool = False  # however narrow the terminal is

    @property
    def width(self) -> int:
        """Characters of the widest line."""
        lines = [line for text in (self.heading, *(cell.plain for cell in self.cells)) for line in text.splitlines()]
        return max(map(cell_len, lines), default=0)

    @property
    def least(self) -> int:
        return min(self.width, _LEAST) if self.may_wrap else self.width


@dataclass(frozen=True)
class FittingTable:
    """A table that shows as many of its columns, from the left, as the terminal has room for."""

    columns: Sequence[TerminalColumn]
    gap: int  # blanks between columns
    elsewhere: str  # where all columns are, for the line that counts what was left out

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._fitting(options.max_width)
        table = Table(box=None, padding=(0, self.gap, 0, 0), pad_edge=False)
        for column in shown:
            table.add_column(
                Text(column.heading),
                justify=column.justify,
                no_wrap=not column.may_wrap,
                overflow="fold" if column.may_wrap else "ellipsis",
                min_width=column.least if column.may_wrap else None,
            )
        for row in zip(*(column.cells for column in shown), strict=True):
            table.add_row(*row)
        yield table
        if left_out := len(self.columns) - len(shown):
            yield Text(f"({left_out} more columns: {self.elsewhere}, or a wider terminal)")

    def _fitting(self, width: int) -> list[TerminalColumn]:
        room = width - sum(column.least + self.gap for column in self.columns if column.is_kept) + self.gap  # none behind the last
        is_full = False
        shown = []
        for column in self.columns:
            if not column.is_kept:
                room -= column.least + self.gap
                is_full |= room < 0
            if column.is_kept or not is_full:
                shown.append(column)
        return shown
