"""Replace the server by a function of requests, for tests of the client."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import torch
from torch import Tensor

from petlbench.access.endpoint import CallLimits, ClassTexts, ModelFacts
from petlbench.remote.client import RemoteBackbone
from petlbench.remote.connection import RetryPolicy
from petlbench.remote.wire import ServedModel

QUICK = RetryPolicy(patience_seconds=5.0, first_contact_seconds=0.05, backoff_seconds=0.001, longest_backoff_seconds=0.01)
HALF = (0.5, 0.5, 0.5)
SERVED = ServedModel(
    facts=ModelFacts(
        name="tiny",
        input_size=16,
        mean=HALF,
        std=HALF,
        source="random",
        feature_width=32,
        token_width=32,
        patch_size=8,
        has_text=True,
        limits=CallLimits(max_images=4, max_patches=3, max_contexts=4, max_prompts=100, max_bytes=2**20 * 3 // 4),
    ),
    sha256="0" * 64,
    parameters=9,
    precision="fp32",
    max_body=2**20,
    text_sha256="0" * 64,
)
CPU = torch.device("cpu")
NAMES = ("cat", "dog", "newt")
TEXTS = ClassTexts(tuple((f"a photo of a {name}.",) for name in NAMES), "a photo of a")
Handler = Callable[[httpx.Request], httpx.Response]


def images(count: int) -> Tensor:
    return torch.randn(count, 16, 16, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)  # as they lie in a run


def scripted(handler: Handler, policy: RetryPolicy = QUICK) -> RemoteBackbone:
    """A backbone behind a server that is a function of the requests after the first, which is answered."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=SERVED.model_dump(mode="json")) if request.url.path == "/v1/model" else handler(request)

    return RemoteBackbone("http://server", policy, httpx.MockTransport(handle))


class Script:
    """Answers with one reply after the other and records the requests."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self._replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply
