"""List the downloads that tasks need, and describe those that people have to make themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petlbench.data.acquire.fetch import Fetch
from petlbench.data.acquire.presence import Presence, presence
from petlbench.data.task import DiskTask
from petlbench.registry import TASKS


def needed(names: Sequence[str], root: Path) -> tuple[Fetch, ...]:
    """Return the downloads that tasks lack below a data root, each once."""
    fetches: dict[str, Fetch] = {}
    for name in names:
        target = TASKS.get(name.partition(":")[0])
        if isinstance(target, DiskTask) and presence(name, root).state != "present":
            fetches |= {item.target: item for item in target.downloads if not (root / item.target).exists()}
    return tuple(fetches.values())


def by_hand(task: Presence) -> str:
    """Return what a person has to do for a missing task."""
    target = TASKS.get(task.task)
    assert isinstance(target, DiskTask), "others are always there"
    return f"fetch it from {target.source} and lay it out as {task.where}"
