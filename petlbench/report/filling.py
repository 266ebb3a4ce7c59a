"""The leaderboard of a bench that is still running."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType

from petlbench.analysis.aggregate import leaderboard
from petlbench.records.schema import Record
from petlbench.report.leaderboard import leaderboard_table

SOON = 30.0  # seconds after which somebody who reads a log file should have seen a first table
_SHARE = 0.02  # of the time that drawing may take: a table of thousands of runs is drawn less often


class FillingLeaderboard:
    """A table that rich draws, of the runs finished so far: cells fill one by one, and a mean appears with the last cell of its row.

    ``suites``: the tasks by suite. ``records``: of runs that were finished before.
    """

    def __init__(self, suites: Mapping[str, Sequence[str]], records: Iterable[Record] = ()) -> None:
        self._suites = suites
        self._records = [record for record in records if record.is_tested]
        self._was_announced = self._has_complete_row()
        self._began = time.monotonic()
        self._table: RenderableType = Group()
        self._is_outdated, self._draw_after = bool(self._records), 0.0

    def add(self, record: Record) -> bool:
        """Add a finished run. Returns True once: for the one that completes the first row, or the first that ends after SOON."""
        if not record.is_tested:
            return False
        self._records.append(record)
        self._is_outdated = True
        if self._was_announced:
            return False
        self._was_announced = time.monotonic() >= self._began + SOON or self._has_complete_row()
        return self._was_announced

    def __rich__(self) -> RenderableType:
        now = time.monotonic()
        if self._is_outdated and now >= self._draw_after:
            self._table = self.drawn()
            self._is_outdated, self._draw_after = False, now + (time.monotonic() - now) / _SHARE
        return self._table

    def drawn(self) -> RenderableType:
        """Return the table as it is now."""
        return leaderboard_table(leaderboard(self._records, self._suites))

    def _has_complete_row(self) -> bool:
        done: dict[str, set[str]] = {}
        for record in self._records:
            done.setdefault(record.method.name, set()).add(record.task)
        return any(set(tasks) <= of_method for of_method in done.values() for tasks in self._suites.values())
