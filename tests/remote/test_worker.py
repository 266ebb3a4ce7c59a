"""Batch waiting requests into one forward pass, up to a size and a delay, and split the result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petlbench.remote.server.metrics import Metrics, total
from petlbench.remote.server.worker import Job, Worker, companions
from petlbench.remote.wire import Refusal

LONG = 30.0  # seconds: a delay that no test waits for


def rows(images: Tensor) -> Tensor:
    return images.flatten(1).sum(dim=1)


def is_refused(future: Future[Any]) -> bool:
    problem = future.exception(0)
    return isinstance(problem, Refusal) and (problem.status, problem.code) == (503, "ending")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that keeps the model busy until it is set."""
    opened = threading.Event()
    yield opened
    opened.set()


@pytest.fixture
def started() -> Iterator[Callable[..., tuple[Worker, Metrics]]]:
    workers = []

    def start(limit: int, delay: float = 0.0, towers: Mapping[str, Callable[[Tensor], Tensor]] | None = None) -> tuple[Worker, Metrics]:
        metrics = Metrics()
        workers.append(Worker(towers or {"a": rows, "b": rows}, limit, delay, metrics))
        return workers[-1], metrics

    yield start
    for worker in workers:
        worker.close()


def test_requests_that_wait_share_a_forward_pass_and_get_their_own_rows(
    started: Callable[..., tuple[Worker, Metrics]], gate: threading.Event
) -> None:
    worker, metrics = started(8)
    worker.compute(gate.wait)
    parts = [torch.full((count, 3, 2, 2), float(count)) for count in (1, 2, 3)]
    futures = [worker.through("a", part, lambda found: found.tolist()) for part in parts]
    gate.set()
    assert [future.result(10) for future in futures] == [[12.0], [24.0] * 2, [36.0] * 3]
    assert (total(metrics.forward_batches), total(metrics.forward_images)) == (1, 6)


def test_no_forward_pass_has_more_images_than_the_limit(started: Callable[..., tuple[Worker, Metrics]], gate: threading.Event) -> None:
    seen: list[int] = []

    def tower(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images

    worker, _ = started(4, towers={"a": tower})
    worker.compute(gate.wait)
    futures = [worker.through("a", torch.zeros(count, 1), len) for count in (3, 1, 1, 6, 2)]
    gate.set()
    assert [future.result(10) for future in futures] == [3, 1, 1, 6, 2]
    assert seen == [4, 1, 6, 2]  # a request is never cut


def test_a_request_waits_for_others_until_the_batch_is_full(started: Callable[..., tuple[Worker, Metrics]]) -> None:
    worker, metrics = started(4, LONG)
    futures = [worker.through("a", torch.zeros(2, 1), len) for _ in range(2)]
    assert [future.result(10) for future in futures] == [2, 2]
    assert total(metrics.forward_batches) == 1


def test_a_request_does_not_wait_beyond_the_delay(started: Callable[..., tuple[Worker, Metrics]]) -> None:
    worker, _ = started(4, 0.01)
    assert worker.through("a", torch.zeros(2, 1), len).result(10) == 2


def test_a_failed_answer_is_the_failure_of_its_own_request(started: Callable[..., tuple[Worker, Metrics]], gate: threading.Event) -> None:
    worker, metrics = started(4)
    worker.compute(gate.wait)
    good, bad = worker.through("a", torch.zeros(1, 1), len), worker.through("a", torch.zeros(1, 1), lambda found: 1 // 0)
    gate.set()
    assert good.result(10) == 1 and total(metrics.forward_batches) == 1
    with pytest.raises(ZeroDivisionError):
        bad.result(10)


def test_a_forward_pass_that_fails_leaves_the_worker_at_work(started: Callable[..., tuple[Worker, Metrics]]) -> None:
    worker, _ = started(4, towers={"bad": lambda images: 1 // 0, "good": rows})  # type: ignore[dict-item, return-value]
    with pytest.raises(ZeroDivisionError):
        worker.through("bad", torch.zeros(1, 1), len).result(10)
    assert worker.through("good", torch.zeros(1, 1), len).result(10) == 1


def test_what_nobody_waits_for_any_more_is_not_computed(started: Callable[..., tuple[Worker, Metrics]], gate: threading.Event) -> None:
    worker, metrics = started(4)
    worker.compute(gate.wait)
    given_up = worker.through("a", torch.zeros(1, 1), len)
    assert given_up.cancel()
    gate.set()
    assert worker.compute(lambda: 1).result(10) == 1
    assert total(metrics.forward_batches) == 0


def test_a_worker_that_is_busy_is_not_waited_for_when_the_server_ends(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.remote.server.worker.CLOSING_SECONDS", 0.05)
    worker = Worker({"a": rows}, 4, LONG, Metrics())
    busy = worker.compute(gate.wait)
    while not busy.running():
        time.sleep(0.001)
    waiting = worker.through("a", torch.zeros(1, 1), len)
    worker.close()
    assert is_refused(waiting) and busy.running()
    assert is_refused(worker.compute(lambda: 1))  # nothing is begun any more


def test_a_request_that_waits_for_others_does_not_keep_the_server_from_ending() -> None:
    worker = Worker({"a": rows}, 4, LONG, Metrics())
    waiting = worker.through("a", torch.zeros(1, 1), len)
    worker.close()
    assert is_refused(waiting) and not worker.is_alive


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), min_size=1, max_size=12), st.integers(1, 8))
def test_companions_are_the_oldest_of_one_tower_in_their_order(sizes: list[tuple[str, int]], limit: int) -> None:
    waiting = [Job(tower, torch.zeros(count, 1), lambda found: None) for tower, count in sizes]
    batch, is_full = companions(waiting, limit)
    of_tower = [job for job in waiting if job.tower == waiting[0].tower]
    counts = [len(job.images) for job in batch if job.images is not None]
    assert batch == of_tower[: len(batch)]
    assert len(batch) == 1 or sum(counts) <= limit
    assert is_full == (sum(counts) >= limit or len(batch) < len(of_tower))
