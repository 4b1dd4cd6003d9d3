"""One client that never pauses among many that do: how long the others wait with it, and without it. Pure.

All runs on one machine, so a slower answer can be the sender's own doing, or of whatever else the machine does. Three
things are held against that. The sender must have been idle for most of the time. The abuser's program yields to every
other (see `asking`). And the p99s of the two halves of the phases without it are compared as well: where these differ
by more than the pass line, nothing can be told of the abuser, and that is said.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtests.verdicts.counts import CLOCK_SLACK
from loadtests.verdicts.verdict import ALLOWED, Check, Verdict, first_of, percentile

MOST_TENTHS = 12
"""Tenths of the p99 without the abuser that the one with it may be."""

BUSIEST = 0.5
"""The share of its time that the sender may have been busy."""

LEAST_SAMPLES = 200
LEAST_TIMES = 5
"""How many times as much as all the polite together the abuser must have asked for."""


@dataclass(frozen=True, slots=True)
class Abuse:
    """What the abuser got in all phases together: `most` is what its plan permits from its first check to its last."""

    allowed: int
    refused: int
    errors: int
    most: int


@dataclass(frozen=True, slots=True)
class Phase:
    """A time with the abuser, or without it. `busy` is the share of it in which the sender used a CPU."""

    begun_us: int
    ended_us: int
    busy: float
    abused: bool


@dataclass(frozen=True, slots=True)
class _Measured:
    phase: Phase
    waits_us: Sequence[int]

    @property
    def p99_us(self) -> int:
        return percentile(self.waits_us, 99)


def judge(checks: Sequence[Check], phases: Sequence[Phase], abuse: Abuse) -> Verdict:
    """The verdict on checks of polite clients, in at least two phases of each kind and between them."""
    measured = [
        _Measured(phase, [each.took_us for each in checks if phase.begun_us <= each.sent_us < phase.ended_us])
        for phase in phases
    ]
    having = [each for each in measured if each.phase.abused]
    lacking = [each for each in measured if not each.phase.abused]
    faults = [
        *first_of(_wrong(checks)),
        *first_of(fault for each in measured for fault in _phase_faults(each)),
        *_abuse_faults(abuse, sum(len(each.waits_us) for each in having)),
    ]
    if not all(each.waits_us for each in measured):
        return Verdict(summary="nothing was measured", faults=tuple(faults))
    with_us, without_us = (statistics.median(each.p99_us for each in some) for some in (having, lacking))
    halves = sorted(statistics.median(each.p99_us for each in lacking[half::2]) for half in (0, 1))
    ratio, itself = with_us / without_us, halves[1] / halves[0]
    if 10 * with_us > MOST_TENTHS * without_us:
        faults.append(f"the polite waited {ratio:.2f} times as long with the abuser, more than 1.2")
        if 10 * halves[1] > MOST_TENTHS * halves[0]:
            faults.append(
                f"but this machine is too busy to tell: two halves without the abuser differ {itself:.2f} times"
            )
    p99s = f"{with_us / 1000:.2f} ms with the abuser, {without_us / 1000:.2f} ms without"
    lines = [f"{'abuser':<9}{'phases':>8}{'checks':>8}{'p50':>11}{'p99':>11}{'sender busy':>14}"]
    lines += [_line("without", lacking), _line("with", having)]
    lines.append(f"the abuser was allowed {abuse.allowed} times and refused {abuse.refused} times")
    lines.append(f"the p99 of one half of the phases without it is {itself:.2f} times that of the other half")
    return Verdict(
        summary=f"p99 of the polite: {p99s}, {ratio:.2f} times as much",
        faults=tuple(faults),
        lines=tuple(lines),
        figures={
            "p99_with_us": with_us,
            "p99_without_us": without_us,
            "ratio": ratio,
            "ratio_without_to_itself": itself,
            "abuser": {"allowed": abuse.allowed, "refused": abuse.refused},
            "phases": [_figures(each) for each in measured],
        },
    )


def _wrong(checks: Sequence[Check]) -> Iterable[str]:
    begun_us = min((check.sent_us for check in checks), default=0)
    for check in checks:
        if check.status != ALLOWED:
            when = f"{(check.sent_us - begun_us) / 1e6:.1f} s after the first check, in {check.took_us / 1000:.0f} ms"
            yield f"{check.client}: answered {check.answer}, {when}, though it kept within its plan"


def _phase_faults(measured: _Measured) -> Iterable[str]:
    if len(measured.waits_us) < LEAST_SAMPLES:
        yield f"only {len(measured.waits_us)} checks of the polite in a phase, too few for a p99"
    if measured.phase.busy > BUSIEST:
        yield f"the sender was busy for {measured.phase.busy:.0%} of a phase: what it measured may be itself"


def _abuse_faults(abuse: Abuse, polite: int) -> Iterable[str]:
    if abuse.errors:
        yield f"abuser: {abuse.errors} answers that are neither yes nor no"
    if abuse.allowed > abuse.most + CLOCK_SLACK:
        yield f"abuser: over-granted: allowed {abuse.allowed}, and its plan permits {abuse.most}"
    if abuse.refused < LEAST_TIMES * polite:
        yield f"abuser: refused {abuse.refused} times beside {polite} checks of the polite: that is no abuse"


def _line(name: str, some: Sequence[_Measured]) -> str:
    """Medians of phases, and how busy the sender was at most."""
    shown = [
        f"{statistics.median(percentile(each.waits_us, part) for each in some) / 1000:>8.2f} ms" for part in (50, 99)
    ]
    checks, busy = sum(len(each.waits_us) for each in some), max(each.phase.busy for each in some)
    return f"{name:<9}{len(some):>8}{checks:>8}{''.join(shown)}{busy:>14.0%}"


def _figures(measured: _Measured) -> dict[str, object]:
    phase = measured.phase
    return {
        "abused": phase.abused,
        "checks": len(measured.waits_us),
        "p50_us": percentile(measured.waits_us, 50),
        "p99_us": measured.p99_us,
        "busy": phase.busy,
        "seconds": (phase.ended_us - phase.begun_us) / 1e6,
    }
