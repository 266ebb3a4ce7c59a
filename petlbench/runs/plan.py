"""A grid of runs: what is done, what is missing, and carrying out the rest."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from petlbench.checks import check_setting, is_possible
from petlbench.cli.words import parse_words
from petlbench.config.files import load_suite, names, suite_name, task_name
from petlbench.config.resolve import RunConfig, method_names, resolve
from petlbench.data.joined import names_joined
from petlbench.data.load import require
from petlbench.data.presence import data_folder, missing_error, presence
from petlbench.errors import ConfigError, did_you_mean
from petlbench.records.store import RecordStore
from petlbench.registry import METHODS, TASKS
from petlbench.runs.execute import record_path
from petlbench.shared import served_name

State = Literal["done", "failed", "missing"]
_log = logging.getLogger("petlbench.data")


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the grid."""

    arguments: tuple[str, ...]  # what ``petlbench run`` would be given
    config: RunConfig
    state: State

    @property
    def label(self) -> str:
        return f"{self.config.method} on {self.config.task}, seed {self.config.seed}"


def plan(arguments: Sequence[str], available: bool = False) -> list[PlannedRun]:
    """The runs that ``method=all|A,B task=SUITE|TASK,… seeds=0,1 key=value…`` stands for, each with its state on disk.

    Without ``seeds`` one seed, 0. Tasks whose images are not there are refused, all in one message, or left out when what is ``available`` is asked for.
    A cancelled or broken record counts as missing, one that failed or diverged as failed. Every run is checked, so
    that a grid does not end in its middle; methods that only ``all`` stands for are left out where the backbone does not give what they need.
    """
    overrides = parse_words(arguments)  # refuses malformed words
    words = _words(arguments)
    tasks = _present(selected_tasks_of(arguments), data_folder(overrides.get("data_root")), available)
    named = words.get("method", "all").split(",")
    common = _pinned_words([argument for argument in arguments if argument.partition("=")[0] not in ("method", "task", "seeds", "seed")])
    grid = []
    for method in selected_methods_of(arguments):
        for task in tasks:
            for seed in selected_seeds(words.get("seeds", words.get("seed", "0"))):
                cell = [f"method={method}", f"task={task}", f"seed={seed}", *common]
                config = resolve(parse_words(cell))
                if method not in named and not is_possible(config):
                    continue
                check_setting(config)
                grid.append(PlannedRun(tuple(cell), config, state_of(config)))
    return grid


def _pinned_words(arguments: Sequence[str]) -> list[str]:
    """The same, with the name of the model that is served there in place of ``backbone=remote``: the server is asked once for all runs."""
    words = _words(arguments)
    if words.get("backbone") != "remote" or "url" not in words:
        return list(arguments)
    return [word for word in arguments if not word.startswith("backbone=")] + [f"backbone={served_name(words['url'])}"]


def selected_methods_of(arguments: Sequence[str]) -> list[str]:
    """The methods that the words of a bench name."""
    return selected_methods(_words(arguments).get("method", "all"))


def selected_tasks_of(arguments: Sequence[str]) -> list[str]:
    """The tasks that the words of a bench name."""
    return selected_tasks(_words(arguments).get("task", "mini"))


def _words(arguments: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (argument.partition("=") for argument in arguments)}


def selected_methods(text: str) -> list[str]:
    """``all`` is every registered plugin; presets run when they are named, as in ``all,adaptformer``."""
    known, selected = method_names(), []
    for name in text.split(","):
        if name != "all" and name not in known:
            raise ConfigError(f"no method '{name}'.{did_you_mean(name, known)} (petlbench methods lists all)")
        selected += METHODS.names() if name == "all" else [name]
    return list(dict.fromkeys(selected))


def selected_tasks(text: str) -> list[str]:
    """Suites are replaced by their tasks, aliases by what they stand for."""
    if text.startswith("["):  # a list is one task: all of them together
        text = text.strip("[]").replace(" ", "").replace(",", "+")
    suites, tasks = names("suites"), []
    for name in text.split(","):
        suite, task = suite_name(name), task_name(name)
        if suite in suites:
            tasks += list(load_suite(suite).tasks)
        elif all(part.partition(":")[0] in TASKS for part in names_joined(task)):
            tasks.append(task)
        else:
            known = [*suites, *TASKS.names()]
            raise ConfigError(f"no suite or task '{name}'.{did_you_mean(name, known)} (petlbench suites and petlbench tasks list all)")
    return tasks


def _present(tasks: Sequence[str], root: Path | None, available: bool) -> list[str]:
    """The tasks that can be run. DataError that lists all others, unless what is ``available`` was asked for and there is some."""
    parts = [part for task in tasks for part in names_joined(task)]
    absent = [found for part in parts if ":" not in part and (found := presence(part, root)).state != "present"]
    if absent and (not available or len(absent) == len(parts)):
        raise missing_error(absent, len(parts), root)
    for one in absent:
        if one.state == "broken":
            _log.warning("%s is left out: %s", one.task, one.where)
    for task in tasks:
        if ":" in task:
            require(task, root)  # a folder that is not a task is refused here, not in the middle of a bench
    names_absent = {one.task for one in absent}
    return [task for task in tasks if names_absent.isdisjoint(names_joined(task))]


def selected_seeds(text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    try:
        return [int(word) for word in text.strip("[]").split(",")]
    except ValueError:
        raise ConfigError(f"seeds must be whole numbers such as 0,1,2, got '{text}'") from None


def state_of(config: RunConfig) -> State:
    """Whether a run's record exists and is complete."""
    record = RecordStore(Path(config.execution.out)).find(record_path(config))
    if record is None or record.status == "cancelled":
        return "missing"
    return "done" if record.has_result else "failed"


def seconds_per_run(results: Path) -> dict[str, float]:
    """Median seconds of a run per method, from the records that are there."""
    seconds: dict[str, list[float]] = {}
    for path in RecordStore(results).paths():
        record = RecordStore(results).find(path)
        if record is not None and record.has_result:
            seconds.setdefault(record.method.name, []).append(record.cost.total_seconds)
    return {method: statistics.median(values) for method, values in seconds.items()}
