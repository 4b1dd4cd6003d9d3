"""What the holder of a credential asks this service itself, below `/v1`: what is left, and its client's keys.

Each call is a check of its own: its method and path meet the plan's limits and costs, so a plan bounds it like any
other request. What is left takes nothing and is told also to who has nothing left; what was used is charged, because it
asks the store about each day. Keys are for who has the scope
`self:manage`, and a cookie is no credential here: a browser sends it with what any page asks.

A holder can never come by more than it has. A test key sees test keys alone; a key with a scope that the caller lacks
cannot be rotated by it; and a key that is rotated here ends when the old one would have.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from quotas import faces, problems, rendering, scopes
from quotas.answers import Answer, Reason
from quotas.audit import Audit, Change, Told
from quotas.bodies import (
    HistoryBody,
    IssuedKeyBody,
    KeysBody,
    UsageBody,
)
from quotas.checks import Checks
from quotas.clients import Clients
from quotas.errors import ConflictError, NotFoundError, StoreUnavailableError
from quotas.forms import HistoryQuery, OwnRotation
from quotas.holders import Identity, Key
from quotas.keys import Environment
from quotas.planbook import Planbook
from quotas.reports import Reports
from quotas.store import deadline
from quotas.witness import Witness

MANAGE = frozenset({"self:manage"})
"""What a credential needs to see and change its client's keys."""

TIMEOUT_S = 5.0
"""How long the part of a call that comes after its check may take."""


@dataclass(frozen=True, slots=True)
class SelfService:
    """What the calls work with; `clients` is made for each, because plans change while a worker lives."""

    checks: Checks
    clients: Callable[[Told], Clients]
    audit: Audit
    planbook: Planbook
    reports: Reports
    witness: Witness


Find = Callable[[Request], SelfService]


async def show_usage(find: Find, request: Request) -> Response:
    """What is left of the caller's limits, which takes nothing, and what it has used, which is charged."""
    service = find(request)
    answer = await service.checks.look(request.scope["headers"], method=request.method)
    _asked_the_store(answer)
    query = problems.query(request) if answer.decision is not None else {}
    history: dict[str, HistoryBody | None] = {}
    if query and answer.identity is not None:
        asked = HistoryQuery.model_validate(query).to_domain()
        charge = await _charge(service, request)
        if charge.reason is not None:
            return _refused(service, charge, request)
        async with deadline(TIMEOUT_S):
            found = await service.reports.own(answer.identity, asked)
        history["history"] = None if found is None else HistoryBody.of(found)
        answer = await service.checks.look(request.scope["headers"], method=request.method)
        _asked_the_store(answer)
    if answer.decision is None or answer.identity is None:
        return _refused(service, answer, request)
    body = UsageBody.of(answer.identity, answer.decision).model_copy(update=history)
    if not query:
        return _with_limits(service, answer, problems.answer(200, body))
    told = [each for each in history.values() if each is not None]
    return _with_limits(service, answer, problems.histories(request, body, told))


async def list_keys(find: Find, request: Request) -> Response:
    """The keys of the caller's client, without their secrets."""

    async def work(clients: Clients, identity: Identity) -> Response:
        name = identity.client.name
        keys = [key for key in await clients.keys_of(name) if _sees(identity, key)]
        return problems.answer(200, KeysBody.of(keys, name))

    return await _managed(find(request), request, work)


async def rotate_key(find: Find, request: Request) -> Response:
    """A new key in a key's place, shown this once; the old one goes on for the grace time."""

    async def work(clients: Clients, identity: Identity) -> Response:
        asked = OwnRotation.model_validate_json(await problems.body(request) or b"{}")
        key = await _own(clients, identity, request.path_params["id"])
        if not key.scopes <= identity.scopes:
            lacking = Answer(Reason.INSUFFICIENT_SCOPE, identity, required_scopes=key.scopes)
            return _refused(find(request), lacking, request)
        issued, client = await clients.rotate_key(key.id, asked.grace_seconds, keep_expiry=True)
        return problems.answer(201, IssuedKeyBody.issued(issued, client.name))

    return await _managed(find(request), request, work)


async def revoke_key(find: Find, request: Request) -> Response:
    """Revoke a key: no check that starts after the answer passes with it."""

    async def work(clients: Clients, identity: Identity) -> Response:
        key = await _own(clients, identity, request.path_params["id"])
        await clients.revoke_key(key.id)
        return problems.answer(204, None)

    return await _managed(find(request), request, work)


async def _managed(
    service: SelfService, request: Request, work: Callable[[Clients, Identity], Awaitable[Response]]
) -> Response:
    """Check a call that needs `self:manage`, do it, and audit what it changed."""
    answer = await _charge(service, request, MANAGE)
    if answer.reason is not None or answer.identity is None:
        return _refused(service, answer, request)
    changes: list[Change] = []
    try:
        async with deadline(TIMEOUT_S):
            response = await work(service.clients(changes.append), answer.identity)
    except (HTTPException, ValidationError, NotFoundError, ConflictError, StoreUnavailableError) as error:
        response = problems.problem(error)
    finally:
        await service.audit.record_all(f"self:{answer.identity.subject}", changes)
    return _with_limits(service, answer, response)


async def _charge(service: SelfService, request: Request, needed: frozenset[str] = scopes.NONE) -> Answer:
    """The answer to the check that a call is. Raises StoreUnavailableError where it passes without a store."""
    target = request.scope.get("raw_path") or request.scope["path"].encode()
    answer = await service.checks.own(request.scope["headers"], method=request.method, target=target, scopes=needed)
    _asked_the_store(answer)
    return answer


def _asked_the_store(answer: Answer) -> None:
    """Raises StoreUnavailableError for what passes without a store: nothing can be told or changed then."""
    if answer.degraded:
        raise StoreUnavailableError("timeout", "the plan lets checks pass, but there is nothing to tell or to change")


async def _own(clients: Clients, identity: Identity, key_id: str) -> Key:
    """A key that the caller may see. Raises NotFoundError for another client's as for one that does not exist."""
    key, client = await clients.key(key_id)
    if client.id != identity.client.id or not _sees(identity, key):
        raise NotFoundError("there is no such key")
    return key


def _sees(identity: Identity, key: Key) -> bool:
    return identity.environment is Environment.LIVE or key.environment is Environment.TEST


def _refused(service: SelfService, answer: Answer, request: Request) -> Response:
    """A refusal, as `/check` would write it."""
    style = service.planbook.config.headers
    refused = rendering.check_response(answer, faces.NATIVE, style, method=request.method)
    service.witness.refused(answer, faces.NATIVE, refused.status, (), request.method)
    response = Response(refused.body, refused.status)
    response.raw_headers = refused.headers
    return response


def _with_limits(service: SelfService, answer: Answer, response: Response) -> Response:
    if answer.decision is not None:
        response.raw_headers += rendering.limit_fields(answer.decision, service.planbook.config.headers)
    return response
