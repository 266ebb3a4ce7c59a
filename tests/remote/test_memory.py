"""The server's caches: the newest entries within limits, and one reply per idempotency key."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

import pytest

from petlbench.remote.server.memory import Replies, weighted_cache
from petlbench.remote.wire import Refusal


def test_a_cache_gives_up_what_was_used_longest_ago() -> None:
    cache = weighted_cache(2, lambda value: 1)
    cache["a"], cache["b"] = 1, 2
    cache.get("a")
    cache["c"] = 3
    assert [cache.get(key) for key in "abc"] == [1, None, 3]


def test_a_cache_counts_weights_and_keeps_the_newest_whatever_it_weighs() -> None:
    cache = weighted_cache(10, lambda weight: weight)
    for key, weight in (("a", 4), ("b", 4), ("c", 4), ("d", 99)):
        cache[key] = weight
        assert cache.get(key) == weight
    assert cache.get("c") is None
    cache["d"] = 1
    cache["e"] = 9
    assert cache.get("d") == 1  # its old weight went with its old value


class Computation:
    """Counts its calls; finishes when it is released."""

    def __init__(self, outcome: Callable[[], bytes]) -> None:
        self.count = 0
        self.go = asyncio.Event()
        self._outcome = outcome

    async def __call__(self) -> bytes:
        self.count += 1
        await self.go.wait()
        return self._outcome()


def run(scenario: Callable[[Replies], Awaitable[None]], limit: int = 2**20) -> None:
    async def within() -> None:
        await scenario(Replies(limit))

    asyncio.run(within())


def test_a_query_that_comes_again_gets_the_reply_of_the_first() -> None:
    async def scenario(replies: Replies) -> None:
        work = Computation(lambda: b"answer")
        work.go.set()
        assert await replies.once("key", "/a", b"body", work) == (b"answer", False)
        assert await replies.once("key", "/a", b"body", work) == (b"answer", True)
        assert work.count == 1

    run(scenario)


def test_a_query_that_comes_again_while_the_first_is_under_way_waits_for_it() -> None:
    async def scenario(replies: Replies) -> None:
        work = Computation(lambda: b"answer")
        first = asyncio.ensure_future(replies.once("key", "/a", b"body", work))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(replies.once("key", "/a", b"body", work))
        await asyncio.sleep(0)
        first.cancel()  # its client has hung up
        work.go.set()
        assert await second == (b"answer", True)
        assert work.count == 1

    run(scenario)


def test_a_failure_is_not_kept() -> None:
    async def scenario(replies: Replies) -> None:
        outcomes = iter([Refusal(404, "unknown_texts", ""), None])

        def outcome() -> bytes:
            if (problem := next(outcomes)) is not None:
                raise problem
            return b"answer"

        work = Computation(outcome)
        work.go.set()
        with pytest.raises(Refusal):
            await replies.once("key", "/a", b"body", work)
        assert await replies.once("key", "/a", b"body", work) == (b"answer", False)

    run(scenario)


@pytest.mark.parametrize(("route", "body"), [("/b", b"body"), ("/a", b"bodi"), ("/a", b"body ")])
def test_a_key_of_another_query_is_refused(route: str, body: bytes) -> None:
    async def scenario(replies: Replies) -> None:
        work = Computation(lambda: b"answer")
        work.go.set()
        await replies.once("key", "/a", b"body", work)
        with pytest.raises(Refusal) as refused:
            await replies.once("key", route, body, work)
        assert (refused.value.status, refused.value.code) == (409, "idempotency_key_reused")

    run(scenario)


@pytest.mark.parametrize("padding", [0, 2**21])  # hashed at once, and in a thread
def test_another_body_of_the_same_length_and_checksum_is_another_query(padding: int) -> None:
    one, other = (word + bytes(padding) for word in (b"plumless", b"buckeroo"))
    assert zlib.crc32(one) == zlib.crc32(other)

    async def scenario(replies: Replies) -> None:
        work = Computation(lambda: b"answer")
        work.go.set()
        await replies.once("key", "/a", one, work)
        assert await replies.once("key", "/a", one, work) == (b"answer", True)
        with pytest.raises(Refusal, match="was used for another query"):
            await replies.once("key", "/a", other, work)

    run(scenario)


def test_replies_are_forgotten_when_they_weigh_too_much() -> None:
    async def scenario(replies: Replies) -> None:
        work = Computation(lambda: bytes(3000))
        work.go.set()
        for key in ("a", "b", "c", "a"):
            assert not (await replies.once(key, "/a", b"body", work))[1]
        assert (await replies.once("c", "/a", b"body", work))[1]

    run(scenario, limit=9000)


def test_a_reply_under_way_is_not_forgotten_whatever_the_others_weigh() -> None:
    async def scenario(replies: Replies) -> None:
        slow, work = Computation(lambda: b"answer"), Computation(lambda: bytes(3000))
        work.go.set()
        first = asyncio.ensure_future(replies.once("slow", "/a", b"body", slow))
        for key in "abcdef":
            await replies.once(key, "/a", b"body", work)
        second = asyncio.ensure_future(replies.once("slow", "/a", b"body", slow))
        await asyncio.sleep(0)
        slow.go.set()
        assert (await first, await second) == ((b"answer", False), (b"answer", True))
        assert slow.count == 1

    run(scenario, limit=9000)


def test_a_key_has_a_limited_length() -> None:
    async def scenario(replies: Replies) -> None:
        work = Computation(lambda: b"answer")
        work.go.set()
        assert await replies.once("k" * 255, "/a", b"body", work) == (b"answer", False)
        with pytest.raises(Refusal, match="at most 255 characters, got 256") as refused:
            await replies.once("k" * 256, "/a", b"body", work)
        assert refused.value.status == 400

    run(scenario)
