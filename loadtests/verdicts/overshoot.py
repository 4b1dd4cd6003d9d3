"""Takes from many connections over several workers: what was given is what the limits permit, to the unit. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from loadtests.verdicts.counts import CLOCK_SLACK, LEAST_TENTHS, Counted
from loadtests.verdicts.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one client got, and what is known of it from elsewhere.

    `most` is what its limits permit in the time from the first check sent to the last answer received. `exact` says
    that they permit no less, either: nothing came back in that time. `counted` is what the
    metrics say, `used` the units of its history in the store, and `left` what the state has left of the quota, None
    without one; `units` is the whole quota then.
    """

    client: str
    allowed: int
    refused: int
    errors: Mapping[str, int]
    most: int
    exact: bool
    counted: Counted
    used: int
    units: int | None
    left: int | None


def judge(taken: Sequence[Taken], *, takes: int, workers: int, served: int, seconds: float) -> Verdict:
    """The verdict. `served` is how many workers have answered."""
    asked = sum(each.allowed + each.refused + sum(each.errors.values()) for each in taken)
    overshoot = sum(max(0, each.allowed - each.most - (0 if each.exact else CLOCK_SLACK)) for each in taken)
    faults = [f"{each.client}: {fault}" for each in taken for fault in _faults(each)]
    if asked < takes:
        faults.append(f"only {asked} of {takes} takes were answered")
    if served < workers:
        faults.append(f"only {served} of {workers} workers answered")
    lines = [f"{'client':<12}{'allowed':>10}{'permitted':>11}{'refused':>10}{'metrics':>10}{'history':>10}{'left':>8}"]
    for each in taken:
        counts = f"{each.allowed:>10}{each.most:>11}{each.refused:>10}{each.counted.allowed:>10}{each.used:>10}"
        lines.append(f"{each.client:<12}{counts}{'' if each.left is None else each.left:>8}")
    lines.append(f"{asked} takes over {workers} workers in {seconds:.0f} s: overshoot {overshoot}")
    return Verdict(
        summary=f"overshoot {overshoot} in {asked} takes over {workers} workers",
        faults=tuple(faults),
        lines=tuple(lines),
        figures={"takes": asked, "overshoot": overshoot, "workers": workers, "seconds": seconds}
        | {"clients": [asdict(each) for each in taken]},
    )


def _faults(each: Taken) -> Iterable[str]:
    if each.errors:
        yield "errors: " + ", ".join(f"{count} x {what}" for what, count in each.errors.items())
    slack = 0 if each.exact else CLOCK_SLACK
    if each.allowed > each.most + slack:
        yield f"over-granted: allowed {each.allowed}, and its limits permit {each.most}"
    if each.exact and each.allowed < each.most:
        yield f"withheld: allowed {each.allowed} of {each.most}"
    if not each.exact and 10 * (each.allowed + CLOCK_SLACK) < LEAST_TENTHS * each.most:
        yield f"under-granted: allowed {each.allowed}, less than {LEAST_TENTHS} tenths of {each.most}"
    if each.refused == 0:
        yield "never refused, so nobody asked for more than there was"
    told = each.counted
    if (told.allowed, told.refused, told.other) != (each.allowed, each.refused, 0):
        yield f"the metrics say {told.allowed} allowed, {told.refused} refused and {told.other} other"
    if each.used != each.allowed:
        yield f"its history has {each.used} units, and it was allowed {each.allowed}"
    if each.units is not None and each.left != each.units - each.allowed:
        yield f"its state has {each.left} of {each.units} left, and it was allowed {each.allowed}"
