"""Runs on a Ray cluster: in warm actors on its machines, each on a share of CPUs and GPUs that Ray sets aside for it.

This process decides which run goes where (``schedule``), and survives the loss of any machine but its own. ``node`` has what happens elsewhere.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from petlbench.config.executor import ExecutorChoice
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import data_folder
from petlbench.errors import ConfigError, DataError, PetlbenchError
from petlbench.executors.durations import Durations
from petlbench.executors.executor import Outcome, Watch
from petlbench.executors.node import Carrier, Home, Sent, Survey, code_digest, survey
from petlbench.executors.ray_connection import connected, require_ray
from petlbench.executors.schedule import Schedule
from petlbench.records.schema import Record, parse_record
from petlbench.records.store import RecordStore
from petlbench.runs.execute import record_without_result
from petlbench.runs.plan import PlannedRun

LOOK = 2.0  # seconds between two looks at which machines there are
PATIENCE = 60.0  # seconds without a worker after which a bench on a cluster without room ends
MOST_STARTS = 2  # of workers that fail on a machine before it is left out
_log = logging.getLogger("petlbench.executors")


@dataclass
class _Node:
    """A machine of the cluster that has what the runs need."""

    id: str
    name: str
    room: int  # workers that fit
    shares_results: bool
    failed_starts: int = 0


@dataclass(eq=False)
class _Worker:
    """An actor."""

    name: str
    node: _Node
    results: str  # folder that it writes to if its node shares it
    actor: Any
    heard: Any  # what to wait for: that it is ready, or what its run says next; None when it has no run
    is_ready: bool = False
    prints: str = ""  # where what it prints goes
    has_begun: bool = False  # of the run that it has


@dataclass(frozen=True)
class _Share:
    """What Ray sets aside for a run."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU and {self.gpus:g} GPU (cpus_per_run={self.cpus:g} gpus_per_run={self.gpus:g})"

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many runs a machine has room for. Runs that share a GPU share one, whole."""
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        by_cpu = int(cpus / self.cpus + 1e-6) if self.cpus else None
        by_gpu = None
        if self.gpus:
            by_gpu = int(gpus) * int(1 / self.gpus + 1e-6) if self.gpus <= 1 else int(gpus / self.gpus)
        counts = [count for count in (by_cpu, by_gpu) if count is not None]
        return min(counts) if counts else os.cpu_count() or 1


class RayExecutor:
    """Executes runs in actors of a Ray cluster, as many as it has room for, also on machines that join later."""

    def __init__(self, choice: ExecutorChoice) -> None:
        require_ray()
        if choice.gpus_per_run is not None and choice.gpus_per_run > 1 and choice.gpus_per_run % 1:
            raise ConfigError(
                f"gpus_per_run above 1 must be a whole number, got {choice.gpus_per_run:g}: a run cannot have half of a second GPU"
            )
        self._choice = choice
        self._stack = ExitStack()
        self._nodes: dict[str, _Node] = {}
        self._left_out: set[str] = set()  # nodes
        self._workers: dict[str, _Worker] = {}
        self._started: dict[str, int] = defaultdict(int)  # workers so far, by host
        self._looked = 0.0  # when, for machines
        self._configs: dict[object, RunConfig] = {}  # what machines were asked for

    def __enter__(self) -> Self:
        self._stack.enter_context(connected(self._choice.address))
        self._stack.callback(self._end_all)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def carry_out(self, runs: Sequence[PlannedRun], watch: Watch, reraise: bool = False) -> Iterator[Outcome]:
        """See ``Executor.carry_out``. DataError, before anything starts, that lists what machines lack."""
        if runs:
            yield from _Bench(self, runs, watch).outcomes()

    def _end_all(self) -> None:
        for worker in list(self._workers.values()):
            self.end(worker)

    # What a bench asks of the cluster

    @property
    def workers(self) -> dict[str, _Worker]:
        """The workers that are alive or starting, by name."""
        return self._workers

    def share(self, config: RunConfig) -> _Share:
        """Return what a run is given: by default a CPU, and a GPU where the cluster has some and ``device`` allows it."""
        cpus, gpus = self._choice.cpus_per_run, self._choice.gpus_per_run
        if gpus is None:
            has_gpus = any(node["Resources"].get("GPU") for node in _alive())
            gpus = float(config.execution.device != "cpu" and (has_gpus or config.execution.device != "auto"))
        return _Share(1.0 if cpus is None else cpus, gpus)

    def require(self, share: _Share, home: Home, configs: Mapping[object, RunConfig]) -> None:
        """Survey all machines before anything starts, unless they were asked for the same before. DataError that lists what is missing where."""
        if self._configs.keys() >= configs.keys():
            return
        self._configs |= configs
        self._nodes, self._left_out = {}, set()
        self.look(share, home, is_first=True)

    def look(self, share: _Share, home: Home, is_first: bool = False) -> None:
        """Look which machines there are, and survey new ones; what is missing is an error at the first look, later it leaves a machine out."""
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node for node in _alive()}
        self._nodes = {key: node for key, node in self._nodes.items() if key in alive}
        new = {
            key: node
            for key, node in alive.items()
            if key not in self._nodes and key not in self._left_out and share.fits(node["Resources"])
        }
        if is_first and not new:
            raise ConfigError(f"no machine of the cluster has what a run asks for, {share}; there are {_resources(alive.values())}")
        found, problems = _surveyed(new, home, list(self._configs.values())) if new else ({}, {})
        if is_first and problems:
            raise DataError(_refusal(problems, len(new)))
        for problem, nodes in problems.items():
            _log.warning("%s joined and is left out: %s", ", ".join(nodes), problem)
        self._left_out |= {key for key in new if key not in found}
        self._nodes |= {
            key: _Node(key, _name(new[key]), share.fits(new[key]["Resources"]), one.shares_results) for key, one in found.items()
        }
        self._looked = time.monotonic()

    def is_due(self) -> bool:
        """Return True if it is time for another look."""
        return time.monotonic() - self._looked >= LOOK

    def has_room(self) -> bool:
        """Return True if a machine is there that workers may start on."""
        return any(node.room for node in self._nodes.values())

    def grow(self, wanted: int, share: _Share, home: Home) -> None:
        """Start workers until there are as many as wanted or as machines have room for, on the emptiest machines first."""
        wanted = min(wanted, self._choice.jobs or wanted)
        while len(self._workers) < wanted:
            used = dict.fromkeys(self._nodes, 0)
            for worker in self._workers.values():
                used[worker.node.id] = used.get(worker.node.id, 0) + 1
            free = {key: node.room - used[key] for key, node in self._nodes.items()}
            best = max(free, key=lambda key: free[key], default=None)
            if best is None or free[best] <= 0:
                return
            self._start(self._nodes[best], share, home)

    def _start(self, node: _Node, share: _Share, home: Home) -> None:
        import ray

        host = node.name.partition(" ")[0]
        name = f"{host}/{self._started[host]}"
        self._started[host] += 1
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(Carrier).options(**options, scheduling_strategy=_on(node.id)).remote(home)
        self._workers[name] = _Worker(name, node, home.results, actor, actor.ready.remote())

    def end(self, worker: _Worker) -> None:
        """End an actor; Ray frees what it set aside for it."""
        import ray

        self._workers.pop(worker.name, None)
        with suppress(Exception):  # it may be gone, or the cluster
            ray.kill(worker.actor)

    def failed_to_start(self, worker: _Worker, how: str) -> None:
        """Leave a machine out on which workers do not start. PetlbenchError when it was the last."""
        self.end(worker)
        worker.node.failed_starts += 1
        if worker.node.failed_starts < MOST_STARTS or worker.node.id not in {node["NodeID"] for node in _alive()}:
            return
        worker.node.room = 0
        _log.warning("%s is left out: no worker starts there (%s)", worker.node.name, how)
        if not self.has_room() and not self._workers:
            raise PetlbenchError(f"no worker can be started on {worker.node.name} ({how})")


@dataclass
class _Bench:
    """Runs on their way through a cluster."""

    executor: RayExecutor
    runs: Sequence[PlannedRun]
    watch: Watch
    lost: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # run id -> where its workers were lost

    def outcomes(self) -> Iterator[Outcome]:
        executor, first = self.executor, self.runs[0].config
        share = executor.share(first)
        with _probe(Path(first.execution.out)) as probe:
            home = Home(str(Path.cwd()), _data(), str(Path(first.execution.out).resolve()), probe)
            executor.require(share, home, _representatives(self.runs))
        schedule = Schedule(self.runs, Durations([run.config for run in self.runs]), sum(node.room for node in executor._nodes.values()))
        without = time.monotonic()  # since when there is no worker that is ready
        try:
            while schedule or schedule.at_work:
                self._look_again(share, home)
                executor.grow(len(schedule) + len(schedule.at_work), share, home)
                for worker in list(executor.workers.values()):
                    if worker.is_ready and worker.heard is None and len(schedule):
                        self._give(worker, schedule, share)
                if any(worker.is_ready for worker in executor.workers.values()):
                    without = time.monotonic()
                elif time.monotonic() - without > PATIENCE:
                    self._complain_of_room(len(schedule))
                    without = time.monotonic()
                outcome = self._heard(schedule)
                if outcome is not None:
                    yield outcome
        finally:
            for name, run in schedule.at_work.items():
                if (at_work := executor.workers.get(name)) is not None:
                    executor.end(at_work)
                    if at_work.has_begun:
                        record_without_result(_anywhere(run.config), "cancelled", "interrupted")

    def _look_again(self, share: _Share, home: Home) -> None:
        if not self.executor.is_due():
            return
        with _probe(Path(home.results)) as probe:
            self.executor.look(share, replace(home, probe=probe))

    def _complain_of_room(self, waiting: int) -> None:
        """PetlbenchError when no machine with room is left; a warning when other programs have it."""
        if not self.executor.has_room():
            raise PetlbenchError(
                f"no machine with room for a run is left in the cluster, and {waiting} runs wait; start machines, and the bench again"
            )
        _log.warning(
            "no worker is ready after %d s: machines are slow to start one, or other programs hold the cluster's CPUs or GPUs", PATIENCE
        )

    def _give(self, worker: _Worker, schedule: Schedule, share: _Share) -> None:
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

        handles = {worker.heard: worker for worker in self.executor.workers.values() if worker.heard is not None}
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

    def _lost(self, worker: _Worker, schedule: Schedule, how: str) -> Outcome | None:
        """Give the run of a worker that is gone to another, or record it as failed when it was given away before."""
        if not worker.is_ready:
            self.executor.failed_to_start(worker, how)
            return None
        self.executor.end(worker)
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


def _on_share(config: RunConfig, share: _Share) -> RunConfig:
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


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node['NodeID'][:6]})"


def _resources(nodes: Any) -> str:
    listed = [f"{_name(node)} with {node['Resources'].get('CPU', 0):g} CPU and {node['Resources'].get('GPU', 0):g} GPU" for node in nodes]
    return "; ".join(listed) or "no machines"


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _surveyed(nodes: Mapping[str, Any], home: Home, configs: Sequence[RunConfig]) -> tuple[dict[str, Survey], dict[str, list[str]]]:
    """Survey machines at the same time. Returns what each that lacks nothing said, and for each problem the names of those that have it."""
    import ray
    from ray.exceptions import NodeDiedError, RayError

    asked = {
        key: ray.remote(survey).options(num_cpus=0, max_retries=0, scheduling_strategy=_on(key)).remote(home, configs) for key in nodes
    }
    found: dict[str, Survey] = {}
    problems: dict[str, list[str]] = defaultdict(list)
    digest = code_digest()
    for key, reply in asked.items():
        name = _name(nodes[key])
        try:
            one: Survey = ray.get(reply)
        except NodeDiedError:
            continue
        except RayError as error:
            cause = getattr(error, "cause", None)
            said = f"{type(cause).__name__}: {cause}" if cause is not None else str(error).strip().splitlines()[-1]
            problems[f"petlbench cannot be started there ({said}); install the same version and plugins as here"].append(name)
            continue
        own = list(one.problems)
        if one.code != digest:
            own = [f"its petlbench {one.version} is not the code that runs here ({version('petlbench')}); install the same on all machines"]
        for problem in own:
            problems[problem].append(name)
        if not own:
            found[key] = one
    for backbone in sorted({name for one in found.values() for name in one.weights}):
        by_weights: dict[str, list[str]] = defaultdict(list)
        for key, one in found.items():
            by_weights[one.weights.get(backbone, "")].append(_name(nodes[key]))
        if len(by_weights) > 1:
            for checksum, names in by_weights.items():
                problems[f"backbone {backbone} has the weights {checksum[:8]} there and others elsewhere"] += names
    return found, problems


def _refusal(problems: Mapping[str, Sequence[str]], of: int) -> str:
    """Return one error for all machines and tasks."""
    lacking = {name for names in problems.values() for name in names}
    lines = [f"nothing was started: {len(lacking)} of {of} machines of the cluster lack something"]
    lines += [f"  {', '.join(names)}: {problem}" for problem, names in problems.items()]
    return "\n".join([*lines, "put it on every machine, or name a shared folder: data_root=DIR (docs/cluster.md)"])
