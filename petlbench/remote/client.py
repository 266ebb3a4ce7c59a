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

Q = TypeVar("Q")
ANY_REMOTE = Traits("a remote model", Access.FEATURES, has_text=True, takes_tokens=False)  # what holds of the best
MAX_REMINDERS = 5  # a server that has forgotten what it was told is told again so often in one query


class RemoteBackbone:
    """What a run has to know of a model that it can only ask. The server is asked once, here, and must stay the same from then on.

    It holds a connection until it is closed: use it in a ``with`` block.
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
        except BaseException:  # nobody else has it yet
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
        """Of the served weights, as the server states it. A query to a server that has others by then is refused."""
        return self._served.sha256

    def endpoint(self, device: torch.device, number_format: str = "fp32") -> Endpoint:
        """ConfigError when the server multiplies in another number format than the run's record would say."""
        if number_format != self._served.precision:
            url, has = self._connection.url, self._served.precision
            raise ConfigError(f"{url} computes in {has}, this run would be recorded as {number_format}; set precision={has}")
        return RemoteEndpoint(self._connection, self._served, device)


class RemoteEndpoint:
    """Asks a server. The calls of a step are under way at the same time; answers come in the order of the questions."""

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
        self, parts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, patches: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        def ask(pair: tuple[Tensor, Tensor | None]) -> Tensor:
            body = pack(_named(*pair), texts=texts.digest, output=output.value, k=k)
            return as_scores(self._query("/v1/scores", body, texts), len(texts.captions))

        return self._all(ask, paired(parts, patches))

    def context_scores(
        self, images: Tensor | Sequence[str], contexts: Sequence[Tensor], texts: ClassTexts, output: Output, k: int, normalised: bool
    ) -> list[Tensor]:
        if not normalised:
            raise AccessError(
                f"{self.facts.name} gives scores of normalised embeddings only, as any API; others need the model in this process"
            )
        sent, stored = ({"images": images.float()}, ()) if isinstance(images, Tensor) else ({}, tuple(images))

        def ask(part: Tensor) -> Tensor:
            words = {"texts": texts.digest, "output": output.value, "k": k, "stored": " ".join(stored)}
            answer = self._query("/v1/contexts", pack({"contexts": part.float(), **sent}, **words), texts, stored)
            return as_scores(answer, len(texts.captions))

        return self._all(ask, contexts)

    def features(self, parts: Sequence[Tensor], patches: Sequence[Tensor] | None = None) -> list[Tensor]:
        return self._all(lambda pair: self._query("/v1/features", pack(_named(*pair)))["features"], paired(parts, patches))

    def upload(self, parts: Mapping[str, Tensor]) -> None:
        self._all(self._send, list(parts.values()))
        self._uploads |= parts

    def forward_with_vjp(
        self, images: Tensor, tokens: Tensor | None, texts: ClassTexts | None
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        raise AccessError(f"{self.facts.name} gives no gradients")

    def _query(self, path: str, body: bytes, texts: ClassTexts | None = None, stored: Sequence[str] = ()) -> dict[str, Tensor]:
        """The arrays of an answer. Texts and images that the server has forgotten, such as by being started again, are sent again."""
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
        raise EndpointError(f"{self.facts.name} forgets at once what it is told; serve it with larger keep_texts and keep_images")

    def _send(self, images: Tensor) -> Tensor:
        self._connection.post("/v1/images", pack({"images": images.float()}), _tensors)
        return images

    def _all(self, ask: Callable[[Q], Tensor], questions: Sequence[Q]) -> list[Tensor]:
        """The answers, on the device of the run. The first failure ends the others."""
        if len(questions) <= 1:
            return [ask(question).to(self._device) for question in questions]
        waiting = deque(enumerate(questions))
        done: SimpleQueue[tuple[int, Tensor] | BaseException] = SimpleQueue()

        def work() -> None:
            while True:
                try:
                    place, question = waiting.popleft()
                except IndexError:  # none is left
                    return
                try:
                    done.put((place, ask(question)))
                except BaseException as problem:
                    done.put(problem)
                    return

        answers: dict[int, Tensor] = {}
        try:
            for _ in range(min(self._connection.policy.concurrency, len(questions))):
                threading.Thread(target=work, name="petlbench-question", daemon=True).start()
            while len(answers) < len(questions):
                outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                answers[outcome[0]] = outcome[1].to(self._device)
        except BaseException:  # a failure, or Ctrl-C: replies that are under way are not waited for, and nothing else is asked
            self._connection.abandon()
            raise
        return [answers[place] for place in range(len(questions))]


def _named(images: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
    return {"images": images.float()} if patches is None else {"images": images.float(), "patches": patches.float()}


def _tensors(document: bytes) -> dict[str, Tensor]:
    return unpack(document)[0]


def _served_by(connection: Connection) -> ServedModel:
    """EndpointError when something else than a petlbench server of this protocol answers."""
    from petlbench.remote.connection import Refused

    stranger = f"{connection.url} is no petlbench server"
    try:
        told = connection.get("/v1/model", lambda reply: reply.json())
    except Refused as refusal:
        raise EndpointError(f"{stranger}: {refusal}" if refusal.code in ("", "not_found") else str(refusal)) from None
    spoken = told.get("protocol") if isinstance(told, dict) else None
    if spoken not in (None, PROTOCOL):
        raise EndpointError(
            f"{connection.url} speaks protocol version {spoken}, this petlbench speaks version {PROTOCOL}; install the same petlbench version on both ends"
        )
    try:
        return ServedModel.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise EndpointError(f"{stranger}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
