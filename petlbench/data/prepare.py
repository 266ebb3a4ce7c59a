"""Fetch datasets on request, and say what people have to fetch themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petlbench.data.archives import require_space
from petlbench.data.fetch import Fetch, Report, fetch
from petlbench.data.presence import Presence, presence
from petlbench.data.task import TASKS, DiskTask


@dataclass(frozen=True)
class Plan:
    """What has to happen until some tasks can run."""

    tasks: tuple[Presence, ...]
    fetches: tuple[Fetch, ...]  # each once, however many tasks need it

    @property
    def megabytes(self) -> int:
        return sum(item.megabytes for item in self.fetches)


def plan(names: Sequence[str], root: Path) -> Plan:
    """What is there, and what of the rest can be fetched."""
    tasks = tuple(presence(name, root) for name in names)
    fetches: dict[str, Fetch] = {}
    for task in tasks:
        target = TASKS.get(task.task.partition(":")[0])
        if task.state != "present" and isinstance(target, DiskTask):
            fetches |= {item.makes: item for item in target.downloads if not (root / item.makes).exists()}
    return Plan(tasks, tuple(fetches.values()))


def carry_out(steps: Plan, root: Path, report: Report) -> None:
    """Fetch everything; DataError before anything is fetched when the disk has no room even for the archives."""
    require_space(root, steps.megabytes * 10**6, "downloading")
    for item in steps.fetches:
        fetch(item, root, report)


def by_hand(task: Presence) -> str:
    """What a person has to do for a task that cannot be fetched."""
    target = TASKS.get(task.task)
    source = target.source if isinstance(target, DiskTask) else ""
    return f"fetch it from {source or 'its authors (docs/datasets.md)'} and lay it out as {task.where}"
