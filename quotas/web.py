"""The HTTP edge: requests in, answers out. It decides nothing.

The check path is a bare ASGI application: it reads no body, accepts every method, and answers with what
`rendering` made. Everything else is ordinary Starlette.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

from quotas import admin, contract, faces, problems, rendering, self_service
from quotas.admin_operations import Admin
from quotas.bodies import HealthBody, ReadyBody, RefundBody
from quotas.checks import Checks
from quotas.errors import ConflictError, NotFoundError, QuotasError, StoreUnavailableError
from quotas.exposition import Format
from quotas.faces import Face
from quotas.forms import RefundRequest
from quotas.openapi import Endpoint
from quotas.planbook import Planbook
from quotas.refunds import Refunds
from quotas.rendering import check_response
from quotas.scraping import Scraper
from quotas.self_service import SelfService
from quotas.store import Store, deadline
from quotas.witness import Witness

if TYPE_CHECKING:
    from quotas.tracing import Tracer  # An extra.

_ANSWERED = (NotFoundError, ConflictError, StoreUnavailableError)
_READY_TIMEOUT_S = 1.0
_REFUND_TIMEOUT_S = 1.0
_ORPHAN_POLL_S = 1.0
_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """What one worker answers with; made by `app` when the worker starts."""

    store: Store
    checks: Checks
    refunds: Refunds
    planbook: Planbook
    scraper: Scraper
    admin: Admin
    self_service: SelfService
    witness: Witness
    tracer: "Tracer | None"


class State(TypedDict):
    """The lifespan state of Starlette: how a request finds the services."""

    services: Services


Opened = Callable[[], contextlib.AbstractAsyncContextManager[Services]]


async def answer_check(  # noqa: PLR0913 # What a request line, its headers and its connection say.
    services: Services,
    face: Face,
    *,
    method: str,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    peer: str | None,
) -> rendering.Response:
    """The answer to one check, from what was sent to what is sent; nothing in it knows of ASGI.

    `face` and `target` are as `faces.find` has them, `peer` the address that the connection comes from.
    """
    tracer = services.tracer
    begun = 0.0 if tracer is None else tracer.timer()
    answer = await services.checks.check(headers, face, method=method, target=target, peer=peer)
    response = check_response(answer, face, services.planbook.config.headers, method=method)
    if answer.reason is not None:
        services.witness.refused(answer, face, response.status, headers, method)
    if tracer is not None:
        tracer.checked(answer, face, response.status, headers, method, begun)
    return response


class CheckRoute(BaseRoute):
    """`/check`, and any path below it, with any method: never 404 and never 405."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether this is a check; a path below may hold anything, a line end too."""
        found = faces.find(_raw_path(scope), scope["query_string"]) if scope["type"] == "http" else None
        return (Match.NONE, {}) if found is None else (Match.FULL, {"check": found})

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:  # Nothing links to a check.
        """Checks have no name to be found by."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one check (ASGI 3), without waiting for a body that it may promise."""
        face, target = scope["check"]
        method, headers, peer = scope["method"], scope["headers"], scope.get("client")
        response = await answer_check(
            scope["state"]["services"],
            face,
            method=method,
            target=target,
            headers=headers,
            peer=None if peer is None else peer[0],
        )
        fields = response.headers
        unread = _promises_body(headers) and not await _body_has_come(headers, receive)
        if unread or method == "CONNECT":
            fields = [*fields, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": response.status, "headers": fields})
        if unread:
            await send({"type": "http.response.body", "body": response.body, "more_body": True})
            await _linger(receive)
        await send({"type": "http.response.body", "body": b"" if unread else response.body})


def _raw_path(scope: Scope) -> bytes:
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"]).encode() if raw is None else raw


def _promises_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a body follows these headers (RFC 9112, section 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 \t")) for name, value in headers
    )


async def _body_has_come(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bool:
    """Whether the whole body is here by now. What has come of it is dropped; nothing is waited for.

    A connection goes on after a body that has come. After one that has not, what comes next could be taken for it: a
    gateway may have passed on the length of a body that it keeps. Who expects to be told to go on (RFC 9110, section
    10.1.1) has not sent it, and reading would tell it to.
    """
    if any(name == b"expect" for name, _ in headers):
        return False
    try:
        async with asyncio.timeout(0):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


async def _linger(receive: Receive) -> None:
    """Read on for a moment after the answer: closing over unread bytes would reset the connection under the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass


def create(
    open_services: Opened,
    *,
    parent: int | None = None,
    admin_tokens: Mapping[str, str] = MappingProxyType({}),
    admin_port: int | None = None,
) -> Starlette:
    """The application; `open_services` is entered for each worker's life.

    `parent` is the process that this worker must not outlive, None when it has none. Without `admin_tokens` there is
    no admin API; with `admin_port` it is found by what comes in there only.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        watch = None if parent is None else asyncio.create_task(_end_with(parent))
        async with open_services() as services:
            yield {"services": services}
        if watch is not None:
            watch.cancel()

    return Starlette(
        lifespan=lifespan,
        routes=[
            CheckRoute(),
            *(Route(endpoint.path, answer, methods=endpoint.methods) for endpoint, answer in HANDLERS),
            *admin.routes(_admin, admin_tokens, port=admin_port),
        ],
        exception_handlers=dict.fromkeys((HTTPException, ValidationError, *_ANSWERED), _failed),
    )


def _admin(request: Request) -> Admin:
    services: Services = request.state.services
    return services.admin


def _self_service(request: Request) -> SelfService:
    services: Services = request.state.services
    return services.self_service


async def _healthz(_: Request) -> Response:
    """Whether the process answers; it says nothing of the store."""
    return problems.answer(200, HealthBody(status="ok", version=version("quotas")))


async def _readyz(request: Request) -> Response:
    """Whether checks can be decided: the store answers and plans are loaded."""
    services: Services = request.state.services
    plans = len(services.planbook.config.plans)
    try:
        async with deadline(_READY_TIMEOUT_S):
            await services.store.call("PING")
    except StoreUnavailableError as error:
        return problems.answer(503, ReadyBody(status="unavailable", store=error.kind, plans=plans))
    return problems.answer(200, ReadyBody(status="ready", store="ok", plans=plans))


async def _metrics(request: Request) -> Response:
    """What was counted, by all workers, for Prometheus."""
    services: Services = request.state.services
    form = Format.asked_for(request.headers.get("accept", ""))
    text = await services.scraper.scrape(form)
    return Response(text, headers={"content-type": form.value, "vary": "Accept", **problems.NO_STORE})


async def _refund(request: Request) -> Response:
    """Give units back: for services behind the gateway that speak to this one directly, never for its callers."""
    services: Services = request.state.services
    if not _is_trusted(request.client and request.client.host, services) or _came_through_a_proxy(request):
        raise HTTPException(403, "Refunds are for trusted callers: ask directly, from one of `trusted_proxies`.")
    asked = RefundRequest.model_validate_json(await problems.body(request))
    async with deadline(_REFUND_TIMEOUT_S):
        refunded = await services.refunds.give(
            asked.client,
            asked.units,
            idempotency_key=asked.idempotency_key,
            key_id=asked.key_id,
            method=asked.method,
            target=asked.path,
            taken_us=asked.taken_at,
        )
    body = RefundBody(client=asked.client, refunded=dict(refunded.units), repeated=refunded.repeated)
    return problems.answer(200, body)


async def _openapi(_: Request) -> Response:
    """All of this for programs (OpenAPI 3.1)."""
    return JSONResponse(contract.document([endpoint for endpoint, _ in HANDLERS]), headers=problems.NO_STORE)


HANDLERS: tuple[tuple[Endpoint, Callable[[Request], Awaitable[Response]]], ...] = (
    (contract.REFUND, _refund),
    (contract.USAGE, partial(self_service.show_usage, _self_service)),
    (contract.KEYS, partial(self_service.list_keys, _self_service)),
    (contract.ROTATE_KEY, partial(self_service.rotate_key, _self_service)),
    (contract.REVOKE_KEY, partial(self_service.revoke_key, _self_service)),
    (contract.HEALTHZ, _healthz),
    (contract.READYZ, _readyz),
    (contract.METRICS, _metrics),
    (contract.OPENAPI, _openapi),
)
"""What everybody may ask beside the check, and what answers it."""


def _is_trusted(peer: str | None, services: Services) -> bool:
    return services.planbook.config.trusted_proxies.trusts(peer)


def _came_through_a_proxy(request: Request) -> bool:
    """Whether somebody else asks through a trusted address: behind a gateway, or as a page in a browser."""
    marks = ("origin", "forwarded", "x-forwarded-", "x-original-", "x-real-ip", "via")
    return any(name.startswith(marks) for name in request.headers)


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | ValidationError | QuotasError), "the errors that this is registered for"
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND:
        error = HTTPException(404, "There is nothing at this path; /check, /healthz, /readyz and /metrics are.")
    return problems.problem(error)


async def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: a supervisor that was killed cannot say so."""
    while os.getppid() == parent:  # noqa: ASYNC110 # No event tells of another process's end.
        await asyncio.sleep(_ORPHAN_POLL_S)
    signal.raise_signal(signal.SIGTERM)
