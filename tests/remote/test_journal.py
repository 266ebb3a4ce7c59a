"""Answers of a served model that were kept: a rerun sends no query again, and what was under way is not counted twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from petlbench.backbones.loaded import load_backbone_cached
from petlbench.records.schema import Record
from petlbench.remote.connection import Connection
from petlbench.remote.journal import Journal
from petlbench.remote.server.service import Service
from petlbench.remote.wire import pack, unpack
from petlbench.runs.execute import execute
from tests.remote.processes import ServerProcess, serving
from tests.remote.test_end_to_end import images_at_server, images_of_run
from tests.runs.test_unfinished import killed
from tests.words import resolve

WORDS = (
    "task=mini/digits",
    "threads=1",
    "curve=false",
    "protocol.shots=2",
    "train.epochs=3",
    "train.warmup_epochs=0",
    "train.batch_size=5",
)
CASES = {
    "vp_spsa": ("method.spsa.repeats=2",),
    "craft": ("method.population=4", "method.budget=12", "method.intrinsic_dim=8"),
    "linear": (),
}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Service]]:
    with serving(load_backbone_cached("mini_clip", None, torch.device("cpu"))[0]) as server:
        yield server


def counted(service: Service) -> tuple[int, ...]:
    """Images, contexts and texts that a server has answered."""
    metrics = service.metrics
    return tuple(int(one._value.get()) for one in (metrics.images, metrics.contexts, metrics.texts))


def run(method: str, url: str, out: Path, *more: str) -> Record:
    words = [f"method={method}", *WORDS, *CASES[method], "backbone=remote", f"url={url}", f"out={out}", *more]
    return execute(resolve(words), reraise=True)[0]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, after: bool) -> None:
    """Interrupt what is called for the nth time, before or after it is done."""
    former, calls = getattr(owner, name), [0]

    def act(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not after:
            raise KeyboardInterrupt
        result = former(*arguments, **named)
        if calls[0] == number:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, act)


@pytest.mark.parametrize(
    ("method", "number", "every"), [("vp_spsa", 6, "1h"), ("vp_spsa", 9, "2steps"), ("craft", 5, "1steps"), ("linear", 6, "3steps")]
)
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_run_pays_no_query_twice(
    after: bool, method: str, number: int, every: str, served: tuple[str, Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``after``: the answer was kept; before: the server has counted the query, and its answer is lost."""
    url, service = served
    start = counted(service)
    whole = run(method, url, tmp_path / "whole", "checkpoint_every=null")
    price = tuple(now - then for now, then in zip(counted(service), start, strict=True))
    with monkeypatch.context() as patch:
        interrupt(patch, Journal, "keep", number, after)
        with pytest.raises(KeyboardInterrupt):
            run(method, url, tmp_path, f"checkpoint_every={every}")
    found = run(method, url, tmp_path, f"checkpoint_every={every}")
    twice = tuple(now - then for now, then in zip(counted(service), start, strict=True))
    assert twice == tuple(2 * amount for amount in price)
    assert (found.predictions, found.history) == (whole.predictions, whole.history) and found.cost.queries == whole.cost.queries
    assert found.cost.resumed == 1 and not list(tmp_path.rglob("*unfinished*"))


def test_a_run_sends_nothing_of_what_is_kept(served: tuple[str, Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed when all was answered, it takes every answer from the journal."""
    with monkeypatch.context() as patch:
        interrupt(patch, __import__("petlbench.runs.execute").runs.execute.RunLog, "write", 1, after=False)
        with pytest.raises(KeyboardInterrupt):
            run("linear", served[0], tmp_path)
    sent: list[str] = []
    former = Connection._until_answered
    monkeypatch.setattr(
        Connection, "_until_answered", lambda self, attempt, what, *rest: (sent.append(what), former(self, attempt, what, *rest))[1]
    )
    run("linear", served[0], tmp_path)
    assert {what for what in sent if what != "GET /v1/model"} == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "step"), [("vp_spsa", 7), *(pytest.param(*case, marks=pytest.mark.long) for case in (("craft", 2), ("linear", 5)))]
)
def test_a_killed_process_pays_no_query_twice(method: str, step: int, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    try:
        whole = run(method, server.url, tmp_path / "whole", "checkpoint_every=null")
        before = images_at_server(server.url)
        words = [f"method={method}", *WORDS, *CASES[method], "backbone=remote", f"url={server.url}", f"out={tmp_path}"]
        killed("step", step, [*words, "checkpoint_every=2steps"])
        found = run(method, server.url, tmp_path, "checkpoint_every=2steps")
        assert images_at_server(server.url) - before == images_of_run(found) == images_of_run(whole)
        assert found.predictions == whole.predictions and found.cost.queries == whole.cost.queries
    finally:
        server.end()


# The journal itself


def journal(tmp_path: Path, number: int = 0, is_new: bool = False, **identity: str) -> Journal:
    return Journal(tmp_path / "run", identity, number, is_new)


def test_the_same_query_has_a_key_for_every_time_that_it_is_sent(tmp_path: Path) -> None:
    first = journal(tmp_path)
    keys = [first.key("/v1/scores", b"a"), first.key("/v1/scores", b"a"), first.key("/v1/scores", b"b"), first.key("/v1/features", b"a")]
    assert len(set(keys)) == 4
    again = journal(tmp_path)
    assert [again.key("/v1/scores", b"a"), again.key("/v1/scores", b"a")] == keys[:2]


def test_a_refused_query_gives_its_key_to_the_next_attempt(tmp_path: Path) -> None:
    one = journal(tmp_path)
    key = one.key("/v1/scores", b"a")
    one.refused("/v1/scores", b"a")
    assert one.key("/v1/scores", b"a") == key


def test_answers_are_given_once_and_those_of_a_section_that_is_over_are_gone(tmp_path: Path) -> None:
    one = journal(tmp_path)
    asked = {}
    for section in (0, 1, 2):
        one.begin(section)
        asked[section] = one.key("/", b"q")
        one.keep(asked[section], f"answer {section}".encode())
    one.close()
    rerun = journal(tmp_path, number=1)  # after the first checkpoint
    assert rerun.key("/", b"q") == asked[0] and rerun.answer(asked[0]) == b"answer 0" and rerun.answer(asked[0]) is None
    rerun.begin(2)
    assert rerun.key("/", b"q") == asked[2] and rerun.answer(asked[2]) == b"answer 2" and rerun.answer(asked[1]) is None


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\xff" * 50)


@pytest.mark.parametrize(("damage", "known"), [(_cut, 1), (_flip, 1), (_append, 2)])
def test_an_answer_that_is_not_whole_is_asked_for_again_under_its_key(damage: Callable[[Path], None], known: int, tmp_path: Path) -> None:
    one = journal(tmp_path)
    keys = [one.key("/", body) for body in (b"a", b"b")]
    for key in keys:
        one.keep(key, b"an answer")
    one.close()
    damage(tmp_path / "run-answers-0")
    rerun = journal(tmp_path)
    assert [rerun.key("/", body) for body in (b"a", b"b")] == keys
    assert [rerun.answer(key) is not None for key in keys] == [True, known == 2]
    rerun.keep(keys[1], b"again")
    rerun.close()
    assert journal(tmp_path).answer(keys[1]) in (b"again", b"an answer")


@pytest.mark.parametrize("change", [{"is_new": True}, {"code": "other"}])
def test_a_journal_of_another_run_is_not_used(change: dict[str, Any], tmp_path: Path) -> None:
    one = journal(tmp_path, code="this")
    key = one.key("/", b"a")
    one.keep(key, b"an answer")
    one.close()
    other = journal(tmp_path, **({"code": "this"} | change))
    assert other.key("/", b"a") != key and other.answer(key) is None and not other.has_answers


def test_the_same_query_is_the_same_bytes() -> None:
    documents = {pack({"images": torch.ones(2, 3)}, texts="a", output="b", k=3, stored="ä") for _ in range(20)}
    assert len(documents) == 1
    tensors, words = unpack(documents.pop())
    assert torch.equal(tensors["images"], torch.ones(2, 3)) and words == {"texts": "a", "output": "b", "k": "3", "stored": "ä"}
