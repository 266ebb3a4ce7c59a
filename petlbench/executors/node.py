"""What a machine of a cluster does for a bench: says what it lacks before anything starts, then carries out runs in warm workers.

The functions and the class here run on the nodes. What they send is plain: texts, numbers, the JSON of records and the bytes of their files.
"""

from __future__ import annotations

import os
import queue
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.config.resolve import RunConfig
from petlbench.data.acquire.presence import VARIABLE, data_folder, presence
from petlbench.data.content import with_content
from petlbench.data.digests import state_of
from petlbench.data.joined import names_joined
from petlbench.errors import PetlbenchError, described
from petlbench.records.provenance import source_digest
from petlbench.records.schema import read_record
from petlbench.records.store import RecordStore
from petlbench.runs.execute import execute

EVERY = 0.5  # seconds between two reports of a run's progress
Event = tuple[Literal["begun", "advanced", "recorded", "refused", "broken"], Any]


@dataclass(frozen=True)
class Home:
    """What a node takes over from the process that asked for the runs."""

    folder: str  # working folder: relative paths mean the same where the node has it, too
    data: str | None  # data root, where the node's environment names none
    results: str  # results folder, absolute
    probe: str  # name of a file that lies there during the survey, by chance one that no other folder has

    def settle(self) -> None:
        """Make this process see files as that process does."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        if self.data is not None:
            os.environ.setdefault(VARIABLE, self.data)

    def is_shared(self) -> bool:
        """Return True if this node writes to the same results folder."""
        folder = Path(self.results)
        return (folder / self.probe).is_file() and os.access(folder, os.W_OK)


@dataclass(frozen=True)
class Survey:
    """What a node has."""

    host: str
    code: str  # ``source_digest``
    version: str  # of petlbench
    problems: tuple[str, ...]  # what it lacks for the runs, a line each
    weights: dict[str, str]  # backbone -> checksum
    shares_results: bool  # it can write the records itself


@dataclass(frozen=True)
class Sent:
    """A record on its way to the process that asked for the run."""

    document: bytes  # JSON
    error: str | None  # as it was raised; the document says it without names of folders
    path: str | None  # where the node has written it, below the results folder; None: it comes with its files
    files: dict[str, bytes]


def survey(home: Home, configs: Sequence[RunConfig]) -> Survey:
    """Look for what runs need: one run for each task and backbone is enough. Each backbone is loaded once, so that its weights are known to be there."""
    home.settle()
    problems: dict[str, None] = {}  # in order, once
    weights: dict[str, str] = {}
    for config in configs:
        for problem in _lacks(config, weights):
            problems.setdefault(problem)
    return Survey(socket.gethostname(), source_digest(), version("petlbench"), tuple(problems), weights, home.is_shared())


def _lacks(config: RunConfig, weights: dict[str, str]) -> Iterator[str]:
    try:
        root = data_folder(config.execution.data_root)
        for part in names_joined(config.task):
            if ":" not in part and (found := presence(part, root)).state != "present":
                yield f"{part} is not there ({found.state}: {found.where})"
        here = with_content(config).content
        yield from (f"{key} is {here.get(key)} there and {name} here" for key, name in config.content.items() if here.get(key) != name)
    except PetlbenchError as error:
        yield str(error)
        return
    name, checkpoint = config.backbone.name, config.backbone.checkpoint
    if not config.backbone.is_remote and name not in weights:
        try:
            state = () if checkpoint is None else (state_of(Path(checkpoint)),)
            weights[name] = load_backbone_cached(name, checkpoint, torch.device("cpu"), *state)[1]
        except Exception as error:
            yield f"backbone {name} cannot be loaded: {error if isinstance(error, PetlbenchError) else described(error)}"


class Carrier:
    """A warm worker: holds torch, the backbone and the opened task from one run to the next."""

    def __init__(self, home: Home) -> None:
        home.settle()
        self._home = home
        self._thread = ThreadPoolExecutor(1)  # one for all runs: torch keeps threads of its own for each that calls it

    def ready(self) -> str:
        """Say, once it can carry out runs, where what is printed here goes."""
        try:
            return str(Path("/proc/self/fd/1").readlink())
        except OSError:  # not on Linux
            return f"worker-*-{os.getpid()}.out below /tmp/ray/session_latest/logs"

    def carry_out(self, config: RunConfig, is_shared: bool) -> Iterator[Event]:
        """Execute a run and say how it proceeds: ``begun``, ``advanced`` any number of times, then one of the others."""
        yield "begun", None
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        progress = _rarely(lambda done, total: events.put(("advanced", (done, total))))
        self._thread.submit(lambda: events.put(_outcome(config, progress, self._home.results if is_shared else None)))
        while True:
            event = events.get()
            yield event
            if event[0] != "advanced":
                return


def _outcome(config: RunConfig, progress: Callable[[int, int], None], results: str | None) -> Event:
    try:
        return "recorded", _carried_out(config, progress, results)
    except PetlbenchError as error:
        return "refused", str(error)
    except BaseException:
        return "broken", traceback.format_exc()


def _carried_out(config: RunConfig, progress: Callable[[int, int], None], results: str | None) -> Sent:
    """Execute a run and write its record into a shared results folder; without one it is sent, with its files."""
    with tempfile.TemporaryDirectory(prefix="petlbench-") as scratch:
        out = Path(results or scratch)
        record, path = execute(replace(config, execution=replace(config.execution, out=str(out))), progress)
        if results is not None:
            return Sent(record.model_dump_json().encode(), record.error, str(path.relative_to(out)), {})
        files_beside = RecordStore(out).files_of(read_record(path), path)
        return Sent(path.read_bytes(), record.error, None, {file.name: file.read_bytes() for file in files_beside})


def _rarely(report: Callable[[int, int], None]) -> Callable[[int, int], None]:
    last = -EVERY

    def reported(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            report(done, total)

    return reported
