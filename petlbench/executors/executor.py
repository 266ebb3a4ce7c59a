"""The interface of executors, and the choice of one: all carry out the same runs, write the same records and tell the same of their progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from petlbench.config.executor import ExecutorChoice
from petlbench.records.schema import Record
from petlbench.runs.plan import PlannedRun


class Outcome(NamedTuple):
    """A run that ended, with or without a result."""

    run: PlannedRun
    record: Record
    path: Path  # of the record, in the results folder of the process that asked for the run


class Watch(Protocol):
    """Who is told what the workers do. A worker has one run at a time; its name is short, and the same for as long as it lives."""

    def began(self, worker: str, run: PlannedRun) -> None: ...

    def advanced(self, worker: str, done: int, total: int) -> None:
        """``done`` of ``total`` epochs of the worker's run."""
        ...

    def ended(self, worker: str) -> None:
        """The worker has no run any more: it ended, or the worker was lost."""
        ...


class Unwatched:
    """Nobody is told."""

    def began(self, worker: str, run: PlannedRun) -> None: ...

    def advanced(self, worker: str, done: int, total: int) -> None: ...

    def ended(self, worker: str) -> None: ...


class Executor(Protocol):
    """Carries out runs. A context manager: workers stay warm from one ``carry_out`` to the next, and end with the block."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        """Execute runs and yield each as it ends, whose record is then in its results folder.

        With several workers they begin in the order of ``schedule.Schedule``, in this process in their own. One whose worker is lost is begun once more,
        by another worker, and recorded as failed when that is lost, too. An interrupt ends the workers and records the runs that they had as cancelled.
        ``reraise``: raise the error of a run that fails in this process; of others the record has the text. PetlbenchError for what would meet every
        run, before one begins where it can be known.
        """
        ...


def open_executor(choice: ExecutorChoice) -> Executor:
    """Return the executor of that name. ConfigError when what it needs is not installed."""
    if choice.executor == "ray":
        from petlbench.executors.cluster import RayExecutor

        return RayExecutor(choice)
    from petlbench.executors.local import LocalExecutor

    return LocalExecutor(choice)
