"""A study: the trials of one method on one task, in a journal that several processes and machines may share.

It lies in ``OUT/studies/NAME/``: ``study.json`` says what is tuned and how, ``journal.log`` is Optuna's journal of the trials. The runs of the trials are
recorded below ``OUT/studies/records``, which all studies share, apart from the results of the benchmark.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petlbench.config.search import Choice, Point, Range, Space, grid
from petlbench.errors import PetlbenchError, TuningError
from petlbench.records.fields import Count, Line, Name, Seed, Settings
from petlbench.records.file_names import exists, slug
from petlbench.records.regular_file import read_regular
from petlbench.records.schema import first_problem
from petlbench.records.store import write_atomically
from petlbench.tuning.trial import WORST, Outcome, State, Trial

FOLDER = "studies"  # in a results folder
_ABOUT, _JOURNAL, _AT_WORK = "study.json", "journal.log", "at_work"
_LARGEST = 2**22  # bytes of study.json
# attributes of a trial in the journal
_WORKER, _OUTCOME, _ENDED = "worker", "outcome", "ended"


class About(BaseModel):
    """What a study tunes and how. Equal for studies that may go on with each other's trials."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    method: Name
    task: Name
    backbone: Name
    config: Settings  # of every trial: the identity of its run, but for its seed and what is tuned
    space: Settings  # as YAML has it (petlbench.config.search.plain)
    trials: Count
    sampler: Literal["tpe", "random", "grid"]
    sampler_seed: Seed
    seeds: list[Seed] = Field(min_length=1)  # of the runs of a trial
    pruner: Literal["none", "halving"]
    limits: Settings  # of what all trials send to a model together; empty: none
    default: Settings  # the point of the first trial; empty: the defaults are not in the space
    code: Line  # version of petlbench and hash of the method's code

    @property
    def name(self) -> str:
        """The name of the study's folder: readable, and different for what is different but for the code."""
        identity = json.dumps(self.model_dump(exclude={"code"}), sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return "-".join(slug(part, 60) for part in (self.method, self.task, self.backbone)) + f"-{digest}"

    @property
    def label(self) -> str:
        """Name the study in a sentence."""
        return f"{self.method} on {self.task}"


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
                path = self.folder / _ABOUT
                if exists(path):
                    self._check_code(read_about(path))
                else:
                    write_atomically(path, self.about.model_dump_json(indent=1).encode() + b"\n")
                _mend(self.folder / _JOURNAL)
                self._study = open_journal(self.folder, may_create=True)
                with _readable(self.folder):
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
        return (self.folder / _JOURNAL).resolve()

    def trials(self) -> list[Trial]:
        """Return all trials, in the order in which they were begun. TuningError for a journal that is broken."""
        return read_trials(self._study, self.space, self.folder)

    def ask(self) -> tuple[int, Point] | None:
        """Begin the next trial: return its number and settings. None when no more may begin.

        A trial that was running in a process that is gone is begun again, with the same settings.
        """
        with self._lock, _readable(self.folder):
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
        with self._lock, _readable(self.folder):
            if self._study.get_trials(deepcopy=False)[number].state is not TrialState.RUNNING:
                return
            trial.set_user_attr(_OUTCOME, outcome.model_dump(mode="json"))
            if outcome.is_pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, WORST if outcome.error else outcome.score)

    def note_end(self, reason: str) -> None:
        """Write into the journal why the study has fewer trials than were asked for."""
        with self._lock, _readable(self.folder):
            self._study.set_user_attr(_ENDED, reason)

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


def open_journal(folder: Path, may_create: bool = False) -> optuna.Study:
    """Open the journal of a study. TuningError when it is not there or broken."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / _JOURNAL
    if not may_create and not exists(path):
        raise TuningError(f"{folder} is no study: {_JOURNAL} is missing; run petlbench tune")
    with _readable(folder):
        storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        if may_create:
            return optuna.create_study(storage=storage, study_name=folder.name, direction="maximize", load_if_exists=True)
        return optuna.load_study(storage=storage, study_name=folder.name, sampler=optuna.samplers.RandomSampler())


def read_about(path: Path) -> About:
    """Read study.json. TuningError for one that is not whole, or belongs to another folder."""
    try:
        about = About.model_validate_json(read_regular(path, _LARGEST))
    except ValidationError as error:
        raise TuningError(f"{path}: {first_problem(error)}; {_remedy(path.parent)}") from None
    except PetlbenchError as error:
        raise TuningError(f"{error}; {_remedy(path.parent)}") from None
    if about.name != path.parent.name:
        raise TuningError(f"{path}: does not describe the study of its folder, but {about.name}; {_remedy(path.parent)}")
    return about


def studies_in(results: Path) -> list[Path]:
    """Return the folders of the studies of a results folder, sorted."""
    return sorted(path.parent for path in (results / FOLDER).glob(f"*/{_ABOUT}"))


def space_of(about: About) -> Space:
    """Return the space of a study. TuningError when study.json holds none."""
    return {key: _axis(key, values, about.name) for key, values in about.space.items()}


def _axis(key: str, values: Any, study: str) -> Range | Choice:
    if isinstance(values, list) and values and all(isinstance(value, float | int | str | bool | None) for value in values):
        return Choice(tuple(values))
    if isinstance(values, dict) and values.keys() <= {"low", "high", "log", "step"}:
        low, high, step = (values.get(name) for name in ("low", "high", "step"))
        kind = type(low)
        if kind in (int, float) and type(high) is kind and (step is None or type(step) is kind):
            return Range(cast(float, low), cast(float, high), values.get("log") is True, kind, step)
    raise TuningError(f"study {study}: {key} has no range and no list of values in {_ABOUT}")


def read_trials(study: optuna.Study, space: Space, folder: Path) -> list[Trial]:
    """Return the trials of a journal. TuningError for what no trial of this space can have."""
    with _readable(folder):
        return [_trial(trial, space) for trial in study.get_trials(deepcopy=False)]


def ended_early(study: optuna.Study) -> str | None:
    """Return why a study has fewer trials than were asked for; None if nothing says so."""
    reason = study.user_attrs.get(_ENDED)
    return reason if isinstance(reason, str) else None


def _trial(trial: FrozenTrial, space: Space) -> Trial:
    point = {key: _value_of(axis, trial.params[key]) for key, axis in space.items() if key in trial.params}
    found = trial.user_attrs.get(_OUTCOME)
    outcome = None if found is None else Outcome.model_validate(found)
    if trial.params.keys() - space.keys():
        raise ValueError(f"trial {trial.number} has other settings than the study")
    state: State
    if trial.state in (TrialState.WAITING, TrialState.RUNNING):
        return Trial(trial.number, "waiting" if trial.state is TrialState.WAITING else "running", point, None)
    if trial.state is TrialState.FAIL:  # one whose run failed is told with the worst score
        return Trial(trial.number, "lost", point, None)
    if outcome is None or len(point) < len(space):
        raise ValueError(f"trial {trial.number} has ended and says not how")
    state = "pruned" if outcome.is_pruned else "failed" if outcome.error is not None else "done"
    return Trial(trial.number, state, point, outcome)


def _value_of(axis: Range | Choice, value: Any) -> Any:
    if value not in axis:
        raise ValueError(f"a trial has the value {value!r}, which is not in the space")
    return value


def _suggested(trial: optuna.Trial, key: str, axis: Range | Choice) -> Any:
    if isinstance(axis, Choice):
        return trial.suggest_categorical(key, list(axis.values))
    if axis.kind is int:
        return trial.suggest_int(key, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)


def _mend(journal: Path) -> None:
    """Cut off a last line that was not written to its end: the process that wrote it was killed, and the next line would be glued to it."""
    if not exists(journal):
        return
    lock = JournalFileOpenLock(str(journal))
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """TuningError for whatever Optuna, or the check of what it read, raises over a journal that is none."""
    try:
        yield
    except (PetlbenchError, OSError):
        raise
    except ValidationError as error:
        raise TuningError(f"{folder / _JOURNAL}: {first_problem(error)}; {_remedy(folder)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise TuningError(
            f"{folder / _JOURNAL} is no journal of trials ({type(error).__name__}: {str(error)[:200]}); {_remedy(folder)}"
        ) from None


def _remedy(folder: Path) -> str:
    return f"move {folder} away and run petlbench tune again, which repeats no trial that is recorded"


def _limits_in_words(limits: Mapping[str, Any]) -> str:
    return ", ".join(f"budget.trials.{name}={limit}" for name, limit in limits.items())
