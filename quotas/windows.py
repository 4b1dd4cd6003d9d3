"""The calendar window of a quota, derived from its zone, its anchor and an instant.

No clock, no state, nothing stepped and nothing reset: the same instant always gives the same window. Instants
are integers, microseconds since 1970-01-01T00:00:00Z; a window is `[start, end)` in them. The rules of the
zones come from the system's zoneinfo, or from the package `tzdata` where the system has none; they are read
once per zone, and a new release of them counts from the next start of the process.

Theory of operation. A *period* is a day, week, month or year of the local calendar, known by its first date.
It starts at **the first instant at which the local clock shows that date or a later one**. From that one
sentence:

- a midnight that does not exist is the first instant after the gap;
- a midnight that comes twice is the first of the two, and a day that has started is not taken back;
- starts never decrease from one date to the next, so windows tile time: no gap, no overlap;
- a date that a zone skipped starts when the next one does, has no length, and is never returned.

The window of an instant is the last period that has started by then. A month is the calendar month of its
first date, and the anchor is clamped to every month anew: 31 gives 31 January, 28 February, 31 March.

An *hour* starts at **each instant at which the local clock shows a whole hour or has just jumped over one**.
Hence :00 local in zones of 30 or 45 minutes, and a repeated hour is two windows of one real hour each. A
clock set back into the middle of an hour starts nothing, which errs against over-granting: on Lord Howe the
hour in which 02:00 becomes 01:30 lasts 90 minutes; the one in spring that begins at 02:30 lasts 30. Every day
starts with an hour.

Worked example. In America/Santiago the clock jumps on 2026-09-06 from 00:00 to 01:00, at 04:00:00Z. The day
of the instant 03:59:59Z is the 5th, [2026-09-05T04:00Z, 2026-09-06T04:00Z), with one second to go. The 6th
has no midnight, starts at 01:00 local, and is [2026-09-06T04:00Z, 2026-09-07T03:00Z): 23 hours.

Two traps of Python. The difference of two datetimes of the same ZoneInfo is that of what the clocks show;
here only integers and UTC are subtracted. And a wall time in a gap maps to as far after the gap as it lies in
it, not to the gap's end; here the end is searched for.
"""

from bisect import bisect_left
from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from quotas.limits import Quota, Window

EARLIEST_US = 0
"""The first instant that has a window: 1970-01-01T00:00:00Z, in microseconds."""

LATEST_US = 221_845_392_000_000_000
"""The last instant that has a window: 9000-01-01T00:00:00Z, in microseconds. `MAX_AROUND` years more fit."""

MAX_AROUND = 366
"""The most windows that `boundaries` looks to either side."""

_NO_NAMES = {"localtime", "posix", "posixrules", "right"}
"""Files and folders of a zoneinfo directory that Python would load although they name no zone."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US


def window_at(quota: Quota, at_us: int) -> tuple[int, int]:
    """Start and end of the window that contains the instant: `start <= at_us < end`, in epoch microseconds.

    Raises ValueError for an instant outside `EARLIEST_US` to `LATEST_US`, and for an unknown time zone.
    """
    _check_range(at_us)
    return _window(quota, load_zone(quota.timezone), at_us)


def boundaries(quota: Quota, at_us: int, *, before: int = 1, after: int = 1) -> tuple[int, ...]:
    """The starts of the windows around the instant and the end of the last, in epoch microseconds.

    These are `before` windows that precede the one of the instant, that one, `after` windows that follow, and
    the end: `before + after + 2` strictly increasing instants, and element `before` is the start of the
    window that contains the instant. Neighbours are the windows of `window_at`, exactly.

    Raises ValueError as `window_at` does, and when `before` or `after` is not in 0 to `MAX_AROUND`.
    """
    _check_range(at_us)
    if not (0 <= before <= MAX_AROUND and 0 <= after <= MAX_AROUND):
        raise ValueError(f"before and after must be between 0 and {MAX_AROUND}, not {before} and {after}")
    zone = load_zone(quota.timezone)
    start, end = _window(quota, zone, at_us)
    past = [start]
    for _ in range(before):
        past.append(_window(quota, zone, past[-1] - 1)[0])
    future = [end]
    for _ in range(after):
        future.append(_window(quota, zone, future[-1])[1])
    return (*reversed(past), *future)


@cache
def load_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as `Europe/Berlin`; the first call for a name reads a file.

    Raises ValueError, with the nearest name if one is near, for everything else: an unknown or empty name, a
    path, `localtime` (another machine would read another zone), `right/...` (it counts leap seconds).
    """
    if name.partition("/")[0] not in _NO_NAMES:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # Which of the three depends on the version of Python; none of them helps the reader.
    raise ValueError(f"{_zone_fault(name[:80])}; a time zone is an IANA name such as 'UTC' or 'Europe/Berlin'")


def _zone_fault(name: str) -> str:
    """What is wrong with a name that is no time zone."""
    if not name:
        return "the time zone is empty"
    if name.startswith("/") or ".." in name or "\\" in name:
        return f"the time zone {name!r} is a path"
    names = {known.lower(): known for known in sorted(available_timezones() - _NO_NAMES)}
    near = get_close_matches(name.lower(), names, n=1)
    hint = f" (did you mean {names[near[0]]!r}?)" if near else ""
    return f"the time zone {name!r} is unknown{hint}"


def _check_range(at_us: int) -> None:
    if not EARLIEST_US <= at_us <= LATEST_US:
        raise ValueError(
            f"the instant must be between 1970-01-01 and 9000-01-01 in microseconds since 1970, not {at_us}"
        )


def _window(quota: Quota, zone: ZoneInfo, at_us: int) -> tuple[int, int]:
    """`window_at`, with neither the zone's name nor the range of the instant checked."""
    if quota.window is Window.HOUR:
        start, end = _hour_start(zone, at_us), _hour_end(zone, at_us)
    else:
        start, end = _period(quota, zone, at_us)
    assert start <= at_us < end
    return start, end


def _period(quota: Quota, zone: ZoneInfo, at_us: int) -> tuple[int, int]:
    """The last day, week, month or year that has started by the instant, and the start of the next."""
    first = _first_date(quota, _local_date(zone, at_us))
    start, end = _start_us(zone, first), 0
    while True:
        # Seldom more than one turn: the next period may have started although the clock, set back across
        # midnight, shows this one again.
        first = _next_first_date(quota, first)
        end = _start_us(zone, first)
        if end > at_us:
            return start, end
        start = end


def _first_date(quota: Quota, day: date) -> date:
    """The first date of the period that contains the date."""
    match quota.window:
        case Window.WEEK:
            return day - timedelta(days=day.weekday())
        case Window.MONTH:
            first = _anchored(day.year, day.month, quota.anchor_day)
            if first <= day:
                return first
            year, month = divmod(day.year * 12 + day.month - 2, 12)
            return _anchored(year, month + 1, quota.anchor_day)
        case Window.YEAR:
            return date(day.year, 1, 1)
        case _:
            return day


def _next_first_date(quota: Quota, first: date) -> date:
    """The first date of the period after the one that starts on `first`."""
    match quota.window:
        case Window.WEEK:
            return first + timedelta(days=7)
        case Window.MONTH:
            year, month = divmod(first.year * 12 + first.month, 12)
            return _anchored(year, month + 1, quota.anchor_day)
        case Window.YEAR:
            return date(first.year + 1, 1, 1)
        case _:
            return first + timedelta(days=1)


def _anchored(year: int, month: int, anchor_day: int) -> date:
    return date(year, month, min(anchor_day, monthrange(year, month)[1]))


def _start_us(zone: ZoneInfo, first: date) -> int:
    """The first instant at which the local clock shows the date or a later one."""
    midnight = datetime.combine(first, time(), zone)
    start = (midnight - _EPOCH) // _MICROSECOND
    other = (midnight.replace(fold=1) - _EPOCH) // _MICROSECOND
    # PEP 495: of a wall time that comes twice, fold 0 is the earlier instant; of one that never comes, it is
    # the later, and the gap lies between the two.
    return start if start <= other else _change(zone, other, start)


def _hour_start(zone: ZoneInfo, at_us: int) -> int:
    """The last instant up to this one at which an hour starts."""
    offset = _offset_us(zone, at_us)
    start = at_us - (at_us + offset) % _HOUR_US
    if _offset_us(zone, start) == offset:
        return start
    change = _change(zone, start, at_us)
    return change if _starts_hour(zone, change) else _hour_start(zone, change - 1)


def _hour_end(zone: ZoneInfo, at_us: int) -> int:
    """The first instant after this one at which an hour starts."""
    offset = _offset_us(zone, at_us)
    end = at_us + _HOUR_US - (at_us + offset) % _HOUR_US
    if _offset_us(zone, end) == offset:
        return end
    change = _change(zone, at_us, end)
    return change if _starts_hour(zone, change) else _hour_end(zone, change)


def _starts_hour(zone: ZoneInfo, change: int) -> bool:
    """Whether the clock, changed at this instant, shows a whole hour or has jumped forward over one."""
    expected = change + _offset_us(zone, change - 1)
    shown = change + _offset_us(zone, change)
    return shown - shown % _HOUR_US >= min(expected, shown)


def _change(zone: ZoneInfo, low: int, high: int) -> int:
    """The instant in (low, high] at which the offset changes, where it differs between the two.

    No zone changes its offset twice within the hour, or the gap, that is ever asked for.
    """
    offset = _offset_us(zone, low)
    assert _offset_us(zone, high) != offset
    return low + bisect_left(range(low, high), 1, key=lambda us: _offset_us(zone, us) != offset)


def _local_date(zone: ZoneInfo, at_us: int) -> date:
    return _EPOCH.date() + timedelta(days=(at_us + _offset_us(zone, at_us)) // _DAY_US)


def _offset_us(zone: ZoneInfo, at_us: int) -> int:
    """How far the local clock is ahead of UTC at the instant, in microseconds."""
    at = _EPOCH + timedelta(microseconds=at_us)
    return (at.astimezone(zone).replace(tzinfo=None) - at.replace(tzinfo=None)) // _MICROSECOND
