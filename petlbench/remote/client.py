"""A model behind ``petlbench serve``: ``backbone=remote url=http://127.0.0.1:8000``.

Letters in shapes: B images, C classes, P contexts, n context words, W width of the word embeddings, S input size.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from petlbench.access.endpoint import ClassTexts, Endpoint, Output, as_scores, paired, tensor_bytes
from petlbench.access.rungs import Access
from petlbench.backbones.traits import Traits
from petlbench.errors import AccessError, ConfigError, EndpointError
from petlbench.remote.wire import (
    LONGEST_HEADER,
    PROTOCOL,
    TOKEN_VARIABLE,
    UNKNOWN_IMAGES,
    UNKNOWN_TEXTS,
    ServedModel,
    TextsMessage,
    pack,
    token_from,
    unpack,
)

if TYPE_CHECKING:
    import httpx

    from petlbench.remote.connection import Connection, RetryPolicy
    from petlbench.remote.journal import Journal

Q = TypeVar("Q")
ANY_REMOTE = Traits("a remote model", Access.FEATURES, has_text=True, takes_tokens=False)  # the most that any server gives
MAX_REMINDERS = 5  # how often texts and images are sent again within one query


class RemoteBackbone:
    """A served model as the backbone of a run. The server is asked for its facts once, here, and must not change afterwards.

    It holds a connection: use it in a ``with`` block.
    """

    def __init__(self, url: str, policy: RetryPolicy | None = None, transport: httpx.BaseTransport | None = None) -> None:
        try:
            from petlbench.remote.connection import Connection, RetryPolicy
        except ModuleNotFoundError as error:
            raise ConfigError(f"backbone=remote needs {error.name}; install it with: pip install 'petlbench[remote]'") from None
        token = token_from(os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE)
        self._connection = Connection(url, token, policy or RetryPolicy(), transport)
        try:
            self._served = _served_by(self._connection)
        except BaseException:  # the caller has no reference to close
            self._connection.close()
            raise
        self._connection.etag = self._served.etag
        facts, sha256 = self._served.facts, self._served.sha256
        self.facts = replace(facts, name=f"remote:{facts.name}@{sha256[:8]}", source=f"{facts.name} at {url}")
        self.parameter_count = self._served.parameters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def traits(self) -> Traits:
        return Traits.of(self.facts, Access.FEATURES)

    def checksum(self) -> str:
        """Return the SHA-256 of the served weights, as the server states it. A server refuses queries meant for other weights."""
        return self._served.sha256

    def keep_answers(self, journal: Journal | None) -> None:
        """Keep answers in a journal from now on, and send no query again whose answer is there."""
        self._connection.journal = journal

    def endpoint(self, device: torch.device, number_format: str = "fp32") -> Endpoint:
        """ConfigError when the server computes in another number format than the run would record."""
        if number_format != self._served.precision:
            url, has = self._connection.url, self._served.precision
            raise ConfigError(f"{url} computes in {has}, this run would be recorded as {number_format}; set precision={has}")
        return RemoteEndpoint(self._connection, self._served, device)


class RemoteEndpoint:
    """Queries a server. The calls of a step are sent concurrently; answers are in the order of the queries."""

    images_forwarded = 0  # in this process

    def __init__(self, connection: Connection, served: ServedModel, device: torch.device) -> None:
        self.facts = replace(served.facts, name=f"{served.facts.name} at {connection.url}")
        self._connection = connection
        self._served = served
        self._device = device
        self._uploads: dict[str, Tensor] = {}  # images by digest, to be sent again

    def describe(self, texts: ClassTexts) -> Tensor | None:
        body = TextsMessage.of(texts).model_dump_json().encode()
        context = self._connection.post("/v1/texts", body, _tensors).get("context")
        if context is None:
            return None
        room = self._served.max_body // 4 - LONGEST_HEADER // 8  # a quarter of a body is the contexts'
        fitting = max(1, room // tensor_bytes(context))
        limits = self._served.facts.limits
        self.facts = replace(self.facts, limits=replace(limits, max_contexts=min(limits.max_contexts or fitting, fitting)))
        return context.to(self._device)

    def scores(
        self, chunks: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, patches: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        def ask(pair: tuple[Tensor, Tensor | None]) -> Tensor:
            body = pack(_named(*pair), texts=texts.digest, output=output.value, k=k)
            return as_scores(self._query("/v1/scores", body, texts), len(texts.captions))

        return self._all(ask, paired(chunks, patches))

    def context_scores(
        self, images: Tensor | Sequence[str], contexts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, normalised: bool
    ) -> list[Tensor]:
        if not normalised:
            raise AccessError(f"{self.facts.name} gives scores of normalised embeddings only; use a model in this process for others")
        sent, stored = ({"images": images.float()}, ()) if isinstance(images, Tensor) else ({}, tuple(images))

        def ask(chunk: Tensor) -> Tensor:
            words = {"texts": texts.digest, "output": output.value, "k": k, "stored": " ".join(stored)}
            answer = self._query("/v1/contexts", pack({"contexts": chunk.float(), **sent}, **words), texts, stored)
            return as_scores(answer, len(texts.captions))

        return self._all(ask, contexts)

    def features(self, chunks: Sequence[Tensor], patches: Sequence[Tensor] | None = None) -> list[Tensor]:
        return self._all(lambda pair: self._query("/v1/features", pack(_named(*pair)))["features"], paired(chunks, patches))

    def upload(self, chunks: Mapping[str, Tensor]) -> None:
        self._all(self._send, list(chunks.values()))
        self._uploads |= chunks

    def forward_with_vjp(
        self, images: Tensor, tokens: Tensor | None, texts: ClassTexts | None
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        raise AccessError(f"{self.facts.name} gives no gradients")

    def _query(self, path: str, body: bytes, texts: ClassTexts | None = None, stored: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return the arrays of an answer. Texts and images that the server has forgotten, for example by a restart, are sent again."""
        from petlbench.remote.connection import Refused

        for _ in range(MAX_REMINDERS):
            try:
                return self._connection.post(path, body, _tensors)
            except Refused as refusal:
                if refusal.code == UNKNOWN_TEXTS and texts is not None:
                    self.describe(texts)
                elif refusal.code == UNKNOWN_IMAGES:
                    for digest in stored:
                        self._send(self._uploads[digest])
                else:
                    raise
        raise EndpointError(f"{self.facts.name} keeps forgetting texts or images; serve it with larger keep_texts and keep_images")

    def _send(self, images: Tensor) -> Tensor:
        self._connection.post("/v1/images", pack({"images": images.float()}), _tensors)
        return images

    def _all(self, ask: Callable[[Q], Tensor], queries: Sequence[Q]) -> list[Tensor]:
        """Return the answers, on the device of the run. The first failure ends the others."""
        if len(queries) <= 1:
            return [ask(query).to(self._device) for query in queries]
        waiting = deque(enumerate(queries))
        done: SimpleQueue[tuple[int, Tensor] | BaseException] = SimpleQueue()

        def work() -> None:
            while True:
                try:
                    index, query = waiting.popleft()
                except IndexError:  # none is left
                    return
                try:
                    done.put((index, ask(query)))
                except BaseException as problem:
                    done.put(problem)
                    return

        answers: dict[int, Tensor] = {}
        try:
            for _ in range(min(self._connection.policy.concurrency, len(queries))):
                threading.Thread(target=work, name="petlbench-query", daemon=True).start()
            while len(answers) < len(queries):
                outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                answers[outcome[0]] = outcome[1].to(self._device)
        except BaseException:  # a failure, or Ctrl-C: pending replies are not awaited, and no further query is sent
            self._connection.abandon()
            raise
        return [answers[index] for index in range(len(queries))]


def _named(images: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
    return {"images": images.float()} if patches is None else {"images": images.float(), "patches": patches.float()}


def _tensors(document: bytes) -> dict[str, Tensor]:
    return unpack(document)[0]


def _served_by(connection: Connection) -> ServedModel:
    """Ask a server for its model. EndpointError when it is no petlbench server, or of another protocol version."""
    from petlbench.remote.connection import Refused

    stranger = f"{connection.url} is no petlbench server"
    try:
        found = connection.get("/v1/model", lambda reply: reply.json())
    except Refused as refusal:
        raise EndpointError(f"{stranger}: {refusal}" if refusal.code in ("", "not_found") else str(refusal)) from None
    spoken = found.get("protocol") if isinstance(found, dict) else None
    if spoken not in (None, PROTOCOL):
        raise EndpointError(
            f"{connection.url} speaks protocol version {spoken}, this petlbench speaks version {PROTOCOL}; install the same petlbench version on both ends"
        )
    try:
        return ServedModel.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise EndpointError(f"{stranger}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
