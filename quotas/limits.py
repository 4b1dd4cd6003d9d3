"""The limits of a plan, as values: what may be taken, how fast it comes back, and within which numbers.

A limit is a *bucket* (rate and burst) or a *quota* (units per calendar window). Everything here is an
integer in a stated unit, and everything that a decision will ever compute from it stays below 2**53, where
the doubles of a Lua script are still exact. What would not is refused when the limit is made.
"""

from dataclasses import dataclass, field
from enum import Enum
from math import gcd

EXACT = 2**53
"""Integers below this are exact in the doubles a Redis script computes with."""

MAX_PERIOD_US = 366 * 86_400 * 1_000_000
"""The longest period of a rate: 366 days, in microseconds."""

MAX_LIMITS = 16
"""How many limits a plan can have, and so the most that one check may have to pass."""


class Window(Enum):
    """The calendar windows of a quota; a week starts on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Refills `count` tokens per `period_us` microseconds, holds at most `burst`, starts full.

    The unit of account is the *grain*: one token is `grains` of them, and each microsecond brings `refill`
    of them. Both come from count and period divided by their greatest common divisor, so that no fraction
    of a token is ever lost: 70,000 per second is 7 grains a microsecond, 100 grains to the token.

    Raises ValueError when a number is out of range or could reach 2**53.
    """

    count: int
    period_us: int
    burst: int
    grains: int = field(init=False, repr=False, compare=False)
    """Grains in one token."""

    refill: int = field(init=False, repr=False, compare=False)
    """Grains that come back each microsecond; 0 never refills."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("the rate must not be negative")
        if not 1 <= self.period_us <= MAX_PERIOD_US:
            raise ValueError("the period must be between 1 microsecond and 366 days")
        if self.burst < 1:
            raise ValueError("the burst must be at least 1")
        divisor = gcd(self.count, self.period_us)
        object.__setattr__(self, "grains", self.period_us // divisor)
        object.__setattr__(self, "refill", self.count // divisor)
        if self.capacity + self.refill >= EXACT:
            most = (EXACT - 1 - self.refill) // self.grains
            raise ValueError(
                f"burst and period together pass 2^53 ({self.burst} tokens of {self.grains} grains): use "
                + (f"a burst of at most {most}, or " if most >= 1 else "")
                + "a rate whose count divides its period in microseconds"
            )

    @property
    def capacity(self) -> int:
        """Grains in a full bucket."""
        return self.burst * self.grains

    @property
    def refill_time_us(self) -> int | None:
        """Microseconds from empty to full, rounded up; None when it never refills."""
        return None if self.refill == 0 else -(-self.capacity // self.refill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Counts at most `units` in each calendar `window` of a time zone.

    `timezone` is an IANA name. `anchor_day` (1 to 31, months only) is the day on which a month starts,
    clamped to the last day of each month anew. Raises ValueError when a number is out of range.
    """

    units: int
    window: Window
    timezone: str = "UTC"
    anchor_day: int = 1

    def __post_init__(self) -> None:
        if self.units < 0:
            raise ValueError("the quota must not be negative")
        if self.units >= EXACT:
            raise ValueError("the quota must be less than 2^53")
        if not 1 <= self.anchor_day <= 31:  # noqa: PLR2004 # The longest month.
            raise ValueError("the anchor day must be between 1 and 31")
        if self.anchor_day != 1 and self.window is not Window.MONTH:
            raise ValueError("only a month can have an anchor day")


class Mode(Enum):
    """What a limit without room does: refuse, only count what it would have refused, or count the overage."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OVERAGE = "overage"


class Per(Enum):
    """Whom a limit counts for: the client with all of its keys, or each key on its own."""

    CLIENT = "client"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Limit:
    """A named rule of a plan. The name is unique in the plan and is what spending is remembered by.

    Raises ValueError when a bucket is to count overage: only a quota can.
    """

    name: str
    rule: Bucket | Quota
    mode: Mode = Mode.ENFORCE
    per: Per = Per.CLIENT

    def __post_init__(self) -> None:
        if self.mode is Mode.OVERAGE and not isinstance(self.rule, Quota):
            raise ValueError("only a quota can be in overage mode")
