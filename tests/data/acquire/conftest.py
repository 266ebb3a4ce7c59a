"""Fixtures of the tests of downloads and archives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from petlbench.data.acquire import download

from .serving import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with serving() as server:
        yield server
