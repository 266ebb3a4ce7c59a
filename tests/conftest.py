"""One thread per process unless ``--threads`` says otherwise, an image cache of the session's own, no network beyond this machine."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from petlbench.torchvision_ops import define_missing_schemas

define_missing_schemas()  # before a test module imports torchvision, timm or open_clip
# no deadline: a slow machine is no failure
settings.register_profile("petlbench", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("petlbench")

Call = Callable[..., tuple[int, str, str]]
NUMERIC = ("access", "backbones", "golden", "methods", "nn", "optim")  # folders of tests that compare what networks compute
LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="threads of torch, in every process of the session")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("threads"))
    config.stash[_KEPT] = {"cpu_count": os.cpu_count, "connect": socket.socket.connect}
    if not _is_worker(config):  # workers inherit the environment, and with it the cache of the session
        config.stash[_KEPT]["cache"] = os.environ["PETLBENCH_CACHE"] = tempfile.mkdtemp(prefix="petlbench-tests-")
    os.environ |= {"OMP_NUM_THREADS": str(config.getoption("threads")), "HF_HUB_OFFLINE": "1"}
    os.cpu_count = lambda: 1  # a run without threads=N takes all cores, for which the workers of a session would compete
    socket.socket.connect = _guarded(socket.socket.connect)  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose numbers depend on the processor: see NUMERIC."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in NUMERIC and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.numeric)


def pytest_collection_finish() -> None:
    """Take what was imported out of garbage collection: every run collects before it measures memory, which took 0.3 s here."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    socket.socket.connect = config.stash[_KEPT]["connect"]  # type: ignore[method-assign]
    os.cpu_count = config.stash[_KEPT]["cpu_count"]
    if not _is_worker(config):
        shutil.rmtree(config.stash[_KEPT]["cache"], ignore_errors=True)


def _is_worker(config: pytest.Config) -> bool:
    """Return whether this is a worker process of pytest-xdist."""
    return hasattr(config, "workerinput")


_KEPT = pytest.StashKey[dict[str, Any]]()


def _guarded(connect: Callable[..., None]) -> Callable[..., None]:
    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"tests do not use the network, and this one wants {address[0]}")
        connect(self, address)

    return guarded


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty image cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PETLBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def plugin() -> Iterator[Callable[..., type]]:
    """Registers a method for the duration of a test: ``plugin("name", cls)`` or ``plugin("name", cls, Config)``."""
    from petlbench.method import NoConfig, register_method
    from petlbench.registry import METHODS

    names = []

    def register(name: str, method: type, config: type = NoConfig) -> type:
        names.append(name)
        return register_method(name, config)(method)

    yield register
    for name in names:
        del METHODS._targets[name], METHODS._origins[name]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """The command line in this process, below the test's folder: exit code, stdout and stderr."""
    from petlbench.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["petlbench", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call
