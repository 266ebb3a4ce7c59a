"""Who may ask a server, and in what form: checked for every request before anything else of it is read.

A page in a browser on the same machine reaches a local server as well. Its requests carry an ``Origin``; those of a page whose name was made to
point here (DNS rebinding) carry a ``Host`` that the server was not started for.
"""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import urlsplit

from fastapi import Request

from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import Refusal

_LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::")  # of a server that listens on all of its machine's addresses
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/@\[\]]+))(?::\d{1,5})?", re.IGNORECASE)
# A second one of these would be read by some and overlooked by others.
_ONCE = (
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "if-match",
    "origin",
    "transfer-encoding",
)
_MOST_HEADERS, _LONGEST_HEADERS = 100, 2**15  # bytes of all together
_BODIES = ("application/octet-stream", "application/json")


class Guard:
    """Refuses requests for another host, from pages of other origins, and in forms that could be read in two ways."""

    def __init__(self, config: ServeConfig) -> None:
        self._names = {name.lower() for name in (*_LOCAL, config.host, *config.hosts)}
        self._is_everywhere = config.host in _EVERYWHERE
        self._origins = {origin.lower() for origin in config.origins}

    def check(self, request: Request) -> None:
        """Refusal unless it may be answered."""
        if (
            len(request.headers.raw) > _MOST_HEADERS
            or sum(len(name) + len(value) for name, value in request.headers.raw) > _LONGEST_HEADERS
        ):
            message = f"a request has at most {_MOST_HEADERS} headers of {_LONGEST_HEADERS:,} bytes together"
            raise Refusal(431, "headers_too_large", message, {"Connection": "close"})
        given = Counter(name.decode("latin-1").lower() for name, _ in request.headers.raw)
        for name in _ONCE:
            if given[name] > 1:
                raise Refusal(
                    400, "repeated_header", f"the header {name} was sent {given[name]} times, expected once", {"Connection": "close"}
                )
        if given["transfer-encoding"] and given["content-length"]:
            raise Refusal(400, "two_lengths", "a body has a Content-Length or is sent in chunks, not both", {"Connection": "close"})
        host = request.headers.get("host", "")
        if _name_in(host) not in self._names and not (self._is_everywhere and _name_in(host) == _address_of(request)):
            raise Refusal(
                421, "other_host", f"this server was not started for the host {host[:100]!r}; start it with hosts=[NAME] to allow it"
            )
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in self._origins and _netloc(origin) != host.lower():
            raise Refusal(
                403, "other_origin", f"pages of {origin[:100]!r} may not ask this server; start it with origins=[ORIGIN] to allow them"
            )
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "encoded_body", "send the body as it is, without Content-Encoding", {"Connection": "close"})
        kind = request.headers.get("content-type", _BODIES[0]).partition(";")[0].strip().lower()
        if request.method == "POST" and kind not in _BODIES:
            raise Refusal(415, "bad_content_type", f"a body is {' or '.join(_BODIES)}, got {kind[:100]!r}", {"Connection": "close"})


def _name_in(host: str) -> str | None:
    """Return the name or address in a ``Host`` header; None when it is none. The port is the affair of whoever forwards it."""
    found = _HOST.fullmatch(host)
    return None if found is None else (found[1] or found[2]).lower()


def _address_of(request: Request) -> str | None:
    """Return the address at which the request has arrived."""
    server = request.scope.get("server")
    return None if server is None else str(server[0]).lower()


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
