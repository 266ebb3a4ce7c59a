"""One warm process per configuration. The parent lets them work one at a time, in turn, so that drift of the machine reaches all alike.

A worker answers over a pipe: ("ready", None) once it is built, ("seconds", float) for every round it was told to do, ("done", facts)
when it is told to end, or ("failed", one line) at any time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.floor import GradientWatch
from benchmarks.subjects import Settings, Subject, now, subject_type
from petlbench.learners.cost import peak_memory_mb, reset_peak_memory
from petlbench.optim.device import pick_device
from petlbench.records import provenance

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # a worker that waits for its turn leaves the cores alone


@dataclass
class Measurement:
    """A worker's report."""

    forward_seconds: list[float] = field(default_factory=list)  # of whole rounds, the first one included
    step_seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class WorkerFailed(Exception):
    """A worker cannot go on; the message says why."""


class Worker:
    """The parent's side."""

    def __init__(self, name: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=serve, args=(theirs, name, settings), daemon=True)
        self._process.start()
        theirs.close()  # so that a worker that is killed ends the pipe

    def tell_to_go(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # its last words, if any, are still to be read
            self._connection.send("go")

    def receive(self, kind: str) -> Any:
        """The worker's next message, which has to be of this kind."""
        try:
            received, content = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerFailed(f"the worker process ended with exit code {self._process.exitcode}, perhaps for memory") from None
        if received == kind:
            return content
        raise WorkerFailed(content if received == "failed" else f"it said '{received}' where '{kind}' was due: another number of epochs?")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def measure(names: Sequence[str], settings: Settings, title: str) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Measure configurations side by side: what each sent, and for those that failed why. Progress goes to stderr."""
    group = _Group(names)
    try:
        with _environment(PASSIVE):
            group.start(settings)
        group.all_do(lambda name: group.workers[name].receive("ready"))
        for part in ("forward", "step"):
            for number in range(settings.rounds + 1):
                click.echo(f"{title}: {part}, {f'round {number} of {settings.rounds}' if number else 'warm-up'}", err=True)
                group.all_do(partial(group.take_turn, part))
        group.all_do(group.conclude)
    finally:
        for worker in group.workers.values():
            worker.end()
    return {name: group.measurements[name] for name in names if name not in group.failures}, group.failures


class _Group:
    """Workers that are alive at the same time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.workers: dict[str, Worker] = {}
        self.measurements = {name: Measurement() for name in names}
        self.failures: dict[str, str] = {}

    def start(self, settings: Settings) -> None:
        for name in self.measurements:
            self.workers[name] = Worker(name, settings)

    def all_do(self, action: Callable[[str], object]) -> None:
        """One after the other; those that fail are left out from then on."""
        for name, worker in self.workers.items():
            if name not in self.failures:
                try:
                    action(name)
                except WorkerFailed as reason:
                    self.failures[name] = str(reason)
                    worker.end()

    def take_turn(self, part: str, name: str) -> None:
        self.workers[name].tell_to_go()
        seconds: list[float] = getattr(self.measurements[name], f"{part}_seconds")
        seconds.append(self.workers[name].receive("seconds"))

    def conclude(self, name: str) -> None:
        self.workers[name].tell_to_go()
        self.measurements[name].facts = self.workers[name].receive("done")


def serve(connection: Connection, name: str, settings: Settings) -> None:
    """The worker's side: everything in one process, from imports to the last round."""
    try:
        _work(connection, name, settings)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        reason = " ".join(str(error).split())
        with contextlib.suppress(OSError):
            connection.send(("failed", f"{type(error).__name__}: {reason}"))


def _work(connection: Connection, name: str, settings: Settings) -> None:
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    device = pick_device(settings.device)
    build = subject_type(name, settings)
    reset_peak_memory(device)
    imported_mb = peak_memory_mb(device)
    subject = build(settings, device)
    connection.send(("ready", None))
    for _ in range(settings.rounds + 1):
        connection.recv()
        start = now(device)
        subject.forward()
        connection.send(("seconds", now(device) - start))
    rounds = _TrainingRounds(connection, subject, device, settings.rounds + 1)
    subject.train(rounds.report)
    common = {"number_format": subject.number_format, "repetitions": subject.repetitions, "imported_mb": imported_mb}
    connection.send(("done", {"machine": machine(device, subject.number_format), **common, **rounds.facts}))


class _TrainingRounds:
    """Stands between a training loop and the pipe: times the epochs and holds the loop up until it is told to go on."""

    def __init__(self, connection: Connection, subject: Subject, device: torch.device, count: int) -> None:
        self.facts: dict[str, Any] = {}  # known when the last round is over
        self._connection, self._subject, self._device, self._count = connection, subject, device, count
        self._done = 0
        self._watch = GradientWatch()
        self._wait()

    def report(self) -> None:
        """Note the end of a round; call it after every round. The first one, which is a warm-up, is watched; the others count for the peak memory."""
        seconds = now(self._device) - self._start
        self._done += 1
        if self._done == 1:
            self._watch.stop()
            reset_peak_memory(self._device)
        if self._done == self._count:
            self.facts = {"peak_mb": peak_memory_mb(self._device), **self._subject.facts(self._watch)}
        self._connection.send(("seconds", seconds))
        self._wait()  # after the last round too: what a learner does then would disturb the others

    def _wait(self) -> None:
        self._connection.recv()
        self._start = now(self._device)


def machine(device: torch.device, number_format: str) -> dict[str, Any]:
    """Everything besides code and settings that a number may depend on."""
    facts = provenance.environment(device, number_format).model_dump()
    facts["packages"]["peft"] = version("peft")
    return {**facts, "cpu": cpu_name(), "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None}


def cpu_name() -> str:
    """The processor as its maker calls it, where the system tells."""
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpu_info.read_text(), flags=re.MULTILINE) if cpu_info.exists() else []
    if sys.platform == "darwin":
        names = [subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False).stdout.strip()]
    return names[0] if names else platform.processor() or platform.machine()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
