"""Answers as HTTP: status, header fields and body. Seconds exist only here, and they round up.

`RateLimit` and `RateLimit-Policy` follow draft-ietf-httpapi-ratelimit-headers-11 (2026-05-23): lists of quoted
names with integer parameters (RFC 9651), one line per field name. `q` is the burst or the quota, `w` the whole
seconds in which it refills or the window lasts, `r` what is left, `t` the seconds until more comes.
"""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

import orjson

from quotas import windows
from quotas.checks import Answer, Reason
from quotas.decisions import Decision, Standing
from quotas.faces import NATIVE, Face
from quotas.limits import Bucket, Limit, Mode, Quota

PROBLEM = b"application/problem+json"
REALM = "quotas"
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

_LARGEST = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651, section 3.3.1); larger numbers are written as this."""

_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")

_STORE_RETRY_S = 1
"""What `Retry-After` says when the store is down: the reconnection pause is shorter."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer; header names are lower case, each stands once, and `content-length` is among them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


_STATUS = {
    Reason.INVALID_REQUEST: 400,
    Reason.MISSING_CREDENTIAL: 401,
    Reason.INVALID_CREDENTIAL: 401,
    Reason.EXPIRED_CREDENTIAL: 401,
    Reason.AMBIGUOUS_CREDENTIALS: 401,
    Reason.SUSPENDED_CLIENT: 403,
    Reason.NO_PLAN: 403,
    Reason.COST_EXCEEDS_LIMIT: 403,
    Reason.RATE_LIMITED: 429,
    Reason.QUOTA_EXCEEDED: 429,
    Reason.STORE_UNAVAILABLE: 503,
}

_TITLES = {
    Reason.INVALID_REQUEST: "The check request cannot be understood",
    Reason.MISSING_CREDENTIAL: "A credential is needed",
    Reason.INVALID_CREDENTIAL: "The credential is not valid",
    Reason.EXPIRED_CREDENTIAL: "The credential has expired",
    Reason.AMBIGUOUS_CREDENTIALS: "More than one credential was presented",
    Reason.SUSPENDED_CLIENT: "The client is suspended",
    Reason.NO_PLAN: "The client has no plan",
    Reason.COST_EXCEEDS_LIMIT: "The request costs more than the plan can ever give",
    Reason.RATE_LIMITED: "Too many requests",
    Reason.QUOTA_EXCEEDED: "The quota is used up",
    Reason.STORE_UNAVAILABLE: "Limits cannot be checked at the moment",
}

_HINTS = {
    Reason.INVALID_REQUEST: "X-Quotas-Cost, or what carries the method or the path, is malformed or sent twice.",
    Reason.MISSING_CREDENTIAL: "Send an API key as `X-API-Key` or as `Authorization: Bearer`.",
    Reason.INVALID_CREDENTIAL: "Check that the whole key was sent and that it has not been revoked.",
    Reason.EXPIRED_CREDENTIAL: "Ask for a new credential.",
    Reason.AMBIGUOUS_CREDENTIALS: "Send exactly one credential, in one header field.",
    Reason.SUSPENDED_CLIENT: "Ask the operator of this API.",
    Reason.NO_PLAN: "The client's plan is not in the configuration; ask the operator of this API.",
    Reason.STORE_UNAVAILABLE: "Try again shortly.",
}


def check_response(answer: Answer, face: Face = NATIVE, *, method: str = "GET") -> Response:
    """The answer as a face writes it; allow is exactly 200 with an empty body.

    `method` is that of the check request itself: what is answered to HEAD has the length of the body and not the body.
    """
    headers = [(b"cache-control", b"no-store"), *_identity(answer)]
    if answer.decision is not None:
        headers += _rate_limit(answer.decision)
    if answer.degraded:
        headers.append((b"x-quotas-degraded", b"1"))
    if answer.reason is None:
        return Response(200, [*headers, (b"content-length", b"0")])
    status = _STATUS[answer.reason]
    headers.append((b"x-quotas-reason", answer.reason.value.encode()))
    if face.tells_status:
        headers.append((b"x-quotas-status", b"%d" % status))
    retry_after = _retry_after(answer)
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    if answer.decision is not None and answer.decision.binding is not None:
        headers.append((b"x-quotas-limit", answer.decision.binding.name.encode()))
    if status == 401:  # noqa: PLR2004 # RFC 9110, section 15.5.2: a 401 carries a challenge.
        headers.append((b"www-authenticate", _challenge(answer.reason)))
    told = face.instead.get(status, status)
    if not face.bodies:
        return Response(told, [*headers, (b"content-length", b"0")])
    body = _problem(answer, answer.reason, status, retry_after)
    headers += [(b"content-type", PROBLEM), (b"content-length", b"%d" % len(body))]
    return Response(told, headers, b"" if method == "HEAD" else body)


def _identity(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Identity for the upstream: always there, empty when unknown, so that a forged copy never gets through."""
    client = answer.identity and answer.identity.client
    return [
        (b"x-quotas-client", _field(client.name) if client else b""),
        (b"x-quotas-plan", client.plan.encode() if client else b""),
        (b"x-quotas-subject", _field(answer.identity.subject) if answer.identity else b""),
    ]


@lru_cache(4096)
def _field(name: str) -> bytes:
    """A client's name as a field value: what is not visible ASCII, and `%`, is percent-encoded as UTF-8."""
    return quote(name, safe=_VISIBLE).encode()


def _rate_limit(decision: Decision) -> list[tuple[bytes, bytes]]:
    """A limit in shadow mode is tried out before anyone feels it, so nobody is told of it."""
    seen = [standing for standing in decision.standings if standing.limit.mode is not Mode.SHADOW]
    if not seen:
        return []
    policies = ", ".join(_policy(standing, decision.at_us) for standing in seen)
    limits = ", ".join(_standing(standing) for standing in seen)
    return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", limits.encode())]


def _policy(standing: Standing, at_us: int) -> str:
    rule = standing.limit.rule
    if isinstance(rule, Bucket):
        most, length_us = rule.burst, rule.refill_time_us
    else:
        assert standing.reset_after_us is not None, "every window ends"
        most, length_us = rule.units, _window_us(rule, at_us + standing.reset_after_us)
    window = "" if length_us is None else f";w={_seconds(length_us, least=1)}"
    return f"{_string(standing.limit.name)};q={min(most, _LARGEST)}{window}"


@lru_cache(4096)
def _window_us(quota: Quota, end_us: int) -> int:
    """How long the window that ends at `end_us` is."""
    begin_us, _ = windows.window_at(quota, end_us - 1)
    return end_us - begin_us


def _standing(standing: Standing) -> str:
    next_us = standing.next_unit_after_us
    more = "" if next_us is None else f";t={_seconds(next_us)}"
    return f"{_string(standing.limit.name)};r={max(0, min(standing.remaining, _LARGEST))}{more}"


@lru_cache(4096)
def _string(name: str) -> str:
    """A structured field string (RFC 9651, section 4.1.6); plans hold printable ASCII names only."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _seconds(microseconds: int, least: int = 0) -> int:
    return min(max(-(-microseconds // 1_000_000), least), _LARGEST)


def _retry_after(answer: Answer) -> int | None:
    """Whole seconds, rounded up and at least 1 (RFC 9110, section 10.2.3); None where retrying cannot help."""
    if answer.reason is Reason.STORE_UNAVAILABLE:
        return _STORE_RETRY_S
    if answer.decision is None or answer.decision.retry_after_us is None:
        return None
    return _seconds(answer.decision.retry_after_us, least=1)


def _challenge(reason: Reason) -> bytes:
    """RFC 6750, section 3: no error code when no credential was sent."""
    if reason is Reason.MISSING_CREDENTIAL:
        return f'Bearer realm="{REALM}"'.encode()
    return f'Bearer realm="{REALM}", error="invalid_token", error_description="{_TITLES[reason]}"'.encode()


def _problem(answer: Answer, reason: Reason, status: int, retry_after: int | None) -> bytes:
    """Problem details (RFC 9457); `reason` is the code of `X-Quotas-Reason`."""
    problem: dict[str, object] = {
        "type": {429: QUOTA_EXCEEDED, 503: REDUCED_CAPACITY}.get(status, "about:blank"),
        "title": _TITLES[reason],
        "status": status,
        "reason": reason.value,
    }
    binding = answer.decision and answer.decision.binding
    if binding:
        problem["detail"] = _detail(binding, retry_after)
        problem["violated-policies"] = [binding.name]
    else:
        problem["detail"] = _HINTS.get(reason, _TITLES[reason])
    return orjson.dumps(problem)


def _detail(binding: Limit, retry_after: int | None) -> str:
    if retry_after is None:
        return f"The limit {binding.name!r} can never give this many units; retrying does not help."
    unit = "second" if retry_after == 1 else "seconds"
    return f"The limit {binding.name!r} has no room for this request; it has in {retry_after} {unit}."
