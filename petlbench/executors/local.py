"""Runs on this machine: in this process, or in warm worker processes that load torch and the backbone once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig
from petlbench.errors import ConfigError, PetlbenchError
from petlbench.executors.workers import Worker, end_all, first_heard
from petlbench.optim.device import pick_device
from petlbench.records.schema import Record
from petlbench.runs.execute import Progress, execute, record_without_result
from petlbench.runs.plan import PlannedRun

SMALL_BACKBONE = 5_000_000  # parameters
MAX_JOBS = 8  # each holds torch and a backbone in memory
MOST_JOBS = 256  # that may be asked for; each is a process of some 500 MB
Started = Callable[[PlannedRun], Progress]
Outcome = tuple[PlannedRun, Record, Path]


def default_jobs(config: RunConfig, runs: int) -> int:
    """One process per core for a small backbone on a CPU, else one.

    Threads gain little on small matrices: on two cores, two processes of one thread finished 1.5 times the runs of one process of two.
    """
    execution, name = config.execution, config.backbone.name
    is_small = name in names("backbones") and load_yaml("backbones", name)["parameters"] <= SMALL_BACKBONE
    if not is_small or execution.threads is not None or pick_device(execution.device).type != "cpu":
        return 1
    return max(1, min(os.cpu_count() or 1, runs, MAX_JOBS))


def carry_out(runs: Sequence[PlannedRun], jobs: int, started: Started, reraise: bool = False) -> Iterator[Outcome]:
    """Execute runs one after the other, or ``jobs`` at a time, and yield each with its record as it ends.

    With several jobs each process gets an equal share of the cores. A run whose process ends is recorded as failed, and another process takes
    the next one. An interrupt ends all processes, and records their runs as cancelled. ConfigError for more than MOST_JOBS.
    """
    if jobs > MOST_JOBS:
        raise ConfigError(f"jobs must be an int <= {MOST_JOBS}, as each is a process with torch and a backbone in memory, got {jobs:,}")
    if jobs > 1:
        yield from _carried_out_by_workers(runs, jobs)
        return
    for run in runs:
        yield run, *execute(run.config, started(run), reraise)


def _carried_out_by_workers(runs: Sequence[PlannedRun], jobs: int) -> Iterator[Outcome]:
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
                yield run, *what
            elif kind == "gone":
                how = worker.buried()
                if worker.has_begun:
                    yield run, *record_without_result(run.config, "failed", how)
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
