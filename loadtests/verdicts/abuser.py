"""One client that never pauses among many that do: how long the others wait with it, and without it. Pure.

All runs on one machine, so a slower answer can be the sender's own doing. Two things are held against that. The
sender must have been idle for most of the time, and the abuser's program yields to every other (see `asking`).
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtests.verdicts.counts import CLOCK_SLACK, LEAST_TENTHS
from loadtests.verdicts.verdict import ALLOWED, REFUSED, Check, Verdict, first_of, percentile

MOST_TENTHS = 12
"""Tenths of the p99 without the abuser that the one with it may be."""

BUSIEST = 0.5
"""The share of its time that the sender may have been busy."""

LEAST_SAMPLES = 300
LEAST_TIMES = 5
"""How many times as much as all the polite together the abuser must have asked for."""


@dataclass(frozen=True, slots=True)
class Abuse:
    """What the abuser got in one phase: `most` is what its plan permits in its time."""

    allowed: int
    refused: int
    errors: int
    most: int


@dataclass(frozen=True, slots=True)
class Phase:
    """A time with the abuser, or without it (None). `busy` is the share of it in which the sender used a CPU."""

    begun_us: int
    ended_us: int
    busy: float
    abuse: Abuse | None


@dataclass(frozen=True, slots=True)
class _Measured:
    phase: Phase
    waits_us: Sequence[int]

    @property
    def p99_us(self) -> int:
        return percentile(self.waits_us, 99)


def judge(checks: Sequence[Check], phases: Sequence[Phase]) -> Verdict:
    """The verdict on checks of polite clients, which came in all of these phases and between them."""
    measured = [
        _Measured(phase, [each.took_us for each in checks if phase.begun_us <= each.sent_us < phase.ended_us])
        for phase in phases
    ]
    faults = [*first_of(_refusals(checks)), *(fault for each in measured for fault in _faults(each))]
    lines = [f"{'abuser':<9}{'polite':>8}{'p50':>11}{'p99':>11}{'busy':>7}{'abuser allowed':>16}{'refused':>10}"]
    lines += [_line(each) for each in measured if each.waits_us]
    figures: dict[str, object] = {}
    summary = "nothing was measured"
    if all(each.waits_us for each in measured):
        having = statistics.median(each.p99_us for each in measured if each.phase.abuse)
        lacking = statistics.median(each.p99_us for each in measured if not each.phase.abuse)
        p99s = f"{having / 1000:.2f} ms with the abuser, {lacking / 1000:.2f} ms without"
        summary = f"p99 of the polite: {p99s}, {having / lacking:.2f} times as much"
        lines.append(f"medians: {p99s}")
        figures = {"p99_with_us": having, "p99_without_us": lacking, "ratio": having / lacking}
        if 10 * having > MOST_TENTHS * lacking:
            faults.append(f"the polite waited {having / lacking:.2f} times as long with the abuser, more than 1.2")
    return Verdict(
        summary=summary,
        faults=tuple(faults),
        lines=tuple(lines),
        figures={**figures, "phases": [_figures(each) for each in measured]},
    )


def _refusals(checks: Iterable[Check]) -> Iterable[str]:
    for check in checks:
        if check.status != ALLOWED:
            said = "refused, though it kept within its plan" if check.status == REFUSED else f"answered {check.answer}"
            yield f"{check.client}: {said}"


def _faults(measured: _Measured) -> Iterable[str]:
    phase, polite = measured.phase, len(measured.waits_us)
    if polite < LEAST_SAMPLES:
        yield f"only {polite} checks of the polite in a phase, too few for a p99"
    if phase.busy > BUSIEST:
        yield f"the sender was busy for {phase.busy:.0%} of a phase: what it measured may be itself"
    if phase.abuse is None:
        return
    if phase.abuse.errors:
        yield f"abuser: {phase.abuse.errors} answers that are neither yes nor no"
    if phase.abuse.allowed > phase.abuse.most + CLOCK_SLACK:
        yield f"abuser: over-granted: allowed {phase.abuse.allowed}, and its plan permits {phase.abuse.most}"
    if 10 * (phase.abuse.allowed + CLOCK_SLACK) < LEAST_TENTHS * phase.abuse.most:
        yield f"abuser: under-granted: allowed {phase.abuse.allowed} of the {phase.abuse.most} that are its due"
    if phase.abuse.refused < LEAST_TIMES * polite:
        yield f"abuser: refused {phase.abuse.refused} times beside {polite} checks of the polite: that is no abuse"


def _line(measured: _Measured) -> str:
    phase = measured.phase
    shown = [f"{percentile(measured.waits_us, each) / 1000:>8.2f} ms" for each in (50, 99)]
    got = "" if phase.abuse is None else f"{phase.abuse.allowed:>16}{phase.abuse.refused:>10}"
    name = "without" if phase.abuse is None else "with"
    return f"{name:<9}{len(measured.waits_us):>8}{''.join(shown)}{phase.busy:>7.0%}{got}"


def _figures(measured: _Measured) -> dict[str, object]:
    phase = measured.phase
    abuse = None if phase.abuse is None else {"allowed": phase.abuse.allowed, "refused": phase.abuse.refused}
    return {
        "abuser": abuse,
        "checks": len(measured.waits_us),
        "p99_us": measured.p99_us if measured.waits_us else None,
        "busy": phase.busy,
        "seconds": (phase.ended_us - phase.begun_us) / 1e6,
    }
