"""A server that breaks off, ignores ranges, is busy or sends something else, as a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A server with settings for its content and its faults, which records the requested ranges."""

    content = bytes(range(256)) * 40
    etag = '"one"'
    has_ranges = True
    breaks_after: int | None = None  # bytes per answer
    statuses: list[int]  # of the next answers, before it serves
    ranges: list[str | None]  # the Range header of every request

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.ranges = [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.tar"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        start, content = 0, self.server.content
        if asked and self.server.has_ranges and self.headers.get("If-Range", self.server.etag) == self.server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit = self.server.breaks_after
        self.wfile.write(content[start:] if limit is None else content[start : start + limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server within a ``with`` block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
