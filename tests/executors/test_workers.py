"""Benches with worker processes, through the real command line: whatever way a method leaves, and however the bench is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from petlbench import cli as command_line
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from tests.executors.processes import installed, start_in_session

GUARD = 300  # seconds after which a test that hangs fails
METHOD = '''
import os, signal, sys, threading, time
import torch
from petlbench import Access, QueryMethod, register_method


class Local(Exception):
    """Cannot be pickled, and has no text."""

    def __init__(self, one, two):
        self.held = threading.Lock()

    def __str__(self):
        raise RuntimeError("no text")


def fall():
    fall()


def leave_things():
    os.chdir("/")
    sys.stdout = open(os.devnull, "w")
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    threading.Thread(target=time.sleep, args=(3600,)).start()


def wait():
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with open(f".waiting-{os.getpid()}", "w") as file:
        file.write(" ".join(str(int(number)) for number in blocked))
    os.rename(f".waiting-{os.getpid()}", f"waiting-{os.getpid()}")
    while True:
        time.sleep(0.01)


def be_killed_once():
    try:
        open("killed", "x")
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def leave(error):
    raise error


WAYS = [
    leave_things,
    lambda: os._exit(0),
    be_killed_once,
    lambda: sys.exit(0),
    lambda: leave(Local(1, 2)),
    fall,
    lambda: print("\\u00b1 \\u732b"),
    wait,
]


@register_method("leaver")
class Leaver(QueryMethod):
    access = Access.SCORES

    def fit(self, model, data):
        WAYS[self.seed]()

    def predict(self, model, images):
        return torch.zeros(len(images), 10)
'''
WAIT = 7  # the seed that waits


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a bench of the method above, below the test's folder, in a session of its own."""
    site = installed(tmp_path / "site", "leaver", METHOD)

    def start(*words: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "petlbench", *words, "method=leaver", "out=r", "threads=1"]
        environment = os.environ | {"PYTHONPATH": str(site)} | more
        process = start_in_session(command, tmp_path, environment)
        started.append(process)
        return process

    started: list[subprocess.Popen[str]] = []
    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a failing test leaves


def records(results: Path) -> dict[int, Record]:
    return {record.seed: record for record in RecordStore(results).read()}


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_way_out_of_a_worker_is_recorded_and_the_other_runs_go_on(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("bench", "task=mini/digits", "seeds=0,1,2,3,4,5,6", "--jobs", "2", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=GUARD)
    assert process.returncode == 1 and "Traceback" not in out + err
    found = records(tmp_path / "r")
    assert {seed: record.status for seed, record in found.items()} == {
        **dict.fromkeys((0, 2, 6), "ok"),
        **dict.fromkeys((1, 3, 4, 5), "failed"),
    }
    assert found[1].error == "its worker process ended with exit code 0; it had lost another before"
    assert "seed 2: its worker process was killed, perhaps for lack of memory; --jobs 1 needs least; it begins again in another" in err
    assert found[3].error == "SystemExit: 0"
    assert found[4].error == "Local: (its text cannot be read)"
    assert (found[5].error or "").startswith("RecursionError: ")
    assert (tmp_path / "r" / "leaderboard.csv").is_file()


@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)],
)
def test_a_bench_that_is_ended_ends_its_workers_and_begins_no_further_run(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int, to_all: bool, code: int
) -> None:
    process = start("bench", "task=mini/digits,mini/location,mini/count", f"seeds={WAIT}", "--jobs", "2")
    until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2 or process.poll() is not None)
    blocked = [set(map(int, path.read_text().split())) for path in tmp_path.glob("waiting-*")]
    assert all({signal.SIGINT, signal.SIGHUP} <= numbers for numbers in blocked)  # of the terminal, which reach the workers, too
    workers = [int(path.name.partition("-")[2]) for path in tmp_path.glob("waiting-*")]
    assert len(workers) == 2 and process.pid not in workers
    (os.killpg if to_all else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=GUARD)
    until(lambda: not any(map(is_there, workers)))
    assert process.returncode == code and "Traceback" not in out + err
    assert [record.status for record in RecordStore(tmp_path / "r").read()] == ["cancelled"] * 2
    assert sorted(tmp_path.glob("waiting-*")) == sorted(tmp_path / f"waiting-{worker}" for worker in workers)
    if code > 0:
        assert "interrupted; what was computed is on disk" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_requests_to_end_are_taken_as_ctrl_c_and_have_codes_of_their_own(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: what follows is the same."""
    monkeypatch.setattr(command_line.cli, "main", lambda **_: signal.raise_signal(number))
    former = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as end:
            command_line.main()
    finally:
        signal.signal(number, former)
    assert end.value.code == 128 + number


def test_a_process_ends_though_a_method_left_a_thread(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = start("run", "task=mini/digits", "seed=0")
    out, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 0 and "accuracy" in out
    assert records(tmp_path / "r")[0].status == "ok"
