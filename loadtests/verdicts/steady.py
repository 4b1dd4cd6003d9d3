"""Many clients at their own pace beside one that never pauses: everyone gets what the plan gives. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from loadtests.verdicts.counts import Counted, Counts, Row, Seen, judge_counts
from loadtests.verdicts.verdict import Verdict
from quotas.limits import Limit

SHOWN = 12
"""Clients that the table shows, the busiest first; those with faults are always shown."""


def judge(seen: Sequence[Seen], counted: Mapping[str, Counted], limits: Iterable[Limit]) -> Verdict:
    """The verdict on clients that are all on a plan with these limits; `counted` is by client name."""
    counts = judge_counts(seen, counted, limits)
    checks = sum(row.seen.allowed + row.seen.refused for row in counts.rows)
    return Verdict(
        summary=f"{checks} checks: every client got what its plan gives",
        faults=tuple(counts.faults),
        lines=tuple(table(counts)),
        figures={"clients": figures(counts)},
    )


def table(counts: Counts) -> Iterable[str]:
    """The busiest clients, those with faults, and how many others there are."""
    yield f"{'client':<12}{'allowed':>9}{'refused':>9}{'errors':>9}{'most':>9}  verdict"
    rows = sorted(counts.rows, key=lambda row: -(row.seen.allowed + row.seen.refused))
    shown = [row for number, row in enumerate(rows) if number < SHOWN or row.faults]
    yield from map(_line, shown)
    others = [row for row in rows if row not in shown]
    if others:
        allowed = sum(row.seen.allowed for row in others)
        yield f"{f'{len(others)} more':<12}{allowed:>9}{0:>9}{0:>9}{'':>9}  pass"


def _line(row: Row) -> str:
    said = "FAIL" if row.faults else "pass"
    errors = sum(row.seen.errors.values())
    return f"{row.seen.client:<12}{row.seen.allowed:>9}{row.seen.refused:>9}{errors:>9}{row.most:>9}  {said}"


def figures(counts: Counts) -> list[dict[str, object]]:
    """All clients, for machines."""
    return [
        {**asdict(row.seen), "most": row.most, "service": asdict(row.counted), "faults": row.faults}
        for row in counts.rows
    ]
