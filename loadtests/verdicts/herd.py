"""Across the end of a quota's window: the old one gives all of its units and the new one all of its own. Pure.

A check that was answered before the end belongs to the old window, one that was sent at the end or later to the new
one: the store decided in between, and this machine has one clock. A check that was under way at the end belongs to
the window whose rest its answer tells.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from loadtests.verdicts.verdict import ALLOWED, REFUSED, Check, Verdict, first_of

OLD, NEW = "old", "new"
HALF_HOUR_S = 1_800
RETRY = "retry"
"""The `key` of a check whose sender waited exactly as long as `Retry-After` had said."""

_SECOND_US = 1_000_000


def judge(checks: Sequence[Check], *, units: Mapping[str, int], end_us: int) -> Verdict:
    """The verdict on clients that have so many units an hour, by their name, in an hour that ended at `end_us`."""
    counts = {(client, window): Counter[int]() for client in units for window in (OLD, NEW)}
    for check in checks:
        if check.status in {ALLOWED, REFUSED}:
            counts[check.client, window_of(check, end_us)][check.status] += 1
    retries = [check for check in checks if check.key == RETRY]
    across = sum(check.sent_us < end_us <= check.received_us for check in checks)
    faults = [
        *first_of(_strays(checks, end_us)),
        *(fault for (client, window), count in counts.items() for fault in _faults(client, window, count, units)),
        *first_of(_late_retries(retries, end_us)),
    ]
    lines = [f"{'client':<12}{'window':<8}{'units':>7}{'allowed':>9}{'refused':>9}"]
    lines += [
        f"{client:<12}{window:<8}{units[client]:>7}{count[ALLOWED]:>9}{count[REFUSED]:>9}"
        for (client, window), count in counts.items()
    ]
    lines.append(f"{across} checks were under way at the end; {len(retries)} came when Retry-After had said")
    windows = [
        {"client": client, "window": window, "units": units[client]}
        | {"allowed": count[ALLOWED], "refused": count[REFUSED]}
        for (client, window), count in counts.items()
    ]
    return Verdict(
        summary=f"{len(checks)} checks across a window's end: each side gave its units and not one more",
        faults=tuple(faults),
        lines=tuple(lines),
        figures={"windows": windows, "under_way_at_the_end": across, "retries": len(retries)},
    )


def window_of(check: Check, end_us: int) -> str:
    """The window that a check was decided in."""
    if check.received_us < end_us:
        return OLD
    if check.sent_us >= end_us:
        return NEW
    return NEW if check.resets_s is None or check.resets_s > HALF_HOUR_S else OLD


def _strays(checks: Iterable[Check], end_us: int) -> Iterable[str]:
    """Answers that are neither yes nor no, and those that tell of a window that they cannot be about."""
    for check in checks:
        if check.status not in {ALLOWED, REFUSED}:
            yield f"{check.client}: answered {check.answer}"
            continue
        if check.resets_s is None:
            yield f"{check.client}: an answer without RateLimit"
            continue
        new = window_of(check, end_us) == NEW
        ends_us = end_us + (3_600 * _SECOND_US if new else 0)
        least_s, most_s = (-(-(ends_us - at_us) // _SECOND_US) for at_us in (check.received_us, check.sent_us))
        if not least_s <= check.resets_s <= most_s:
            side = NEW if new else OLD
            yield f"{check.client}: {check.resets_s} s to the end of the {side} window, not {least_s} to {most_s}"


def _faults(client: str, window: str, count: Mapping[int, int], units: Mapping[str, int]) -> Iterable[str]:
    allowed, due = count[ALLOWED], units[client]
    if allowed > due:
        yield f"{client}, {window} window: over-granted: allowed {allowed} of {due}"
    if count[REFUSED] == 0:
        yield f"{client}, {window} window: never refused, so nobody asked for more than there was"
    elif allowed < due:
        yield f"{client}, {window} window: withheld: allowed {allowed} of {due}, and refused {count[REFUSED]}"


def _late_retries(retries: Sequence[Check], end_us: int) -> Iterable[str]:
    if not retries:
        yield "nobody waited for Retry-After"
    for check in retries:
        if check.sent_us < end_us:
            yield f"{check.client}: Retry-After ended {end_us - check.sent_us} µs before the window did"
        elif check.status != ALLOWED:
            yield f"{check.client}: answered {check.answer} after Retry-After"
