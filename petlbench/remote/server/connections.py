"""Connections that must get on: one that sends its headers or reads its reply too slowly is closed, and so many are open at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # for the headers of a request, from its first byte or the connection's beginning
DROPPED_SECONDS = 120.0  # for the rest of a body that nobody waits for
LEAST_RATE = 2**16  # bytes per second of a body or a reply, after the first seconds
FIRST_SECONDS = 10.0
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_log = logging.getLogger("petlbench.remote.server")


class Connection(H11Protocol):
    """One connection of a client. Beyond ``most`` open ones, the one that has kept the server waiting for a request longest is closed; one whose request
    has arrived is not."""

    def __init__(self, *arguments: Any, most: int, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._most = most
        self._since = self.loop.time()
        self._headers_timer: asyncio.TimerHandle | None = None
        self._reply_timer: asyncio.TimerHandle | None = None

    @property
    def is_between_requests(self) -> bool:
        """Return True until the headers of the next request are here."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def keeps_waiting(self) -> bool:
        """Return True until the whole of the next request is here."""
        return self.is_between_requests or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_headers()
        if len(self.connections) > self._most:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each.keeps_waiting]
            min(waiting, key=lambda each: each._since)._close(f"more than {self._most} connections (max_connections)")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()
        if self.conn.trailing_data[0]:  # the beginning of another request came with the last one
            self._watch_headers()

    def send_400_response(self, msg: str) -> None:
        self._tell(f"400: {msg}")
        super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = FIRST_SECONDS + self.transport.get_write_buffer_size() / LEAST_RATE
        self._reply_timer = self.loop.call_later(seconds, self._close, "the reply is read too slowly")

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._reply_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._headers_timer)
        _cancel(self._reply_timer)
        super().connection_lost(exc)

    def _watch_headers(self) -> None:
        """Begin to wait for headers, and stop when they are here."""
        if not self.is_between_requests:
            _cancel(self._headers_timer)
            self._headers_timer = None
        elif self._headers_timer is None:
            is_refused = self.conn.their_state is h11.SEND_BODY  # it was answered before its body was here, which is read and dropped
            self._headers_timer = self.loop.call_later(DROPPED_SECONDS if is_refused else HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TIMEOUT)
            self._tell("408: no request has arrived in time")
            self.transport.close()

    def _close(self, reason: str) -> None:
        self._tell(f"closed: {reason}")
        self.transport.abort()

    def _tell(self, what: str) -> None:
        _log.warning("refused %s, from %s", what, self.client[0] if self.client else "?")


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
