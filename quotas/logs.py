"""Request logs as `quotas replay` reads them: one line of bytes in, one request out. No file, no clock.

Three formats, of which `parser` chooses one:

- `replay`, the project's own: a JSON object a line with the fields of `FIELDS`, read strictly, because a
  field misspelt and ignored would silently change what a replay finds.
- `combined`: the common and the combined log of Apache and nginx, also with fields added at the end.
- `json`: the access logs of Caddy, Envoy, Traefik, nginx (`escape=json`) and others.

The last two are other programs' logs and hold what anybody sent: what was no request, or of no client, is a
`Skip` to be counted. Lines that cannot be read at all are a `LogError` in every format. A line may hold
credentials, in a query string for one: no message quotes it, and the query is cut off every path.

All instants become microseconds since 1970, truncated towards the past where a log says more digits. Proxies
write a line when a request has ended, and `combined` to the second: requests then stand closer together
than they came, and a replay errs towards refusing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from difflib import get_close_matches
from enum import Enum
from functools import lru_cache
from typing import Any, TypeGuard

import orjson

from quotas.errors import ConfigError, Fault, QuotasError
from quotas.limits import EXACT
from quotas.plans import MAX_CLIENT_NAME, is_client_name

FORMATS = ("replay", "combined", "json")
FIELDS = ("at", "at_us", "client", "plan", "method", "path", "cost")
"""What a line of the format `replay` may say; it must say `client` and one of `at` and `at_us`."""

TIME_PATHS = ("ts", "StartUTC", "start_time", "msec", "timestamp", "@timestamp", "time", "time_iso8601")
"""Where a JSON log may say when; the first that is there counts. Starts go before ends, fractions before seconds."""
METHOD_PATHS = ("method", "request.method", "RequestMethod", "request_method")
PATH_PATHS = ("path", "uri", "request.uri", "request_uri", "RequestPath")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MONTHS = dict(zip(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), range(1, 13), strict=True))
_EPOCH_SCALES = ((10**11, 1_000_000), (10**14, 1_000), (10**17, 1))
_DOWN = Context(prec=40, rounding=ROUND_DOWN)
_ABSENT, _REQUIRED = object(), object()
_KNOWN = frozenset(FIELDS)

_SECOND = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})")
_REST = re.compile(r"(?:[.,]([0-9]+))?(?:[Zz]|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))")
_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
_METHOD = re.compile(r"[A-Z][A-Z_-]{0,31}")
_REQUEST = re.compile(r"([A-Z][A-Z_-]{0,31}) (\S+|.+(?= HTTP/))(?: HTTP/[0-9](?:\.[0-9])?)?", re.DOTALL)
# A user may hold spaces and brackets, but no bare quote: what ends at `] "` is the one and only time.
_HEAD = re.compile(
    rb"(\S+) (\S+) (.*?) \[([0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9:]{8} [+-][0-9]{4})\] "
    rb'"([^"\\]*(?:\\.[^"\\]*)*)"(?!\S)',
    re.DOTALL,
)
_FIELD = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(?!\S)|(\S+)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


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


def parser(
    log_format: str = "replay",
    *,
    client_from: str | None = None,
    time_from: str | None = None,
    method_from: str | None = None,
    path_from: str | None = None,
) -> Parser:
    """The parser of a format; the options are those of `quotas replay`, `--client-from` and so on.

    `combined` takes the client from `remote_user` (the default), `remote_addr` or `field:N`, the N-th field
    counted from 1, where quotes hold a field together: 5 is the request, 6 the status, 9 the user agent, and
    10 the first that was added to the format. `json` must be told the client and takes the others from
    `TIME_PATHS`, `METHOD_PATHS` and `PATH_PATHS` unless it is told: names joined by dots, numbers from 0 for
    the items of a list (`request.headers.X-Api-Client.0`); a name with dots at the top level goes first.

    Raises ConfigError for an unknown format and for options that do not fit it.
    """
    given = {"client": client_from, "time": time_from, "method": method_from, "path": path_from}
    options = {f"--{name}-from": value for name, value in given.items() if value is not None}
    usable = {"replay": 0, "combined": 1, "json": 4}.get(log_format)
    if usable is None:
        raise _misuse("--log-format", f"{_unknown(log_format, FORMATS)}; use one of {', '.join(FORMATS)}")
    for name in options.keys() - [f"--{name}-from" for name in list(given)[:usable]]:
        raise _misuse(name, f"has no meaning for the format {log_format}; leave it out")
    if log_format == "replay":
        return _replay
    return _combined(options.get("--client-from", "remote_user")) if log_format == "combined" else _json(options)


def _misuse(option: str, message: str) -> ConfigError:
    return ConfigError("replay", [Fault(option, message)])


def _unknown(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name[:40], known, n=1)
    return f"{name[:40]!r} is unknown" + (f" (did you mean {near[0]!r}?)" if near else "")


# The format `replay`. A line costs 2 to 5 microseconds, of which each call is a tenth: the short checks stay inline.


def _replay(line: bytes) -> LoggedRequest | Skip:
    if _is_blank(line):
        return Skip.BLANK
    record = _object(line)
    if not record.keys() <= _KNOWN:
        name = next(name for name in record if name not in _KNOWN)
        raise LogError(f"the field {_unknown(name, FIELDS)}; a line has the fields {', '.join(FIELDS)}")
    get = record.get
    if not _is_client(client := get("client")):
        raise LogError(f"`client` must be text of 1 to {MAX_CLIENT_NAME} printable characters, in quotes")
    if (plan := get("plan")) is not None and not (isinstance(plan, str) and plan):
        raise LogError("`plan` must be a plan's name, or be left out")
    cost = get("cost")
    if cost is not None and not (type(cost) is int and 0 <= cost < EXACT):
        raise LogError("`cost` must be a whole number from 0 to 2^53 - 1, without quotes")
    method, path = get("method"), get("path")
    if method is None and path is None:
        return LoggedRequest(_replay_time(get("at"), get("at_us")), client, plan, "GET", "/", cost)
    return LoggedRequest(_replay_time(get("at"), get("at_us")), client, plan, *_replay_target(method, path), cost)


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        # Not chained: the error of orjson carries the whole line.
        raise LogError(f"is no JSON from column {error.colno} on; a line holds one JSON object") from None
    if not isinstance(record, dict):
        raise LogError("is JSON but no object; a line holds one object in braces")
    return record


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def _is_client(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and is_client_name(name)


def _replay_time(at: Any, at_us: Any) -> int:
    if (at is None) == (at_us is None):
        raise LogError("must have exactly one of `at` (RFC 3339) and `at_us` (microseconds since 1970)")
    if at_us is None:
        if not isinstance(at, str):
            raise LogError("`at` must be text such as 2026-01-31T23:59:59.5Z; `at_us` takes a number")
        return _rfc3339(at, "at")
    if type(at_us) is not int:
        raise LogError("`at_us` must be a whole number of microseconds since 1970, without quotes")
    return _in_range(at_us, "at_us")


def _replay_target(method: Any, path: Any) -> tuple[str, str]:
    method = "GET" if method is None else method
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise LogError("`method` must be an HTTP method in capitals, such as GET")
    target = "/" if path is None else path
    found = _path(method, target) if isinstance(target, str) else None
    if found is None:
        raise LogError("`path` must start with /")
    return method, found


# What the formats share: instants, request targets.


def _in_range(at_us: int, where: str) -> int:
    if not 0 <= at_us < EXACT:
        raise LogError(f"`{where}` must lie between 1970-01-01 and 2255-06-05, where microseconds are exact")
    return at_us


def _rfc3339(text: str, where: str) -> int:
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
    return _in_range(base_us, where)


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


def _path(method: str, target: str) -> str | None:
    """The path of a request target (RFC 9112, section 3.2) without its query; None when it has none."""
    path = target.partition("?")[0]
    if path.startswith("/") or path == "*" or (method == "CONNECT" and path):
        return path
    scheme, colon, rest = path.partition("://")
    return "/" + rest.partition("/")[2] if colon and scheme.isalnum() else None


def _request_line(text: str) -> tuple[str, str] | None:
    """Method and path of a request line; None for what is no HTTP: `-`, a TLS handshake, a probe."""
    match = _REQUEST.fullmatch(text)
    path = match and _path(match[1], match[2])
    return (match[1], path) if match and path else None


# The format `combined`.


def _combined(client_from: str) -> Parser:
    later = re.fullmatch(r"field:([6-9]|[1-9][0-9]{1,2})", client_from)
    if not later and client_from not in ("remote_user", "remote_addr"):
        raise _misuse("--client-from", "must be remote_user, remote_addr or, from the sixth on, field:N as in field:10")

    def read(line: bytes) -> LoggedRequest | Skip:
        if _is_blank(line):
            return Skip.BLANK
        head = _HEAD.match(line)
        if head is None:
            raise LogError('is no common log line; it starts: address - user [10/Oct/2026:13:55:36 +0000] "request"')
        address, identity, user, time, request = head.groups()
        if user.startswith(b"- ") and identity != b"-":
            raise LogError("has more than `address -` before the user; cut off what was added, such as a virtual host")
        at_us = _clf_us(time)
        named = address if client_from == "remote_addr" else user
        client = _text(_later_field(line, head.end(), int(later[1])) if later else named)
        if client in ("-", '""') or not _is_client(client):
            return Skip.NO_CLIENT
        target = _request_line(_text(request))
        return Skip.NO_REQUEST if target is None else LoggedRequest(at_us, client, None, *target)

    return read


def _later_field(line: bytes, start: int, number: int) -> bytes:
    """The field of this number, from 6, where `start` is the end of the fifth."""
    count = 5
    for count, match in enumerate(_FIELD.finditer(line, start), 6):
        if count == number:
            return match[1] if match[2] is None else match[2]
    raise LogError(f"has {count} fields and no field {number}; name another one with --client-from")


@lru_cache(maxsize=256)
def _clf_us(text: bytes) -> int:
    """The instant of `10/Oct/2026:13:55:36 +0000`, in microseconds since 1970."""
    day, month, rest = text.split(b"/")
    year, time = rest[:4], rest[5:].decode()
    clock, offset = time.split(" ")
    return _rfc3339(f"{year.decode()}-{_MONTHS.get(month, 0):02}-{day.decode()}T{clock}{offset}", "time")


def _text(raw: bytes) -> str:
    r"""Text as it was before it was logged: Apache writes `\"`, `\\`, `\n`, `\xHH`, and nginx `\xHH` alone.

    Bytes that are no UTF-8 stay visible as `\xHH`, so that two names that differ never become one.
    """
    if b"\\" in raw:
        raw = _ESCAPE.sub(_unescape, raw)
    return raw.decode("utf-8", "backslashreplace")


def _unescape(match: re.Match[bytes]) -> bytes:
    digits, char = match.groups()
    return bytes.fromhex(digits.decode()) if digits is not None else _CONTROLS.get(char, char)


# The format `json`.


def _json(options: Mapping[str, str]) -> Parser:
    if not options.get("--client-from"):
        raise _misuse("--client-from", "must say where the client is, such as request.headers.X-Api-Client.0")
    find_client = _finder("--client-from", (options["--client-from"],), None)
    find_time = _finder("--time-from", _chosen(options, "--time-from", TIME_PATHS), _REQUIRED)
    given = "--method-from" in options, "--path-from" in options
    methods, paths = _chosen(options, "--method-from", METHOD_PATHS), _chosen(options, "--path-from", PATH_PATHS)
    find_method = _finder("--method-from", methods, _REQUIRED if given[0] else "GET")
    find_path = _finder("--path-from", paths, _REQUIRED if given[1] else "/")

    def read(line: bytes) -> LoggedRequest | Skip:
        if _is_blank(line):
            return Skip.BLANK
        record = _object(line)
        client = find_client(record)
        if isinstance(client, list | dict):
            raise LogError("has a list or an object where --client-from points; go on to an item, as in ….0")
        # A number is a name too: the logs of others hold the ids of users.
        client = str(client) if type(client) is int else client
        if not _is_client(client):
            return Skip.NO_CLIENT
        at_us = _json_time(find_time(record))
        request_line = None if any(given) else record.get("request")
        if isinstance(request_line, str):
            target = _request_line(request_line)
        else:
            target = _json_target(find_method(record), find_path(record))
        return Skip.NO_REQUEST if target is None else LoggedRequest(at_us, client, None, *target)

    return read


def _chosen(options: Mapping[str, str], option: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (options[option],) if option in options else usual


def _finder(option: str, names: tuple[str, ...], absent: Any) -> Callable[[dict[str, Any]], Any]:
    """Looks for the first of these paths that has a value: None for null and `-` alone, `absent` for no field."""
    paths = [(name, name.split(".")) for name in names]

    def find(record: dict[str, Any]) -> Any:
        found = absent
        for name, parts in paths:
            value = record[name] if name in record else _descend(record, parts)
            if value is None or value == "-":
                found = None
            elif value is not _ABSENT:
                return value
        if found is _REQUIRED:
            raise LogError(f"has no field {' or '.join(names)}; name another with {option}")
        return found

    return find


def _descend(node: Any, parts: list[str]) -> Any:
    for part in parts:
        if isinstance(node, dict):
            node = node.get(part, _ABSENT)
        elif isinstance(node, list) and re.fullmatch(r"[0-9]{1,6}", part) and int(part) < len(node):
            node = node[int(part)]
        else:
            return _ABSENT
    return node


def _json_target(method: Any, target: Any) -> tuple[str, str] | None:
    """Method and path; None where the log says that there are none. Some programs log methods in small letters."""
    if method is None or target is None:
        return None
    if not isinstance(method, str) or not isinstance(target, str):
        raise LogError("has no text for method or path; name other fields with --method-from and --path-from")
    path = _path(method.upper(), target)
    return (method.upper(), path) if path and _METHOD.fullmatch(method.upper()) else None


def _json_time(value: Any) -> int:
    """RFC 3339, the time of a common log, or a number since 1970, whose size says its unit.

    Below 10^11 it is seconds, below 10^14 milliseconds, below 10^17 microseconds, else nanoseconds, which is right
    for every instant from March 1973 on. Decimal keeps every digit that was written; none is rounded up.
    """
    number = repr(value) if type(value) in (int, float) else value
    if not isinstance(number, str):
        raise LogError("`time` must be a number since 1970 or RFC 3339 text; name another field with --time-from")
    if number is value and not _NUMBER.fullmatch(number):
        return _rfc3339(number, "time")
    exact = Decimal(number)
    scale = next((Decimal(scale) for below, scale in _EPOCH_SCALES if exact < below), Decimal("0.001"))
    return _in_range(int(_DOWN.multiply(exact, scale)), "time")
