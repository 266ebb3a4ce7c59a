"""The routes, with token, limits, idempotency, errors as JSON and counters for all of them."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from petlbench.errors import PetlbenchError
from petlbench.remote.server.memory import Replies
from petlbench.remote.server.service import Service
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import TOKEN_VARIABLE, Refusal

REPLIES_BYTES = 2**28  # of replies kept for repeated queries
BODIES = 4  # concurrent bodies of the largest size; more of smaller ones
BODY_SECONDS = 120.0  # timeout of a body
_log = logging.getLogger("petlbench.remote.server")
Handle = Callable[[bytes], Coroutine[Any, Any, bytes]]


def create_app(service: Service, config: ServeConfig, token: str | None) -> FastAPI:
    """Create the application of a model. It owns the worker and ends it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.worker.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    metrics, replies, limiter = service.metrics, Replies(REPLIES_BYTES), RequestLimiter(config.max_waiting, BODIES * config.body_bytes)

    @app.middleware("http")
    async def watch(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        try:
            response = await answer(request)
        except asyncio.CancelledError:
            response = _error(503, "ending", "this server is ending")
        except Exception:
            number = uuid.uuid4().hex[:12]
            _log.exception("request %s, %s %s", number, request.method, request.url.path)
            response = _error(500, "internal", f"something went wrong here; the server's log has it under {number}")
        route = getattr(request.scope.get("route"), "path", "other")
        metrics.requests.labels(route, response.status_code).inc()
        metrics.request_seconds.labels(route).inc(time.perf_counter() - started)
        return response

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _error(refusal.status, refusal.code, str(refusal), refusal.headers)

    @app.exception_handler(PetlbenchError)
    async def impossible(_: Request, error: PetlbenchError) -> Response:
        return _error(400, "refused", str(error))

    @app.exception_handler(HTTPException)
    async def unrouted(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, "not_found" if error.status_code == 404 else "not_allowed", str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return _error(400, "incomplete", "the body did not arrive whole")

    def allowed(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            message = f"this server asks for a token; set the environment variable {TOKEN_VARIABLE}"
            raise Refusal(401, "unauthorised", message, {"WWW-Authenticate": "Bearer"})

    @app.get("/health")
    async def health() -> Response:
        is_well = service.worker.is_alive
        return JSONResponse({"status": "ok" if is_well else "the model's thread has ended"}, 200 if is_well else 503)

    @app.get("/metrics", dependencies=[Depends(allowed)])
    async def counters() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/v1/model", dependencies=[Depends(allowed)])
    async def model() -> Response:
        return JSONResponse(service.model.model_dump(mode="json"), headers={"ETag": service.model.etag})

    def add_query(path: str, handle: Handle) -> None:
        async def query(request: Request) -> Response:
            if request.headers.get("if-match", service.model.etag) != service.model.etag:
                raise Refusal(412, "other_model", f"this server has another model now, or other settings: {service.model.facts.name}")
            with limiter.slot() as slot:
                body = await _body(request, config.body_bytes, slot)
                reply, is_replay = await replies.once(request.headers.get("idempotency-key"), path, body, lambda: handle(body))
            metrics.replays.inc(int(is_replay))
            return Response(reply, media_type="application/octet-stream", headers={"Idempotent-Replay": str(is_replay).lower()})

        app.add_api_route(path, query, methods=["POST"], dependencies=[Depends(allowed)], response_model=None)

    add_query("/v1/texts", service.describe)
    add_query("/v1/scores", service.scores)
    add_query("/v1/contexts", service.contexts)
    add_query("/v1/features", service.features)
    add_query("/v1/images", service.upload)
    return app


class RequestLimiter:
    """Limits the number of concurrent requests and the bytes of their bodies."""

    def __init__(self, slots: int, bytes_: int) -> None:
        self._slots = slots
        self._bytes = bytes_

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        if self._slots == 0:
            raise self.busy()
        self._slots -= 1
        slot = Slot(self)
        try:
            yield slot
        finally:
            self._slots += 1
            self._bytes += slot.bytes

    def take(self, count: int) -> None:
        if count > self._bytes:
            raise self.busy()
        self._bytes -= count

    @staticmethod
    def busy() -> Refusal:
        return Refusal(429, "busy", "too many requests at a time; come back later", {"Retry-After": "1"})


class Slot:
    """The share of one request in the limits."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self._limiter = limiter
        self.bytes = 0

    def hold(self, count: int) -> None:
        """Reserve ``count`` bytes in all. Refusal when other requests hold too many."""
        if count > self.bytes:
            self._limiter.take(count - self.bytes)
            self.bytes = count


async def _body(request: Request, limit: int, slot: Slot) -> bytes:
    """Read the body up to the limit."""
    too_large = Refusal(413, "body_too_large", f"at most {limit // 2**20} MiB per request (max_body_mb)", {"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    slot.hold(int(declared) if declared.isdigit() else 0)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
                slot.hold(len(body))
    except TimeoutError:
        raise Refusal(408, "slow_body", f"the body did not arrive within {BODY_SECONDS:.0f} s", {"Connection": "close"}) from None
    return bytes(body)


def _error(status: int, code: str, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
