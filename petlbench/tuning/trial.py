"""What is known of a trial: which settings it had, how its runs ended, what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from petlbench.config.resolve import RunConfig
from petlbench.config.search import Point
from petlbench.records.fields import Amount, Count, Line, Name, Percent
from petlbench.records.schema import QueryCount, Record

State = Literal["waiting", "running", "done", "failed", "pruned", "lost"]
WORST = 0.0  # percent: the score of a trial that failed or diverged
# Where a method's rate is, the first of these that it has: ties go to the smaller one
_RATES = (("method_config", "learning_rate"), ("method_config", "spsa", "step"), ("train", "learning_rate"))


class Outcome(BaseModel):
    """How the runs of a trial ended. It lies in the study's journal, so it is checked when it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    runs: list[Name]  # ids of the runs, one for each seed; empty when the settings contradict each other
    accuracies: list[Percent]  # of val, of the runs that have a result
    learning_rate: float
    trainable: Count | None = None  # parameters without the head
    queries: dict[Name, QueryCount] = Field(default_factory=dict)  # phase -> count, of all runs
    seconds: Amount = 0.0  # of all runs
    epochs: Count = 0  # that were run
    epochs_planned: Count = 0
    error: Line | None = None  # why there is no score
    is_pruned: bool = False

    @property
    def score(self) -> float:
        """The mean over seeds, percent of val; ``WORST`` when a run has no result."""
        return WORST if self.error is not None or not self.accuracies else sum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True)
class Trial:
    """A trial of a study."""

    number: int  # in the journal
    state: State
    point: Point  # its settings, as far as they are known
    outcome: Outcome | None  # of one that has ended

    @property
    def counts(self) -> bool:
        """True if it is one of the trials that were asked for: one that waits, or was lost with its process, is not."""
        return self.state not in ("waiting", "lost")

    @property
    def has_ended(self) -> bool:
        return self.state in ("done", "failed", "pruned")


def outcome_of(records: Sequence[Record], config: RunConfig) -> Outcome:
    """Return the outcome of a trial from the records of its runs, one for each seed. ``config``: of one of these runs."""
    failed = next((record for record in records if record.metrics is None), None)
    parameters = next((record.parameters for record in records if record.parameters is not None), None)
    return Outcome(
        runs=[record.run_id for record in records],
        accuracies=[record.metrics.accuracy for record in records if record.metrics is not None],
        learning_rate=rate_of(config),
        trainable=None if parameters is None else parameters.trainable,
        queries=queries_of(record.cost.queries for record in records),
        seconds=sum(record.cost.total_seconds for record in records),
        epochs=sum(len(record.history) for record in records),
        epochs_planned=len(records) * config.train.epochs,
        error=None if failed is None else f"{failed.status}: {one_line(failed.error or '')}",
        is_pruned=any(record.status == "pruned" for record in records),
    )


def refused(config: RunConfig, error: Exception) -> Outcome:
    """Return the outcome of a trial whose settings contradict each other. ``config``: with the default settings."""
    return Outcome(runs=[], accuracies=[], learning_rate=rate_of(config), error=one_line(str(error)))


def rate_of(config: RunConfig) -> float:
    """Return the learning rate of a run: the method's own where it has one, else that of the gradient loop."""
    for path in _RATES:
        value: Any = config
        for name in path:
            value = getattr(value, name, None)
        if isinstance(value, int | float):
            return float(value)
    raise AssertionError("every run has train.learning_rate")


def winner_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial with the best score: of equal ones that with the smaller learning rate, then fewer parameters, then the earlier one.

    None when no trial has a result.
    """
    return next(iter(ranking(trials)), None)


def ranking(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials with a result, the best first."""
    done = [trial for trial in trials if trial.state == "done" and trial.outcome is not None]
    return sorted(done, key=_rank)


def _rank(trial: Trial) -> tuple[float, float, int, int]:
    outcome = trial.outcome
    assert outcome is not None
    return -round(outcome.score, 9), outcome.learning_rate, outcome.trainable or 0, trial.number


def queries_of(parts: Iterable[dict[str, QueryCount]]) -> dict[str, QueryCount]:
    """Add up counts of queries by phase; phases without any are left out."""
    sums: dict[str, Counter[str]] = {}
    for part in parts:
        for phase, count in part.items():
            sums.setdefault(phase, Counter()).update(count.model_dump())
    return {phase: QueryCount(**counts) for phase, counts in sums.items() if any(counts.values())}


def one_line(text: str) -> str:
    """Return the first line of an error, as a journal and a table may hold it."""
    first = next(iter(text.strip().splitlines()), "")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in first)[:1000]
