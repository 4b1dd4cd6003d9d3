"""Request logs as `quotas replay` reads them: one line of bytes in, one request out. No file, no clock.

Three formats, of which `parser` chooses one: `combined` and `json` are other programs' (`access_logs`), and `replay` is
the project's own: a JSON object a line with the fields of `FIELDS`, read strictly, because a field misspelt and ignored
would silently change what a replay finds.

Lines that cannot be read at all are a `LogError` in every format.
"""

from difflib import get_close_matches
from typing import Any

from quotas.access_logs import combined, json_lines
from quotas.limits import EXACT
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
    misuse,
    path_of,
    rfc3339,
)
from quotas.plans import MAX_CLIENT_NAME

FORMATS = ("replay", "combined", "json")
FIELDS = ("at", "at_us", "client", "plan", "method", "path", "cost")
"""What a line of the format `replay` may say; it must say `client` and one of `at` and `at_us`."""

_KNOWN = frozenset(FIELDS)


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
        raise misuse("--log-format", f"{_unknown(log_format, FORMATS)}; use one of {', '.join(FORMATS)}")
    for name in options.keys() - [f"--{name}-from" for name in list(given)[:usable]]:
        raise misuse(name, f"has no meaning for the format {log_format}; leave it out")
    if log_format == "replay":
        return _replay
    return combined(options.get("--client-from", "remote_user")) if log_format == "combined" else json_lines(options)


def _unknown(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name[:40], known, n=1)
    return f"{name[:40]!r} is unknown" + (f" (did you mean {near[0]!r}?)" if near else "")


# A line costs 2 to 5 microseconds, of which each call is a tenth: the short checks stay inline.


def _replay(line: bytes) -> LoggedRequest | Skip:
    if is_blank(line):
        return Skip.BLANK
    record = json_object(line)
    if not record.keys() <= _KNOWN:
        name = next(name for name in record if name not in _KNOWN)
        raise LogError(f"the field {_unknown(name, FIELDS)}; a line has the fields {', '.join(FIELDS)}")
    get = record.get
    if not is_client(client := get("client")):
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


def _replay_time(at: Any, at_us: Any) -> int:
    if (at is None) == (at_us is None):
        raise LogError("must have exactly one of `at` (RFC 3339) and `at_us` (microseconds since 1970)")
    if at_us is None:
        if not isinstance(at, str):
            raise LogError("`at` must be text such as 2026-01-31T23:59:59.5Z; `at_us` takes a number")
        return rfc3339(at, "at")
    if type(at_us) is not int:
        raise LogError("`at_us` must be a whole number of microseconds since 1970, without quotes")
    return in_range(at_us, "at_us")


def _replay_target(method: Any, path: Any) -> tuple[str, str]:
    method = "GET" if method is None else method
    if not isinstance(method, str) or not METHOD.fullmatch(method):
        raise LogError("`method` must be an HTTP method in capitals, such as GET")
    target = "/" if path is None else path
    found = path_of(method, target) if isinstance(target, str) else None
    if found is None:
        raise LogError("`path` must start with /")
    return method, found
