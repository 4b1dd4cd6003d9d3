"""The logs of other programs, as `quotas replay` reads them: one line of bytes in, one request out. No file, no clock.

- `combined`: the common and the combined log of Apache and nginx, also with fields added at the end.
- `json`: the access logs of Caddy, Envoy, Traefik, nginx (`escape=json`) and others.

They hold what anybody sent: what was no request, or of no client, is a `Skip` to be counted. Proxies write a line when
a request has ended, and `combined` to the second: requests then stand closer together than they came, and a replay errs
towards refusing.
"""

import re
from collections.abc import Callable, Mapping
from decimal import ROUND_DOWN, Context, Decimal
from functools import lru_cache
from typing import Any

from quotas.logged_requests import (
    METHOD,
    LogError,
    LoggedRequest,
    Parser,
    Skip,
    in_range,
    is_blank,
    is_client,
    json_object,
    method_and_path,
    misuse,
    path_of,
    rfc3339,
)

TIME_PATHS = ("ts", "StartUTC", "start_time", "msec", "timestamp", "@timestamp", "time", "time_iso8601")
"""Where a JSON log may say when; the first that is there counts. Starts go before ends, fractions before seconds."""
METHOD_PATHS = ("method", "request.method", "RequestMethod", "request_method")
PATH_PATHS = ("path", "uri", "request.uri", "request_uri", "RequestPath")

_MONTHS = dict(zip(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), range(1, 13), strict=True))
_EPOCH_SCALES = ((10**11, 1_000_000), (10**14, 1_000), (10**17, 1))
_DOWN = Context(prec=40, rounding=ROUND_DOWN)
_ABSENT, _REQUIRED = object(), object()
_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
# A user may hold spaces and brackets, but no bare quote: what ends at `] "` is the one and only time.
_HEAD = re.compile(
    rb"(\S+) (\S+) (.*?) \[([0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9:]{8} [+-][0-9]{4})\] "
    rb'"([^"\\]*(?:\\.[^"\\]*)*)"(?!\S)',
    re.DOTALL,
)
_FIELD = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(?!\S)|(\S+)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def combined(client_from: str) -> Parser:
    """The parser of a common or combined log. Raises ConfigError for a client that is nowhere in it."""
    later = re.fullmatch(r"field:([6-9]|[1-9][0-9]{1,2})", client_from)
    if not later and client_from not in ("remote_user", "remote_addr"):
        raise misuse("--client-from", "must be remote_user, remote_addr or, from the sixth on, field:N as in field:10")

    def read(line: bytes) -> LoggedRequest | Skip:
        if is_blank(line):
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
        if client in ("-", '""') or not is_client(client):
            return Skip.NO_CLIENT
        target = method_and_path(_text(request))
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
    return rfc3339(f"{year.decode()}-{_MONTHS.get(month, 0):02}-{day.decode()}T{clock}{offset}", "time")


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


def json_lines(options: Mapping[str, str]) -> Parser:
    """The parser of a JSON log; `options` are `--client-from` and so on. Raises ConfigError without a client."""
    if not options.get("--client-from"):
        raise misuse("--client-from", "must say where the client is, such as request.headers.X-Api-Client.0")
    find_client = _finder("--client-from", (options["--client-from"],), None)
    find_time = _finder("--time-from", _chosen(options, "--time-from", TIME_PATHS), _REQUIRED)
    given = "--method-from" in options, "--path-from" in options
    methods, paths = _chosen(options, "--method-from", METHOD_PATHS), _chosen(options, "--path-from", PATH_PATHS)
    find_method = _finder("--method-from", methods, _REQUIRED if given[0] else "GET")
    find_path = _finder("--path-from", paths, _REQUIRED if given[1] else "/")

    def read(line: bytes) -> LoggedRequest | Skip:
        if is_blank(line):
            return Skip.BLANK
        record = json_object(line)
        client = find_client(record)
        if isinstance(client, list | dict):
            raise LogError("has a list or an object where --client-from points; go on to an item, as in ….0")
        # A number is a name too: the logs of others hold the ids of users.
        client = str(client) if type(client) is int else client
        if not is_client(client):
            return Skip.NO_CLIENT
        at_us = _json_time(find_time(record))
        request_line = None if any(given) else record.get("request")
        if isinstance(request_line, str):
            target = method_and_path(request_line)
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
    path = path_of(method.upper(), target)
    return (method.upper(), path) if path and METHOD.fullmatch(method.upper()) else None


def _json_time(value: Any) -> int:
    """RFC 3339, the time of a common log, or a number since 1970, whose size says its unit.

    Below 10^11 it is seconds, below 10^14 milliseconds, below 10^17 microseconds, else nanoseconds, which is right
    for every instant from March 1973 on. Decimal keeps every digit that was written; none is rounded up.
    """
    number = repr(value) if type(value) in (int, float) else value
    if not isinstance(number, str):
        raise LogError("`time` must be a number since 1970 or RFC 3339 text; name another field with --time-from")
    if number is value and not _NUMBER.fullmatch(number):
        return rfc3339(number, "time")
    exact = Decimal(number)
    scale = next((Decimal(scale) for below, scale in _EPOCH_SCALES if exact < below), Decimal("0.001"))
    return in_range(int(_DOWN.multiply(exact, scale)), "time")
