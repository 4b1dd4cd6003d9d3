"""What a client has used, added up by the hours, days and months of a time zone. Pure: counts in, sums out.

Theory of operation. Usage is kept by quarters of an hour since the epoch. Every time zone's hours and days begin on
one, so each of its windows (`windows`, the same that quotas count in) is a whole number of quarters: a day of 23 or 25
hours is summed right, and the month of a history is the month of a quota of the same zone and anchor.

Worked example. In America/New_York the day 2026-11-01 is [04:00Z, next day 05:00Z): 100 quarters, 25 hours. Its hour
that begins at 01:00 comes twice, as two rows with the offsets -04:00 and -05:00.
"""

from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from quotas import windows
from quotas.limits import Quota, Window

QUARTER_US = 900_000_000
"""A quarter of an hour, in microseconds."""

DAY_QUARTERS = 96
DAY_US = DAY_QUARTERS * QUARTER_US
"""A day of UTC, in microseconds."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What was allowed and refused in some time: units, and refused checks by outcome.

    Units are below 0 where refunds were given for what had been taken before.
    """

    units: int = 0
    rate_limited: int = 0
    quota_exceeded: int = 0
    never: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.units + other.units,
            self.rate_limited + other.rate_limited,
            self.quota_exceeded + other.quota_exceeded,
            self.never + other.never,
        )

    @property
    def refused(self) -> int:
        """Refused checks, whatever their outcome."""
        return self.rate_limited + self.quota_exceeded + self.never


Quarters = Mapping[int, Tally]
"""Tallies by the quarter of an hour since the epoch."""


@dataclass(frozen=True, slots=True)
class Span:
    """What was used in `[start_us, end_us)`, epoch microseconds."""

    start_us: int
    end_us: int
    tally: Tally


@dataclass(frozen=True, slots=True)
class Calendar:
    """Whose hours, days and months are meant: a time zone, and the day on which its months begin.

    Raises ValueError when there is no such zone, or no such day in any month.
    """

    timezone: str = "UTC"
    anchor_day: int = 1

    def __post_init__(self) -> None:
        windows.load_zone(self.timezone)
        self.of(Window.MONTH)

    def of(self, window: Window) -> Quota:
        """The windows of this kind, as those of a quota."""
        anchor_day = self.anchor_day if window is Window.MONTH else 1
        return Quota(units=0, window=window, timezone=self.timezone, anchor_day=anchor_day)

    def month(self, year: int, month: int) -> tuple[int, int]:
        """Start and end of the month that begins in this month of this year, epoch microseconds.

        Raises ValueError for a month that has no windows.
        """
        first = min(self.anchor_day, monthrange(year, month)[1])
        # At noon of UTC it is the same day or, far east, early on the next.
        noon_us = int(datetime(year, month, first, 12, tzinfo=UTC).timestamp()) * 1_000_000
        return windows.window_at(self.of(Window.MONTH), noon_us)

    def months_until(self, now_us: int, months: int) -> tuple[int, int]:
        """Start and end of so many months, 1 to 366, of which the last contains the instant."""
        edges = windows.boundaries(self.of(Window.MONTH), now_us, before=months - 1, after=0)
        return edges[0], edges[-1]


def spans(quarters: Quarters, calendar: Calendar, window: Window, begin_us: int, end_us: int) -> Iterator[Span]:
    """The windows from `begin_us`, where one must begin, that begin before `end_us`, in order, with what was used."""
    quota = calendar.of(window)
    left = sorted(quarters, reverse=True)
    start_us = begin_us
    while start_us < end_us:
        found_us, next_us = windows.window_at(quota, start_us)
        assert found_us == start_us, "a window ends where the next begins"
        tally = Tally()
        while left and left[-1] * QUARTER_US < next_us:
            quarter = left.pop()
            if quarter * QUARTER_US >= start_us:
                tally += quarters[quarter]
        yield Span(start_us, next_us, tally)
        start_us = next_us
