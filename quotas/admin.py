"""The admin API, `/admin/v1`: clients, keys, limits of a client's own, and the audit log, for operators' programs.

Whoever calls it shows one of the admin tokens as `Authorization: Bearer`; each has a name, which the audit log holds.
Without any token configured there is no such API. Nothing is told, and no body read, before the token is known.

A change is audited after it was made. When that entry cannot be written the change stands, and a log line says what the
audit log lacks: to undo the change could fail as well, and to refuse it beforehand would make revocations depend on
the audit log. When the store does not answer, the answer is 503 and never a success: what was asked may have been
done, and can be asked again.
"""

import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError
from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from quotas import openapi, problems
from quotas.admin_operations import OPERATIONS, Admin, Call
from quotas.bodies import HistoriesBody, ProblemBody
from quotas.errors import QuotasError, StoreUnavailableError
from quotas.openapi import Answer, Operation
from quotas.store import deadline

PREFIX = "/admin/v1"
TIMEOUT_S = 10.0
"""How long one call may take: deleting a client asks the store several times for each key."""

_MAX_IDEMPOTENCY_KEY = 256
_CHALLENGE = 'Bearer realm="quotas admin"'

_log = logging.getLogger(__name__)


class AdminTokens:
    """Admin tokens by name. They are kept as digests, so that nothing that shows this object shows them."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._digests = {name: sha256(token.encode()).digest() for name, token in tokens.items()}

    def name_of(self, presented: bytes) -> str | None:
        """Whose token this is, or None. It takes the same time whichever it is: all are compared, always."""
        digest = sha256(presented).digest()
        found = None
        for name, known in self._digests.items():
            if compare_digest(digest, known):
                found = name
        return found


Find = Callable[[Request], Admin]


class AdminRoute(BaseRoute):
    """Everything at and below `/admin/v1`; on one port only, if one is named."""

    def __init__(self, find: Find, tokens: AdminTokens, port: int | None) -> None:
        self._find = find
        self._tokens = tokens
        self._port = port

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether this is a call of the admin API."""
        path = scope["path"] if scope["type"] == "http" else ""
        ours = path == PREFIX or path.startswith(PREFIX + "/")
        here = self._port is None or (scope.get("server") or ("", None))[1] == self._port
        return (Match.FULL if ours and here else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:  # Nothing links to it.
        """Operations have no name to be found by."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call (ASGI 3)."""
        request = Request(scope, receive)
        try:
            actor = _actor(request, self._tokens)
            if scope["path"] == PREFIX + "/openapi.json":
                response: Response = JSONResponse(document(), headers=problems.NO_STORE)
            else:
                status, body = await _answer(request, self._find(request), actor)
                response = _written(request, status, body)
        except (HTTPException, ValidationError, QuotasError) as error:
            response = problems.problem(error)
        except ClientDisconnect:
            return  # Nobody is there to be answered, and nothing was done: the body had not come.
        await response(scope, receive, send)


def routes(find: Find, tokens: Mapping[str, str], *, port: int | None = None) -> list[BaseRoute]:
    """The routes for an application: none without a token. `tokens` are by the names that the audit log shows.

    `find` is how a request finds what to work with. With a port, only what comes in there finds the routes.
    """
    return [AdminRoute(find, AdminTokens(tokens), port)] if tokens else []


def document() -> dict[str, Any]:
    """The OpenAPI document of the admin API, `/admin/v1/openapi.json`."""
    return {"openapi": "3.1.0", "info": {"title": "quotas admin API", "version": version("quotas")}, **description()}


def description() -> dict[str, Any]:
    """The `paths` and `components` of the admin API for an OpenAPI document."""
    return openapi.describe(OPERATIONS, PREFIX, ProblemBody)


async def _answer(request: Request, admin: Admin, actor: str) -> Answer:
    operation, names = _operation(request)
    asked = await _asked(request, operation)
    call = Call(admin, actor, names, _idempotency_key(request, operation))
    try:
        async with deadline(TIMEOUT_S):
            return await operation.run(call, asked)
    except StoreUnavailableError as error:
        if operation.method != "GET":
            unknown = "%s %s by %s may or may not have been done: %s"
            _log.warning(unknown, operation.method, operation.path, actor, error.kind)
        raise
    finally:
        await call.admin.audit.record_all(call.actor, call.changes)


def _written(request: Request, status: int, body: BaseModel | None) -> Response:
    if not isinstance(body, HistoriesBody):
        return problems.answer(status, body)
    query = None if body.next is None else urlencode(problems.query(request) | {"cursor": body.next})
    return problems.histories(request, body, body.usage, None if query is None else f"?{query}")


def _actor(request: Request, tokens: AdminTokens) -> str:
    """The name of the caller's token. RFC 6750, section 3: no error code when no credential was sent."""
    sent = request.headers.getlist("authorization")
    if not sent:
        raise HTTPException(401, "An admin token is needed.", {"www-authenticate": _CHALLENGE})
    scheme, _, token = sent[0].strip(" \t").partition(" ")
    actor = tokens.name_of(token.strip(" \t").encode("latin-1"))
    if len(sent) > 1 or scheme.lower() != "bearer" or actor is None:
        invalid = f'{_CHALLENGE}, error="invalid_token", error_description="This is no admin token"'
        raise HTTPException(401, "This is no admin token.", {"www-authenticate": invalid})
    return actor


def _operation(request: Request) -> tuple[Operation, Mapping[str, str]]:
    raw = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    path = raw.removeprefix(PREFIX.encode()).split(b"/")
    try:
        found = [(each, names) for each in OPERATIONS if (names := each.names(path)) is not None]
    except ValueError:
        raise HTTPException(400, "The path is not UTF-8, percent-encoded.") from None
    method = "GET" if request.method == "HEAD" else request.method
    for operation, names in found:
        if operation.method == method:
            return operation, names
    if not found:
        raise HTTPException(404, "There is nothing here.")
    allowed = sorted({each.method for each, _ in found})
    raise HTTPException(405, f"This can be asked with {', '.join(allowed)}.", {"allow": ", ".join(allowed)})


async def _asked(request: Request, operation: Operation) -> BaseModel | None:
    """The query of a GET, the body of all others, as the operation's model. Raises ValidationError."""
    if operation.asked is None:
        return None
    if operation.method == "GET":
        return operation.asked.model_validate(problems.query(request))
    return operation.asked.model_validate_json(await problems.body(request))


def _idempotency_key(request: Request, operation: Operation) -> str | None:
    sent = request.headers.getlist("idempotency-key") if "Idempotency-Key" in operation.headers else []
    if len(sent) > 1 or not all(1 <= len(key) <= _MAX_IDEMPOTENCY_KEY for key in sent):
        raise HTTPException(400, f"Idempotency-Key is sent once and has 1 to {_MAX_IDEMPOTENCY_KEY} characters.")
    return sent[0] if sent else None
