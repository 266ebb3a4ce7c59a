"""Find out which tasks' images are on this machine and which can be fetched; report those that are missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from petlbench.data.task import DiskTask, TaskSpec
from petlbench.errors import ConfigError, DataError
from petlbench.registry import TASKS

VARIABLE = "PETLBENCH_DATA"
State = Literal["present", "downloadable", "manual", "broken"]


@dataclass(frozen=True)
class Presence:
    """State of a task's images on this machine."""

    task: str
    state: State
    where: str  # the folder it was found in; else what is looked for, or what is wrong


def data_folder(configured: str | None) -> Path | None:
    """Return the data root: ``data_root=DIR``, else the environment variable; None when neither is set. ConfigError when it is not a folder."""
    named = configured or os.environ.get(VARIABLE)
    if not named:
        return None
    root = Path(named).expanduser()
    if not root.is_dir():
        how = f"data_root={configured}" if configured else f"{VARIABLE}={named}"
        raise ConfigError(f"{how} is not a folder; name the one that your datasets lie in")
    return root


def presence(name: str, root: Path | None) -> Presence:
    """Return the state of a task; one that is present can be opened. One that needs no images from elsewhere is always present."""
    family, _, own = name.partition(":")
    target = TASKS.get(family)
    if isinstance(target, TaskSpec):
        return Presence(name, "present", "made here")
    if not isinstance(target, DiskTask):
        try:
            target(own)
        except DataError as error:
            return Presence(name, "broken", str(error))
        return Presence(name, "present", own)
    try:
        location = None if root is None else target.locate(root)
    except DataError as error:
        return Presence(name, "broken", str(error))
    if location is not None:
        return Presence(name, "present", f"{location.root} ({location.layout})")
    # When all downloads exist and the task is still missing, people have to fetch the rest.
    is_incomplete = any(root is None or not (root / item.target).exists() for item in target.downloads)
    return Presence(name, "downloadable" if is_incomplete else "manual", " or ".join(target.expected()))


def missing_error(absent: Sequence[Presence], of: int, root: Path | None) -> DataError:
    """Return one error for all missing tasks: the files that were looked for, and how to get them."""
    where = f"below {root}" if root else f"anywhere, since no folder is named: say data_root=DIR or set {VARIABLE}"
    width = max(len(one.task) for one in absent)
    lines = [f"{len(absent)} of {of} tasks are not there; looked {where}" if of > 1 else f"{absent[0].task} is not there; looked {where}"]
    lines += [f"  {one.task:{width}}  {one.state}: {one.where}" for one in absent]
    if of > len(absent):
        lines.append("to run the others: --available")
    fetched = [one.task for one in absent if one.state == "downloadable"]
    if fetched:
        lines.append(f"to download: petlbench data prepare {' '.join(fetched)} data_root={root or 'DIR'}")
    for name in (one.task for one in absent if one.state == "manual"):
        target = TASKS.get(name)
        assert isinstance(target, DiskTask)
        lines.append(f"by hand: {name} from {target.source}")
    return DataError("\n".join(lines))
