"""Runs in warm worker processes of this machine, several at a time. What happens to a worker costs at most its run."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from petlbench.config.resolve import RunConfig
from petlbench.errors import PetlbenchError, printable
from petlbench.executors.executor import Outcome, Watch
from petlbench.executors.schedule import Estimate, Schedule
from petlbench.executors.workers import Worker, end_all, first_heard
from petlbench.runs.execute import record_without_result
from petlbench.runs.log import recorded_since
from petlbench.runs.plan import PlannedRun

MOST_FAILED_STARTS = 3  # worker processes in a row that end before they are ready for a run: no other would be
_log = logging.getLogger("petlbench.runs")


class Pool:
    """Worker processes, each with its share of the cores. They are kept from one ``carry_out`` to the next, until ``end``.

    ``memory_mb``: resident memory beyond which a worker is replaced between two runs; None: twice what it had after its first run, and SLACK_MB.
    """

    def __init__(self, memory_mb: int | None = None) -> None:
        self._memory_mb = memory_mb
        self._workers: dict[str, Worker] = {}
        self._unrecorded: dict[int, tuple[PlannedRun, datetime]] = {}  # handed out, when, and not known to have a record
        self._failed_starts = 0

    def carry_out(self, runs: Sequence[PlannedRun], jobs: int, estimate: Estimate, watch: Watch) -> Iterator[Outcome]:
        """Execute runs, ``jobs`` at a time, and yield each as it ends."""
        threads = max(1, (os.cpu_count() or 1) // jobs)
        schedule = Schedule(runs, estimate, jobs)
        try:
            while schedule or schedule.at_work:
                self._hand_out(schedule, jobs, threads, watch)
                name = first_heard(self._workers)
                outcome = self._hear(name, schedule, watch)
                if outcome is not None:
                    yield outcome
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the workers that are at work, and see to it that every run that was begun has a record, of which a result is never replaced."""
        if not self._unrecorded:
            return
        with _undisturbed():
            at_work = {name: worker for name, worker in self._workers.items() if worker.is_at_work}
            for name in at_work:
                del self._workers[name]
            end_all(at_work.values())
            while self._unrecorded:
                _, (run, since) = self._unrecorded.popitem()
                if recorded_since(run.config, since) is None:
                    record_without_result(run.config, "cancelled", "interrupted")

    def end(self) -> None:
        """End all workers, and the runs that they have."""
        self.abandon()
        workers, self._workers = self._workers, {}
        end_all(workers.values())

    def _hand_out(self, schedule: Schedule, jobs: int, threads: int, watch: Watch) -> None:
        """Give every idle worker a run, and start workers for those that still wait."""
        for name, worker in self._workers.items():
            if worker.is_idle and (run := schedule.take(name)) is not None:
                self._unrecorded[id(run)] = run, datetime.now(UTC)
                worker.begin(run, _with_threads(run.config, threads))
                watch.began(name, run)
        starting = sum(not worker.is_ready for worker in self._workers.values())
        while starting < len(schedule) and len(self._workers) < jobs:
            name = next(name for number in range(1, jobs + 1) if (name := f"worker {number}") not in self._workers)
            self._workers[name] = Worker()
            starting += 1

    def _hear(self, name: str, schedule: Schedule, watch: Watch) -> Outcome | None:
        """Take in what a worker has to say, or that it is gone; return the run that has ended by it."""
        worker = self._workers[name]
        message = worker.receive()
        if message is None:
            return self._replace(name, worker.buried(), schedule, watch)
        kind, what = message
        if kind == "ready":
            self._failed_starts = 0
            return None
        if kind == "advanced":
            watch.advanced(name, *what)
            return None
        if kind == "interrupted":  # by somebody who asked it alone
            return self._replace(name, "its worker process was interrupted", schedule, watch)
        run = schedule.done(name)
        watch.ended(name)
        self._unrecorded.pop(id(run), None)
        if kind == "refused":
            raise PetlbenchError(what)
        if kind == "broken":
            raise RuntimeError(f"{run.config.label}, in a worker process:\n{what}")
        if worker.has_grown_beyond(self._memory_mb):
            schedule.lost(name)
            self._workers.pop(name).dismiss()
        return Outcome(run, *what)

    def _replace(self, name: str, how: str, schedule: Schedule, watch: Watch) -> Outcome | None:
        """Forget a worker that is lost. Its run is begun again by another; when it loses that one, too, it has failed."""
        worker = self._workers.pop(name)
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts == MOST_FAILED_STARTS:
                raise PetlbenchError(f"no worker process can be started ({how}); --jobs 1 does without")
        if (run := schedule.at_work.get(name)) is None:
            schedule.lost(name)
            return None
        watch.ended(name)
        found = recorded_since(run.config, self._unrecorded[id(run)][1])
        if found is not None and found[0].has_result:  # it could not say so any more
            schedule.done(name)
        elif (lost := schedule.lost(name)) is not None and lost[1]:
            _log.warning("%s", printable(f"{run.config.label}: {how}; it begins again in another"))
            return None
        else:
            found = record_without_result(run.config, "failed", f"{how}; it had lost another before")
        schedule.lost(name)
        self._unrecorded.pop(id(run), None)
        return Outcome(run, *found)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off requests to end until the block has ended, which takes a second or two: a second Ctrl-C would lose records."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    heard: list[int] = []
    former: dict[int, Any] = {}
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        for number in numbers:
            if signal.getsignal(number) not in (None, signal.SIG_IGN):  # None: not Python's
                former[number] = signal.signal(number, lambda number, _: heard.append(number))
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    for number in heard:
        signal.raise_signal(number)


def _with_threads(config: RunConfig, threads: int) -> RunConfig:
    return config if config.execution.threads else replace(config, execution=replace(config.execution, threads=threads))
