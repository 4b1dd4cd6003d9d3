"""What a plan permits, held against what clients got and what the service says it gave. Pure, in whole numbers.

Theory of operation. In any t microseconds a bucket gives at most (capacity + refill * t) // grains tokens (see
`quotas.limits.Bucket`). t is measured around the service, from before a client's first check is sent until after
its last answer is received, so it errs towards permitting too much: never a false alarm, and by no more than the
two ends of the wire.

Worked example. 5 per second, burst 10, is capacity 2,000,000, refill 1 and 200,000 grains to the token. In
20.03 s that is (2,000,000 + 20,030,000) // 200,000 = 110 checks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from prometheus_client.parser import text_string_to_metric_families

from quotas.limits import Bucket, Limit, Mode

CLOCK_SLACK = 1
"""Checks that may be granted beyond the plan: we measure with the monotonic clock, the store with a clock that is
being kept right, which can make it run a few hundred millionths faster."""

LEAST_TENTHS = 9
"""Tenths of what the plan permits that a client which always asks must get."""

_ALLOWED = frozenset({"allowed"})
_REFUSED = frozenset({"rate_limited", "quota_exceeded"})

LONGEST_S = 3_000
"""The longest run in seconds that `permitted` is good for: shorter than the shortest window of a quota."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one client counted. `elapsed_us` is from its first check sent to its last answer received, rounded up."""

    client: str
    hot: bool
    allowed: int
    refused: int
    errors: Mapping[str, int]
    elapsed_us: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What the service counted for one client, from its metrics; `other` is neither allowed nor refused."""

    allowed: int = 0
    refused: int = 0
    other: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One client judged: `most` is what its plan permits in its time; without faults it passes."""

    seen: Seen
    counted: Counted
    most: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """All clients judged; `strangers` are names that the service counted and nobody used."""

    rows: tuple[Row, ...]
    strangers: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong, one line each."""
        of_clients = [f"{row.seen.client}: {fault}" for row in self.rows for fault in row.faults]
        return of_clients + [f"the service counted checks of {name!r}, which made none" for name in self.strangers]


def judge_counts(seen: Sequence[Seen], counted: Mapping[str, Counted], limits: Iterable[Limit]) -> Counts:
    """The judgement of clients that are all on a plan with these limits; `counted` is by client name."""
    limits = tuple(limits)
    rows = tuple(_row(one, counted.get(one.client, Counted()), permitted(limits, one.elapsed_us)) for one in seen)
    return Counts(rows, tuple(sorted(counted.keys() - {one.client for one in seen})))


def permitted(limits: Iterable[Limit], elapsed_us: int) -> int:
    """The most checks that limits about every request let pass in a time of at most LONGEST_S, rounded down."""
    return min(_permitted(limit, elapsed_us) for limit in limits if limit.mode is Mode.ENFORCE)


def _permitted(limit: Limit, elapsed_us: int) -> int:
    if isinstance(limit.rule, Bucket):
        return (limit.rule.capacity + limit.rule.refill * elapsed_us) // limit.rule.grains
    return 2 * limit.rule.units  # One window may end meanwhile, never two.


def _row(seen: Seen, counted: Counted, most: int) -> Row:
    return Row(seen, counted, most, (*_faults(seen, most), *_miscounts(seen, counted)))


def _faults(seen: Seen, most: int) -> Iterable[str]:
    """What is wrong with the answers."""
    if seen.errors:
        yield "errors: " + ", ".join(f"{count} x {what}" for what, count in seen.errors.items())
    if seen.allowed > most + CLOCK_SLACK:
        yield f"over-granted: allowed {seen.allowed}, which is {seen.allowed - most} more than the plan permits"
    if seen.allowed == 0:
        yield "never allowed"
    if seen.hot and seen.refused == 0:
        yield "never refused, though it asked without a pause"
    if seen.hot and 10 * seen.allowed < LEAST_TENTHS * most:
        yield f"under-granted: allowed {seen.allowed}, less than {LEAST_TENTHS} tenths of the {most} that are its due"
    if not seen.hot and seen.refused > 0:
        yield f"refused {seen.refused} times, though it kept within its plan"


def _miscounts(seen: Seen, counted: Counted) -> Iterable[str]:
    """Where the service's metrics differ from what the client counted.

    An error can be counted for nobody, when it comes before the client is known; errors are faults as they are.
    """
    pairs = [("allowed", counted.allowed, seen.allowed), ("refused", counted.refused, seen.refused)]
    for outcome, there, here in pairs:
        if there != here:
            yield f"the service counted {there} {outcome}, the client {here}"
    if counted.other and not seen.errors:
        yield f"the service counted {counted.other} errors that the client has not seen"


def counted(exposition: str) -> dict[str, Counted]:
    """What the service counted, by client, from its metrics."""
    totals: dict[str, Counted] = {}
    for client, outcome, value in _checks(exposition):
        so_far = totals.get(client, Counted())
        if outcome in _ALLOWED:
            totals[client] = replace(so_far, allowed=so_far.allowed + value)
        elif outcome in _REFUSED:
            totals[client] = replace(so_far, refused=so_far.refused + value)
        else:
            totals[client] = replace(so_far, other=so_far.other + value)
    return totals


def _checks(exposition: str) -> Iterable[tuple[str, str, int]]:
    """Client, outcome and value of each sample that is not 0; counts are whole, and exact as floats up to 2^53."""
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "quotas_checks_total" and sample.value:
                yield sample.labels["client"], sample.labels["outcome"], int(sample.value)
