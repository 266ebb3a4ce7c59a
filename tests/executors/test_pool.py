"""What the pool does with workers that end, grow or are refused, with workers that are no processes; and what a run of a warm process does no more."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.data import store_files
from petlbench.errors import PetlbenchError
from petlbench.executors import pool as module
from petlbench.executors.executor import Outcome, Unwatched
from petlbench.executors.pool import MOST_FAILED_STARTS, Pool
from petlbench.executors.workers import SLACK_MB, Worker
from petlbench.records import provenance
from petlbench.records.schema import Record
from petlbench.records.store import RecordStore
from petlbench.runs.execute import execute, record_without_result
from petlbench.runs.plan import PlannedRun
from tests.words import resolve

ENDED = "its worker process ended with exit code 1"


class Process:
    """A worker that does at once what a script says: ``record``, ``end``, a kind of message, or ``wait`` for ever."""

    script: list[str]  # of all processes, a step per start or run
    started: list[Process]

    def __init__(self) -> None:
        self.run: PlannedRun | None = None
        self.has_ended = self.is_ready = self.was_dismissed = False
        self.memory_mb = 100.0
        self.says: list[tuple[str, Any] | None] = [("ready", None)]
        self.started.append(self)
        if self.script and self.script[0] == "no start":
            self.script.pop(0)
            self.says = [None]

    @property
    def is_at_work(self) -> bool:
        return self.run is not None and not self.has_ended

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.is_at_work

    def begin(self, run: PlannedRun, config: Any) -> None:
        self.run, self.has_ended = run, False
        step = self.script.pop(0)
        if step in ("record", "grow", "record and end"):
            record, path = recorded(config)
            self.memory_mb += 10_000 * (step == "grow")
            self.says.append(("recorded", (record, path)) if step != "record and end" else None)
        elif step == "end":
            self.says.append(None)
        elif step != "wait":
            self.says.append((step, "why"))

    def receive(self) -> tuple[str, Any] | None:
        message = self.says.pop(0)
        self.is_ready |= message is not None
        self.has_ended |= message is not None and message[0] not in ("ready", "advanced")
        return message

    def has_grown_beyond(self, most_mb: int | None) -> bool:
        return self.memory_mb > (most_mb or 1000)

    def buried(self) -> str:
        return ENDED

    def dismiss(self) -> None:
        self.was_dismissed = True


def recorded(config: Any) -> tuple[Record, Path]:
    return execute(config)


def run(seed: int, out: Path) -> PlannedRun:
    return PlannedRun(
        resolve(["method=zero_shot", "task=mini/digits", "threads=1", "curve=false", f"seed={seed}", f"out={out}"]), "missing"
    )


@pytest.fixture
def carry_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Carry out runs by processes that follow a script."""
    Process.started = []
    monkeypatch.setattr(module, "Worker", Process)
    monkeypatch.setattr(module, "first_heard", lambda workers: next(name for name, worker in workers.items() if worker.says))
    monkeypatch.setattr(module, "end_all", list)

    def carry_out(*script: str, runs: int = 1, pool: Pool | None = None, jobs: int = 1) -> list[Outcome]:
        Process.script = list(script)
        return list((pool or Pool()).carry_out([run(seed, tmp_path) for seed in range(runs)], jobs, lambda config: 1.0, Unwatched()))

    yield carry_out


def statuses(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    return [(outcome.run.config.seed, outcome.record.status) for outcome in outcomes]


def test_a_run_that_loses_its_worker_is_carried_out_by_another(carry_out: Any) -> None:
    assert statuses(carry_out("end", "record", "record", runs=2)) == [(0, "ok"), (1, "ok")]
    assert len(Process.started) == 2


def test_a_run_that_loses_two_workers_has_failed_and_the_others_go_on(carry_out: Any, tmp_path: Path) -> None:
    outcomes = carry_out("end", "end", "record", runs=2)
    assert statuses(outcomes) == [(0, "failed"), (1, "ok")]
    assert outcomes[0].record.error == f"{ENDED}; it had lost another before"
    assert {record.seed: record.status for record in RecordStore(tmp_path).read()} == {0: "failed", 1: "ok"}


def test_a_result_that_a_worker_could_not_tell_of_is_not_computed_again(carry_out: Any, tmp_path: Path) -> None:
    ((_, record, path),) = carry_out("record and end")
    assert record.status == "ok" and path.is_file()


def test_a_worker_that_somebody_interrupts_costs_it_and_not_the_bench(carry_out: Any) -> None:
    assert statuses(carry_out("interrupted", "record", "record", runs=2)) == [(0, "ok"), (1, "ok")]


def test_a_worker_that_has_grown_is_replaced_between_runs(carry_out: Any) -> None:
    assert statuses(carry_out("grow", "record", "record", runs=3)) == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert [process.was_dismissed for process in Process.started] == [True, False]


@pytest.mark.parametrize(
    ("resident", "most", "is_beyond"),
    [
        ([500.0, 2 * 500.0 + SLACK_MB], None, False),
        ([500.0, 2 * 500.0 + SLACK_MB + 1], None, True),
        ([5000.0], None, False),  # one large run
        ([500.0, 700.0], 600, True),
        ([500.0, 600.0], 600, False),
    ],
)
def test_the_bound_of_a_workers_memory(resident: list[float], most: int | None, is_beyond: bool) -> None:
    worker = Worker.__new__(Worker)
    worker._memory_mb = resident
    assert worker.has_grown_beyond(most) == is_beyond


def test_what_would_meet_every_run_ends_the_bench_and_is_no_record(carry_out: Any, tmp_path: Path) -> None:
    with pytest.raises(PetlbenchError, match=r"^why$"):
        carry_out("refused")
    with pytest.raises(RuntimeError, match="why"):
        carry_out("broken")
    assert not RecordStore(tmp_path).paths()


def test_workers_that_never_start_end_the_bench_after_some(carry_out: Any) -> None:
    with pytest.raises(PetlbenchError, match=f"no worker process can be started .{ENDED}"):
        carry_out(*["no start"] * MOST_FAILED_STARTS, "record")
    assert statuses(carry_out(*["no start"] * (MOST_FAILED_STARTS - 1), "record", pool=Pool())) == [(0, "ok")]


@pytest.mark.parametrize(
    ("target", "name", "call", "seeds"),
    [
        (Pool, "_hear", 4, [0]),  # what a worker has said is lost
        (module, "first_heard", 5, [0, 1]),
        (Pool, "_hand_out", 3, [0]),  # its run waits to begin again
    ],
)
def test_an_interrupt_at_any_point_leaves_a_record_of_every_run_that_was_handed_out(
    carry_out: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: Any, name: str, call: int, seeds: list[int]
) -> None:
    real, calls = getattr(target, name), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(target, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out("end", "wait", "wait", runs=3, jobs=2)
    assert {record.seed: record.status for record in RecordStore(tmp_path).read()} == dict.fromkeys(seeds, "cancelled")


def test_an_interrupt_never_replaces_a_result(carry_out: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The worker's word that it recorded one is lost."""
    real = Process.receive

    def lost(self: Process) -> Any:
        if (message := real(self)) is not None and message[0] == "recorded":
            interrupt()
        return message

    monkeypatch.setattr(Process, "receive", lost)
    with pytest.raises(KeyboardInterrupt):
        carry_out("record")
    (record,) = RecordStore(tmp_path).read()
    assert record.status == "ok"


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_second_request_to_end_waits_until_all_is_recorded() -> None:
    heard = []
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts a session in the background takes it away
    try:
        with pytest.raises(KeyboardInterrupt), module._undisturbed():
            signal.raise_signal(signal.SIGINT)
            heard.append("went on")
    finally:
        signal.signal(signal.SIGINT, former)
    assert heard == ["went on"]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (-signal.SIGKILL, "its worker process was killed, perhaps for lack of memory; --jobs 1 needs least"),
        (-signal.SIGSEGV, "its worker process crashed (SIGSEGV)"),
        (3, "its worker process ended with exit code 3"),
    ],
)
def test_how_a_process_ended_is_told(code: int, how: str) -> None:
    class Ended:
        exitcode = code

        def join(self, timeout: float | None = None) -> None: ...

        def is_alive(self) -> bool:
            return False

    worker = Worker.__new__(Worker)
    worker._process = Ended()  # type: ignore[assignment]
    assert worker.buried() == how


def test_the_second_run_loads_no_backbone_hashes_no_images_and_asks_neither_git_nor_package_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts: Counter[str] = Counter()

    def count(where: str, name: str) -> None:
        module, _, attribute = where.rpartition(".")
        real = getattr(__import__(module, fromlist=["_"]), attribute)
        monkeypatch.setattr(where, lambda *arguments, **more: counts.update([name]) or real(*arguments, **more))

    count("petlbench.backbones.loaded.load_backbone", "backbone")
    count("petlbench.records.provenance._git", "git")
    count("petlbench.records.provenance.version", "packages")
    count("petlbench.data.store_files.label_bytes", "images")
    for cached in (load_backbone_cached, provenance.code, provenance._packages, store_files._digest):
        cached.cache_clear()
    execute(run(0, tmp_path).config)
    first = counts.copy()
    assert first["backbone"] == 1 and first["images"] == 3 and first["git"] <= 2 and first["packages"] > 0
    execute(run(1, tmp_path).config)
    assert counts == first


def test_what_a_lost_process_recorded_is_found_by_its_time(tmp_path: Path) -> None:
    config = run(0, tmp_path).config
    before = datetime.now(UTC)
    record_without_result(config, "cancelled", "interrupted")
    assert module.recorded_since(config, before) == (RecordStore(tmp_path).read()[0], RecordStore(tmp_path).paths()[0])
    record, path = execute(config)
    assert module.recorded_since(config, before) == (record, path)
    assert module.recorded_since(config, datetime(2999, 1, 1, tzinfo=UTC)) is None
