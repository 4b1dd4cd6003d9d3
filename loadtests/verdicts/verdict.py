"""What a scenario came to, and the checks that it is judged by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ALLOWED, UNAUTHENTICATED, REFUSED, UNAVAILABLE = 200, 401, 429, 503

SHOWN_FAULTS = 20
"""Faults of one kind that are told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Passed when there are no `faults`, which are one line each; `summary` is said when there are none.

    `lines` are the report for people, `figures` the one for machines.
    """

    summary: str
    faults: tuple[str, ...]
    lines: tuple[str, ...] = ()
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One check as its sender saw it, in microseconds of the scenario's clock.

    `sent_us` is from before it was sent, rounded down, and `received_us` from after its answer came, rounded up: the
    service decided in between. `key` tells credentials or occasions apart and is no secret. `status` is 0 without an
    answer; `said` is the reason that was given, `degraded`, or the name of what broke. `resets_s` is what the last
    limit of `RateLimit` has for `t`, `retry_s` is `Retry-After`, None without these.
    """

    client: str
    key: str
    status: int
    said: str
    sent_us: int
    received_us: int
    resets_s: int | None = None
    retry_s: int | None = None

    @property
    def answer(self) -> str:
        """Status and what was said."""
        return f"{self.status} {self.said}".strip()

    @property
    def took_us(self) -> int:
        """How long the sender waited."""
        return self.received_us - self.sent_us


def first_of(faults: Iterable[str]) -> list[str]:
    """The first faults of a kind, and how many more there are."""
    told = list(faults)
    rest = len(told) - SHOWN_FAULTS
    return told if rest <= 0 else [*told[:SHOWN_FAULTS], f"and {rest} more like these"]


def percentile(values: Iterable[int], hundredths: int) -> int:
    """The nearest-rank percentile: the least value that so many hundredths of all are not above. There is a value."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * hundredths // 100) - 1]
