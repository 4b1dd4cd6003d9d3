"""Answers as HTTP: status, header fields and body. Seconds exist only here, and they round up.

`RateLimit` and `RateLimit-Policy` follow draft-ietf-httpapi-ratelimit-headers-11 (2026-05-23): lists of quoted
names with integer parameters (RFC 9651), one line per field name. `q` is the burst or the quota, `w` the whole
seconds in which it refills or the window lasts, `r` what is left, `t` the seconds until more comes.

`X-RateLimit-*` have room for one limit: the one nearest to refusing, as `_nearest` has it. `X-RateLimit-Reset` is an
instant, in seconds since the epoch, at which that limit has everything again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from quotas import scopes, windows
from quotas.answers import Answer, Reason
from quotas.decisions import Decision, Standing
from quotas.derived import Derived
from quotas.faces import NATIVE, Face
from quotas.fields import encoded
from quotas.holders import Identity
from quotas.limits import Bucket, Limit, Mode, Quota
from quotas.plans import HeaderStyle

PROBLEM = b"application/problem+json"
REALM = "quotas"
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

LARGEST = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651, section 3.3.1); larger numbers are written as this."""

MAX_FIELDS = 1280
"""Bytes that the values of `RateLimit-Policy` and `RateLimit` take together; limits that are left out are the farthest
from refusing. A whole header block stays below 2 kB with them: nginx reads at most 4 kB of one (`proxy_buffer_size`).
"""

_MAX_KNOWN = 4096
"""Limits whose texts a worker keeps."""

_MAX_IDENTITIES = 10_000
"""Identities whose lines a worker keeps."""

_MAX_SAID = 1000
"""Responses that a worker keeps to give them again: some 2 MB."""

_NO_BODY = b"content-length: 0\r\n"

_STORE_RETRY_S = 1
"""What `Retry-After` says when the store is down: the reconnection pause is shorter."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer. `head` are its header lines as they stand on the wire (RFC 9112, section 5), each with its end.

    Names are lower case, each stands once, and `content-length` is among them.
    """

    status: int
    head: bytes
    body: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The lines as names and values."""
        return fields_of(self.head)


def fields_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Header lines as names and values; no name has a colon."""
    pairs = (line.partition(b": ") for line in head.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]


_STATUS = {
    Reason.INVALID_REQUEST: 400,
    Reason.MISSING_CREDENTIAL: 401,
    Reason.INVALID_CREDENTIAL: 401,
    Reason.EXPIRED_CREDENTIAL: 401,
    Reason.AMBIGUOUS_CREDENTIALS: 401,
    Reason.SUSPENDED_CLIENT: 403,
    Reason.NO_PLAN: 403,
    Reason.INSUFFICIENT_SCOPE: 403,
    Reason.COST_EXCEEDS_LIMIT: 403,
    Reason.RATE_LIMITED: 429,
    Reason.QUOTA_EXCEEDED: 429,
    Reason.STORE_UNAVAILABLE: 503,
}

STATUSES = tuple(sorted(set(_STATUS.values())))
"""The statuses of refusals, before a face puts others in their place."""

_TYPES = {
    429: (QUOTA_EXCEEDED, "The assigned quota is exceeded"),
    503: (REDUCED_CAPACITY, "The service has less capacity than usual"),
}
"""Type and title of the statuses that have a registered problem type (section 4 of the draft named above).

A type has one title (RFC 9457, section 3.1.3). All other refusals are `about:blank`, whose title is the status phrase
(section 4.2.1); what exactly was refused is `reason`, and in plain words `detail`.
"""

_WHAT = {
    Reason.INVALID_REQUEST: "The check request cannot be understood",
    Reason.MISSING_CREDENTIAL: "A credential is needed",
    Reason.INVALID_CREDENTIAL: "The credential is not valid",
    Reason.EXPIRED_CREDENTIAL: "The credential has expired",
    Reason.AMBIGUOUS_CREDENTIALS: "More than one credential was presented",
    Reason.SUSPENDED_CLIENT: "The client is suspended",
    Reason.NO_PLAN: "The client has no plan",
    Reason.INSUFFICIENT_SCOPE: "The credential may not do this",
    Reason.COST_EXCEEDS_LIMIT: "The request costs more than the plan can ever give",
    Reason.RATE_LIMITED: "Too many requests in a short time",
    Reason.QUOTA_EXCEEDED: "The quota is used up",
    Reason.STORE_UNAVAILABLE: "Limits cannot be checked at the moment",
}

_HINTS = {
    Reason.INVALID_REQUEST: "X-Quotas-Cost, or what carries the method or the path, is malformed or sent twice.",
    Reason.MISSING_CREDENTIAL: "Send an API key as X-API-Key, or a key or a token as Authorization: Bearer.",
    Reason.INVALID_CREDENTIAL: "Check that all of it was sent and that it has not been revoked.",
    Reason.EXPIRED_CREDENTIAL: "Ask for a new one.",
    Reason.AMBIGUOUS_CREDENTIALS: "Send exactly one, in one place.",
    Reason.SUSPENDED_CLIENT: "Ask the operator of this API.",
    Reason.NO_PLAN: "Ask the operator of this API for a plan.",
    Reason.STORE_UNAVAILABLE: "Try again shortly.",
}


def check_response(
    answer: Answer, face: Face = NATIVE, style: HeaderStyle = HeaderStyle.DRAFT, *, method: str = "GET"
) -> Response:
    """The answer as a face writes it; allow is exactly 200 with an empty body.

    `method` is that of the check request itself: what is answered to HEAD has the length of the body and not the body.
    """
    identity = answer.identity
    if answer.decision is None or answer.asked_s is not None or identity is None or not identity.stays:
        return _written(answer, face, style, method)
    # Nobody was asked: a worker says this very decision to whoever goes on asking.
    said = (id(answer.decision), id(identity), face, style, method == "HEAD")
    kept = _said.get(said)
    if kept is not None:
        return kept[1]
    response = _written(answer, face, style, method)
    if len(_said) >= _MAX_SAID:
        _said.clear()
    _said[said] = (answer, response)
    return response


_said: dict[tuple[int, int, Face, HeaderStyle, bool], tuple[Answer, Response]] = {}
"""Responses by the ids of a decision and an identity, which are held with them, so that no others have these ids."""


def _written(answer: Answer, face: Face, style: HeaderStyle, method: str) -> Response:
    lines = [head_of(answer.identity)]
    if answer.decision is not None:
        lines.append(limit_lines(answer.decision, style))
    if answer.degraded:
        lines.append(b"x-quotas-degraded: 1\r\n")
    if answer.reason is None:
        lines.append(_NO_BODY)
        return Response(200, b"".join(lines))
    status = _STATUS[answer.reason]
    lines.append(b"x-quotas-reason: %b\r\n" % answer.reason.value.encode())
    if face.tells_status:
        lines.append(b"x-quotas-status: %d\r\n" % status)
    retry_after = _retry_after(answer)
    if retry_after is not None:
        lines.append(b"retry-after: %d\r\n" % retry_after)
    if answer.decision is not None and answer.decision.binding is not None:
        lines.append(b"x-quotas-limit: %b\r\n" % answer.decision.binding.name.encode())
    challenge = _challenge(answer.reason, status, answer.required_scopes)
    if challenge is not None:
        lines.append(b"www-authenticate: %b\r\n" % challenge)
    told = face.instead.get(status, status)
    if not face.bodies:
        lines.append(_NO_BODY)
        return Response(told, b"".join(lines))
    body = _problem(answer, answer.reason, status, retry_after)
    lines.append(b"content-type: %b\r\ncontent-length: %d\r\n" % (PROBLEM, len(body)))
    return Response(told, b"".join(lines), b"" if method == "HEAD" else body)


def head_of(identity: Identity | None) -> bytes:
    """The lines that every answer begins with: whose check it was, for the upstream, and that no cache keeps it.

    Identity is always there, empty when unknown, so that a forged copy never gets through.
    """
    if identity is None:
        return b"cache-control: no-store\r\nx-quotas-client: \r\nx-quotas-plan: \r\nx-quotas-subject: \r\n"
    return _heads.of(identity) if identity.stays else _head_of(identity)


def _head_of(identity: Identity) -> bytes:
    client = identity.client
    return head_on(client.plan) % (encoded(client.name).encode(), encoded(identity.subject).encode())


def head_on(plan: str) -> bytes:
    """The same lines of whoever is on a plan: a format for a client's name and its subject, each as a field value."""
    named = b"cache-control: no-store\r\nx-quotas-client: %%b\r\nx-quotas-plan: %b\r\nx-quotas-subject: %%b\r\n"
    return named % plan.encode().replace(b"%", b"%%")


_heads: Derived[Identity, bytes] = Derived(_head_of, _MAX_IDENTITIES)


def limit_fields(decision: Decision, style: HeaderStyle) -> list[tuple[bytes, bytes]]:
    """The header fields of `limit_lines`."""
    return fields_of(limit_lines(decision, style))


def limit_lines(decision: Decision, style: HeaderStyle) -> bytes:
    """The header lines that say what is left.

    A limit in shadow mode is tried out before anyone feels it, so nobody is told of it.
    """
    policies, limits = [], []
    at_us = decision.at_us
    for standing in decision.standings:
        limit, left, _, _ = standing
        text = told.of(limit)
        if text.is_shadow:
            continue
        policies.append(text.policy or text.policy_until(at_us + (standing.reset_after_us or 0)))
        if not 0 <= left <= LARGEST:
            left = max(0, min(left, LARGEST))
        next_us = standing.next_unit_after_us
        limits.append(f"{text.name};r={left}" if next_us is None else f"{text.name};r={left};t={_seconds(next_us)}")
    if not limits:
        return b""
    lines = b""
    if style is not HeaderStyle.LEGACY:
        asked, now = ", ".join(policies), ", ".join(limits)
        if len(asked) + len(now) > MAX_FIELDS:
            kept = _kept(policies, limits, _nearest(decision, _seen(decision)))
            asked, now = ", ".join([policies[at] for at in kept]), ", ".join([limits[at] for at in kept])
        lines = f"ratelimit-policy: {asked}\r\nratelimit: {now}\r\n".encode()
    if style is not HeaderStyle.DRAFT:
        seen = _seen(decision)
        lines += _legacy(seen[_nearest(decision, seen)[0]], decision.at_us)
    return lines


def _seen(decision: Decision) -> list[Standing]:
    return [standing for standing in decision.standings if standing.limit.mode is not Mode.SHADOW]


def _nearest(decision: Decision, seen: Sequence[Standing]) -> list[int]:
    """Places of the limits, the nearest to refusing first.

    The binding limit of a refusal comes first, then who has the least left of its burst or its units; the plan's order
    decides between equals.
    """

    def distance(at: int) -> tuple[bool, float]:
        standing = seen[at]
        return standing.limit is not decision.binding, max(0, standing.remaining) / max(1, _most(standing.limit))

    return sorted(range(len(seen)), key=distance)


def _kept(policies: Sequence[str], limits: Sequence[str], nearest: Iterable[int]) -> list[int]:
    """Places of the limits that there is room for, in the plan's order; one is always told."""
    kept: list[int] = []
    length = -2 * len(", ")
    for at in nearest:
        length += len(policies[at]) + len(limits[at]) + 2 * len(", ")
        if kept and length > MAX_FIELDS:
            break
        kept.append(at)
    return sorted(kept)


def _most(limit: Limit) -> int:
    return limit.rule.burst if isinstance(limit.rule, Bucket) else limit.rule.units


def _legacy(standing: Standing, at_us: int) -> bytes:
    """`X-RateLimit-*`; a bucket that never refills has no reset."""
    numbers = [(b"limit", _most(standing.limit)), (b"remaining", max(0, standing.remaining))]
    if standing.reset_after_us is not None:
        numbers.append((b"reset", _seconds(at_us + standing.reset_after_us)))
    return b"".join([b"x-ratelimit-%b: %d\r\n" % (name, min(number, LARGEST)) for name, number in numbers])


class Told:
    """What is told of one limit in every answer: its name, and its policy as long as that stays.

    `policy` is None for a quota, whose window differs in length from month to month.
    """

    __slots__ = ("_window_end_us", "_window_policy", "is_shadow", "limit", "most", "name", "policy", "rule")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.rule = limit.rule
        self.is_shadow = limit.mode is Mode.SHADOW
        self.most = _most(limit)
        # A structured field string (RFC 9651, section 4.1.6); plans hold printable ASCII names only.
        self.name = '"' + limit.name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        self.policy = self._policy(limit.rule.refill_time_us) if isinstance(limit.rule, Bucket) else None
        self._window_end_us = 0
        self._window_policy = ""

    def policy_until(self, end_us: int) -> str:
        """The policy of a quota, with the length of its window that ends at this instant."""
        assert isinstance(self.rule, Quota), "a bucket has one policy"
        if end_us != self._window_end_us:
            begin_us, _ = windows.window_at(self.rule, end_us - 1)
            self._window_end_us, self._window_policy = end_us, self._policy(end_us - begin_us)
        return self._window_policy

    def _policy(self, length_us: int | None) -> str:
        window = "" if length_us is None else f";w={_seconds(length_us, least=1)}"
        return f"{self.name};q={min(self.most, LARGEST)}{window}"


told: Derived[Limit, Told] = Derived(Told, _MAX_KNOWN)
"""What is told of each limit."""


def _seconds(microseconds: int, least: int = 0) -> int:
    seconds = -(-microseconds // 1_000_000)
    return seconds if least <= seconds <= LARGEST else min(max(seconds, least), LARGEST)


def _retry_after(answer: Answer) -> int | None:
    """Whole seconds, rounded up and at least 1 (RFC 9110, section 10.2.3); None where retrying cannot help."""
    if answer.reason is Reason.STORE_UNAVAILABLE:
        return _STORE_RETRY_S
    if answer.decision is None or answer.decision.retry_after_us is None:
        return None
    return _seconds(answer.decision.retry_after_us, least=1)


def _challenge(reason: Reason, status: int, required_scopes: frozenset[str]) -> bytes | None:
    """RFC 6750, section 3: no error code when no credential was sent, and another one for two than for a bad one.

    The scopes are those that the request needs. None where no other credential is asked for.
    """
    asked = f'Bearer realm="{REALM}"'
    scope = f', scope="{scopes.joined(required_scopes)}"' if required_scopes else ""
    if reason is Reason.INSUFFICIENT_SCOPE:
        return f'{asked}, error="{reason.value}"{scope}'.encode()
    if status != 401:  # noqa: PLR2004 # RFC 9110, section 15.5.2: a 401 carries a challenge.
        return None
    if reason is Reason.MISSING_CREDENTIAL:
        return f"{asked}{scope}".encode()
    code = "invalid_request" if reason is Reason.AMBIGUOUS_CREDENTIALS else "invalid_token"
    return f'{asked}, error="{code}", error_description="{_WHAT[reason]}"'.encode()


def _problem(answer: Answer, reason: Reason, status: int, retry_after: int | None) -> bytes:
    """Problem details (RFC 9457); `reason` is the code of `X-Quotas-Reason`."""
    kind, title = _TYPES.get(status) or ("about:blank", HTTPStatus(status).phrase)
    problem: dict[str, object] = {"type": kind, "title": title, "status": status, "reason": reason.value}
    decision = answer.decision
    if decision is not None and decision.binding is not None:
        problem["detail"] = f"{_WHAT[reason]}. {_hint(decision.binding, retry_after)}"
        problem["violated-policies"] = _violated(decision)
    elif reason is Reason.INSUFFICIENT_SCOPE:
        needed = scopes.joined(answer.required_scopes)
        problem["detail"] = f"{_WHAT[reason]}. This request needs the scopes: {needed}."
        problem["required-scopes"] = sorted(answer.required_scopes)
    else:
        problem["detail"] = f"{_WHAT[reason]}. {_HINTS.get(reason, '')}".rstrip()
    return orjson.dumps(problem)


def _hint(binding: Limit, retry_after: int | None) -> str:
    if retry_after is None:
        return f'The limit "{binding.name}" can never give this many units; retrying does not help.'
    unit = "second" if retry_after == 1 else "seconds"
    return f'The limit "{binding.name}" has no room for this request; try again in {retry_after} {unit}.'


def _violated(decision: Decision) -> list[str]:
    """Names of all limits that refuse, in the plan's order; the binding one is among them."""
    return [
        standing.limit.name
        for standing in decision.standings
        if standing.retry_after_us != 0 and standing.limit.mode is Mode.ENFORCE
    ]
