"""Warm worker processes: each loads torch, backbone and task once and carries out one run after the other. None outlives its parent."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, NoReturn

from petlbench.config.resolve import RunConfig
from petlbench.errors import PetlbenchError
from petlbench.learners.cost import settled_memory_mb
from petlbench.records.schema import Record
from petlbench.runs.execute import Progress, execute
from petlbench.runs.plan import PlannedRun

GRACE = 1.0  # seconds from the request to end, in which an interrupted run can be recorded, to the kill
_CONTEXT = multiprocessing.get_context("spawn")  # a forked torch may hang
SLACK_MB = 2048  # that a worker's memory may grow by, beside twice its first run's: allocators keep some, and runs differ
TICK = 0.1  # seconds between two words of progress
_Kind = Literal["ready", "advanced", "recorded", "interrupted", "refused", "broken"]


class Worker:
    """The parent's end of a worker process. It is given a run when it is idle: what ends it then is the run, or met it."""

    def __init__(self) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs,))
        resource_tracker.ensure_running()  # else it is started with the first worker, which then hears the terminal after all
        with _without_main(), _terminal_unheard():
            self._process.start()
        theirs.close()
        self.is_ready = False  # it has started, and loaded torch
        self.run: PlannedRun | None = None  # that it has, or had last
        self.has_ended = False  # it has said how that run ended
        self._memory_mb: list[float] = []  # resident after the first run, and after the last

    @property
    def is_at_work(self) -> bool:
        return self.run is not None and not self.has_ended

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.is_at_work and self._process.is_alive()

    @property
    def handles(self) -> tuple[Any, ...]:
        """What to wait for: something is sent, or the process has ended (a child of its own may hold the pipe open)."""
        return self._pipe, self._process.sentinel

    def begin(self, run: PlannedRun, config: RunConfig) -> None:
        """Send a run, to be carried out as ``config`` says. A process that has ended meanwhile does not begin it."""
        self.run, self.has_ended = run, False
        with suppress(OSError):
            self._pipe.send(config)

    def receive(self) -> tuple[_Kind, Any] | None:
        """Return what was sent next; None when nothing was, and nothing will be if ``first_heard`` returned this worker."""
        try:
            message: tuple[_Kind, Any] | None = self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            return None
        if message is not None:
            kind, what = message
            self.is_ready = True
            if kind == "recorded":
                record, path, memory_mb = what
                self._memory_mb = [*self._memory_mb[:1], memory_mb]
                message = kind, (record, path)
            self.has_ended |= kind not in ("ready", "advanced")
        return message

    def has_grown_beyond(self, most_mb: int | None) -> bool:
        """Return True if the process holds more memory than this after its last run; None: than twice what it held after its first, and SLACK_MB."""
        first, last = self._memory_mb[0], self._memory_mb[-1]
        return last > (2 * first + SLACK_MB if most_mb is None else most_mb)

    def buried(self) -> str:
        """Say how the process ended."""
        self._process.join(GRACE)  # its end of the pipe closes a little before it ends
        is_alive = self._process.is_alive()
        self.end(0)
        code = self._process.exitcode or 0
        if is_alive:
            return "its worker process closed the connection to the bench"
        if code == -signal.SIGKILL:
            return "its worker process was killed, perhaps for lack of memory; --jobs 1 needs least"
        if code < 0:
            return f"its worker process crashed ({signal.Signals(-code).name})"
        return f"its worker process ended with exit code {code}"

    def dismiss(self) -> None:
        """Send an idle process home. It has given back what it holds when this returns."""
        with suppress(OSError):
            self._pipe.send(None)
        self.end(GRACE)

    def ask_to_end(self) -> None:
        """Interrupt the run, or send an idle process home."""
        if self.is_at_work:
            self._process.terminate()
        else:
            self._pipe.send(None)

    def end(self, seconds: float) -> None:
        """Wait so many seconds for the process to end, then kill it."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def first_heard(workers: Mapping[str, Worker]) -> str:
    """Wait until a worker has sent something or has ended, and return its name."""
    by_handle = {handle: name for name, worker in workers.items() for handle in worker.handles}
    return by_handle[wait(list(by_handle))[0]]


def end_all(workers: Iterable[Worker]) -> None:
    """End processes within GRACE seconds, and read what they still had to say."""
    workers, deadline = list(workers), time.monotonic() + GRACE
    try:
        for worker in workers:
            with suppress(OSError):
                worker.ask_to_end()
        for worker in workers:
            worker.end(max(0.0, deadline - time.monotonic()))
    finally:  # also when interrupted again
        for worker in workers:
            worker.end(0)
    for worker in workers:
        while worker.receive() is not None:
            pass


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the calling script while a worker starts: it does not need it, and would run it again, or fail to find it (``python -``)."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _terminal_unheard() -> Iterator[None]:
    """Let a process that starts here inherit that it does not hear the terminal's signals, which reach all processes: its parent does and ends it."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _work(pipe: Connection) -> None:
    """Carry out runs until there are no more, one is interrupted, or the parent is gone."""
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # what a method prints is no reason to fail, whatever the stream can say
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    gc.freeze()  # the libraries stay: a collection, of which a run needs two, takes 5 ms without them and what the first run opens, else 200
    with suppress(KeyboardInterrupt, EOFError, OSError):
        pipe.send(("ready", None))
        for number in itertools.count():
            if (config := pipe.recv()) is None:
                break
            message = _carried_out(config, _Teller(pipe))
            if number == 0:
                gc.freeze()
            pipe.send(message)
            if message[0] == "interrupted":
                break


class _Teller:
    """Tells the parent how far the run is, now and then; a parent that is gone ends this process otherwise."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + TICK
            with suppress(OSError):
                self._pipe.send(("advanced", (done, total)))


def _carried_out(config: RunConfig, progress: Progress) -> tuple[_Kind, tuple[Record, Path, float] | str | None]:
    try:
        return "recorded", (*execute(config, progress), settled_memory_mb())
    except KeyboardInterrupt:
        return "interrupted", None
    except PetlbenchError as error:
        return "refused", str(error)
    except BaseException:
        return "broken", traceback.format_exc()


def _interrupt(number: int, _: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second request would interrupt the recording
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Interrupt this process's run once the parent has ended in any way, then leave."""
    parent, main = multiprocessing.parent_process(), threading.main_thread().ident
    assert parent is not None and main is not None
    parent.join()
    signal.pthread_kill(main, signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
