"""The leaderboard of a bench that is still running."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType

from petlbench.analysis.aggregate import leaderboard
from petlbench.records.schema import Record
from petlbench.report.leaderboard import leaderboard_table

_SHARE = 0.02  # of the time that drawing may take: a table of thousands of runs is drawn less often


class FillingLeaderboard:
    """A table that rich draws, of the runs finished so far: cells fill one by one, and a mean appears with the last cell of its row.

    ``suites``: the tasks by suite. ``records``: of runs that were finished before.
    """

    def __init__(self, suites: Mapping[str, Sequence[str]], records: Iterable[Record] = ()) -> None:
        self._suites = suites
        self._records = [record for record in records if record.has_result]
        self._was_complete = self._has_complete_row()
        self._table: RenderableType = Group()
        self._is_outdated, self._draw_after = bool(self._records), 0.0

    def add(self, record: Record) -> bool:
        """Add a finished run. Returns True for the one that completes the first row: from then on the table ranks something."""
        if not record.has_result:
            return False
        self._records.append(record)
        self._is_outdated = True
        was_complete, self._was_complete = self._was_complete, self._was_complete or self._has_complete_row()
        return self._was_complete and not was_complete

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
