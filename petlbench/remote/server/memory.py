"""What the server remembers, within limits."""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from petlbench.remote.server.refusal import Refusal

T = TypeVar("T")
LONGEST_KEY = 255


class Shelf(Generic[T]):
    """Values by key. What was used least recently goes when their weights exceed the limit; the newest stays in any case."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def get(self, key: str) -> T | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: str, value: T, weight: int = 1) -> None:
        self.drop(key)
        self._kept[key] = (value, weight)
        self._weight += weight
        while len(self._kept) > 1 and self._weight > self._limit:
            self.drop(next(iter(self._kept)))

    def drop(self, key: str) -> None:
        _, weight = self._kept.pop(key, (None, 0))
        self._weight -= weight


@dataclass(frozen=True)
class _Asked:
    mark: tuple[str, int, int]
    reply: asyncio.Future[bytes]


class Replies:
    """Replies by idempotency key: a query that is sent again gets the reply to the first, or waits for it. Failures are not kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._under_way: dict[str, _Asked] = {}
        self._done: Shelf[_Asked] = Shelf(limit_bytes)

    async def once(self, key: str | None, route: str, body: bytes, compute: Callable[[], Coroutine[Any, Any, bytes]]) -> tuple[bytes, bool]:
        """The reply, and whether it is that to an earlier query. Refusal when the earlier one was another."""
        if key is None:
            return await compute(), False
        if len(key) > LONGEST_KEY:
            raise Refusal(400, "idempotency_key_too_long", f"an idempotency key has at most {LONGEST_KEY} characters, got {len(key)}")
        mark = (route, len(body), zlib.crc32(body))
        if (earlier := self._under_way.get(key) or self._done.get(key)) is not None:
            if earlier.mark != mark:
                raise Refusal(409, "idempotency_key_reused", f"the idempotency key {key[:64]} was used for another query")
            return await _patiently(earlier.reply), True
        asked = _Asked(mark, asyncio.ensure_future(compute()))
        self._under_way[key] = asked
        asked.reply.add_done_callback(partial(self._keep, key, asked))
        return await _patiently(asked.reply), False

    def _keep(self, key: str, asked: _Asked, reply: asyncio.Future[bytes]) -> None:
        del self._under_way[key]
        if not reply.cancelled() and reply.exception() is None:
            self._done.put(key, asked, len(reply.result()) + 1024)  # a kilobyte for the entry itself


def _patiently(reply: asyncio.Future[bytes]) -> Awaitable[bytes]:
    return asyncio.shield(reply)  # a client that hangs up does not cancel what another one, or itself later, waits for
