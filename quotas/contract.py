"""What everybody may ask, as programs read of it in `/openapi.json`; the admin API has a document of its own.

Each endpoint here has its handler in `web`, which makes the routes from the same values.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from quotas import faces, openapi
from quotas.bodies import (
    HealthBody,
    IssuedKeyBody,
    KeysBody,
    ProblemBody,
    ReadyBody,
    RefundBody,
    RefusalBody,
    UsageBody,
)
from quotas.faces import Face
from quotas.forms import (
    METHOD,
    HistoryQuery,
    OwnRotation,
    RefundRequest,
)
from quotas.openapi import Endpoint, Told
from quotas.rendering import PROBLEM, STATUSES

SCHEMES: Mapping[str, Any] = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT of a configured issuer."},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")

_PATHS = {faces.NATIVE: "/check", faces.NGINX: "/check/nginx", faces.ENVOY: "/check/envoy/{path}"}
_ALWAYS = {
    "X-Quotas-Client": "The client, empty when it is not known.",
    "X-Quotas-Plan": "Its plan, empty when the client is not known.",
    "X-Quotas-Subject": "Whom the credential speaks for, empty when that is not known.",
    "Cache-Control": "no-store",
}
_LIMITS = {
    "RateLimit-Policy": "The limits that this request met (draft-ietf-httpapi-ratelimit-headers-11).",
    "RateLimit": "What is left of them.",
    "X-RateLimit-Limit": "Units of the limit that is nearest to refusing.",
    "X-RateLimit-Remaining": "What is left of it.",
    "X-RateLimit-Reset": "When all of it is back: seconds since the epoch.",
}
_REFUSED = {"X-Quotas-Reason": "The machine code of the refusal."}
_BINDING = {"X-Quotas-Limit": "The limit that refused."}
_CHALLENGE = {"WWW-Authenticate": "The challenge (RFC 6750, section 3); when scopes are missing, with them."}
_RETRY = {"Retry-After": "Seconds until this request could pass."}
_WHAT = {
    200: "Allowed, and charged.",
    400: "What the gateway carries cannot be read. Nothing is charged.",
    401: "No credential, or none that is valid.",
    403: "The client or its credential may not, or this cost can never pass.",
    429: "A limit has no room.",
    503: "Limits cannot be checked at the moment.",
}
_COST = {"type": "string", "pattern": "^[0-9]{1,15}$", "description": "Units it costs; believed from trusted proxies."}
_METHOD = {
    "type": "string",
    "pattern": METHOD,
    "description": "The method that the gateway was asked with; without it the check's own.",
}
_TARGET = {"type": "string", "description": "The target that the gateway was asked for, as it was sent; without it /."}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of these endpoints and the check's faces."""
    described = openapi.publish([*(_check(face) for face in faces.FACES), *endpoints], SCHEMES)
    return {"openapi": "3.1.0", "info": {"title": "quotas", "version": version("quotas")}, **described}


def _check(face: Face) -> Endpoint:
    return Endpoint(
        path=_PATHS[face],
        methods=METHODS,
        name=f"check_{face.name}" if face is not faces.NATIVE else "check",
        summary="Whether the carried request may pass, and what is left.",
        answers=_answers(face),
        headers=_headers(face),
        schemes=tuple(SCHEMES),
    )


def _headers(face: Face) -> dict[str, Mapping[str, Any]]:
    headers: dict[str, Mapping[str, Any]] = {"X-Quotas-Cost": _COST}
    if face.method is not None:
        headers[face.method.decode().title()] = _METHOD
    if face.target is not None:
        headers[face.target.decode().title()] = _TARGET
    return headers


def _answers(face: Face) -> dict[int, Told]:
    """What each status of this face means; a status that stands in for others means all of them."""
    degraded = {"X-Quotas-Degraded": "1 when the store was not asked and the plan lets such checks pass."}
    answers = {200: Told(what=_WHAT[200], headers=_ALWAYS, may=_LIMITS | degraded)}
    for status in STATUSES:
        told = face.instead.get(status, status)
        meant = [each for each in STATUSES if face.instead.get(each, each) == told]
        headers = _ALWAYS | _REFUSED
        if face.tells_status:
            headers |= {"X-Quotas-Status": "The status that /check would have answered."}
        may = _LIMITS | _BINDING if {403, 429} & set(meant) else {}
        if {429, 503} >= set(meant):
            headers |= _RETRY
        elif {429, 503} & set(meant):
            may |= _RETRY
        if told == 401:  # noqa: PLR2004 # RFC 9110, section 15.5.2.
            headers |= _CHALLENGE
        elif 403 in meant:  # noqa: PLR2004 # RFC 6750, section 3.1.
            may |= _CHALLENGE
        what = " ".join(_WHAT[each] for each in meant)
        body = RefusalBody if face.bodies else None
        answers[told] = Told(what=what, body=body, media_type=PROBLEM.decode(), headers=headers, may=may)
    return answers


def _problem(what: str) -> Told:
    return Told(what=what, body=ProblemBody, media_type=PROBLEM.decode())


REFUND = Endpoint(
    path="/v1/refund",
    methods=("POST",),
    name="refund",
    summary="Give units back, once per idempotency key; for trusted callers that ask directly.",
    asked=RefundRequest,
    answers={
        200: Told(what="Given back, now or by an earlier call.", body=RefundBody),
        400: _problem("The body is not as described."),
        403: _problem("The caller is not trusted, or asks through a proxy."),
        404: _problem("There is no such client, or it has no such key."),
        413: _problem("The body is too long."),
        415: _problem("The body is not JSON."),
        503: _problem("The store did not answer; ask again."),
    },
)


def _refusals(*statuses: int) -> dict[int, Told]:
    """What the check of a call may be answered, as `/check` answers it."""
    answers = _answers(faces.NATIVE)
    return {status: answers[status] for status in statuses}


USAGE = Endpoint(
    path="/v1/usage",
    methods=("GET", "HEAD"),
    name="own_usage",
    summary="What is left of the caller's limits, for nothing; with a query also what was used, which is charged.",
    query=HistoryQuery,
    answers={
        200: Told(
            what="All limits of the plan, and the history if that was asked for; as CSV the history alone.",
            body=UsageBody,
            may=_LIMITS,
            sheet=True,
        ),
        400: _problem("The query is not as described. Nothing is charged."),
        **_refusals(401, 403, 429, 503),
    },
    schemes=tuple(SCHEMES),
)
KEYS = Endpoint(
    path="/v1/keys",
    methods=("GET", "HEAD"),
    name="own_keys",
    summary="The keys of the caller's client, without their secrets. Needs the scope self:manage.",
    answers={200: Told(what="Oldest first.", body=KeysBody, may=_LIMITS), **_refusals(401, 403, 429, 503)},
    schemes=tuple(SCHEMES),
)
ROTATE_KEY = Endpoint(
    path="/v1/keys/{id}/rotate",
    methods=("POST",),
    name="rotate_own_key",
    summary="A new key in a key's place, shown this once; the old one ends after the grace. Needs self:manage.",
    asked=OwnRotation,
    answers={
        201: Told(what="The new key.", body=IssuedKeyBody, may=_LIMITS),
        400: _problem("The body is not as described."),
        404: _problem("The caller's client has no such key."),
        409: _problem("The key was revoked meanwhile."),
        413: _problem("The body is too long."),
        415: _problem("The body is not JSON."),
        **_refusals(401, 403, 429, 503),
    },
    schemes=tuple(SCHEMES),
)
REVOKE_KEY = Endpoint(
    path="/v1/keys/{id}",
    methods=("DELETE",),
    name="revoke_own_key",
    summary="Revoke a key: no check that starts after the answer passes with it. Needs self:manage.",
    answers={
        204: Told(what="Revoked.", may=_LIMITS),
        404: _problem("The caller's client has no such key."),
        **_refusals(401, 403, 429, 503),
    },
    schemes=tuple(SCHEMES),
)
HEALTHZ = Endpoint(
    path="/healthz",
    methods=("GET", "HEAD"),
    name="healthz",
    summary="Whether the process answers; it says nothing of the store.",
    answers={200: Told(what="It does.", body=HealthBody)},
)
READYZ = Endpoint(
    path="/readyz",
    methods=("GET", "HEAD"),
    name="readyz",
    summary="Whether checks can be decided: the store answers and plans are loaded.",
    answers={
        200: Told(what="They can.", body=ReadyBody),
        503: Told(what="The store does not answer.", body=ReadyBody),
    },
)
METRICS = Endpoint(
    path="/metrics",
    methods=("GET", "HEAD"),
    name="metrics",
    summary="What was counted, by all workers, for Prometheus.",
    answers={200: Told(what="Metrics, as OpenMetrics where that is preferred.", body=str, media_type="text/plain")},
)
OPENAPI = Endpoint(
    path="/openapi.json",
    methods=("GET", "HEAD"),
    name="openapi",
    summary="This document.",
    answers={200: Told(what="It.", body=dict)},
)
