"""What all files of a leaderboard are made from, each computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from petlbench.analysis.aggregate import comparable_parts, leaderboard_of, ranked_columns, runs_behind, runs_frame, with_own_tasks
from petlbench.analysis.statistics import Comparison, compare
from petlbench.records.schema import Record


@dataclass(frozen=True)
class Part:
    """One suite, backbone and protocol: rows of the leaderboard that may be compared, and the runs behind them."""

    frame: pd.DataFrame  # one of the ``comparable_parts``
    behind: pd.DataFrame  # its rows of ``runs_frame``

    @cached_property
    def comparison(self) -> Comparison:
        return compare(self.behind, ranked_columns(self.frame))


@dataclass(frozen=True)
class Tables:
    """The runs of a results folder, their leaderboard and its parts."""

    records: Sequence[Record]
    runs: pd.DataFrame  # ``runs_frame``
    frame: pd.DataFrame  # ``leaderboard``

    @cached_property
    def parts(self) -> list[Part]:
        return [Part(part, runs_behind(part, self.runs)) for part in comparable_parts(self.frame)]


def tables_of(records: Sequence[Record], suites: Mapping[str, Sequence[str]]) -> Tables:
    """Compute the tables of records. ``suites``: name -> tasks in order; those without a finished run are left out, and a task that none of them
    lists has a table of its own."""
    runs = runs_frame(records)
    have_runs = set(runs["task"])
    shown = {suite: tasks for suite, tasks in with_own_tasks(suites, records).items() if not have_runs.isdisjoint(tasks)}
    return Tables(records, runs, leaderboard_of(runs, shown))
