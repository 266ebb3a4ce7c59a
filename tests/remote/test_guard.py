"""Who may ask a server, in what form, and what its log says of those who may not."""

from __future__ import annotations

import gzip
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from petlbench.remote.server import connections
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import pack
from petlbench.testing.mocks import tiny_backbone
from tests.remote.bodies import Open, assert_refused, images, scores_body
from tests.remote.processes import serving

BODY = pack({"images": images()})


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "10.1.2.3:8000", "models.example:80"]
)
def test_a_server_answers_under_its_own_names(host: str, opened: Open) -> None:
    client = opened(host="10.1.2.3", hosts=("models.example",))
    assert client.get("/v1/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "evil.example:80@localhost",
        "localhost:8000/",
        "",
        "[::2]",
        "0.0.0.0",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/model", "/nowhere"])
def test_a_server_answers_under_no_other_name(host: str, path: str, opened: Open) -> None:
    reply = opened().get(path, headers={"Host": host})
    assert_refused(reply, 421, "other_host", "hosts=[NAME]")


def test_a_server_on_all_addresses_answers_under_the_one_it_was_asked_at(opened: Open) -> None:
    client = opened(host="0.0.0.0")
    assert client.get("http://10.9.8.7:8000/health").status_code == 200  # the test client connects to the address that it names
    assert client.get("/health", headers={"Host": "10.9.8.7"}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", "http://[", "https://app.example.evil"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_other_origins_are_refused(origin: str, method: str, opened: Open) -> None:
    client = opened(origins=("https://app.example",)) if "app" in origin else opened()
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    reply = client.request(method, "/v1/model", headers=headers)
    assert_refused(reply, 403, "other_origin", "origins=[ORIGIN]")
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_pages_of_its_own_or_an_allowed_origin_may_ask(opened: Open) -> None:
    client = opened(origins=("https://app.example",), token="secret")
    own = client.get("/v1/model", headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    allowed = {"Origin": "https://app.example"}
    assert client.get("/v1/model", headers=allowed).headers["access-control-allow-origin"] == "https://app.example"
    del client.headers["Authorization"]
    asked = {**allowed, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert client.options("/v1/scores", headers=asked).headers["access-control-allow-origin"] == "https://app.example"
    assert_refused(client.get("/v1/model", headers=allowed), 401, "unauthorised")


@pytest.mark.parametrize("path", ["/v1/model/", "/health/", "//v1/model"])
def test_nothing_is_redirected(path: str, opened: Open) -> None:
    reply = opened().get(path, follow_redirects=False)
    assert reply.status_code == 404 and "location" not in reply.headers


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (("Content-Encoding", "gzip"), 415, "encoded_body"),
        (("Content-Type", "text/plain"), 415, "bad_content_type"),
        (("Content-Type", "application/x-www-form-urlencoded"), 415, "bad_content_type"),
        (("Content-Type", "multipart/form-data; boundary=a"), 415, "bad_content_type"),
    ],
)
def test_bodies_in_another_form_are_refused_unread(header: tuple[str, str], status: int, code: str, opened: Open) -> None:
    assert_refused(opened().post("/v1/features", content=gzip.compress(bytes(10**6)), headers=[header]), status, code)


@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key", "If-Match", "Content-Type", "Origin"])
def test_a_header_that_decides_is_sent_once(name: str, opened: Open) -> None:
    headers = [(name, "application/octet-stream"), (name, "other")]
    assert_refused(opened().post("/v1/features", content=BODY, headers=headers), 400, "repeated_header", name.lower())


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_other_methods_are_refused(method: str, opened: Open) -> None:
    assert opened().request(method, "/v1/model").status_code == 405


def test_a_refusal_is_one_line_of_the_log_without_the_token_and_control_characters(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    client = opened(token="secret-token")
    with caplog.at_level(logging.WARNING):
        client.get("/v1/%1b[31m%0aforged%0d/secret-token", headers={"X": "secret-token"})
        client.get("/v1/model", headers={"Authorization": "Bearer wrong-token"})
        client.get("/health", headers={"Host": "evil.example"})
        client.post("/v1/scores", content=b"")
        client.post("/v1/scores", content=scores_body(), headers={"Idempotency-Key": "k\x7f" * 200})
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == [
        "refused 404 not_found",
        "refused 401 unauthorised",
        "refused 421 other_host",
        "refused 400 bad_body",
        "refused 400 idempotency_key_too_long",
    ]
    assert all(line.isprintable() and len(line) <= 500 for line in lines)
    assert not [line for line in lines if "secret-token" in line or "wrong-token" in line]


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with serving(tiny_backbone(), ServeConfig(port=0, batch_delay_ms=0, max_connections=4, max_body_mb=1)) as (url, _):
        where = httpx.URL(url)
        yield where.host, where.port or 0


def sent(address: tuple[str, int], request: bytes) -> bytes:
    """Return the headers that a server answers to these bytes with; nothing when it hangs up while they are sent."""
    found = b""
    with socket.create_connection(address, timeout=20) as line, suppress(ConnectionError):
        line.sendall(request)
        while b"\r\n\r\n" not in found and (chunk := line.recv(2**16)):
            found += chunk
    return found


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n", b"200"),
        (b"GET /health HTTP/1.0\r\n\r\n", b"421"),
        (b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", b"400"),
        (b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nabcde", b"400"),
        (b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", b"400"),
        (b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n", b"413"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
def test_requests_in_strange_forms(request_: bytes, status: bytes, address: tuple[str, int]) -> None:
    found = sent(address, request_)
    assert found.split(b" ")[1] == status, found
    assert b"Traceback" not in found and b"location:" not in found.lower() and b"access-control" not in found.lower()


def test_headers_without_an_end_are_not_kept(address: tuple[str, int]) -> None:
    assert sent(address, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 10**6)[:12] in (b"", b"HTTP/1.1 400")


def test_headers_that_do_not_come_are_not_waited_for(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.05)
    for begun in (b"", b"GET /health HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"):
        with socket.create_connection(address, timeout=20) as line:
            line.sendall(begun)
            found = b""
            while chunk := line.recv(2**16):
                found += chunk
            assert b"HTTP/1.1 408" in found
    assert caplog.text.count("refused 408: no request has arrived in time") == 3


def test_connections_that_keep_waiting_make_room_for_others(address: tuple[str, int], caplog: pytest.LogCaptureFixture) -> None:
    begun = [socket.create_connection(address, timeout=20) for _ in range(4)]
    try:
        for line in begun[:2]:
            line.sendall(b"GET /health HTTP/1.1\r\n")
        for line in begun[2:]:
            line.sendall(b"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
            assert line.recv(100).startswith(b"HTTP/1.1 100")
        for _ in range(3):
            assert httpx.get(f"http://{address[0]}:{address[1]}/health").status_code == 200
    finally:
        for line in begun:
            line.close()
    assert "max_connections" in caplog.text
