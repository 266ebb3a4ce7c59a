"""Plan a grid of runs: done, stale, failed, missing and skipped ones."""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from petlbench.config.files import load_suite, names, suite_name, suite_of, task_name
from petlbench.config.resolve import RunConfig, load_method, merged, nested, resolve
from petlbench.data.acquire.presence import data_folder, missing_error, presence
from petlbench.data.content import name_of_task, with_content
from petlbench.data.joined import names_joined
from petlbench.errors import AccessError, ConfigError, did_you_mean
from petlbench.records.entry import Entry
from petlbench.records.schema import Record
from petlbench.registry import METHODS, TASKS
from petlbench.runs.checks import backbone_of, check_setting, reason_to_skip, traits_of
from petlbench.runs.state import State, States

_log = logging.getLogger("petlbench.data")


@dataclass(frozen=True)
class PlannedRun:
    """One cell of the grid."""

    config: RunConfig
    state: State
    reason: str = ""  # of a stale run: what is other now than when it was recorded


@dataclass(repr=False)
class Plan:
    """A grid of runs, and the skipped methods and missing tasks."""

    runs: list[PlannedRun] = field(default_factory=list)
    skipped: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # reason -> method -> the tasks that it cannot be run on
    absent: list[str] = field(default_factory=list)  # tasks whose images are missing
    seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)  # where they come from -> seeds, such as "suite vtab"
    seconds: dict[str, float] = field(default_factory=dict)  # median of a run per method, where one is recorded
    broken: tuple[str, ...] = ()  # of every file among the records that cannot be read, what is wrong

    @property
    def out(self) -> Path:
        """The results folder."""
        return Path(self.runs[0].config.execution.out)

    @property
    def states(self) -> list[State]:
        """The states that runs of this plan may be in; ``stale`` is one only where a run is."""
        is_stale = any(run.state == "stale" for run in self.runs)
        return [state for state in get_args(State) if state != "stale" or is_stale]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of runs in each state per method."""
        states = self.states
        by_method: dict[str, dict[str, int]] = {run.config.method: dict.fromkeys(states, 0) for run in self.runs}
        for run in self.runs:
            by_method[run.config.method][run.state] += 1
        return by_method

    def __repr__(self) -> str:
        return "\n".join([f"<plan of {len(self.runs)} runs: {self.summary()}>", *self.sentences()])

    def summary(self) -> str:
        """Count the runs in each state: ``2 done, 0 failed, 1 missing``."""
        found = Counter(run.state for run in self.runs)
        return ", ".join(f"{found[state]} {state}" for state in self.states)

    def _repr_html_(self) -> str:
        """Show the counts as a table in a notebook."""
        import pandas as pd

        return str(pd.DataFrame.from_dict(self.counts(), orient="index").to_html())

    def sentences(self) -> list[str]:
        """Return one sentence per reason for skipping methods or tasks, and for results that are not those of what is there now."""
        planned = {run.config.method for run in self.runs}
        lines = []
        for reason, methods in self.skipped.items():
            named = [f"{method} on {', '.join(tasks)}" if method in planned else method for method, tasks in methods.items()]
            lines.append(f"skipped: backbone lacks the required access: {', '.join(named)} ({reason})")
        stale = Counter(run.reason for run in self.runs if run.state == "stale")
        lines += [f"stale: {reason}: {count} {'run' if count == 1 else 'runs'}" for reason, count in stale.items()]
        return lines + ([f"skipped: images are not there: {', '.join(self.absent)}"] if self.absent else [])


def plan(
    methods: str | Sequence[str] = "all",
    tasks: str | Sequence[str] = "mini",
    seeds: Sequence[int] | int | None = None,
    settings: Mapping[str, Any] | None = None,
    available: bool = False,
) -> Plan:
    """Plan the runs of methods on tasks or suites with seeds, each with its state on disk.

    ``methods`` and ``tasks`` are names, or names joined by commas; ``all`` is every registered plugin. Without ``seeds`` those of a task's suite,
    else one, 0. Tasks whose images are missing are refused, all in one message, or skipped with ``available``. A cancelled
    or broken record counts as missing, one that failed or diverged as failed, and one of other data or weights than are there now as stale. Every
    run is checked, so that a grid does not end in its middle; methods selected by ``all`` only are skipped where the backbone lacks what they need.
    """
    seeds = None if seeds is None else _checked_seeds(seeds)
    traits, names_of, states = cache(traits_of), cache(name_of_task), States()  # a server, or a folder, is asked once for all runs
    common = nested(settings or {})
    wanted = selected_tasks(tasks)
    present = _present(wanted, data_folder(common.get("data_root")), available, names_of)
    named = _names_in(methods)
    found = Plan(absent=[task for task in wanted if task not in present])
    for method in selected_methods(methods):
        for task in present:
            origin, of_task = _seeds_of(task, seeds)
            cell = merged(common, {"method": {"name": method}, "task": task})
            config = resolve({**cell, "seed": of_task[0]})
            check_setting(config)
            of_backbone = traits(*backbone_of(config))
            if reason := reason_to_skip(config, of_backbone):
                if method in named:
                    raise AccessError(f"method {method} {reason}")
                found.skipped.setdefault(reason, {}).setdefault(method, []).append(task)
                continue
            if config.backbone.name == "remote" and of_backbone is not None:
                config = config.on_served(of_backbone.name)
            found.seeds[origin] = of_task
            first = with_content(config, names_of)
            found.runs += [planned_run(first.seeded(seed), states) for seed in of_task]
    if not found.runs:
        raise ConfigError("; ".join(["there is nothing to run", *found.sentences()]))
    index = states.index(found.runs[0].config.execution.out)
    index.save()
    found.seconds, found.broken = seconds_per_run(index.entries()), index.broken
    return found


def _checked_seeds(seeds: Sequence[int] | int) -> tuple[int, ...]:
    """Return seeds without repetition. ConfigError for none at all and for what is no whole number."""
    listed = (seeds,) if isinstance(seeds, int) else tuple(seeds)
    if not listed or not all(type(seed) is int for seed in listed):
        raise ConfigError(f"seeds must be whole numbers such as [0, 1, 2], got {seeds!r}")
    return tuple(dict.fromkeys(listed))


def _seeds_of(task: str, given: tuple[int, ...] | None) -> tuple[str, tuple[int, ...]]:
    """Return the origin of a task's seeds and the seeds: the ``given`` ones, else those of its suite."""
    if given is not None:
        return "as asked", given
    suite = suite_of(task)
    return (f"suite {suite}", load_suite(suite).seeds) if suite in names("suites") else ("default", (0,))


def _names_in(chosen: str | Sequence[str]) -> list[str]:
    """Split one or several texts of names joined by commas."""
    return [name for text in ([chosen] if isinstance(chosen, str) else chosen) for name in text.split(",")]


def selected_methods(chosen: str | Sequence[str]) -> list[str]:
    """Return the selected methods. ``all`` is every registered plugin; presets must be named, as in ``all,adaptformer``."""
    selected = []
    for name in _names_in(chosen):
        if name != "all":
            load_method(name)  # raises for an unknown name
        selected += METHODS.names() if name == "all" else [name]
    return list(dict.fromkeys(selected))


def selected_tasks(chosen: str | Sequence[str]) -> list[str]:
    """Return the selected tasks. Suites are replaced by their tasks, aliases by full names. A text in brackets is one task that joins several."""
    suites, tasks = names("suites"), []
    texts = [chosen] if isinstance(chosen, str) else list(chosen)
    joined = [text.strip("[]").replace(" ", "").replace(",", "+") if text.startswith("[") else text for text in texts]
    for name in _names_in(joined):
        suite, task = suite_name(name), task_name(name)
        if suite in suites:
            tasks += list(load_suite(suite).tasks)
        elif all(part.partition(":")[0] in TASKS for part in names_joined(task)):
            tasks.append(task)
        else:
            hint = did_you_mean(name, [*suites, *TASKS.known()])
            raise ConfigError(
                f"no suite or task '{name}'.{hint} (petlbench ls suites and petlbench ls tasks list all){TASKS.reasons(name)}"
            )
    return tasks


def _present(tasks: Sequence[str], root: Path | None, available: bool, name_of: Callable[[str], str]) -> list[str]:
    """Return the tasks whose images are present. DataError that lists all others, unless ``available`` is set and at least one is present."""
    parts = [part for task in tasks for part in names_joined(task)]
    absent = [found for part in parts if ":" not in part and (found := presence(part, root)).state != "present"]
    if absent and (not available or len(absent) == len(parts)):
        raise missing_error(absent, len(parts), root)
    for one in absent:
        if one.state == "broken":
            _log.warning("%s is skipped: %s", one.task, one.where)
    for task in tasks:
        if ":" in task:
            name_of(task)  # a folder that is not a task is refused here, not in the middle of a bench
    names_absent = {one.task for one in absent}
    return [task for task in tasks if names_absent.isdisjoint(names_joined(task))]


def planned_run(config: RunConfig, states: States) -> PlannedRun:
    """Return a run with its state."""
    return PlannedRun(config, *states.of(config))


def seconds_per_run(records: Iterable[Record | Entry]) -> dict[str, float]:
    """Return the median seconds of a run per method, from existing records."""
    seconds: dict[str, list[float]] = {}
    for record in records:
        if record.has_result:
            seconds.setdefault(record.method.name, []).append(record.cost.total_seconds)
    return {method: statistics.median(values) for method, values in seconds.items()}
