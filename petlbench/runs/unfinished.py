"""Keep what an unfinished run needs to go on, beside the place of its record, and go on from there."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from petlbench.access.tickets import lent
from petlbench.config.every import Every
from petlbench.errors import RecordError, described
from petlbench.optim.steps import Held, Load, State, Steps, restore, state_of
from petlbench.records.provenance import source_digest
from petlbench.records.store import write_atomically
from petlbench.remote.journal import Journal
from petlbench.runs.kept_file import packed_state, read_state

SHARE = 0.05  # of the time of a run, at most, for writing its state, where it is written by time
_log = logging.getLogger("petlbench.runs")


class Unfinished:
    """The state of a run between its steps and stages.

    ``path``: where it lies; ``identity``: what must be the same for a run to go on, by what it is called; ``every``: how often it is written, None: never.
    Nothing is copied and the device is not waited for until it is.
    """

    def __init__(self, path: Path, identity: Callable[[], Mapping[str, str]], every: Every | None, with_journal: bool = False) -> None:
        self.path = path
        self.resumed = 0  # times that the run has gone on
        self.journal: Journal | None = None  # of the answers of a remote model, for which nothing is to be paid twice
        self._every = every
        self._parts: Mapping[str, Held] = {}
        self._results: dict[str, State] = {}  # of the stages that are over, by name
        self._loop: State | None = None  # of the loop that is to go on
        self._found: State | None = None
        self._loops = 0  # that a method has begun
        self._number = 0  # of the state on disk, from 1; 0: there is none
        self._steps, self._since, self._took = 0, time.monotonic(), 0.0
        if every is None:
            return
        self._identity = dict(identity())
        self._found = self._read()
        if with_journal:
            self.journal = Journal(path, self._identity, self._number, is_new=self._found is None and self.path.exists())
            self.resumed = max(self.resumed, int(self.journal.has_answers))

    @contextlib.contextmanager
    def steps_lent(self) -> Iterator[Steps]:
        """Yield what a method's loop calls; it is invalid after the block."""
        if self._every is None:
            yield Steps()
            return
        with lent(self.enter) as enter, lent(self.offer) as offer:
            yield Steps(enter, offer)

    def begin(self, parts: Mapping[str, Held]) -> None:
        """Name what the harness itself holds. When the training was over, it is restored now, else by the loop that goes on."""
        self._parts = parts
        if self._found is not None:
            self._results, self._loop = self._found["results"], self._found["loop"]
            if self._loop is None:
                self._go_on(lambda _: None)

    def enter(self, load: Load) -> None:
        """Let the loop that begins go on from its state, if there is one."""
        self._loops += 1
        if self._loop is not None:
            self._go_on(load)
        elif self.journal is not None and self._loops == 1:
            self.journal.begin(self._number + 1)

    def offer(self, loop: Callable[[], State], steps: int) -> None:
        """Keep the state if it is due. Only that of the first loop: a rerun has to come through the others again."""
        self._steps += steps
        if self._is_due() and self._loops <= 1:
            self._write(loop())

    def once(self, name: str, compute: Callable[[], State]) -> State:
        """Return the result of a stage, computed now or before the run was interrupted. It is kept if the run has lasted long enough for that."""
        if name not in self._results:
            self._results[name] = compute()
            if self._number or self._is_due():
                self._write(None)
        return self._results[name]

    def has(self, name: str) -> bool:
        """Return True when the result of a stage was kept."""
        return name in self._results

    def after_part(self) -> None:
        """Keep what is known after a part of a stage, if it is due."""
        self._steps += 1
        if self._is_due():
            self._write(None)

    @property
    def is_missed(self) -> bool:
        """Return True when a state was due and the method has no loop to take it from."""
        every = self._every
        return every is not None and self._loops == 0 and (every.steps is not None or self._is_due())

    def _is_due(self) -> bool:
        every = self._every
        if every is None:
            return False
        if every.seconds is None:
            return self._steps >= (every.steps or 1)
        return time.monotonic() - self._since >= max(every.seconds, self._took / SHARE)

    def _write(self, loop: State | None) -> None:
        began = time.monotonic()
        parts = state_of(self._parts)
        state = {"number": self._number + 1, "resumed": self.resumed, "loop": loop, "results": self._results, "parts": parts}
        try:
            write_atomically(self.path, packed_state(self._identity, state))
        except RecordError as error:
            _log.warning("the state of this run is no longer kept: %s", error)
            self._every = None
            return
        self._number += 1
        if self.journal is not None:
            self.journal.begin(self._number + 1)
        self._steps, self._since = 0, time.monotonic()
        self._took = self._since - began

    def _read(self) -> State | None:
        """Return the state of an interrupted run; None when there is none that fits."""
        if not self.path.exists():
            return None
        try:
            identity, state = read_state(self.path)
        except RecordError as error:
            _log.warning("the state of an interrupted run cannot be read, so the run starts over (%s)", error)
            return None
        for what, now in self._identity.items():
            if (then := identity.get(what, "unknown")) != now:
                _log.warning("%s was kept with other %s (%s, now %s), so the run starts over", self.path, what, then[:40], now[:40])
                return None
        self._number, self.resumed = state["number"], state["resumed"] + 1
        return state

    def _go_on(self, load: Load) -> None:
        """Restore what the method holds, then what the harness does, which counts what the former took. RecordError when a method cannot read its own
        state; it is deleted, or every rerun would fail."""
        assert self._found is not None
        try:
            load(self._loop)
            restore(self._parts, self._found["parts"])
        except Exception as error:
            remove_state(self.path)
            raise RecordError(
                f"{self.path}: the method cannot go on from its state ({described(error)}), which was deleted; run it again"
            ) from error
        if self.journal is not None:
            self.journal.begin(self._number + 1)
        self._found = self._loop = None
        self._since = time.monotonic()
        _log.info("an interrupted run goes on from %s", self.path)


def remove_state(path: Path) -> None:
    """Delete what an unfinished run has kept, and what it was killed while writing."""
    name = glob.escape(path.name)
    for file in (path, *path.parent.glob(f"{name}-answers-*"), *path.parent.glob(f".tmp-*-{name}")):
        with contextlib.suppress(OSError):
            file.unlink()


class GlobalGenerators:
    """The generators of torch, NumPy and Python that all code of a process shares."""

    def __init__(self, device: torch.device) -> None:
        self._is_on_gpu = device.type == "cuda"

    def state_dict(self) -> dict[str, State]:
        kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one)
        numpy: State = (kind, list(map(int, keys)), *rest)
        gpus = torch.cuda.get_rng_state_all() if self._is_on_gpu else []
        return {"torch": torch.get_rng_state(), "gpus": gpus, "numpy": numpy, "python": random.getstate()}

    def load_state_dict(self, state: dict[str, State]) -> None:
        torch.set_rng_state(state["torch"])
        if self._is_on_gpu:
            torch.cuda.set_rng_state_all(state["gpus"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        random.setstate(state["python"])


@cache
def code_digest(plugin: str) -> str:
    """Return a hash of this package's source and of a plugin's own file."""
    digest = hashlib.sha256(source_digest().encode())
    source = getattr(sys.modules.get(plugin), "__file__", None)  # none of a method that was typed at a prompt
    if source is not None and Path(source).is_file():
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


def machine_identity(device: torch.device, precision: str) -> Iterator[tuple[str, str]]:
    """Yield what decides the last bits of numbers on a machine, by what it is called."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield from {"device": name, "number of threads": str(torch.get_num_threads()), "number format": precision}.items()
    yield from _versions()


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((f"version of {package}", version(package)) for package in ("torch", "numpy", "cma", "timm"))
