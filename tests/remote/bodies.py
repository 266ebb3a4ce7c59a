"""Request bodies for a server of a small random model, and checks of its refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fastapi.testclient import TestClient
from torch import Tensor

from petlbench.remote.wire import TextsMessage, pack

CPU = torch.device("cpu")
TEXTS = TextsMessage(captions=(("a cat.",), ("a dog.",), ("a newt.",)), context="a")
DIGEST = TEXTS.texts().digest
Open = Callable[..., TestClient]


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def scores_body(some: Tensor | None = None, **words: object) -> bytes:
    return pack({"images": images() if some is None else some}, **{"texts": DIGEST, "output": "logits", "k": 1, **words})


def contexts_body(count: int = 2, some: Tensor | None = None, **words: object) -> bytes:
    arrays = {"contexts": torch.ones(count, 1, 4)} | ({} if some is None else {"images": some})
    return pack(arrays, **{"texts": DIGEST, "output": "logits", "k": 1, **words})


def assert_refused(reply: Any, status: int, code: str, *expected: str) -> None:
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.json().keys() == {"error"} and reply.json()["error"].keys() == {"code", "message"}
    for text in expected:
        assert text in reply.json()["error"]["message"]
    assert "Traceback" not in reply.text and ".py" not in reply.text


def counter(client: TestClient, name: str) -> float:
    lines = [line.split() for line in client.get("/metrics").text.splitlines()]
    return sum(float(line[1]) for line in lines if line[0].partition("{")[0] == f"petlbench_{name}_total")
