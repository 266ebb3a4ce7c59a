"""Carry out the trials of studies: ask a study for settings, run them, tell it the score on val."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from petlbench.config.pruning import Pruning
from petlbench.config.resolve import RunConfig, load_method, merged, nested, resolve
from petlbench.config.search import Point, Space, default_point, load_space, plain
from petlbench.config.tuning import Tuning, with_search
from petlbench.errors import ConfigError, TuningError
from petlbench.executors.executor import Executor, Watch
from petlbench.records.schema import Record
from petlbench.runs import plan as grid
from petlbench.runs.log import newest
from petlbench.runs.plan import PlannedRun, planned_run
from petlbench.runs.state import States
from petlbench.tuning.about import FOLDER, About
from petlbench.tuning.study import Study
from petlbench.tuning.trial import Outcome, outcome_of, refused

_FACTOR = 3  # one trial in three goes on after 1/9 and after 1/3 of the epochs
_PAUSE = 0.5  # seconds between looks at trials of other processes


@dataclass(frozen=True)
class Cell:
    """A method on a task, to be tuned."""

    configs: dict[int, RunConfig]  # seed -> its run with the default settings
    settings: Mapping[str, Any]  # of the user, nested, for all runs; with the split that scores them
    space: Space

    @property
    def first(self) -> RunConfig:
        return next(iter(self.configs.values()))

    def config(self, seed: int, point: Point) -> RunConfig:
        """Return the run of a trial. ConfigError when its settings contradict each other."""
        return with_point(self.configs[seed], self.settings, point)


class Told(NamedTuple):
    """A trial that ended."""

    study: Study
    number: int
    point: Point
    outcome: Outcome


def with_point(config: RunConfig, settings: Mapping[str, Any], point: Point) -> RunConfig:
    """Return a run with other values for the settings of a point. ``settings``: those of the user that made it, nested."""
    own = {"method": {"name": config.method}, "task": config.task, "seed": config.seed}
    changed = resolve(merged(merged(settings, own), nested(point)))
    return replace(changed, backbone=config.backbone, content=config.content)


def trial_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested settings of trials from those of the runs that are tuned for: val scores them, and their records lie apart."""
    folder = str(Path(str(settings.get("out", "results"))) / FOLDER)
    return merged(settings, {"protocol": {"score_on": "val"}, "out": folder})


def cells_of(planned: grid.Plan, settings: Mapping[str, Any], tuning: Tuning) -> tuple[list[Cell], list[str]]:
    """Return the methods on tasks of a plan that have something to tune, and the names of those that have not. ``settings``: of the trials, nested."""
    by_cell: dict[tuple[str, str], dict[int, RunConfig]] = {}
    for run in planned.runs:
        by_cell.setdefault((run.config.method, run.config.task), {})[run.config.seed] = run.config
    cells, without = [], []
    for (method, task), configs in by_cell.items():
        space = space_searched(method, task, settings, tuning)
        check_selection(next(iter(configs.values())))
        if space:
            cells.append(Cell(configs, settings, space))
        else:
            without.append(method)
    return cells, list(dict.fromkeys(without))


def space_searched(method: str, task: str, settings: Mapping[str, Any], tuning: Tuning) -> Space:
    """Return what a study searches: the method's space, without what the user's settings fix and changed as they say."""
    of_all = {key: value for key, value in settings.items() if key not in ("task", "seed")}
    return load_space(method, task, with_search(of_all, tuning.search))


def check_selection(config: RunConfig) -> None:
    """ConfigError for a rule that needs val images after tuning, when they are trained on."""
    if config.protocol.selection == "best_val":
        raise ConfigError(
            "tuned settings are trained on train and val together, which leaves no images for protocol.selection=best_val; "
            "set protocol.selection=last"
        )


def about_of(cell: Cell, tuning: Tuning) -> About:
    """Describe the study of a cell. ConfigError for a pruner and several seeds, whose epochs cannot be compared one by one."""
    config, choice = cell.first, tuning.choice
    if choice.pruner != "none" and len(cell.configs) > 1:
        raise ConfigError(f"pruner={choice.pruner} needs trials of one seed, got seeds={','.join(map(str, cell.configs))}")
    default = default_point(cell.space, config)
    return About(
        method=config.method,
        task=config.published_task,
        backbone=config.backbone.name,
        config=study_config(config),
        space=plain(cell.space),
        trials=choice.trials,
        sampler=choice.sampler,
        sampler_seed=choice.sampler_seed,
        seeds=list(cell.configs),
        pruner=choice.pruner,
        limits=limits_of(tuning),
        default=default if all(value in cell.space[key] for key, value in default.items()) else {},
        code=code_of(config.method),
    )


def limits_of(tuning: Tuning) -> dict[str, int]:
    """Return the limits of what all trials of a study send."""
    return {name: limit for name, limit in vars(tuning.limits).items() if limit is not None}


def study_config(config: RunConfig) -> dict[str, Any]:
    """Return what all runs of a study have in common: the identity of one without its seed."""
    return {key: value for key, value in config.identity.items() if key != "seed"}


def code_of(method: str) -> str:
    """Return the version of petlbench and a hash of the method's code; trials of one study have both in common."""
    plugin = load_method(method)[0]
    try:
        file = Path(inspect.getfile(plugin))
    except (TypeError, OSError):  # typed into a notebook
        return f"petlbench {version('petlbench')}"
    files = sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files if path.is_file())).hexdigest()[:8]
    return f"petlbench {version('petlbench')}, {plugin.name} {digest}"


def carry_out(cells: Sequence[tuple[Study, Cell]], executor: Executor, watch: Watch, at_once: int = 1) -> Iterator[Told]:
    """Carry out the trials of open studies until each has what was asked for, and yield each as it ends.

    In every round each study begins one trial, and more when ``at_once``, the number of runs at a time, leaves room. Waits for trials that other
    processes carry out, and begins those of processes that are gone again. TuningError when a trial tells nothing about its settings: the one with
    the default settings fails, or any with a served model, whose fault it may be.
    """
    states = States()
    while True:
        asked = list(_asked(cells, at_once))
        if not asked:
            if all(study.ending() for study, _ in cells):
                return
            time.sleep(_PAUSE)
            continue
        yield from _round(asked, executor, watch, states)


class _Asked:
    """A trial at work."""

    def __init__(self, study: Study, cell: Cell, number: int, point: Point) -> None:
        self.study, self.cell, self.number, self.point = study, cell, number, point
        self.records: dict[int, Record] = {}  # by seed
        self.runs: dict[int, RunConfig] = {}
        self.error: ConfigError | None = None
        try:
            self.runs = {seed: self._prunable(cell.config(seed, point)) for seed in cell.configs}
        except ConfigError as error:
            self.error = error

    def _prunable(self, config: RunConfig) -> RunConfig:
        """Say in a run that its study may end it early. The default settings are run to the end: the winner is compared with them."""
        if self.study.about.pruner == "none" or self.point == self.study.about.default:
            return config
        least = max(1, config.train.epochs // _FACTOR**2)
        return replace(config, pruning=Pruning(str(self.study.journal), self.study.name, self.number, least, _FACTOR))

    @property
    def must_succeed(self) -> bool:
        return self.point == self.study.about.default or self.cell.first.backbone.is_remote

    def outcome(self) -> Outcome | None:
        """Return how the trial ended; None as long as it has not."""
        if self.error is not None:
            return refused(self.cell.first, self.error)
        if self.records.keys() != self.runs.keys():
            return None
        return outcome_of([self.records[seed] for seed in self.runs], next(iter(self.runs.values())))

    def told(self) -> Told | None:
        """Tell the study how the trial ended, if it has."""
        if (outcome := self.outcome()) is None:
            return None
        failed = next((record for record in self.records.values() if record.status == "failed"), None)
        if self.must_succeed and (failed is not None or self.error is not None):
            raise TuningError(
                f"{self.study.about.label}: a trial that has to succeed failed ({outcome.error}); the same command repeats it"
            )
        self.study.tell(self.number, outcome)
        return Told(self.study, self.number, self.point, outcome)


def _asked(cells: Sequence[tuple[Study, Cell]], at_once: int) -> Iterator[_Asked]:
    runs = sum(len(cell.configs) for _, cell in cells)
    for study, cell in cells:
        for _ in range(max(1, at_once // runs)):
            if (found := study.ask()) is None:
                break
            yield _Asked(study, cell, *found)


def _round(asked: Sequence[_Asked], executor: Executor, watch: Watch, states: States) -> Iterator[Told]:
    """Carry out trials. Runs that are recorded are not repeated, and two trials with the same settings share theirs."""
    waiting: dict[str, list[tuple[_Asked, int]]] = {}
    todo: dict[str, PlannedRun] = {}
    for trial in asked:
        for seed, config in trial.runs.items():
            run = planned_run(config, states)
            last = None if run.state in ("missing", "stale") else newest(config)
            if last is not None and (last[0].has_result or not (trial.must_succeed or last[0].status == "pruned")):
                trial.records[seed] = last[0]
            else:
                todo[config.run_id] = run
                waiting.setdefault(config.run_id, []).append((trial, seed))
        if (told := trial.told()) is not None:
            yield told
    for outcome in executor.carry_out(list(todo.values()), watch) if todo else ():
        for trial, seed in waiting[outcome.run.config.run_id]:
            trial.records[seed] = outcome.record
            if (told := trial.told()) is not None:
                yield told


def open_studies(results: Path, cells: Sequence[Cell], tuning: Tuning, stack: ExitStack) -> list[tuple[Study, Cell]]:
    """Open the study of every cell for as long as the stack lasts."""
    return [(stack.enter_context(Study(results, about_of(cell, tuning), cell.space)), cell) for cell in cells]
