"""The runs of winners: settings that a study found, trained on train and val together and tested once for each seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from petlbench.config.resolve import RunConfig, load_method, merged
from petlbench.config.search import Point, plain
from petlbench.config.tuning import Tuning, split_tuning
from petlbench.errors import TuningError
from petlbench.runs import plan as grid
from petlbench.runs.plan import PlannedRun, planned_run
from petlbench.runs.state import States
from petlbench.tuning.about import ABOUT, FOLDER, About, read_about, space_of, studies_in
from petlbench.tuning.journal import ended_early, open_journal, read_trials
from petlbench.tuning.trial import Outcome, Trial, queries_of, winner_of
from petlbench.tuning.trials import check_selection, code_of, limits_of, space_searched, study_config, trial_settings, with_point


@dataclass(frozen=True)
class StoredStudy:
    """A study as it lies on disk."""

    folder: Path
    about: About
    trials: list[Trial]  # that were asked for, in the order in which they began
    ended: str | None  # why there are fewer than were asked for

    @property
    def is_finished(self) -> bool:
        return all(trial.has_ended for trial in self.trials) and (len(self.trials) >= self.about.trials or self.ended is not None)

    @property
    def winner(self) -> Trial | None:
        return winner_of(self.trials)

    @property
    def default(self) -> Trial | None:
        """The trial with the default settings."""
        return next((trial for trial in self.trials if self.about.default and trial.point == self.about.default), None)


def read_study(folder: Path) -> StoredStudy:
    """Read a study. TuningError names the file that is missing or broken."""
    about = read_about(folder / ABOUT)
    study = open_journal(folder)
    trials = [trial for trial in read_trials(study, space_of(about), folder) if trial.counts]
    return StoredStudy(folder, about, trials, ended_early(study))


def tuned_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested settings of the runs of winners: trained on train and val together."""
    return merged(settings, {"protocol": {"train_on": "trainval"}})


def plan_tuned(
    methods: str | Sequence[str],
    tasks: str | Sequence[str],
    seeds: Sequence[int] | int | None,
    settings: Mapping[str, Any],
    available: bool,
    only: Collection[str] = (),
) -> grid.Plan:
    """Plan the runs of winners, with the arguments of ``runs.plan.plan``. A method that has nothing to tune keeps its default settings.

    ``settings``: nested, those of the studies among them. ``only``: names of studies; empty: of all. TuningError that says which command to run where
    a study is missing, is not finished, or was made with another space or other code.
    """
    tuning, of_runs = split_tuning(settings)
    planned = grid.plan(methods, tasks, seeds, tuned_settings(of_runs), available)
    states, results = States(), planned.out
    known = [(folder, read_about(folder / ABOUT)) for folder in studies_in(results) if not only or folder.name in only]
    study_of = cache(lambda method, task: _study_for(_first(planned, method, task), of_runs, tuning, known, results))
    runs: list[PlannedRun] = []
    untuned = []
    for run in planned.runs:
        study = study_of(run.config.method, run.config.task)
        if study is None:
            untuned.append(run.config.method)
            runs.append(run)
            continue
        runs.append(planned_run(_with_winner(run.config, of_runs, study), states))
    notes = [f"nothing to tune, so default settings: {', '.join(dict.fromkeys(untuned))}"] if untuned else []
    return replace(planned, runs=runs, notes=notes)


def _first(planned: grid.Plan, method: str, task: str) -> RunConfig:
    return next(run.config for run in planned.runs if (run.config.method, run.config.task) == (method, task))


def _with_winner(config: RunConfig, settings: Mapping[str, Any], study: StoredStudy) -> RunConfig:
    winner, about = study.winner, study.about
    assert winner is not None and winner.outcome is not None
    tuned = with_point(config, tuned_settings(settings), winner.point)
    score = winner.outcome.score
    origin = f"tuned: {len(study.trials)} trials, {about.sampler} seed {about.sampler_seed}, val {score:.2f} %"
    return replace(tuned, hyperparameters=origin, study=about.name, tuning=summary(study, winner.outcome))


def summary(study: StoredStudy, winner: Outcome) -> dict[str, Any]:
    """Return what the records of a winner's runs say of its study (``records.schema.Tuning``)."""
    about, default = study.about, study.default
    outcomes = [trial.outcome for trial in study.trials if trial.outcome is not None]
    return {
        "study": about.name,
        "trials": len(study.trials),
        "asked": about.trials,
        "failed": sum(trial.state == "failed" for trial in study.trials),
        "pruned": sum(trial.state == "pruned" for trial in study.trials),
        "sampler": about.sampler,
        "sampler_seed": about.sampler_seed,
        "seeds": about.seeds,
        "val_accuracy": winner.score,
        "default_val_accuracy": default.outcome.score if default is not None and default.outcome is not None else None,
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "queries": {phase: count.model_dump() for phase, count in queries_of(outcome.queries for outcome in outcomes).items()},
    }


def spent(study: StoredStudy) -> tuple[float, float]:
    """Return seconds and images sent to a model of all trials of a study; NaN images for a method that queries none."""
    outcomes = [trial.outcome for trial in study.trials if trial.outcome is not None]
    is_queried = load_method(study.about.method)[0].access.name != "WEIGHTS"
    images = sum(count.images for outcome in outcomes for count in outcome.queries.values())
    return sum(outcome.seconds for outcome in outcomes), float(images) if is_queried else math.nan


def _study_for(
    final: RunConfig, settings: Mapping[str, Any], tuning: Tuning, known: Sequence[tuple[Path, About]], results: Path
) -> StoredStudy | None:
    """Find the study of a method on a task. None when it has nothing to tune."""
    check_selection(final)
    own = trial_settings(settings)
    space = space_searched(final.method, final.task, own, tuning)
    if not space:
        return None
    wanted = study_config(with_point(final, own, {}))
    command = _command(final, settings, tuning)
    label = f"{final.method} on {final.task}"
    of_cell = [(folder, about) for folder, about in known if (about.method, about.task) == (final.method, final.published_task)]
    alike = [(folder, about) for folder, about in of_cell if about.config == wanted and _is_as_chosen(about, tuning)]
    fitting = [(folder, about) for folder, about in alike if about.space == plain(space)]
    if not alike:
        other = f"; {of_cell[0][1].name} has {_difference(of_cell[0][1], wanted, tuning)}" if of_cell else ""
        raise TuningError(f"no study of {label} with these settings in {results / FOLDER}{other}; run {command}")
    if not fitting:
        name, changed = alike[0][1].name, _changed(alike[0][1].space, plain(space))
        raise TuningError(f"study {name} searched another space ({changed}); run {command}")
    if len(fitting) > 1:
        described = "; ".join(f"{about.name}: {_asked_for(about)}" for _, about in fitting)
        raise TuningError(f"{len(fitting)} studies of {label} have these settings; say which with study=NAME ({described})")
    folder, about = fitting[0]
    if about.code != (code := code_of(final.method)):
        raise TuningError(f"study {about.name} was made by other code ({about.code}, now {code}); move {folder} away and run {command}")
    study = read_study(folder)
    if not study.is_finished:
        ended = sum(trial.has_ended for trial in study.trials)
        raise TuningError(f"study {about.name} has {ended} of {about.trials} trials; run {command}, which continues it")
    if study.winner is None:
        raise TuningError(f"study {about.name} has no trial with a result; petlbench show {about.name} says why")
    return study


def _asked_for(about: About) -> str:
    seeds = ",".join(map(str, about.seeds))
    return f"trials={about.trials} sampler={about.sampler} sampler_seed={about.sampler_seed} seeds={seeds}"


def _is_as_chosen(about: About, tuning: Tuning) -> bool:
    """Return True if a study was made as the user says, who may say nothing about it."""
    limits = limits_of(tuning)
    return about.limits == (limits or about.limits) and all(getattr(about, name) == getattr(tuning.choice, name) for name in tuning.chosen)


def _difference(about: About, wanted: Mapping[str, Any], tuning: Tuning) -> str:
    """Name the first setting in which a study differs from what is wanted."""
    for name in sorted(tuning.chosen):
        if getattr(about, name) != getattr(tuning.choice, name):
            return f"{name}={getattr(about, name)}"
    return _changed(about.config, wanted)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    one, other = _flat(before), _flat(now)
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key):
            return f"{key}={one.get(key)}, not {other.get(key)}"
    return "other limits"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _command(config: RunConfig, settings: Mapping[str, Any], tuning: Tuning) -> str:
    """Return the command that makes or continues a study."""
    words = {f"{key}": value for key, value in _flat(settings).items()}
    words |= {name: getattr(tuning.choice, name) for name in sorted({*tuning.chosen, "trials"})}
    words |= {f"search.{key}": value for key, value in _flat(tuning.search).items()}
    shown = " ".join(f"{key}={'null' if value is None else value}" for key, value in words.items())
    return f"petlbench tune method={config.method} task={config.task} {shown}"


def point_in_words(point: Point) -> str:
    """Write settings as a user types them: ``train.learning_rate=0.003 method.rank=4``."""
    return " ".join(f"{key}={_word(value)}" for key, value in point.items())


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
