"""Limit what a server accepts: sizes, numbers, simultaneous requests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import torch

from petlbench.remote.server.app import RequestLimiter
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import Refusal, TextsMessage, pack, unpack
from petlbench.testing.mocks import tiny_backbone
from tests.remote.bodies import Open, assert_refused, contexts_body, images, scores_body
from tests.remote.processes import serving


def test_limits_on_size_are_kept_and_named(opened: Open) -> None:
    client = opened(max_images=3, max_contexts=2, max_texts=3, max_body_mb=1)
    assert_refused(client.post("/v1/scores", content=scores_body(images(4))), 413, "too_many_images", "at most 3 images", "max_images")
    assert_refused(client.post("/v1/contexts", content=contexts_body(3, images())), 413, "too_many_contexts", "at most 2 contexts")
    four = TextsMessage(captions=(("a", "b"), ("c", "d")))
    assert_refused(client.post("/v1/texts", content=four.model_dump_json()), 413, "too_many_texts", "at most 3 captions")
    assert_refused(client.post("/v1/scores", content=bytes(2**20 + 1)), 413, "body_too_large", "at most 1 MiB")


def test_what_a_question_asks_for_is_limited_before_anything_is_computed(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened(max_prompts=6, keep_images=5)
    digest = unpack(client.post("/v1/images", content=pack({"images": images(2)})).content)[1]["digest"]
    monkeypatch.setattr("torch.cat", lambda *_: 1 // 0)
    assert_refused(client.post("/v1/contexts", content=contexts_body(3, images())), 413, "too_many_prompts", "at most 6", "got 9")
    many = contexts_body(1, stored=" ".join([digest] * 3))
    assert_refused(client.post("/v1/contexts", content=many), 413, "too_many_images", "at most 5 uploaded images", "6 named")
    monkeypatch.setattr("petlbench.remote.server.service.MAX_SCORES", 11)
    many = contexts_body(1, stored=" ".join([digest] * 2))
    assert_refused(client.post("/v1/contexts", content=many), 413, "too_many_scores", "at most 11 scores", "12 asked for")


def test_one_context_is_answered_with_any_number_of_classes(opened: Open) -> None:
    assert opened(max_prompts=1).post("/v1/contexts", content=contexts_body(1, images())).status_code == 200


def test_a_body_without_a_declared_length_is_limited_too(opened: Open) -> None:
    chunks = (bytes(2**19) for _ in range(8))
    assert_refused(opened(max_body_mb=1).post("/v1/scores", content=chunks), 413, "body_too_large")


def test_a_body_that_is_announced_too_large_is_not_read(opened: Open) -> None:
    reply = opened(max_body_mb=1).post("/v1/scores", content=scores_body(), headers={"Content-Length": str(2**20 + 1)})
    assert_refused(reply, 413, "body_too_large")


def test_an_answer_about_too_many_contexts_is_refused(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.remote.server.service.MAX_SCORES", 2 * 2 * 3 - 1)
    assert_refused(opened().post("/v1/contexts", content=contexts_body(2, images())), 413, "too_many_scores", "at most 11 scores")


def test_body_size_bounds_the_images_that_are_offered(opened: Open) -> None:
    assert opened(max_body_mb=1).get("/v1/model").json()["facts"]["limits"]["max_images"] == 2**20 * 3 // 4 // (4 * 3 * 16 * 16)


def test_no_more_requests_than_allowed_are_let_in() -> None:
    limiter = RequestLimiter(2, 100)
    with limiter.place():
        with limiter.place():
            for enter in (limiter.place, limiter.room):
                with pytest.raises(Refusal) as refused, enter():
                    pass
        with limiter.room(), limiter.place():
            pass
    assert (refused.value.status, refused.value.code, refused.value.headers) == (429, "busy", {"Retry-After": "1"})


def test_no_more_bytes_than_there_is_room_for_are_let_in() -> None:
    limiter = RequestLimiter(9, 100)
    with limiter.room() as first:
        first.hold(60)
        first.hold(50)  # of the same body
        with limiter.room() as second:
            second.hold(40)
            with pytest.raises(Refusal) as refused, limiter.room() as third:
                third.hold(1)
    assert refused.value.status == 429
    with limiter.room() as room:
        room.hold(100)


@contextmanager
def stalled(url: str, length: int = 100) -> Iterator[socket.socket]:
    """A query whose body is announced and does not come."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=10) as line:
        line.sendall(b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % length)
        assert line.recv(100).startswith(b"HTTP/1.1 100")  # the request is accepted
        yield line


def test_a_request_too_many_is_told_to_come_back() -> None:
    with serving(tiny_backbone(), ServeConfig(port=0, batch_delay_ms=0, max_waiting=1)) as (url, service):
        body, may_go_on = pack({"images": images()}), threading.Event()
        service.worker.compute(may_go_on.wait)
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(httpx.post, f"{url}/v1/features", content=body) for _ in range(2)]
            refused = next(as_completed(asked)).result()
            may_go_on.set()
            assert sorted(each.result().status_code for each in asked) == [200, 429]
        assert_refused(refused, 429, "busy")
        assert refused.headers["retry-after"] == "1"


def test_bodies_that_do_not_come_hold_no_place_and_no_room() -> None:
    config = ServeConfig(port=0, batch_delay_ms=0, max_waiting=1, max_body_mb=1)
    with serving(tiny_backbone(), config) as (url, _), ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(stalled(url, 2**20))
        assert httpx.post(f"{url}/v1/features", content=pack({"images": images()})).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petlbench.remote.server.app.BODY_SECONDS", 0.05)
    with serving(tiny_backbone()) as (url, _), stalled(url) as line:
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_documents_of_many_arrays_are_refused_unread(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened()
    monkeypatch.setattr("petlbench.remote.wire.load", lambda _: 1 // 0)
    many = pack({f"array{number}": torch.zeros(1) for number in range(17)})
    assert_refused(client.post("/v1/features", content=many), 400, "bad_body", "16 arrays")
    assert_refused(client.post("/v1/features", content=(2**20 + 1).to_bytes(8, "little") + bytes(2**21)), 400, "bad_body", "1,024 KiB")


def test_captions_that_are_too_many_by_far_are_refused_unread(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened(max_texts=3)
    monkeypatch.setattr("petlbench.remote.server.service._validated", lambda *_: 1 // 0)
    for body in (b'{"captions": [' + b"[]," * 2000, b" " * 80_000):
        assert_refused(client.post("/v1/texts", content=body), 413, "too_many_texts", "at most 3 captions")


def test_a_refusal_does_not_repeat_all_that_was_sent(opened: Open) -> None:
    reply = opened().post("/v1/features", content=pack({"x" * 9000: torch.zeros(1)}))
    assert_refused(reply, 400, "bad_images")
    assert len(reply.content) < 400


def test_places_are_free_again_after_refusals(opened: Open) -> None:
    client = opened(max_waiting=1)
    for _ in range(3):
        assert client.post("/v1/scores", content=b"").status_code == 400
    assert client.post("/v1/scores", content=scores_body()).status_code == 200
