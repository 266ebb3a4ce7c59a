"""A grid of runs: what is done, what is missing."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from petlbench.config.files import load_suite, names, suite_name, suite_of, task_name
from petlbench.config.resolve import RunConfig, load_method, nested, resolve
from petlbench.data.acquire.presence import data_folder, missing_error, presence
from petlbench.data.joined import names_joined
from petlbench.data.load import require
from petlbench.errors import ConfigError, did_you_mean
from petlbench.learners.setting import served_name
from petlbench.records.store import RecordStore
from petlbench.registry import METHODS, TASKS
from petlbench.runs.checks import check_setting, is_possible
from petlbench.runs.log import record_path

State = Literal["done", "failed", "missing"]
_log = logging.getLogger("petlbench.data")


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the grid."""

    config: RunConfig
    state: State

    @property
    def label(self) -> str:
        return f"{self.config.method} on {self.config.task}, seed {self.config.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs of a grid, and what was asked for and is not among them."""

    runs: tuple[PlannedRun, ...]
    skipped: tuple[str, ...] = ()  # methods of ``all`` that the backbone does not give enough access
    absent: tuple[str, ...] = ()  # tasks whose images are not there

    @property
    def out(self) -> Path:
        """The results folder."""
        return Path(self.runs[0].config.execution.out)


def plan(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    available: bool = False,
) -> Plan:
    """The runs of some methods on some tasks or suites with some seeds, each with its state on disk.

    ``methods`` and ``tasks`` are names or texts of names with commas; ``all`` is every registered plugin. Without ``seeds`` those of the suite of a
    task. Tasks whose images are not there are refused, all in one message, or left out when only what is ``available`` is asked for. A cancelled
    or broken record counts as missing, one that failed or diverged as failed. Every run is checked, so that a grid does not end in its middle;
    methods that only ``all`` names are skipped where the backbone does not give what they need.
    """
    common = nested(settings or {})
    wanted = selected_tasks(tasks)
    present = _present(wanted, data_folder(common.get("data_root")), available)
    named = [name for text in _listed(methods) for name in text.split(",")]
    common = _with_served_name(common)
    grid: list[PlannedRun] = []
    skipped = []
    for method in selected_methods(methods):
        for task in present:
            for seed in seeds if seeds is not None else seeds_of(task):
                config = resolve({**common, "method": _with_name(common.get("method"), method), "task": task, "seed": seed})
                if method not in named and not is_possible(config):
                    skipped.append(method)
                    continue
                check_setting(config)
                grid.append(PlannedRun(config, state_of(config)))
    return Plan(tuple(grid), tuple(dict.fromkeys(skipped)), tuple(task for task in wanted if task not in present))


def _with_name(section: Any, name: str) -> Any:
    return {**section, "name": name} if isinstance(section, Mapping) else {"name": name}


def _with_served_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with the name of the model that is served there in place of ``remote``: the server is asked once for all runs."""
    backbone, url = settings.get("backbone"), settings.get("url")
    if not isinstance(backbone, Mapping) or backbone.get("name") != "remote" or url is None:
        return dict(settings)
    return {**settings, "backbone": {**backbone, "name": served_name(url)}}


def _listed(names_: str | Sequence[str]) -> list[str]:
    return [names_] if isinstance(names_, str) else list(names_)


def seeds_of(task: str) -> tuple[int, ...]:
    """The seeds that a task is run with when none are named: its suite's, else 0."""
    suite = suite_of(task)
    return load_suite(suite).seeds if suite in names("suites") else (0,)


def selected_methods(chosen: str | Sequence[str]) -> list[str]:
    """``all`` is every registered plugin; presets run when they are named, as in ``all,adaptformer``."""
    selected = []
    for name in (name for text in _listed(chosen) for name in text.split(",")):
        if name != "all":
            load_method(name)  # refuses what is none
        selected += METHODS.names() if name == "all" else [name]
    return list(dict.fromkeys(selected))


def selected_tasks(chosen: str | Sequence[str]) -> list[str]:
    """Suites are replaced by their tasks, aliases by the names that they are short for."""
    suites, tasks = names("suites"), []
    for text in _listed(chosen):
        joined = text.startswith("[")  # a list is one task: all of them together
        for name in [text.strip("[]").replace(" ", "").replace(",", "+")] if joined else text.split(","):
            suite, task = suite_name(name), task_name(name)
            if suite in suites:
                tasks += list(load_suite(suite).tasks)
            elif all(part.partition(":")[0] in TASKS for part in names_joined(task)):
                tasks.append(task)
            else:
                hint = did_you_mean(name, [*suites, *TASKS.known()])
                raise ConfigError(f"no suite or task '{name}'.{hint} (petlbench suites and petlbench tasks list all){TASKS.reasons(name)}")
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
