"""A server that is a function of requests, for tests of the client."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import torch
from torch import Tensor

from petlbench.access.endpoint import ClassTexts
from petlbench.remote.client import RemoteBackbone
from petlbench.remote.connection import RetryPolicy
from petlbench.remote.wire import ServedModel

QUICK = RetryPolicy(patience_seconds=5.0, first_contact_seconds=0.05, backoff_seconds=0.001, longest_backoff_seconds=0.01)
SERVED = ServedModel(
    name="tiny",
    sha256="0" * 64,
    source="random",
    parameters=9,
    input_size=16,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    feature_width=32,
    token_width=32,
    patch_size=8,
    output="logits",
    has_text=True,
    precision="fp32",
    max_images=4,
    max_patches=3,
    max_contexts=4,
    max_prompts=100,
    max_body=2**20,
    top_k=5,
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
        return httpx.Response(200, json=SERVED.model_dump()) if request.url.path == "/v1/model" else handler(request)

    return RemoteBackbone("http://server", policy, httpx.MockTransport(handle))


class Script:
    """Answers with one reply after the other, and takes down what came."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self._replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply
