"""Runs on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from petlbench.config.executor import ExecutorChoice
from petlbench.errors import ConfigError
from petlbench.executors.executor import Outcome, Watch
from petlbench.runs.plan import PlannedRun


class RayExecutor:
    """Executes runs in actors of a Ray cluster."""

    def __init__(self, choice: ExecutorChoice) -> None:
        raise ConfigError(f"executor={choice.executor} cannot be used yet; leave it out for workers on this machine")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        """See ``Executor.carry_out``."""
        yield from ()
