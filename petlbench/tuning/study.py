"""A study: the trials of one method on one task, in a journal that several processes and machines may share.

It lies in ``OUT/studies/NAME/``: ``study.json`` says what is tuned and how, ``journal.log`` is Optuna's journal of the trials. The runs of the trials are
recorded below ``OUT/studies/records``, which all studies share, apart from the results of the benchmark.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from petlbench.config.search import Choice, Point, Range, Space, grid
from petlbench.errors import TuningError
from petlbench.records.file_names import exists, slug
from petlbench.records.store import write_atomically
from petlbench.tuning.about import ABOUT, FOLDER, About, read_about
from petlbench.tuning.journal import ENDED, JOURNAL, OUTCOME, mend, open_journal, read_trials, readable
from petlbench.tuning.trial import WORST, Outcome, Trial

_AT_WORK = "at_work"  # folder of the locks of processes
_WORKER = "worker"  # attribute of a trial in the journal


class Study:
    """An open study of this process. A context manager: other processes see that it is at work as long as the block lasts, however it ends.

    TuningError for files that are no study's, and for a study that other code began.
    """

    def __init__(self, results: Path, about: About, space: Space) -> None:
        self.folder, self.about, self.space = results / FOLDER / about.name, about, space
        self._asked: dict[int, optuna.Trial] = {}
        self._worker = f"{slug(socket.gethostname(), 60)}-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
        self._presence = FileLock(self.folder / _AT_WORK / self._worker)
        self._lock = FileLock(self.folder / ".lock")

    def __enter__(self) -> Self:
        (self.folder / _AT_WORK).mkdir(parents=True, exist_ok=True)
        self._presence.acquire()
        try:
            with self._lock:
                path = self.folder / ABOUT
                if exists(path):
                    self._check_code(read_about(path))
                else:
                    write_atomically(path, self.about.model_dump_json(indent=1).encode() + b"\n")
                mend(self.folder / JOURNAL)
                self._study = open_journal(self.folder, may_create=True)
                with readable(self.folder):
                    if not self._study.get_trials(deepcopy=False):
                        self._enqueue_first()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    @property
    def name(self) -> str:
        return self.about.name

    @property
    def journal(self) -> Path:
        return (self.folder / JOURNAL).resolve()

    def trials(self) -> list[Trial]:
        """Return all trials, in the order in which they were begun. TuningError for a journal that is broken."""
        return read_trials(self._study, self.space, self.folder)

    def ask(self) -> tuple[int, Point] | None:
        """Begin the next trial: return its number and settings. None when no more may begin.

        A trial that was running in a process that is gone is begun again, with the same settings.
        """
        with self._lock, readable(self.folder):
            self._give_up_the_lost()
            begun = [trial for trial in self.trials() if trial.counts]
            if len(begun) >= self.about.trials or self._is_spent(begun) or self._is_grid_done():
                return None
            self._study.sampler = self._sampler(len(begun))
            trial = self._study.ask()
            trial.set_user_attr(_WORKER, self._worker)
            point = {key: _suggested(trial, key, axis) for key, axis in self.space.items()}
            self._asked[trial.number] = trial
            return trial.number, point

    def tell(self, number: int, outcome: Outcome) -> None:
        """Say how a trial of this process ended. Does nothing when another process took it for lost and has begun it again."""
        trial = self._asked.pop(number)
        with self._lock, readable(self.folder):
            if self._study.get_trials(deepcopy=False)[number].state is not TrialState.RUNNING:
                return
            trial.set_user_attr(OUTCOME, outcome.model_dump(mode="json"))
            if outcome.is_pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, WORST if outcome.error else outcome.score)

    def note_end(self, reason: str) -> None:
        """Write into the journal why the study has fewer trials than were asked for."""
        with self._lock, readable(self.folder):
            self._study.set_user_attr(ENDED, reason)

    def ending(self) -> str | None:
        """Return why no further trial will begin, in words; None as long as one may or is at work."""
        begun = [trial for trial in self.trials() if trial.counts]
        if not all(trial.has_ended for trial in begun):
            return None
        if len(begun) >= self.about.trials:
            return "all trials are done"
        if self._is_spent(begun):
            return f"the budget of all trials allows no further one: {_limits_in_words(self.about.limits)}"
        return "the grid has no further points" if self._is_grid_done() else None

    def _leave(self) -> None:
        self._presence.release()
        with contextlib.suppress(OSError):
            Path(self._presence.lock_file).unlink()

    def _check_code(self, there: About) -> None:
        if there.code != self.about.code:
            raise TuningError(
                f"study {self.name} was begun by other code ({there.code}, now {self.about.code}), whose trials cannot be compared with "
                f"those of now; move {self.folder} away and run petlbench tune again"
            )

    def _enqueue_first(self) -> None:
        """Let the first trial have the default settings, and those of a grid its points in an order that the seed shuffles."""
        default = dict(self.about.default)
        if default:
            self._enqueue(default)
        if self.about.sampler == "grid":
            points = grid(self.space, self.about.trials)
            if default and default not in points:  # it is a trial as well
                points = grid(self.space, max(1, self.about.trials - 1))
            points = [point for point in points if point != default]
            for index in np.random.default_rng(self.about.sampler_seed).permutation(len(points)):
                self._enqueue(points[int(index)])

    def _enqueue(self, point: Mapping[str, Any]) -> None:
        self._study.enqueue_trial({key: value for key, value in point.items() if key in self.space})

    def _give_up_the_lost(self) -> None:
        """Begin the trials of processes that are gone anew."""
        for trial in self._study.get_trials(deepcopy=False):
            worker = trial.user_attrs.get(_WORKER)
            if trial.state is TrialState.RUNNING and trial.number not in self._asked and not self._is_at_work(worker):
                self._study.tell(trial.number, state=TrialState.FAIL)
                self._enqueue(trial.params or trial.system_attrs.get("fixed_params", {}))

    def _is_at_work(self, worker: Any) -> bool:
        """Return True if the process of that name holds its lock. One that ended in any way does not."""
        if not isinstance(worker, str) or Path(worker).name != worker:
            return False
        path = self.folder / _AT_WORK / worker
        if worker == self._worker:
            return True
        if not exists(path):
            return False
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        with contextlib.suppress(OSError):
            path.unlink()
        return False

    def _is_spent(self, begun: list[Trial]) -> bool:
        """Return True if one more trial as expensive as the most expensive so far, after those at work, would pass a limit of the study."""
        outcomes = [trial.outcome for trial in begun if trial.outcome is not None]
        for name, limit in self.about.limits.items():
            spent = [sum(getattr(count, name) for count in outcome.queries.values()) for outcome in outcomes]
            at_work = len(begun) - len(outcomes)
            if sum(spent) + (1 + at_work) * max(spent, default=0) > limit:
                return True
        return False

    def _is_grid_done(self) -> bool:
        states = {trial.state for trial in self._study.get_trials(deepcopy=False)}
        return self.about.sampler == "grid" and TrialState.WAITING not in states

    def _sampler(self, position: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of a trial. Its random numbers follow from the study's seed and the trial's position, so that a study that was killed goes on
        as if it had not been."""
        seed = int(np.random.SeedSequence([self.about.sampler_seed, position]).generate_state(1)[0])
        if self.about.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def _suggested(trial: optuna.Trial, key: str, axis: Range | Choice) -> Any:
    if isinstance(axis, Choice):
        return trial.suggest_categorical(key, list(axis.values))
    if axis.kind is int:
        return trial.suggest_int(key, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)


def _limits_in_words(limits: Mapping[str, Any]) -> str:
    return ", ".join(f"budget.trials.{name}={limit}" for name, limit in limits.items())
