"""Instants as text: RFC 3339 outside, microseconds since the epoch inside."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US = 253_402_300_799_000_000
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 instant, below 0 before it. Raises ValueError with what to write."""
    try:
        at = datetime.fromisoformat(text.upper()) if _RFC3339.fullmatch(text) else None
    except ValueError:
        at = None
    if at is None:
        raise ValueError(f"{text[:40]!r} is no RFC 3339 instant such as 2026-12-31T23:59:59Z")
    return (at - _EPOCH) // timedelta(microseconds=1)


def show(at_us: int) -> str:
    """RFC 3339 in UTC, whole seconds rounded down; what is past the year 9999 is shown as its end."""
    return (_EPOCH + timedelta(microseconds=min(at_us, _LATEST_US))).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_in(at_us: int, timezone: str) -> str:
    """RFC 3339 as the clocks of a time zone show it, with their offset; whole seconds rounded down.

    `timezone` is an IANA name that is known to exist.
    """
    at = _EPOCH + timedelta(microseconds=min(at_us, _LATEST_US))
    return at.astimezone(ZoneInfo(timezone)).isoformat(timespec="seconds")
