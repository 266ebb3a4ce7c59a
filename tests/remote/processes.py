"""Run a server in its own process or thread, behind a proxy that injects faults."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import uvicorn

from petlbench.backbones.backbone import Backbone
from petlbench.remote.server.app import create_app
from petlbench.remote.server.server import _listening, http_settings
from petlbench.remote.server.service import Service
from petlbench.remote.server.settings import ServeConfig

START_SECONDS = 120.0


class ServerProcess:
    """``petlbench serve backbone=mini_clip`` on a port of its own, which it keeps when it is started again."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._log = folder / "server.log"
        self._words = words
        self.port = 0
        self._process = self._started()
        self.port = int(self._ready_line().rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill_and_start_again(self) -> None:
        """Kill the process and start a new one on the same port without waiting for it."""
        self._process.kill()
        self._process.wait()
        self._process = self._started()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(START_SECONDS)

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "petlbench", "serve", "threads=1", f"port={self.port}", *self._words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self._log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def _ready_line(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            for line in self._log.read_text().splitlines(keepends=True):
                if line.startswith("serving ") and line.endswith("\n"):
                    return line.strip()
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self._log.read_text()}")


@contextmanager
def serving(backbone: Backbone, config: ServeConfig | None = None, token: str | None = None) -> Iterator[tuple[str, Service]]:
    """Serve a backbone over HTTP from a thread of this process; yield the address and the service."""
    config = config or ServeConfig(port=0, batch_delay_ms=0)
    service = Service(backbone, config, torch.device("cpu"))
    with _listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(http_settings(create_app(service, config, token), config))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", service
        finally:
            server.should_exit = True
            thread.join()


Fault = Callable[["Exchange"], None]


class Exchange:
    """One request at the proxy, with the ways to handle it."""

    def __init__(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        self._handler = handler
        self._port = port
        self._body = handler.rfile.read(int(handler.headers.get("content-length", 0)))

    def ask(self) -> tuple[int, bytes]:
        """Return the server's own answer."""
        with self._sent() as upstream:
            reply = upstream.getresponse()
            return reply.status, reply.read()

    def send_and(self, do: Callable[[], None]) -> None:
        """Send the whole request to the server, then do something instead of waiting for the answer."""
        with self._sent():
            do()

    def reply(self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), length: int | None = None) -> None:
        """Answer the client; a ``length`` beyond the body's is announced but not sent."""
        self._handler.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body) if length is None else length))):
            self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def hang_up(self) -> None:
        self._handler.close_connection = True

    @contextmanager
    def _sent(self) -> Iterator[http.client.HTTPConnection]:
        upstream = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            upstream.request(self._handler.command, self._handler.path, self._body, dict(self._handler.headers))
            yield upstream
        finally:
            upstream.close()


def honest(exchange: Exchange) -> None:
    exchange.reply(*exchange.ask())


def busy(exchange: Exchange) -> None:
    exchange.reply(429, b'{"error": {"code": "busy", "message": "later"}}', [("Retry-After", "0")])


def broken(exchange: Exchange) -> None:
    exchange.reply(500, b"<html>oops</html>")


def broken_afterwards(exchange: Exchange) -> None:
    """Answer with an error of a gateway although the server has answered."""
    exchange.ask()
    exchange.reply(502, b"")


def truncated(exchange: Exchange) -> None:
    status, body = exchange.ask()
    exchange.reply(status, body[: len(body) // 2], length=len(body))
    exchange.hang_up()


def cut_short(exchange: Exchange) -> None:
    """Send half of the answer with a Content-Length that makes it look complete."""
    status, body = exchange.ask()
    exchange.reply(status, body[: len(body) // 2])


def lost(exchange: Exchange) -> None:
    exchange.ask()
    exchange.hang_up()


def slow(seconds: float) -> Fault:
    def answer(exchange: Exchange) -> None:
        reply = exchange.ask()
        time.sleep(seconds)
        try:
            exchange.reply(*reply)
        except OSError:  # the client has stopped waiting
            exchange.hang_up()

    return answer


@contextmanager
def proxy(port: int, fault_of: Callable[[int], Fault]) -> Iterator[tuple[str, list[int]]]:
    """A proxy before the server at a port: its address, and the attempts at each query so far.

    ``fault_of`` the number of a query, from 0, is what happens to its first attempt; the later ones go through.
    """
    keys: dict[str, int] = {}
    attempts: list[int] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with lock:
                number = keys.setdefault(self.headers["Idempotency-Key"], len(keys))
                if number == len(attempts):
                    attempts.append(0)
                attempts[number] += 1
                act = fault_of(number) if attempts[number] == 1 else honest
            self._do(act)

        def do_GET(self) -> None:
            self._do(honest)

        def _do(self, act: Fault) -> None:
            exchange = Exchange(self, port)
            try:
                act(exchange)
            except (OSError, http.client.HTTPException):  # the server is gone, and so is its connection to the client
                exchange.hang_up()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", attempts
        finally:
            server.shutdown()
            thread.join()
