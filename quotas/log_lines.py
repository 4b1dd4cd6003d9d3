"""This process's own log: one line on standard error for each record, whatever the record holds.

Two formats. For people (`console`):

    2026-11-25T09:00:00.123Z INFO quotas.refusals: a check was refused client=acme reason=rate_limited status=429

and for programs (`json`) the same as one JSON object: `time`, `level`, `logger`, `message`, and the fields by their
names. A client's name can hold what its maker likes, so whatever is no visible character is written as an escape:
nobody can make a line of their own, move the cursor of who reads, or be read from right to left.

No credential is put into a record anywhere. Should one get there all the same, in the text of an error that nobody
expected, what looks like a key of ours or like a JWT is covered here.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from quotas import keys
from quotas.settings import LogFormat

COVER = "[credential]"

_JWT = r"\beyJ[0-9A-Za-z_-]{5,}\.[0-9A-Za-z_-]*(?:\.[0-9A-Za-z_-]*){1,3}"
_BARE = re.compile(r"[!#-<>-\[\]-~]+")
"""What stands in the console without quotes: visible ASCII without `"`, `=` and the backslash."""


def fields(**told: str | float | None) -> dict[str, Any]:
    """For `extra=` of a log call: what a record says beside its message. None is left out."""
    return {"fields": {name: value for name, value in told.items() if value is not None}}


def set_up(*, level: str, form: LogFormat, brand: str) -> None:
    """Have this process log to standard error; the HTTP server's own start and stop lines only at level debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form, brand))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_worth_telling)


class Lines(logging.Formatter):
    """Writes a record as one line. `brand` is what keys begin with."""

    def __init__(self, form: LogFormat, brand: str) -> None:
        super().__init__()
        self._form = form
        self._secrets = re.compile(f"{keys.pattern(brand)}|{_JWT}")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage().rstrip("\n"),
        }
        more: dict[str, Any] = dict(getattr(record, "fields", {}))
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            more["stack"] = self.formatStack(record.stack_info)
        return self._json(told | more) if self._form is LogFormat.JSON else self._console(told, more)

    def _json(self, told: dict[str, Any]) -> str:
        return json.dumps({name: self._covered(value) for name, value in told.items()})  # Visible ASCII, all of it.

    def _console(self, told: dict[str, str], more: dict[str, Any]) -> str:
        head = f"{told['time']} {told['level']} {escaped(told['logger'])}: {escaped(self._covered(told['message']))}"
        return " ".join([head, *(f"{name}={quoted(str(self._covered(value)))}" for name, value in more.items())])

    def _covered(self, value: Any) -> Any:
        return self._secrets.sub(COVER, value) if isinstance(value, str) else value


def escaped(text: str) -> str:
    r"""The text with everything that is not visible, and the backslash, as Python's escapes: `\n`, `\x1b`, `\u202e`."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode() for each in text
    )


def quoted(text: str) -> str:
    """The value of a field: as it is when it is one plain word, else escaped and in quotes."""
    return text if _BARE.fullmatch(text) else '"' + escaped(text).replace('"', '\\"') + '"'


def _worth_telling(record: logging.LogRecord) -> bool:
    """Not that a check carries Upgrade, as gateways pass it on: the HTTP server would say so twice for each."""
    return not str(record.msg).startswith(("Unsupported upgrade request", "No supported WebSocket library"))
