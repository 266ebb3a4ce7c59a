"""Let workers take turns; one that fails does not delay the others."""

from __future__ import annotations

import os
from multiprocessing import Pipe
from typing import Any

import pytest
import torch

from benchmarks import workers
from benchmarks.subjects import Settings
from benchmarks.workers import Worker, WorkerFailed, measure

SETTINGS = Settings(backbone="mini_clip", precision="fp32", device="cpu", batch=2, steps=1, rounds=2, threads=1)


class FakeWorker:
    """Answers at once, or fails at its n-th message."""

    log: list[str]

    def __init__(self, name: str, _settings: Settings) -> None:
        self.name, self.messages = name, 0
        self.fails_at = {"fails at once": 1, "fails in training": 6}.get(name)

    def tell_to_go(self) -> None:
        FakeWorker.log.append(self.name)

    def receive(self, kind: str) -> Any:
        self.messages += 1
        if self.messages == self.fails_at:
            raise WorkerFailed("out of order")
        return {"ready": None, "seconds": float(self.messages), "done": {"repetitions": 1}}[kind]

    def end(self) -> None:
        pass


@pytest.fixture
def started_workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace workers by fake ones; return their names in the order in which they are started."""
    monkeypatch.setattr(workers, "Worker", FakeWorker)
    FakeWorker.log = []
    return FakeWorker.log


def test_rounds_of_all_workers_interleave(started_workers: list[str]) -> None:
    measure(["a", "b"], SETTINGS, "")
    assert started_workers == ["a", "b"] * (3 + 3 + 1)  # rounds forward, rounds of training, the end


def test_a_worker_that_fails_is_named_and_the_others_go_on(started_workers: list[str]) -> None:
    measured, failures = measure(["fails at once", "a", "fails in training", "b"], SETTINGS, "")
    assert failures == {"fails at once": "out of order", "fails in training": "out of order"}
    assert {name: (len(m.forward_seconds), len(m.step_seconds)) for name, m in measured.items()} == {"a": (3, 3), "b": (3, 3)}
    assert started_workers[-2:] == ["a", "b"]


def test_a_worker_that_is_killed_is_a_failure_with_its_exit_code() -> None:
    worker = Worker("gemm", SETTINGS)
    worker._process.kill()
    with pytest.raises(WorkerFailed, match="exit code -9"):
        worker.receive("ready")
    worker.end()


def test_an_error_in_a_worker_is_sent_as_one_line() -> None:
    parent, child = Pipe()
    workers.serve(child, "no_such_method", SETTINGS)
    kind, line = parent.recv()
    assert kind == "failed" and line.startswith("ConfigError: no method 'no_such_method'") and "\n" not in line


class TwoRounds:
    """A subject whose training does nothing."""

    number_format, repetitions = "fp32", 1

    def __init__(self) -> None:
        self.facts_asked = 0

    def forward(self) -> None: ...

    def train(self, report: Any) -> None:
        for _ in range(2):
            report()

    def facts(self, _watch: object) -> dict[str, Any]:
        self.facts_asked += 1
        return {"flops": {}}


def test_a_training_loop_is_held_up_until_the_next_go() -> None:
    parent, child = Pipe()
    subject = TwoRounds()
    for _ in range(3):
        parent.send("go")
    rounds = workers._TrainingRounds(child, subject, torch.device("cpu"), 2)
    subject.train(rounds.report)
    assert not child.poll(), "a go was left over"
    assert [parent.recv()[0] for _ in range(2)] == ["seconds", "seconds"] and not parent.poll()
    assert subject.facts_asked == 1 and rounds.facts["peak_mb"] > 0


def test_idle_workers_are_told_not_to_spin_and_the_parent_keeps_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    with workers._environment(workers.PASSIVE):
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "KMP_BLOCKTIME" not in os.environ
