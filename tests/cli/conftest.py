"""A data root, a server and a dataset that it sends."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from petlbench.data.acquire import download
from petlbench.data.acquire.fetch import Fetch
from petlbench.data.task import DiskTask
from petlbench.registry import TASKS
from tests.data.acquire.serving import Server, serving
from tests.datasets import originals


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with serving() as server:
        yield server


@pytest.fixture
def cifar(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetch]:
    """CIFAR-10 of sixty images, which the test's server sends."""
    originals.cifar10(tmp_path / "source")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "source/cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(tmp_path / "source")
    server.content = buffer.getvalue()
    checksum = f"md5:{hashlib.md5(server.content).hexdigest()}"
    item = Fetch(f"{server.url}.gz", "cifar-10-batches-py", checksum, member="cifar-10-batches-py")
    task = TASKS.get("pgn12/cifar10")
    assert isinstance(task, DiskTask)
    monkeypatch.setitem(TASKS._targets, "pgn12/cifar10", dataclasses.replace(task, downloads=(item,)))
    yield item
