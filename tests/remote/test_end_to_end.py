"""Run every method that only queries against a real server process: same results as in process, whatever faults occur."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file

from petlbench.access.rungs import Access
from petlbench.config.resolve import load_method
from petlbench.records.schema import Record
from petlbench.registry import METHODS
from petlbench.remote.connection import RetryPolicy
from petlbench.runs.execute import execute
from tests.remote import processes
from tests.remote.processes import Exchange, Fault, ServerProcess, proxy
from tests.words import resolve

# A budget shortens any method: it ends with what it has learned until then.
WORDS = ("task=mini/digits", "threads=1", "save=true", "curve=false", "budget.images=2600", "budget.contexts=130")
ASKING = [name for name in METHODS.names() if load_method(name)[0].access <= Access.FEATURES]
ONE_PER_RUNG = {"zero_shot": 2, "craft": 5, "linear": 3}  # method -> the query during which the server dies
Run = Callable[[str], tuple[Record, dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server"))
    yield started
    started.end()


def run_and_load(out: Path, method: str, *words: str) -> tuple[Record, dict[str, torch.Tensor]]:
    """Run a method; return the record and the learned tensors."""
    record, _ = execute(resolve([f"method={method}", f"out={out}", *WORDS, *words]), reraise=True)
    assert record.checkpoint is not None
    return record, load_file(out / record.checkpoint)


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run methods without a server, each only once."""
    known: dict[str, tuple[Record, dict[str, torch.Tensor]]] = {}

    def run(method: str) -> tuple[Record, dict[str, torch.Tensor]]:
        if method not in known:
            known[method] = run_and_load(tmp_path_factory.mktemp("local"), method)
        return known[method]

    return run


def assert_same(one: tuple[Record, dict[str, torch.Tensor]], other: tuple[Record, dict[str, torch.Tensor]]) -> None:
    (record, learned), (expected, expected_learned) = one, other
    assert record.predictions is not None and expected.predictions is not None
    assert record.predictions.sha256 == expected.predictions.sha256
    assert record.metrics == expected.metrics
    assert record.cost.queries == expected.cost.queries
    assert record.status == expected.status
    assert learned.keys() == expected_learned.keys()
    assert all(torch.equal(learned[name], tensor) for name, tensor in expected_learned.items())


def images_at_server(url: str) -> int:
    """Return the number of images that the server has counted."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("petlbench_images_total "))


def images_of_run(record: Record) -> int:
    """Return the number of images that the run has counted."""
    return sum(phase.images for phase in record.cost.queries.values())


@pytest.mark.parametrize("method", ASKING)
def test_a_method_learns_and_predicts_the_same_against_a_server(
    method: str, server: ServerProcess, in_process: Run, tmp_path: Path
) -> None:
    before = images_at_server(server.url)
    remote = run_and_load(tmp_path, method, "backbone=remote", f"url={server.url}")
    assert_same(remote, in_process(method))
    assert remote[0].backbone.transport == "http" and remote[0].cost.images_forwarded == 0
    assert images_at_server(server.url) - before == images_of_run(remote[0])


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> RetryPolicy:
    """Shorten the waits of the client."""
    policy = RetryPolicy(backoff_seconds=0.01, longest_backoff_seconds=0.2, answer_seconds=2.0, patience_seconds=120.0)
    monkeypatch.setattr("petlbench.remote.connection.RetryPolicy", partial(dataclasses.replace, policy))
    return policy


@pytest.mark.parametrize("method", ONE_PER_RUNG)
def test_answers_that_are_late_broken_or_lost_change_nothing_and_cost_nothing(
    method: str, server: ServerProcess, in_process: Run, short_waits: RetryPolicy, tmp_path: Path
) -> None:
    quick: list[Fault] = [getattr(processes, name) for name in ("busy", "broken", "broken_afterwards", "truncated", "cut_short", "lost")]
    expected, before = in_process(method), images_at_server(server.url)
    with proxy(server.port, lambda number: processes.slow(2.5) if number == 1 else quick[number % len(quick)]) as (url, attempts):
        remote = run_and_load(tmp_path, method, "backbone=remote", f"url={url}")
        assert min(attempts) >= 2  # every query failed once
    assert_same(remote, expected)
    assert images_at_server(server.url) - before == images_of_run(remote[0])


@pytest.mark.parametrize("method", ONE_PER_RUNG)
def test_a_server_that_dies_during_a_query_and_comes_back_changes_nothing(
    method: str, server: ServerProcess, in_process: Run, short_waits: RetryPolicy, tmp_path: Path
) -> None:
    def dies(exchange: Exchange) -> None:
        exchange.send_and(server.kill_and_start_again)
        exchange.hang_up()

    with proxy(server.port, lambda number: dies if number == ONE_PER_RUNG[method] else processes.honest) as (url, attempts):
        remote = run_and_load(tmp_path, method, "backbone=remote", f"url={url}")
        assert max(attempts) > 1
    assert_same(remote, in_process(method))
