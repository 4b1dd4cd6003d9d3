"""The HTTP edge: requests in, answers out. It decides nothing.

The check path is a bare ASGI application: it reads no body, accepts every method, and answers with what
`rendering` made. Everything else is ordinary Starlette.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypedDict

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quotas import metrics
from quotas.checks import Checks
from quotas.errors import StoreUnavailableError
from quotas.metrics import Metrics
from quotas.plans import Config
from quotas.rendering import PROBLEM, check_response
from quotas.store import Store, deadline

_READY_TIMEOUT_S = 1.0
_ORPHAN_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """What one worker answers with; made by `app` when the worker starts."""

    store: Store
    checks: Checks
    metrics: Metrics
    config: Config


class State(TypedDict):
    """The lifespan state of Starlette: how a request finds the services."""

    services: Services


Opened = Callable[[], contextlib.AbstractAsyncContextManager[Services]]


class CheckEndpoint:
    """`/check`, and any path below it, with any method: never 404 and never 405."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 # No body is read.
        """Answer one check (ASGI 3)."""
        services: Services = scope["state"]["services"]
        answer = await services.checks.check(scope["headers"])
        response = check_response(answer)
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        await send({"type": "http.response.body", "body": response.body})


def create(open_services: Opened, *, parent: int | None = None) -> Starlette:
    """The application; `open_services` is entered for each worker's life.

    `parent` is the process that this worker must not outlive, None when it has none.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        watch = None if parent is None else asyncio.create_task(_end_with(parent))
        async with open_services() as services:
            yield {"services": services}
        if watch is not None:
            watch.cancel()

    check = CheckEndpoint()
    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/check", check),
            Route("/check/{path:path}", check),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz),
            Route("/metrics", _metrics),
        ],
        exception_handlers={404: _not_found, 405: _wrong_method},
    )


async def _healthz(_: Request) -> Response:
    """Whether the process answers; it says nothing of the store."""
    return _json({"status": "ok", "version": version("quotas")})


async def _readyz(request: Request) -> Response:
    """Whether checks can be decided: the store answers and plans are loaded."""
    services: Services = request.state.services
    plans = len(services.config.plans)
    try:
        async with deadline(_READY_TIMEOUT_S):
            await services.store.call("PING")
    except StoreUnavailableError as error:
        return _json({"status": "unavailable", "store": error.kind, "plans": plans}, 503)
    return _json({"status": "ready", "store": "ok", "plans": plans})


async def _metrics(request: Request) -> Response:
    services: Services = request.state.services
    exposition = await asyncio.to_thread(services.metrics.exposition)
    return Response(exposition, media_type=metrics.CONTENT_TYPE)


async def _not_found(_: Request, __: Exception) -> Response:
    detail = "The paths are /check, /healthz, /readyz and /metrics."
    return _problem(404, "There is nothing at this path", detail)


async def _wrong_method(request: Request, _: Exception) -> Response:
    return _problem(405, "This path has no such method", f"Ask for {request.url.path} with GET.")


def _problem(status: int, title: str, detail: str) -> Response:
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(orjson.dumps(problem), status, {"cache-control": "no-store"}, PROBLEM.decode())


def _json(content: Mapping[str, object], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, {"cache-control": "no-store"}, "application/json")


async def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: a supervisor that was killed cannot say so."""
    while os.getppid() == parent:  # noqa: ASYNC110 # No event tells of another process's end.
        await asyncio.sleep(_ORPHAN_POLL_S)
    signal.raise_signal(signal.SIGTERM)
