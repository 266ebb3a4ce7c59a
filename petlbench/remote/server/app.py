"""The routes, with guard, token, limits, idempotency, errors as JSON, a log line per refusal and counters for all of them."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from petlbench.errors import PetlbenchError
from petlbench.remote.server.connections import FIRST_SECONDS, LEAST_RATE
from petlbench.remote.server.guard import Guard
from petlbench.remote.server.memory import Replies
from petlbench.remote.server.service import Service
from petlbench.remote.server.settings import ServeConfig
from petlbench.remote.wire import TOKEN_VARIABLE, Refusal

REPLIES_BYTES = 2**28  # of replies kept for repeated queries
BODIES = 4  # concurrent bodies of the largest size; more of smaller ones
BODY_SECONDS = 120.0  # for a whole body; a slow one has less (``connections.LEAST_RATE``)
LONGEST_LINE = 500  # characters of a log line
_log = logging.getLogger("petlbench.remote.server")
Handle = Callable[[bytes], Coroutine[Any, Any, bytes]]
Refuse = Callable[..., Response]  # request, status, code, message, headers


def create_app(service: Service, config: ServeConfig, token: str | None) -> FastAPI:
    """Create the application of a model. It owns the worker and ends it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.worker.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    metrics, replies, limiter = service.metrics, Replies(REPLIES_BYTES), RequestLimiter(config.max_waiting, BODIES * config.body_bytes)
    guard, refuse = Guard(config), _refuser(token)
    _let_pages_ask(app, config.origins)
    _handle_errors(app, refuse)

    @app.middleware("http")
    async def watch(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        try:
            guard.check(request)
            response = await answer(request)
        except Refusal as refusal:
            response = refuse(request, refusal.status, refusal.code, str(refusal), refusal.headers)
        except asyncio.CancelledError:
            response = refuse(request, 503, "ending", "this server is ending")
        except Exception:
            number = uuid.uuid4().hex[:12]
            _log.exception("request %s, %s %a", number, request.method, request.scope["path"])
            response = _error(500, "internal", f"something went wrong here; the server's log has it under {number}")
        route = getattr(request.scope.get("route"), "path", "other")
        metrics.requests.labels(route, response.status_code).inc()
        metrics.request_seconds.labels(route).inc(time.perf_counter() - started)
        return response

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
            with limiter.room() as room:
                body = await _body(request, config.body_bytes, room)
                with limiter.place():
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


def _refuser(token: str | None) -> Refuse:
    def refuse(request: Request, status: int, code: str, message: str, headers: Any = None) -> Response:
        """Log a refusal in one line, without the token and whatever a terminal would obey, and return it."""
        client = request.client.host if request.client else "?"
        line = f"refused {status} {code}: {request.method} {request.scope['path'][:100]} from {client}: {message}"
        _log.warning("%s", ascii(line.replace(token, "(token)") if token else line)[1:-1][:LONGEST_LINE])
        return _error(status, code, message, headers)

    return refuse


def _let_pages_ask(app: FastAPI, origins: Sequence[str]) -> None:
    """Tell browsers that pages of these origins may read answers. Without any, no answer says so."""
    if origins:
        headers = ["Authorization", "Content-Type", "Idempotency-Key", "If-Match"]
        shown = ["ETag", "Idempotent-Replay"]
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers, expose_headers=shown
        )


def _handle_errors(app: FastAPI, refuse: Refuse) -> None:
    """Answer what the routes raise."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return refuse(request, refusal.status, refusal.code, str(refusal), refusal.headers)

    @app.exception_handler(PetlbenchError)
    async def impossible(request: Request, error: PetlbenchError) -> Response:
        return refuse(request, 400, "refused", str(error))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        code = "not_found" if error.status_code == 404 else "not_allowed"
        return refuse(request, error.status_code, code, str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return refuse(request, 400, "incomplete", "the body did not arrive whole")


class RequestLimiter:
    """Limits the number of requests that wait for the model, and the bytes of bodies, of those that still arrive as well."""

    def __init__(self, places: int, bytes_: int) -> None:
        self._places = places
        self._bytes = bytes_

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place. It is taken when the whole body is here, so that slow clients hold none. Refusal when there is none."""
        if self._places == 0:
            raise self.busy()
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Hold room for a body. Refusal when all places are taken already."""
        if self._places == 0:
            raise self.busy()
        room = Room(self)
        try:
            yield room
        finally:
            self._bytes += room.bytes

    def take(self, count: int) -> None:
        if count > self._bytes:
            raise self.busy()
        self._bytes -= count

    @staticmethod
    def busy() -> Refusal:
        return Refusal(429, "busy", "too many requests at a time; come back later", {"Retry-After": "1"})


class Room:
    """The bytes that one request holds."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self._limiter = limiter
        self.bytes = 0

    def hold(self, count: int) -> None:
        """Reserve ``count`` bytes in all. Refusal when other requests hold too many."""
        if count > self.bytes:
            self._limiter.take(count - self.bytes)
            self.bytes = count


async def _body(request: Request, limit: int, room: Room) -> bytes:
    """Read the body up to the limit. What is announced holds no room before it is here, and a slow body has less time than a fast one."""
    too_large = Refusal(413, "body_too_large", f"at most {limit // 2**20} MiB per request (max_body_mb)", {"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body, started = bytearray(), asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(FIRST_SECONDS, BODY_SECONDS)) as patience:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
                room.hold(len(body))
                patience.reschedule(started + min(FIRST_SECONDS + len(body) / LEAST_RATE, BODY_SECONDS))
    except TimeoutError:
        least = f"{FIRST_SECONDS:.0f} s and one more for every {LEAST_RATE // 1024} KiB, and {BODY_SECONDS:.0f} s at most"
        message = f"the body arrives too slowly ({len(body):,} bytes so far); it has {least}"
        raise Refusal(408, "slow_body", message, {"Connection": "close"}) from None
    return bytes(body)


def _error(status: int, code: str, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
