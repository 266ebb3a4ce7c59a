"""Tune methods on tasks: plan the trials' setting, open a study for each, carry out what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petlbench.config.tuning import split_tuning
from petlbench.errors import ConfigError
from petlbench.executors.executor import Executor, Watch
from petlbench.runs import plan as grid
from petlbench.tuning.study import Study
from petlbench.tuning.trials import Cell, Told, carry_out, cells_of, open_studies, trial_settings
from petlbench.tuning.tuned import point_in_words


@dataclass
class OpenTuning:
    """Studies that this process is at work on."""

    opened: list[tuple[Study, Cell]]
    notes: list[str]

    @property
    def studies(self) -> list[Study]:
        return [study for study, _ in self.opened]

    @property
    def asked(self) -> int:
        """How many trials all studies are to have."""
        return sum(study.about.trials for study in self.studies)

    @property
    def ended(self) -> int:
        """How many of them have ended, in this process or another."""
        return sum(trial.has_ended for study in self.studies for trial in study.trials())

    def sentences(self) -> list[str]:
        """Say what is skipped, what is there already and what is not as one would expect."""
        lines = [*self.notes, f"{len(self.opened)} studies, {self.asked} trials, {self.ended} of them done"]
        lines += [
            f"{study.about.label}: the default settings are outside of the search space, so no trial has them"
            for study in self.studies
            if not study.about.default
        ]
        return lines

    def carry_out(self, executor: Executor, watch: Watch, at_once: int) -> Iterator[Told]:
        """Carry out the missing trials; then say in the journal of each study that has fewer trials than asked for why."""
        yield from carry_out(self.opened, executor, watch, at_once)
        for study in self.studies:
            ended = sum(trial.has_ended for trial in study.trials())
            if ended < study.about.trials and (reason := study.ending()):
                study.note_end(reason)


@contextmanager
def open_tuning(
    methods: str | Sequence[str], tasks: str | Sequence[str], seeds: Sequence[int] | int, settings: dict[str, Any], available: bool
) -> Iterator[OpenTuning]:
    """Open the studies of methods on tasks, with the arguments of ``runs.plan.plan``. ``settings``: nested, those of the studies among them.

    ConfigError when a method has nothing to tune, unless it is one of several.
    """
    tuning, of_runs = split_tuning(settings)
    own = trial_settings(of_runs)
    planned = grid.plan(methods, tasks, seeds, own, available)
    cells, without = cells_of(planned, own, tuning)
    if not cells:
        raise ConfigError(
            f"there is nothing to tune: {', '.join(without)} has no search space that is left; leave out the settings that are fixed"
        )
    notes = [*planned.sentences(), *([f"nothing to tune: {', '.join(without)}"] if without else [])]
    results = Path(planned.out).parent
    with ExitStack() as stack:
        yield OpenTuning(open_studies(results, cells, tuning, stack), notes)


def told_in_words(told: Told) -> str:
    """Describe a trial that ended in one line."""
    outcome, what = told.outcome, point_in_words(told.point)
    how = f"val {outcome.score:.2f} %" if outcome.error is None else outcome.error
    return f"{told.study.about.label}, trial {told.number}: {how} with {what} in {outcome.seconds:.1f} s"
