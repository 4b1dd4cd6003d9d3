"""Keys that are replaced under load: the new one is never refused, the old one ends when its grace does. Pure.

The end of a grace is known to the microsecond, from the registry. A check with the old key that was answered before
it must pass, one that was sent at it or later must not: the worker decided in between, and this machine has one clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtests.verdicts.verdict import ALLOWED, UNAUTHENTICATED, Check, Verdict, first_of

LAST_US = 500_000
"""How long before the last check of a run a grace must have ended for its end to be judged."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new key in the place of an old one, by their ids, and when that was asked for and answered."""

    client: str
    old: str
    new: str
    asked_us: int
    answered_us: int


def judge(
    checks: Sequence[Check],
    rotations: Sequence[Rotation],
    *,
    ends: Mapping[str, int],
    grace_s: int,
    used: Mapping[str, int],
) -> Verdict:
    """The verdict on checks and the rotations meanwhile.

    `ends` is when each key that was replaced ends, in microseconds since the epoch, by its id; `used` is what the quota
    of each client says was taken of it.
    """
    allowed = dict.fromkeys(used, 0)
    for check in checks:
        allowed[check.client] += check.status == ALLOWED
    last_us = max((check.sent_us for check in checks), default=0)
    ended = [rotation for rotation in rotations if ends.get(rotation.old, last_us) < last_us - LAST_US]
    faults = [
        *first_of(_wrong_answers(checks, ends)),
        *first_of(_wrong_ends(rotations, ends, grace_s)),
        *first_of(_untried(ended, checks, ends)),
        *first_of(_miscounts(allowed, used)),
    ]
    if not ended:
        faults.append("no grace ended under load")
    refused = sum(check.status == UNAUTHENTICATED for check in checks)
    before_us, after_us = _nearest(checks, ends)
    lines = [
        f"{len(rotations)} rotations of keys of {len(used)} clients; {len(ended)} graces of {grace_s} s ended",
        f"{len(checks)} checks, of which {refused} were with a key that had ended",
        f"nearest to the end of a grace: {_ms(before_us)} before it allowed, {_ms(after_us)} after it refused",
    ]
    return Verdict(
        summary=f"{len(rotations)} keys were replaced: no new key was refused, and every old one ended with its grace",
        faults=tuple(faults),
        lines=tuple(lines),
        figures={
            "rotations": len(rotations),
            "ended": len(ended),
            "checks": len(checks),
            "grace_s": grace_s,
            "nearest_allowed_before_us": before_us,
            "nearest_refused_after_us": after_us,
        },
    )


def _wrong_answers(checks: Iterable[Check], ends: Mapping[str, int]) -> Iterable[str]:
    for check in checks:
        end_us = ends.get(check.key)
        if check.status not in {ALLOWED, UNAUTHENTICATED}:
            yield f"{check.client}: answered {check.answer}"
        elif end_us is None or check.received_us < end_us:
            if check.status == UNAUTHENTICATED:
                when = (
                    "that nobody had replaced" if end_us is None else f"{end_us - check.received_us} µs before its end"
                )
                yield f"{check.client}: answered {check.answer} to a key {when}"
        elif check.sent_us >= end_us and check.status == ALLOWED:
            yield f"{check.client}: a key passed {check.sent_us - end_us} µs after its end"


def _wrong_ends(rotations: Iterable[Rotation], ends: Mapping[str, int], grace_s: int) -> Iterable[str]:
    for rotation in rotations:
        end_us = ends.get(rotation.old)
        begins_us = None if end_us is None else end_us - grace_s * 1_000_000
        if begins_us is None:
            yield f"{rotation.client}: a replaced key has no end"
        elif not rotation.asked_us <= begins_us <= rotation.answered_us:
            yield f"{rotation.client}: a grace does not begin while its rotation was under way"


def _untried(ended: Iterable[Rotation], checks: Iterable[Check], ends: Mapping[str, int]) -> Iterable[str]:
    """Rotations whose two sides no check has seen, so that nothing is known of them."""
    graced, refused, welcome = set(), set(), set()
    for check in checks:
        end_us = ends.get(check.key)
        if check.status == ALLOWED:
            welcome.add(check.key)
        if end_us is not None and check.status == ALLOWED and check.received_us < end_us:
            graced.add(check.key)
        if end_us is not None and check.status == UNAUTHENTICATED and check.sent_us >= end_us:
            refused.add(check.key)
    for rotation in ended:
        if rotation.old not in graced:
            yield f"{rotation.client}: no check with an old key passed within its grace"
        if rotation.old not in refused:
            yield f"{rotation.client}: no check with an old key was refused after its grace"
        if rotation.new not in welcome:
            yield f"{rotation.client}: no check with a new key passed"


def _miscounts(allowed: Mapping[str, int], used: Mapping[str, int]) -> Iterable[str]:
    for client, units in used.items():
        if units != allowed[client]:
            yield f"{client}: {units} units are used by its quota, and {allowed[client]} checks were allowed"


def _nearest(checks: Iterable[Check], ends: Mapping[str, int]) -> tuple[int | None, int | None]:
    """How near checks came to an end: from the answer of one that passed, and to the sending of one that did not."""
    known = [(check, ends[check.key]) for check in checks if check.key in ends]
    before = [end_us - check.received_us for check, end_us in known if check.received_us < end_us]
    after = [check.sent_us - end_us for check, end_us in known if check.sent_us >= end_us]
    return min(before, default=None), min(after, default=None)


def _ms(us: int | None) -> str:
    return "none" if us is None else f"{us / 1000:.1f} ms"
