"""Runs on this machine: in this process, or in warm worker processes that load torch and the backbone once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from petlbench.config.files import load_yaml, names
from petlbench.config.resolve import RunConfig
from petlbench.errors import ConfigError, PetlbenchError
from petlbench.optim.device import pick_device
from petlbench.records.schema import Record
from petlbench.runs.execute import Progress, execute
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

    With several jobs each process gets an equal share of the cores. A worker receives a run's configuration and returns its record. ConfigError
    for more than MOST_JOBS.
    """
    if jobs > MOST_JOBS:
        raise ConfigError(f"jobs must be an int <= {MOST_JOBS}, as each is a process with torch and a backbone in memory, got {jobs:,}")
    if jobs <= 1:
        for run in runs:
            yield run, *execute(run.config, started(run), reraise)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        with _without_main():
            futures = {pool.submit(_carry_out, _with_threads(run.config, threads)): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], *future.result()
        except BrokenProcessPool:
            raise PetlbenchError(
                "a worker process was killed, perhaps for memory; the same command continues, --jobs 1 needs least"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the calling script while workers start: they do not need it, and would run it again, or fail to find it (``python -``)."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _with_threads(config: RunConfig, threads: int) -> RunConfig:
    return config if config.execution.threads else replace(config, execution=replace(config.execution, threads=threads))


def _carry_out(config: RunConfig) -> tuple[Record, Path]:
    return execute(config)
