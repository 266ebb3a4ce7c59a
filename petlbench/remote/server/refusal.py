"""What a client is told instead of an answer."""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """An HTTP status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
