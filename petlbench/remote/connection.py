"""A connection to ``petlbench serve`` that repeats failed requests."""

from __future__ import annotations

import ipaddress
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx

from petlbench.errors import ConfigError, EndpointError
from petlbench.remote.journal import Journal
from petlbench.remote.wire import TOKEN_VARIABLE

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Sets when to repeat a request, and when to give up."""

    patience_seconds: float = 60.0  # how long a query may fail; starts anew whenever the server is busy
    first_contact_seconds: float = 5.0  # the same for the first request, which finds a mistyped address
    backoff_seconds: float = 0.1  # before the second attempt; doubles with every further attempt
    longest_backoff_seconds: float = 5.0  # upper limit of the backoff; the wait is random between half of the backoff and all of it
    connect_seconds: float = 5.0
    answer_seconds: float = 300.0  # timeout of a reply, or of a chunk of it
    concurrency: int = 4  # concurrent queries


class Refused(EndpointError):
    """The server has refused a query."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class _Unusable(Exception):
    """An attempt that may be repeated, after ``wait_seconds`` if the server has said so."""

    def __init__(self, reason: str, wait_seconds: float | None = None, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.is_busy = is_busy


class Connection:
    """Sends a query until it is answered. All attempts at a query carry one idempotency key, so that the server answers, and counts, it once."""

    def __init__(self, url: str, token: str | None, policy: RetryPolicy, transport: httpx.BaseTransport | None = None) -> None:
        self.url = _checked(url)
        self.policy = policy
        self.etag: str | None = None  # of the model that is queried
        self.journal: Journal | None = None  # of what is answered
        self._jitter = random.Random()  # separate from the generator of methods
        self._is_abandoned = threading.Event()
        try:
            self._client = httpx.Client(
                base_url=self.url,
                headers={} if token is None else {"Authorization": f"Bearer {token}"},
                timeout=httpx.Timeout(policy.answer_seconds, connect=policy.connect_seconds),
                limits=httpx.Limits(max_connections=policy.concurrency, max_keepalive_connections=policy.concurrency),
                follow_redirects=False,  # a server does not choose who else gets the token
                trust_env=not _is_loopback(httpx.URL(self.url).host),  # a proxy does not reach this machine's own addresses
                transport=transport,
            )
        except (ImportError, ValueError) as error:  # a SOCKS proxy without httpx[socks], or a proxy of no known kind
            reason = str(error).splitlines()[0]
            raise ConfigError(f"the proxy variables (HTTPS_PROXY, ALL_PROXY, …) name an unusable proxy: {reason}") from None

    def get(self, path: str, read: Callable[[httpx.Response], T]) -> T:
        """Send a GET request. ``read`` raises ValueError for an incomplete reply."""
        return self._until_answered(lambda: self._client.get(path), f"GET {path}", read, self.policy.first_contact_seconds)

    def post(self, path: str, body: bytes, read: Callable[[bytes], T]) -> T:
        """Send a query. Refused when the server refuses it, EndpointError when it does not answer."""
        journal = self.journal
        key = uuid.uuid4().hex if journal is None else journal.key(path, body)
        if journal is not None and (known := journal.answer(key)) is not None:
            return read(known)
        headers = {"Idempotency-Key": key, "Content-Type": "application/octet-stream"}
        if self.etag is not None:
            headers["If-Match"] = self.etag

        def read_and_keep(reply: httpx.Response) -> T:
            answer = read(reply.content)
            if journal is not None:
                journal.keep(key, reply.content)
            return answer

        try:
            return self._until_answered(
                lambda: self._client.post(path, content=body, headers=headers), f"POST {path}", read_and_keep, self.policy.patience_seconds
            )
        except Refused:
            if journal is not None:
                journal.refused(path, body)
            raise

    def abandon(self) -> None:
        """Stop repeating the queries of other threads and send no new ones: the run is over."""
        self._is_abandoned.set()

    def close(self) -> None:
        """Close the sockets and the journal; later queries fail."""
        self.abandon()
        self._client.close()
        if self.journal is not None:
            self.journal.close()

    def _until_answered(self, attempt: Callable[[], httpx.Response], what: str, read: Callable[[httpx.Response], T], patience: float) -> T:
        failing_since: float | None = None
        backoff = self.policy.backoff_seconds
        given_up = f"{self.url}: {what} was abandoned with the run"
        if self._is_abandoned.is_set():
            raise EndpointError(given_up)
        while True:
            try:
                return self._attempt(attempt, read)
            except _Unusable as problem:
                reason, asked, is_busy = str(problem), problem.wait_seconds or 0.0, problem.is_busy
            now = time.monotonic()
            if failing_since is None or is_busy:  # a busy server has not failed
                failing_since = now
            wait = asked + backoff * self._jitter.uniform(0.5, 1.0)  # jitter, so that clients do not return at the same time
            if now + wait - failing_since > patience:
                raise EndpointError(self._timeout_message(what, reason, now - failing_since, asked))
            if self._is_abandoned.wait(wait):
                raise EndpointError(given_up)
            backoff = min(2 * backoff, self.policy.longest_backoff_seconds)

    def _attempt(self, attempt: Callable[[], httpx.Response], read: Callable[[httpx.Response], T]) -> T:
        try:
            reply = attempt()
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol):  # the text may show the headers, and so the token
            raise EndpointError(f"{self.url}: the request is not valid HTTP") from None
        except httpx.RequestError as error:
            raise _Unusable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None
        if reply.is_success:
            try:
                return read(reply)
            except (ValueError, RecursionError) as error:  # a reply may nest its JSON as deep as it likes
                raise _Unusable(f"the reply is {error}") from None
        code, message = _parse_error(reply)
        if reply.status_code in (408, 429) or reply.status_code >= 500:
            raise _Unusable(
                f"{reply.status_code} {message}", retry_after(reply.headers, datetime.now(UTC)), is_busy=reply.status_code == 429
            )
        if reply.status_code in (401, 403) and code != "output_not_offered":
            raise Refused(f"{self.url} refuses this client ({message}); put the token into {TOKEN_VARIABLE}", code)
        raise Refused(f"{self.url}: {message} ({reply.status_code} {code})", code)

    def _timeout_message(self, what: str, reason: str, seconds: float, asked: float) -> str:
        wish = f", and it asks to wait {asked:.0f} s" if asked > self.policy.longest_backoff_seconds else ""
        where = f"{self.url}: no answer to {what} in {seconds:.0f} s{wish} ({reason})"
        if self.etag is None:
            return f"{where}; is a model served there? petlbench serve backbone=NAME port=PORT"
        return f"{where}; when the server is back, the same command runs this again, and bench --retry-failed continues where it stopped"


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that a reply asks to wait, given as a number or as a date; None when it gives neither."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():  # ² is a digit, too
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def _parse_error(reply: httpx.Response) -> tuple[str, str]:
    """Return code and message of an error of any server."""
    try:
        error = reply.json()["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", reply.reason_phrase or "no reason given"


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"url={url} is not an address ({error}); expected one such as http://127.0.0.1:8000") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"url={url} is not the address of a server; expected one such as http://127.0.0.1:8000")
    if parsed.userinfo:
        raise ConfigError(f"url must not hold a password, which would be recorded with the run; put a token into {TOKEN_VARIABLE}")
    return url.rstrip("/")
