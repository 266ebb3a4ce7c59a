"""A server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient

from petlbench.remote.server.app import create_app
from petlbench.remote.server.service import Service
from petlbench.remote.server.settings import ServeConfig
from petlbench.testing.mocks import tiny_backbone
from tests.remote.bodies import CPU, TEXTS, Open


@pytest.fixture
def opened() -> Iterator[Open]:
    """A server of a small random model, which knows TEXTS."""
    with ExitStack() as stack:

        def open_(token: str | None = None, with_text: bool = True, **settings: Any) -> TestClient:
            config = ServeConfig(**{"batch_delay_ms": 0, "threads": 1, **settings})
            service = Service(tiny_backbone(with_text=with_text), config, CPU)
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            app = create_app(service, config, token)
            client = stack.enter_context(TestClient(app, "http://127.0.0.1:8000", headers=headers, raise_server_exceptions=False))
            if with_text:
                assert client.post("/v1/texts", content=TEXTS.model_dump_json()).status_code == 200
            return client

        yield open_
