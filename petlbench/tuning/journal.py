"""Optuna's journal of a study's trials: ``OUT/studies/NAME/journal.log``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from petlbench.config.search import Choice, Range, Space
from petlbench.errors import PetlbenchError, TuningError
from petlbench.records.file_names import exists
from petlbench.records.schema import first_problem
from petlbench.tuning.about import remedy
from petlbench.tuning.trial import Outcome, State, Trial

JOURNAL = "journal.log"
OUTCOME, ENDED = "outcome", "ended"  # attributes of a trial and of the study


def open_journal(folder: Path, may_create: bool = False) -> optuna.Study:
    """Open the journal of a study. TuningError when it is not there or broken."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    if not may_create and not exists(path):
        raise TuningError(f"{folder} is no study: {JOURNAL} is missing; run petlbench tune")
    with readable(folder):
        storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
        if may_create:
            return optuna.create_study(storage=storage, study_name=folder.name, direction="maximize", load_if_exists=True)
        return optuna.load_study(storage=storage, study_name=folder.name, sampler=optuna.samplers.RandomSampler())


def mend(journal: Path) -> None:
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
def readable(folder: Path) -> Iterator[None]:
    """TuningError for whatever Optuna, or the check of what it read, raises over a journal that is none."""
    try:
        yield
    except (PetlbenchError, OSError):
        raise
    except ValidationError as error:
        raise TuningError(f"{folder / JOURNAL}: {first_problem(error)}; {remedy(folder)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise TuningError(
            f"{folder / JOURNAL} is no journal of trials ({type(error).__name__}: {str(error)[:200]}); {remedy(folder)}"
        ) from None


def read_trials(study: optuna.Study, space: Space, folder: Path) -> list[Trial]:
    """Return the trials of a journal. TuningError for what no trial of this space can have."""
    with readable(folder):
        return [_trial(trial, space) for trial in study.get_trials(deepcopy=False)]


def ended_early(study: optuna.Study) -> str | None:
    """Return why a study has fewer trials than were asked for; None if nothing says so."""
    reason = study.user_attrs.get(ENDED)
    return reason if isinstance(reason, str) else None


def _trial(trial: FrozenTrial, space: Space) -> Trial:
    point = {key: _value_of(axis, trial.params[key]) for key, axis in space.items() if key in trial.params}
    found = trial.user_attrs.get(OUTCOME)
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
