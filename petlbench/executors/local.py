"""Runs on this machine: in this process, or in warm worker processes that load torch and the backbone once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from petlbench.config.executor import ExecutorChoice
from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig
from petlbench.errors import PetlbenchError
from petlbench.executors.executor import Outcome, Watch
from petlbench.executors.workers import Worker, end_all, first_heard
from petlbench.optim.device import pick_device
from petlbench.runs.execute import execute, record_without_result
from petlbench.runs.plan import PlannedRun

SMALL_BACKBONE = 5_000_000  # parameters
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
    """Executes runs one after the other in this process, or several at a time in worker processes, each with an equal share of the cores."""

    def __init__(self, choice: ExecutorChoice) -> None:
        self._jobs = choice.jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        """See ``Executor.carry_out``."""
        jobs = self._jobs or (default_jobs(runs[0].config, len(runs)) if runs else 1)
        if jobs > 1:
            yield from _carried_out_by_workers(runs, jobs, watch)
            return
        for run in runs:
            watch.began("", run)
            outcome = Outcome(run, *execute(run.config, partial(watch.advanced, ""), reraise))
            watch.ended("")
            yield outcome


def _carried_out_by_workers(runs: Sequence[PlannedRun], jobs: int, watch: Watch) -> Iterator[Outcome]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = list(reversed(runs))
    idle: list[Worker] = []
    at_work: dict[Worker, PlannedRun] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < jobs:
                worker = idle.pop() if idle else Worker()
                at_work[worker] = waiting.pop()
                worker.begin(_with_threads(at_work[worker].config, threads))
            worker = first_heard(at_work)
            kind, what = worker.receive() or ("gone", ())
            if kind == "begun":
                continue
            run = at_work.pop(worker)
            if kind == "recorded":
                idle.append(worker)
                yield Outcome(run, *what)
            elif kind == "gone":
                how = worker.buried()
                if worker.has_begun:
                    yield Outcome(run, *record_without_result(run.config, "failed", how))
                else:  # the fault of an earlier run
                    waiting.append(run)
            elif kind == "interrupted":
                raise KeyboardInterrupt
            else:
                raise PetlbenchError(what) if kind == "refused" else RuntimeError(f"{run.config.label}, in a worker process:\n{what}")
    finally:
        end_all([*idle, *at_work])
        for worker, run in at_work.items():
            if worker.has_begun and not worker.has_recorded:
                record_without_result(run.config, "cancelled", "interrupted")


def _with_threads(config: RunConfig, threads: int) -> RunConfig:
    return config if config.execution.threads else replace(config, execution=replace(config.execution, threads=threads))
