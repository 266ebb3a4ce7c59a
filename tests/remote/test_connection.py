"""Send a client's queries to a server: retries, timeouts, failures of a step, proxies, addresses."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import torch

from petlbench.errors import ConfigError, EndpointError
from petlbench.remote.client import RemoteBackbone
from petlbench.remote.connection import Connection, RetryPolicy, retry_after
from petlbench.remote.wire import PROTOCOL, pack
from tests.remote.scripted import CPU, QUICK, SERVED, Script, images, scripted

GOOD = pack({"features": torch.ones(1, 32)})


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(200, content=GOOD[:-1]),
        httpx.Response(200, content=GOOD[:3]),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(429, json={"error": {"code": "busy", "message": "later"}}),
        httpx.Response(408),
        httpx.Response(500, content=b"oops"),
        httpx.Response(503),
    ],
    ids=lambda failure: type(failure).__name__ if isinstance(failure, Exception) else f"{failure.status_code}-{len(failure.content)}",
)
def test_a_query_is_repeated_with_its_key_until_it_is_answered(failure: httpx.Response | Exception) -> None:
    script = Script(failure, failure, httpx.Response(200, content=GOOD), httpx.Response(200, content=GOOD))
    endpoint = scripted(script).endpoint(CPU)
    for _ in range(2):
        assert torch.equal(endpoint.features([images(1)])[0], torch.ones(1, 32))
    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert len(set(keys[:3])) == 1 and keys[3] not in keys[:3]
    assert len({request.content for request in script.requests[:3]}) == 1
    assert {request.headers["if-match"] for request in script.requests} == {SERVED.etag}


@pytest.mark.parametrize("status", [400, 403, 404, 409, 412, 413, 302])
def test_a_refusal_is_not_repeated_and_says_why(status: int) -> None:
    script = Script(httpx.Response(status, json={"error": {"code": "some_code", "message": "this is why"}}))
    with pytest.raises(EndpointError, match="this is why"):
        scripted(script).endpoint(CPU).features([images(1)])
    assert len(script.requests) == 1


def test_after_its_patience_the_client_gives_up_in_one_sentence() -> None:
    policy = RetryPolicy(patience_seconds=0.05, backoff_seconds=0.001, longest_backoff_seconds=0.01)

    def dead(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with pytest.raises(
        EndpointError, match=r"^http://server: no answer to POST /v1/features in 0 s \(ConnectError: Connection refused\); when "
    ) as e:
        scripted(dead, policy).endpoint(CPU).features([images(1)])
    assert "\n" not in str(e.value) and "the same command runs this again" in str(e.value)


def test_a_query_of_a_step_that_is_refused_ends_the_others() -> None:
    attempts: list[str] = []

    def first_is_refused(request: httpx.Request) -> httpx.Response:
        attempts.append(request.headers["idempotency-key"])
        return httpx.Response(400 if b"[1,3" in request.content else 503, headers={"Retry-After": "2"})

    with pytest.raises(EndpointError, match="400"):
        scripted(first_is_refused).endpoint(CPU).features([images(1), images(2), images(3)])
    assert len(set(attempts)) == len(attempts)  # none was repeated


def test_the_first_failure_ends_the_other_questions_of_a_step() -> None:
    asked: list[bytes] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(400, json={"error": {"code": "bad", "message": "no"}})

    served = scripted(refuse, replace(QUICK, concurrency=1))
    with pytest.raises(EndpointError, match="no"):
        served.endpoint(CPU).features([images(1)] * 9)
    time.sleep(0.02)
    assert len(asked) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, even if the tests were started in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_step_does_not_wait_for_replies(interruptible: None) -> None:
    begun, go = threading.Barrier(5), threading.Event()
    asked: list[bytes] = []

    def slow(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        begun.wait(10)
        go.wait(10)
        return httpx.Response(200, content=GOOD)

    def interrupt() -> None:
        begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    endpoint = scripted(slow).endpoint(CPU)
    with pytest.raises(KeyboardInterrupt):
        endpoint.features([images(1)] * 6)
    assert not go.is_set()  # the four that are under way have no reply yet
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "petlbench-query")  # the interpreter ends without them
    go.set()
    for thread in threading.enumerate():
        if thread.name == "petlbench-query":
            thread.join(10)
    assert len(asked) == 4  # those that waited were not asked


def test_a_server_that_is_busy_is_waited_for_beyond_the_patience_with_failures() -> None:
    busy = httpx.Response(429)
    policy = RetryPolicy(patience_seconds=0.02, backoff_seconds=0.005, longest_backoff_seconds=0.005)
    script = Script(*[busy] * 20, httpx.Response(200, content=GOOD))
    assert len(scripted(script, policy).endpoint(CPU).features([images(1)])) == 1


@pytest.mark.parametrize(
    ("url", "is_bypassed"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.0.0.2:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://server", False),
    ],
)
def test_a_proxy_is_used_for_other_machines_only(url: str, is_bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Connection(url, None, QUICK)._client.trust_env is not is_bypassed


@pytest.mark.parametrize("scheme", ["socks5", "socks9"])
def test_a_proxy_that_cannot_be_used_is_one_line(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://proxy:1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigError, match=r"the proxy variables .* name an unusable proxy") as refused:
        Connection("http://server", None, QUICK)
    assert "\n" not in str(refused.value)


def test_waits_grow_keep_to_their_limits_and_honour_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(*[httpx.Response(503)] * 6, httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, content=GOOD))
    policy = RetryPolicy(backoff_seconds=1.0, longest_backoff_seconds=8.0)
    served = scripted(script, policy)
    waits: list[float] = []
    monkeypatch.setattr(served._connection._is_abandoned, "wait", waits.append)
    served.endpoint(CPU).features([images(1)])
    for wait, whole in zip(waits[:6], (1, 2, 4, 8, 8, 8), strict=True):
        assert whole / 2 <= wait <= whole
    assert 7 + 4 <= waits[6] <= 7 + 8  # the requested delay and a random wait, which keeps clients apart


def test_a_server_that_asks_for_more_patience_than_there_is_ends_the_run_at_once() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "3600"}))
    with pytest.raises(EndpointError, match="asks to wait 3600 s"):
        scripted(script).endpoint(CPU).features([images(1)])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 12:00:30", None),
        ("-3", None),
        ("soon", None),
        ("²", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str | None, seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert retry_after({} if text is None else {"retry-after": text}, now) == seconds


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (httpx.ConnectError("Connection refused"), "no answer to GET /v1/model .* is a model served there"),
        (httpx.Response(200, content=b"<html>"), "no answer to GET /v1/model"),
        (httpx.Response(200, content=b"[" * 100_000), "no answer to GET /v1/model"),
        (httpx.Response(404, content=b'{"error":' * 100_000), "is no petlbench server"),
        (httpx.Response(200, json={"hello": 1}), "is no petlbench server: facts: Field required"),
        (httpx.Response(200, json=[1]), "is no petlbench server"),
        (httpx.Response(404, json={"detail": "Not Found"}), "is no petlbench server"),
        (httpx.Response(301, headers={"Location": "http://elsewhere"}), "is no petlbench server"),
        (
            httpx.Response(200, json={"protocol": PROTOCOL + 1}),
            f"speaks protocol version {PROTOCOL + 1}, this petlbench speaks version {PROTOCOL};",
        ),
        (httpx.Response(403, json={"error": {"code": "x", "message": "no"}}), "refuses this client"),
    ],
)
def test_an_address_where_no_model_is_served_is_one_sentence(reply: Any, expected: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)

    asked = []

    def noted(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return answer(request)

    with pytest.raises(EndpointError, match=expected) as refused:
        RemoteBackbone("http://server", QUICK, httpx.MockTransport(noted))
    assert set(asked) == {"server"}  # a redirect leads nowhere
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://server", "http://", "server", "http://server:port", "http://me:secret@server"])
def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        RemoteBackbone(url, QUICK)
