"""The machines of a Ray cluster that have what runs need, and the workers that are alive there."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from petlbench.config.executor import ExecutorChoice
from petlbench.config.resolve import RunConfig
from petlbench.errors import ConfigError, DataError, PetlbenchError
from petlbench.executors.node import Carrier, Home, Survey, survey
from petlbench.records.provenance import source_digest

LOOK = 2.0  # seconds between two looks at which machines there are
MOST_STARTS = 2  # of workers that fail on a machine before it is left out
_log = logging.getLogger("petlbench.executors")


@dataclass
class Node:
    """A machine of the cluster that has what the runs need."""

    id: str
    name: str
    room: int  # workers that fit
    shares_results: bool
    failed_starts: int = 0


@dataclass(eq=False)
class Worker:
    """An actor."""

    name: str
    node: Node
    results: str  # folder that it writes to if its node shares it
    actor: Any
    heard: Any  # what to wait for: that it is ready, or what its run says next; None when it has no run
    is_ready: bool = False
    prints: str = ""  # where what it prints goes
    has_begun: bool = False  # of the run that it has


@dataclass(frozen=True)
class Share:
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


class Machines:
    """The machines, and an actor on each as often as it has room: also on machines that join later."""

    def __init__(self, choice: ExecutorChoice) -> None:
        self._choice = choice
        self.workers: dict[str, Worker] = {}  # alive or starting, by name
        self._nodes: dict[str, Node] = {}
        self._left_out: set[str] = set()  # nodes
        self._started: dict[str, int] = defaultdict(int)  # workers so far, by host
        self._looked = 0.0  # when, for machines
        self._configs: dict[object, RunConfig] = {}  # what machines were asked for

    @property
    def room(self) -> int:
        """How many workers fit on the machines that have what runs need."""
        return sum(node.room for node in self._nodes.values())

    def share(self, config: RunConfig) -> Share:
        """Return what a run is given: by default a CPU, and a GPU where the cluster has some and ``device`` allows it."""
        cpus, gpus = self._choice.cpus_per_run, self._choice.gpus_per_run
        if gpus is None:
            has_gpus = any(node["Resources"].get("GPU") for node in _alive())
            gpus = float(config.execution.device != "cpu" and (has_gpus or config.execution.device != "auto"))
        return Share(1.0 if cpus is None else cpus, gpus)

    def require(self, share: Share, home: Home, configs: Mapping[object, RunConfig]) -> None:
        """Survey all machines before anything starts, unless they were asked for the same before. DataError that lists what is missing where."""
        if self._configs.keys() >= configs.keys():
            return
        self._configs |= configs
        self._nodes, self._left_out = {}, set()
        self.look(share, home, is_first=True)

    def look(self, share: Share, home: Home, is_first: bool = False) -> None:
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
            key: Node(key, _name(new[key]), share.fits(new[key]["Resources"]), one.shares_results) for key, one in found.items()
        }
        self._looked = time.monotonic()

    def is_due(self) -> bool:
        """Return True if it is time for another look."""
        return time.monotonic() - self._looked >= LOOK

    def grow(self, wanted: int, share: Share, home: Home) -> None:
        """Start workers until there are as many as wanted or as machines have room for, on the emptiest machines first."""
        wanted = min(wanted, self._choice.jobs or wanted)
        while len(self.workers) < wanted:
            used = dict.fromkeys(self._nodes, 0)
            for worker in self.workers.values():
                used[worker.node.id] = used.get(worker.node.id, 0) + 1
            free = {key: node.room - used[key] for key, node in self._nodes.items()}
            best = max(free, key=lambda key: free[key], default=None)
            if best is None or free[best] <= 0:
                return
            self._start(self._nodes[best], share, home)

    def _start(self, node: Node, share: Share, home: Home) -> None:
        import ray

        host = node.name.partition(" ")[0]
        name = f"{host}/{self._started[host]}"
        self._started[host] += 1
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(Carrier).options(**options, scheduling_strategy=_on(node.id)).remote(home)
        self.workers[name] = Worker(name, node, home.results, actor, actor.ready.remote())

    def end_all(self) -> None:
        """End all actors."""
        for worker in list(self.workers.values()):
            self.end(worker)

    def end(self, worker: Worker) -> None:
        """End an actor; Ray frees what it set aside for it."""
        import ray

        self.workers.pop(worker.name, None)
        with suppress(Exception):  # it may be gone, or the cluster
            ray.kill(worker.actor)

    def failed_to_start(self, worker: Worker, how: str) -> None:
        """Leave a machine out on which workers do not start. PetlbenchError when it was the last."""
        self.end(worker)
        worker.node.failed_starts += 1
        if worker.node.failed_starts < MOST_STARTS or worker.node.id not in {node["NodeID"] for node in _alive()}:
            return
        worker.node.room = 0
        _log.warning("%s is left out: no worker starts there (%s)", worker.node.name, how)
        if not self.room and not self.workers:
            raise PetlbenchError(f"no worker can be started on {worker.node.name} ({how})")


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node['NodeID'][:6]})"


def _resources(nodes: Iterable[Mapping[str, Any]]) -> str:
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
    digest = source_digest()
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
