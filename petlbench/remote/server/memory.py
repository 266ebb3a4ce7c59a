"""Caches of the server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cachetools import LRUCache

from petlbench.remote.wire import Refusal

T = TypeVar("T")
LONGEST_KEY = 255
_AT_ONCE = 2**20  # bytes that are hashed in less than a thread costs


def weighted_cache(limit: int, weigh: Callable[[T], int]) -> LRUCache[str, T]:
    """Create a cache that drops the least recently used values when the weights exceed the limit. A value of the limit's weight or more is kept alone."""
    return LRUCache(limit, lambda value: min(weigh(value), limit))  # LRUCache raises for what is heavier than its limit


@dataclass(frozen=True)
class _Asked:
    mark: tuple[str, bytes]  # the route and the body's SHA-256
    reply: asyncio.Future[bytes]


class Replies:
    """Replies by idempotency key: a repeated query gets the reply to the first, or waits for it. Failures are not kept.

    Replies are shielded: a client that hangs up does not cancel what another one, or itself later, waits for.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._under_way: dict[str, _Asked] = {}
        self._done = weighted_cache(limit_bytes, _bytes_of)

    async def once(self, key: str | None, route: str, body: bytes, compute: Callable[[], Coroutine[Any, Any, bytes]]) -> tuple[bytes, bool]:
        """Return the reply, and True if it was computed for an earlier request. Refusal when the key was used for another query."""
        if key is None:
            return await compute(), False
        if len(key) > LONGEST_KEY:
            raise Refusal(400, "idempotency_key_too_long", f"an idempotency key has at most {LONGEST_KEY} characters, got {len(key)}")
        mark = (route, await asyncio.to_thread(_sha256, body) if len(body) > _AT_ONCE else _sha256(body))
        if (earlier := self._under_way.get(key) or self._done.get(key)) is not None:
            if earlier.mark != mark:
                raise Refusal(409, "idempotency_key_reused", f"the idempotency key {key[:64]} was used for another query")
            return await asyncio.shield(earlier.reply), True
        asked = _Asked(mark, asyncio.ensure_future(compute()))
        self._under_way[key] = asked
        asked.reply.add_done_callback(partial(self._keep, key, asked))
        return await asyncio.shield(asked.reply), False

    def _keep(self, key: str, asked: _Asked, reply: asyncio.Future[bytes]) -> None:
        del self._under_way[key]
        if not reply.cancelled() and reply.exception() is None:
            self._done[key] = asked


def _sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _bytes_of(asked: _Asked) -> int:
    return len(asked.reply.result()) + 1024  # a kilobyte for the entry itself
