"""Warm worker processes: each loads torch and the backbone once and carries out one run after the other. None outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, NoReturn

from petlbench.config.resolve import RunConfig
from petlbench.errors import PetlbenchError
from petlbench.records.schema import Record
from petlbench.runs.execute import execute

GRACE = 1.0  # seconds from the request to end, in which an interrupted run can be recorded, to the kill
_CONTEXT = multiprocessing.get_context("spawn")  # a forked torch may hang
_Kind = Literal["begun", "recorded", "interrupted", "refused", "broken"]


class Worker:
    """The parent's end of a worker process."""

    def __init__(self) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs,))
        with _without_main(), _terminal_unheard():
            self._process.start()
        theirs.close()
        self._is_new = True
        self.has_begun = self.has_recorded = False  # of the run that it has

    @property
    def handles(self) -> tuple[Any, ...]:
        """What to wait for: something is sent, or the process has ended (a child of its own may hold the pipe open)."""
        return self._pipe, self._process.sentinel

    def begin(self, config: RunConfig) -> None:
        """Send a run. A process that has ended meanwhile does not begin it."""
        self.has_begun = self.has_recorded = False
        with suppress(OSError):
            self._pipe.send(config)

    def receive(self) -> tuple[_Kind, Any] | None:
        """Return what was sent next; None when nothing was, and nothing will be if ``first_heard`` returned this worker."""
        try:
            message: tuple[_Kind, Any] | None = self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            return None
        if message is not None:
            self._is_new = False
            self.has_begun |= message[0] == "begun"
            self.has_recorded |= message[0] in ("recorded", "interrupted")
        return message

    def buried(self) -> str:
        """Say how the process ended. PetlbenchError when it never was ready for a run: no other would be."""
        self._process.join(GRACE)  # its end of the pipe closes a little before it ends
        is_alive = self._process.is_alive()
        self.end(0)
        code = self._process.exitcode or 0
        if is_alive:
            how = "its worker process closed the connection to the bench"
        elif code == -signal.SIGKILL:
            how = "its worker process was killed, perhaps for lack of memory; --jobs 1 needs least"
        elif code < 0:
            how = f"its worker process crashed ({signal.Signals(-code).name})"
        else:
            how = f"its worker process ended with exit code {code}"
        if self._is_new:
            raise PetlbenchError(f"no worker process can be started ({how}); --jobs 1 does without")
        return how

    def ask_to_end(self) -> None:
        """Interrupt the run, or send an idle process home."""
        if self.has_begun and not self.has_recorded:
            self._process.terminate()
        else:
            self._pipe.send(None)

    def end(self, seconds: float) -> None:
        """Wait so many seconds for the process to end, then kill it."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def first_heard(workers: Iterable[Worker]) -> Worker:
    """Wait until a worker has sent something or has ended, and return it."""
    by_handle = {handle: worker for worker in workers for handle in worker.handles}
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
    with suppress(KeyboardInterrupt, EOFError, OSError):
        while (config := pipe.recv()) is not None:
            pipe.send(("begun", None))
            message = _carried_out(config)
            pipe.send(message)
            if message[0] == "interrupted":
                break


def _carried_out(config: RunConfig) -> tuple[_Kind, tuple[Record, Path] | str | None]:
    try:
        return "recorded", execute(config)
    except KeyboardInterrupt:
        return "interrupted", None
    except PetlbenchError as error:
        return "refused", str(error)
    except BaseException:
        return "broken", traceback.format_exc()


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Interrupt this process's run once the parent has ended in any way, then leave."""
    parent, main = multiprocessing.parent_process(), threading.main_thread().ident
    assert parent is not None and main is not None
    parent.join()
    signal.pthread_kill(main, signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
