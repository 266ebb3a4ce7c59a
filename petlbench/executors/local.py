"""Runs on this machine: in this process, or in warm worker processes that load torch and the backbone once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from petlbench.config.executor import ExecutorChoice
from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig
from petlbench.executors.durations import Durations
from petlbench.executors.executor import Outcome, Watch
from petlbench.executors.pool import Pool
from petlbench.optim.device import pick_device
from petlbench.runs.execute import execute
from petlbench.runs.plan import PlannedRun

SMALL_BACKBONE = 5_000_000  # parameters
HERE = ""  # the name of this process as a worker
MAX_JOBS = 8  # each holds torch and a backbone in memory


def default_jobs(config: RunConfig, runs: int) -> int:
    """One process per core for a small backbone on a CPU, else one.

    Threads gain little on small matrices: on two cores, two processes of one thread finished 1.5 times the runs of one process of two.
    """
    execution, name = config.execution, config.backbone.name
    is_small = name in names("backbones") and load_yaml("backbones", name)["parameters"] <= SMALL_BACKBONE
    if not is_small or execution.threads is not None or pick_device(execution.device).type != "cpu":
        return 1
    return max(1, min(os.cpu_count() or 1, runs, MAX_JOBS))


class LocalExecutor:
    """Executes runs one after the other in this process, or several at a time in worker processes."""

    def __init__(self, choice: ExecutorChoice) -> None:
        self._jobs = choice.jobs
        self._pool = Pool(choice.worker_memory_mb)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.end()

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        """See ``Executor.carry_out``."""
        jobs = self._jobs or (default_jobs(runs[0].config, len(runs)) if runs else 1)
        if jobs == 1:
            return _here(runs, watch, reraise)
        return self._pool.carry_out(runs, jobs, Durations([run.config for run in runs]), watch)


def _here(runs: Sequence[PlannedRun], watch: Watch, reraise: bool) -> Iterator[Outcome]:
    """Execute runs in this process, in their order."""
    for run in runs:
        watch.began(HERE, run)
        outcome = Outcome(run, *execute(run.config, partial(watch.advanced, HERE), reraise))
        watch.ended(HERE)
        yield outcome
