"""Benches on a real Ray cluster of several raylets on this machine, through the real command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from petlbench.records.schema import Record, read_record
from petlbench.records.store import RecordStore
from tests.datasets.miniature import vtab_task
from tests.executors.processes import installed, start_in_session

pytestmark = pytest.mark.slow
GUARD = 300  # seconds after which a test that hangs fails
ROOT = Path(__file__).parents[2]
LINEAR = ("method=linear", "task=mini/digits", "threads=1", "device=cpu", "out=r")
WAITER = ("method=waiter", "task=mini/digits", "threads=1", "device=cpu", "out=r")
METHOD = '''
import os, time
import torch
from pathlib import Path
from petlbench import Access, QueryMethod, register_method


@register_method("waiter")
class Waiter(QueryMethod):
    """Seed 0 waits in its first run, seed 2 in every run, seed 3 fails; all say where they are."""
    access = Access.SCORES

    def fit(self, model, data):
        print("waiter was here")
        place = Path(os.environ["WAITER"])
        (place / f"{self.seed}-{os.getpid()}").touch()
        if self.seed == 3:
            raise ValueError("no such seed")
        while self.seed == 2 or (self.seed == 0 and len(list(place.glob("0-*"))) == 1):
            time.sleep(0.05)

    def predict(self, model, images):
        return torch.zeros(len(images), 10)
'''
# A driver whose results folder no node finds: none can know the name of the file that it looks for
APART = """
import contextlib, sys
from petlbench.cli import main
from petlbench.executors import cluster
cluster._probe = lambda results: contextlib.nullcontext("nowhere")
main()
"""


class Raylets:
    """A cluster in a process of its own."""

    def __init__(self, environment: dict[str, str], *nodes: dict[str, Any]) -> None:
        words = [sys.executable, "-m", "tests.executors.raylets", *map(json.dumps, nodes)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self.address, self._count = self._answer(), len(nodes)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def add(self, node: dict[str, Any]) -> int:
        """Start a node; returns its number."""
        self._tell(f"add {json.dumps(node)}")
        self._count += 1
        return self._count - 1

    def kill(self, number: int) -> None:
        """Kill a node as a power cut would."""
        self._tell(f"kill {number}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(GUARD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the method above."""
    return installed(tmp_path_factory.mktemp("site"), "waiter", METHOD)


@pytest.fixture(scope="module")
def raylets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """A head without room for runs, and two machines, one with a GPU that does not exist."""
    os.environ["WAITER"] = str(tmp_path_factory.mktemp("waiter"))  # inherited by the actors
    cluster = Raylets(dict(os.environ), {"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1, "num_gpus": 1})
    yield cluster
    cluster.end()


@pytest.fixture
def bench(raylets: Raylets, site: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a bench on the cluster, below the test's folder."""
    started: list[subprocess.Popen[str]] = []
    for file in Path(os.environ["WAITER"]).iterdir():
        file.unlink()

    def start(*words: str, code: tuple[str, str] = ("-m", "petlbench"), **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, *code, "bench", *words, "executor=ray", f"address={raylets.address}"]
        process = start_in_session(command, tmp_path, os.environ | {"PYTHONPATH": str(site)} | more)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=GUARD)
    assert "Traceback" not in out + err, err
    return process.returncode, err


def records(results: Path) -> dict[int, Record]:
    return {record.seed: record for record in RecordStore(results).read()}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def waiting(seed: str) -> list[str]:
    """Name the runs of a seed that have begun, with the numbers of their processes."""
    return [path.name for path in Path(os.environ["WAITER"]).glob(f"{seed}-*")]


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def comparable(results: Path) -> dict[str, Any]:
    """Everything of records and their files but times, the memory of processes, and who was first to decode the images.

    Of a checkpoint what was learned: its metadata are in another order in every process.
    """
    found: dict[str, Any] = {}
    for path, record in ((path, read_record(path)) for path in RecordStore(results).paths()):
        document = record.model_dump(exclude={"created": True, "checkpoint": True})
        kept = {key: value for key, value in document["cost"].items() if not key.endswith(("_seconds", "_mb", "images_decoded"))}
        found[path.name] = document | {"cost": kept}
        assert record.predictions is not None and record.checkpoint is not None
        found[record.predictions.file] = path.with_name(record.predictions.file).read_bytes()
        learned = load_file(results / record.checkpoint)
        found[f"{path.stem} learned"] = {name: tensor.tolist() for name, tensor in learned.items()}
    return found


def test_records_are_those_of_local_whoever_writes_them_and_on_a_part_of_a_gpu(
    bench: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    words, found = (*LINEAR, "seeds=0,1", "save=true", "train.epochs=2", "train.warmup_epochs=0"), {}
    for name, more in {"nodes": {}, "driver": {"code": ("-c", APART)}}.items():
        assert finished(bench(*words, "gpus_per_run=0.5", "cpus_per_run=0.5", **more))[0] == 0
        found[name] = comparable(tmp_path / "r")
        assert not list((tmp_path / "r").glob(".*"))  # the file that nodes look for
        (tmp_path / "r").rename(tmp_path / name)
    subprocess.run([sys.executable, "-m", "petlbench", "bench", *words], cwd=tmp_path, check=True, capture_output=True)
    local = comparable(tmp_path / "r")
    assert len(local) == 2 * len(("record", "predictions", "checkpoint"))
    assert found["nodes"] == local and found["driver"] == local


def test_a_lost_machine_costs_its_runs_which_begin_once_more_on_one_that_joins(
    bench: Callable[..., subprocess.Popen[str]], raylets: Raylets, tmp_path: Path
) -> None:
    first = raylets.add({"num_cpus": 2, "num_gpus": 4})
    process = bench(*WAITER, "seeds=0,2,3", "gpus_per_run=2")
    until(lambda: len(waiting("0")) == len(waiting("2")) == 1 or process.poll() is not None)
    raylets.kill(first)
    second = raylets.add({"num_cpus": 2, "num_gpus": 4})
    until(lambda: len(waiting("0")) == len(waiting("2")) == 2 or process.poll() is not None)
    until(lambda: records(tmp_path / "r").keys() == {0, 3} or process.poll() is not None)
    raylets.kill(second)
    code, err = finished(process)
    found = records(tmp_path / "r")
    assert code == 1 and found[0].status == "ok" and found[2].status == "failed"
    assert (found[2].error or "").startswith("its workers were lost, on ") and (found[2].error or "").count("node ") == 2
    assert "begins again elsewhere" in err and "state-dump" not in err  # 20 lines of Ray's own log
    printed = re.findall(r"ValueError: no such seed \(what it printed: .*:(/.*\.out)\)", err)[0]
    assert "waiter was here" in Path(printed).read_text() and found[3].error == "ValueError: no such seed"


@pytest.mark.long
def test_a_killed_driver_leaves_no_worker_and_its_successor_continues(bench: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    words = (*WAITER, "seeds=0,1", "gpus_per_run=0.5", "cpus_per_run=0.5")
    process = bench(*words)
    until(lambda: bool(waiting("0") and records(tmp_path / "r")) or process.poll() is not None)
    workers = [int(name.partition("-")[2]) for name in waiting("0")]
    process.kill()
    until(lambda: not any(map(is_there, workers)))
    assert list(records(tmp_path / "r")) == [1]
    code, err = finished(bench(*words))
    assert code == 0 and "1 done, 0 failed, 1 missing; 1 to run" in err
    assert {seed: record.status for seed, record in records(tmp_path / "r").items()} == {0: "ok", 1: "ok"}


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_workers_and_records_their_runs_as_cancelled(
    bench: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int, code: int
) -> None:
    process = bench(*WAITER, "seeds=2", "gpus_per_run=0.5")
    until(lambda: bool(waiting("2")) or process.poll() is not None)
    workers = [int(name.partition("-")[2]) for name in waiting("2")]
    os.killpg(process.pid, number)
    assert finished(process)[0] == code
    until(lambda: not any(map(is_there, workers)))
    assert records(tmp_path / "r")[2].status == "cancelled"


@pytest.mark.long
def test_machines_that_lack_data_are_one_error_before_anything_starts(
    bench: Callable[..., subprocess.Popen[str]], raylets: Raylets, tmp_path: Path
) -> None:
    (empty := tmp_path / "empty").mkdir()
    for task in ("cifar", "svhn"):
        vtab_task(tmp_path / "data", task)
    added = raylets.add({"num_cpus": 1, "env_vars": {"PETLBENCH_DATA": str(empty)}})
    process = bench(
        "method=linear",
        "task=vtab/cifar,vtab/svhn",
        "backbone=mini_clip",
        "seeds=0",
        "out=r",
        "gpus_per_run=0",
        PETLBENCH_DATA=str(tmp_path / "data"),
    )
    code, err = finished(process)
    raylets.kill(added)
    assert code == 2 and err.count("petlbench: ") == 1
    assert "nothing was started: 1 of 3 machines of the cluster lack something" in err
    assert "vtab/cifar100 is not there" in err and "vtab/svhn is not there" in err and "data_root=DIR" in err
    assert not records(tmp_path / "r")


@pytest.mark.long
def test_a_share_that_no_machine_has_is_an_error_that_says_what_there_is(bench: Callable[..., subprocess.Popen[str]]) -> None:
    code, err = finished(bench(*LINEAR, "gpus_per_run=16"))
    assert code == 2 and "no machine of the cluster has what a run asks for, 1 CPU and 16 GPU" in err and "with 1 CPU and 1 GPU" in err
