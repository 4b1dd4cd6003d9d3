"""One request of a log, why a line is none, and what the formats of `logs` and `access_logs` read in the same way.

All instants become microseconds since 1970, truncated towards the past where a log says more digits. A line may hold
credentials, in a query string for one: no message quotes it, and the query is cut off every path.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, TypeGuard

import orjson

from quotas.errors import ConfigError, Fault, QuotasError
from quotas.limits import EXACT
from quotas.plans import is_client_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_SECOND = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})")
_REST = re.compile(r"(?:[.,]([0-9]+))?(?:[Zz]|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))")
METHOD = re.compile(r"[A-Z][A-Z_-]{0,31}")
_REQUEST = re.compile(r"([A-Z][A-Z_-]{0,31}) (\S+|.+(?= HTTP/))(?: HTTP/[0-9](?:\.[0-9])?)?", re.DOTALL)


class LogError(QuotasError):
    """A line that cannot be read: what, where, and what to do, without the line's content.

    `line` is its number in the log, counted from 1; whoever counts lines sets it, and the message then has it.
    """

    def __init__(self, message: str) -> None:
        self.line: int | None = None
        super().__init__(message)

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.line is None else f"line {self.line}: {message}"


class Skip(Enum):
    """Why a line stands for no request that could be replayed: a reason to count, no error."""

    BLANK = "blank line"
    NO_CLIENT = "no client, or none that could have this name"
    NO_REQUEST = "no HTTP request"


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request of a log.

    `at_us` is in microseconds since 1970 and below 2^53. `plan` None: the log does not say, the client is on
    the plan that it is on. `path` has no query and is not normalised; a request without one has `*` (OPTIONS)
    or `host:port` (CONNECT). `cost` None: the log does not say, the plan's cost rules decide.
    """

    at_us: int
    client: str
    plan: str | None = None
    method: str = "GET"
    path: str = "/"
    cost: int | None = None


Parser = Callable[[bytes], LoggedRequest | Skip]
"""Reads one line, with or without its line end. Raises LogError and nothing else, whatever the bytes."""


def misuse(option: str, message: str) -> ConfigError:
    """What is raised for an option that cannot be."""
    return ConfigError("replay", [Fault(option, message)])


def json_object(line: bytes) -> dict[str, Any]:
    """The object that a line is. Raises LogError."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        # Not chained: the error of orjson carries the whole line.
        raise LogError(f"is no JSON from column {error.colno} on; a line holds one JSON object") from None
    if not isinstance(record, dict):
        raise LogError("is JSON but no object; a line holds one object in braces")
    return record


def is_blank(line: bytes) -> bool:
    """Whether there is nothing on a line."""
    return not line or line.isspace()


def is_client(name: Any) -> TypeGuard[str]:
    """Whether it is text by which a client can be called."""
    return isinstance(name, str) and is_client_name(name)


def in_range(at_us: int, where: str) -> int:
    """The instant itself. Raises LogError for one before 1970 or from 2^53 microseconds on."""
    if not 0 <= at_us < EXACT:
        raise LogError(f"`{where}` must lie between 1970-01-01 and 2255-06-05, where microseconds are exact")
    return at_us


def rfc3339(text: str, where: str) -> int:
    """The instant of an RFC 3339 text (section 5.6), whose offset may also lack its colon, as in ISO 8601."""
    base_us = _second_us(text[:19], where)
    rest = _REST.fullmatch(text, 19)
    if rest is None:
        raise LogError(f"`{where}` must end in Z or an offset such as +02:00, after an optional fraction")
    fraction, sign, hours, minutes = rest.groups()
    if fraction is not None:
        base_us += int(fraction[:6].ljust(6, "0"))
    if sign is not None:
        offset_us = (int(hours) * 60 + int(minutes)) * 60_000_000
        base_us += offset_us if sign == "-" else -offset_us
    if text[17:19] == "60" and base_us // 1_000_000 % 86_400:
        raise LogError(f"`{where}` names a second 60 that is not the last before midnight UTC: no leap second")
    return in_range(base_us, where)


@lru_cache(maxsize=256)
def _second_us(text: str, where: str) -> int:
    """Microseconds from 1970 to a date and time without offset. Consecutive lines share it: hence the cache.

    A second 60 is the first of the next minute, as Unix time has it.
    """
    match = _SECOND.fullmatch(text)
    if match is None:
        raise LogError(f"`{where}` must be an instant of RFC 3339 such as 2026-01-31T23:59:59.5Z")
    year, month, day, hour, minute, second = map(int, match.groups())
    leap = second == 60  # noqa: PLR2004 # Of a minute that has 61 seconds.
    try:
        at = datetime(year, month, day, hour, minute, second - leap, tzinfo=UTC)
    except ValueError:
        raise LogError(f"`{where}` names a date or a time of day that does not exist") from None
    return (at - _EPOCH) // _MICROSECOND + leap * 1_000_000


def path_of(method: str, target: str) -> str | None:
    """The path of a request target (RFC 9112, section 3.2) without its query; None when it has none."""
    path = target.partition("?")[0]
    if path.startswith("/") or path == "*" or (method == "CONNECT" and path):
        return path
    scheme, colon, rest = path.partition("://")
    return "/" + rest.partition("/")[2] if colon and scheme.isalnum() else None


def method_and_path(text: str) -> tuple[str, str] | None:
    """Method and path of a request line; None for what is no HTTP: `-`, a TLS handshake, a probe."""
    match = _REQUEST.fullmatch(text)
    path = match and path_of(match[1], match[2])
    return (match[1], path) if match and path else None
