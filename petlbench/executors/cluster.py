"""Runs on a Ray cluster: in warm actors on its machines, each on a share of CPUs and GPUs that Ray sets aside for it.

This process decides which run goes where (``schedule``), and survives the loss of any machine but its own. ``node`` has what happens elsewhere.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from petlbench.config.executor import ExecutorChoice
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import data_folder
from petlbench.errors import ConfigError, PetlbenchError
from petlbench.executors.durations import Durations
from petlbench.executors.executor import Outcome, Watch
from petlbench.executors.machines import LOOK, Machines, Share, Worker
from petlbench.executors.node import Home, Sent
from petlbench.executors.ray_connection import connected, require_ray
from petlbench.executors.schedule import Schedule
from petlbench.records.schema import Record, parse_record
from petlbench.records.store import RecordStore
from petlbench.runs.execute import record_without_result
from petlbench.runs.plan import PlannedRun

PATIENCE = 60.0  # seconds without a worker after which a bench on a cluster without room ends
_log = logging.getLogger("petlbench.executors")


class RayExecutor:
    """Executes runs in actors of a Ray cluster, as many as it has room for, also on machines that join later."""

    def __init__(self, choice: ExecutorChoice) -> None:
        require_ray()
        if choice.gpus_per_run is not None and choice.gpus_per_run > 1 and choice.gpus_per_run % 1:
            raise ConfigError(
                f"gpus_per_run above 1 must be a whole number, got {choice.gpus_per_run:g}: a run cannot have half of a second GPU"
            )
        self._address = choice.address
        self._machines = Machines(choice)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(connected(self._address))
        self._stack.callback(self._machines.end_all)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        """See ``Executor.carry_out``. DataError, before anything starts, that lists what machines lack."""
        if runs:
            yield from _Bench(self._machines, runs, watch).outcomes()


@dataclass
class _Bench:
    """Runs on their way through a cluster."""

    machines: Machines
    runs: Sequence[PlannedRun]
    watch: Watch
    lost: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # run id -> where its workers were lost

    def outcomes(self) -> Iterator[Outcome]:
        machines, first = self.machines, self.runs[0].config
        share = machines.share(first)
        with _probe(Path(first.execution.out)) as probe:
            home = Home(str(Path.cwd()), _data(), str(Path(first.execution.out).resolve()), probe)
            machines.require(share, home, _representatives(self.runs))
        schedule = Schedule(self.runs, Durations([run.config for run in self.runs]), machines.room)
        without = time.monotonic()  # since when there is no worker that is ready
        try:
            while schedule or schedule.at_work:
                self._look_again(share, home)
                machines.grow(len(schedule) + len(schedule.at_work), share, home)
                for worker in list(machines.workers.values()):
                    if worker.is_ready and worker.heard is None and len(schedule):
                        self._give(worker, schedule, share)
                if any(worker.is_ready for worker in machines.workers.values()):
                    without = time.monotonic()
                elif time.monotonic() - without > PATIENCE:
                    self._complain_of_room(len(schedule))
                    without = time.monotonic()
                outcome = self._heard(schedule)
                if outcome is not None:
                    yield outcome
        finally:
            for name, run in schedule.at_work.items():
                if (at_work := machines.workers.get(name)) is not None:
                    machines.end(at_work)
                    if at_work.has_begun:
                        record_without_result(_anywhere(run.config), "cancelled", "interrupted")

    def _look_again(self, share: Share, home: Home) -> None:
        if not self.machines.is_due():
            return
        with _probe(Path(home.results)) as probe:
            self.machines.look(share, replace(home, probe=probe))

    def _complain_of_room(self, waiting: int) -> None:
        """PetlbenchError when no machine with room is left; a warning when other programs have it."""
        if not self.machines.room:
            raise PetlbenchError(
                f"no machine with room for a run is left in the cluster, and {waiting} runs wait; start machines, and the bench again"
            )
        _log.warning(
            "no worker is ready after %d s: machines are slow to start one, or other programs hold the cluster's CPUs or GPUs", PATIENCE
        )

    def _give(self, worker: Worker, schedule: Schedule, share: Share) -> None:
        run = schedule.take(worker.name)
        assert run is not None, "one waits"
        self.watch.began(worker.name, run)
        worker.has_begun = False
        call = worker.actor.carry_out.options(num_returns="streaming")
        is_there = worker.node.shares_results and Path(run.config.execution.out).resolve() == Path(worker.results)
        worker.heard = call.remote(_on_share(run.config, share), is_there)

    def _heard(self, schedule: Schedule) -> Outcome | None:
        """Wait for what a worker has to say, at most until the next look at the machines. Returns a run's outcome when it was that."""
        import ray
        from ray.exceptions import RayError

        handles = {worker.heard: worker for worker in self.machines.workers.values() if worker.heard is not None}
        if not handles:
            time.sleep(LOOK)
            return None
        ready, _ = ray.wait(list(handles), num_returns=1, timeout=LOOK)
        if not ready:
            return None
        worker = handles[ready[0]]
        try:
            if not worker.is_ready:
                worker.prints = ray.get(worker.heard)
                worker.is_ready, worker.heard = True, None
                return None
            kind, what = ray.get(next(worker.heard))
        except (RayError, StopIteration) as error:
            how = (str(error).strip() or type(error).__name__).splitlines()[0]
            return self._lost(worker, schedule, how)
        if kind == "begun":
            worker.has_begun = True
        elif kind == "advanced":
            self.watch.advanced(worker.name, *what)
        else:
            run = schedule.done(worker.name)
            worker.heard = None
            self.watch.ended(worker.name)
            if kind == "recorded":
                return Outcome(run, *_kept(run.config, what, f"{worker.node.name}:{worker.prints}"))
            where = f"{run.config.label}, on {worker.node.name}"
            raise PetlbenchError(f"{where}: {what}") if kind == "refused" else RuntimeError(f"{where}:\n{what}")
        return None

    def _lost(self, worker: Worker, schedule: Schedule, how: str) -> Outcome | None:
        """Give the run of a worker that is gone to another, or record it as failed when it was given away before."""
        if not worker.is_ready:
            self.machines.failed_to_start(worker, how)
            return None
        self.machines.end(worker)
        self.watch.ended(worker.name)
        lost = schedule.lost(worker.name, worker.has_begun)
        if lost is None:
            return None
        run, waits = lost
        where = self.lost[run.config.run_id]
        where.append(worker.node.name)
        if waits:
            _log.warning("%s was lost with its worker on %s, and begins again elsewhere (%s)", run.config.label, worker.node.name, how)
            return None
        error = f"its workers were lost, on {' and on '.join(where)}; perhaps a machine has too little memory, or ended"
        return Outcome(run, *record_without_result(_anywhere(run.config), "failed", error))


def _kept(config: RunConfig, sent: Sent, prints: str) -> tuple[Record, Path]:
    """Return a record that arrived and its path; written now unless its node has written it. A failure comes with where its plugin printed."""
    out = Path(config.execution.out)
    record = parse_record(sent.document, f"the record of {config.label}")
    path = out / sent.path if sent.path is not None else None
    if path is None:
        record, path = RecordStore(out).adopt(record, sent.files)
    error = sent.error if record.has_result else f"{sent.error} (what it printed: {prints})"
    return record.model_copy(update={"error": error}), path


def _on_share(config: RunConfig, share: Share) -> RunConfig:
    """Return a run that uses what is set aside for it and no more."""
    execution = config.execution
    threads = execution.threads or max(1, int(share.cpus))
    device = "cpu" if execution.device == "auto" and not share.gpus else execution.device
    return replace(config, execution=replace(execution, threads=threads, device=device))


def _anywhere(config: RunConfig) -> RunConfig:
    """Return a run that this machine can record, whether or not it has the run's device."""
    return replace(config, execution=replace(config.execution, device="auto"))


def _data() -> str | None:
    root = data_folder(None)
    return None if root is None else str(root.resolve())


def _representatives(runs: Sequence[PlannedRun]) -> dict[object, RunConfig]:
    """Return one run for each task, backbone and set of files, by these."""
    found: dict[object, RunConfig] = {}
    for run in runs:
        config = run.config
        key = (
            config.task,
            config.execution.data_root,
            config.backbone.name,
            config.backbone.checkpoint,
            str(sorted(config.content.items())),
        )
        found.setdefault(key, config)
    return found


@contextmanager
def _probe(results: Path) -> Iterator[str]:
    """Yield the name of a new file in the results folder: a node that finds it there shares the folder."""
    name = f".shared-{secrets.token_hex(16)}"
    try:
        results.mkdir(parents=True, exist_ok=True)
        (results / name).touch()
        yield name
    finally:
        (results / name).unlink(missing_ok=True)
