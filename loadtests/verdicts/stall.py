"""A store that stands still for a while: checks are answered in time, as plans say, and charged no more. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from loadtests.verdicts.verdict import ALLOWED, REFUSED, UNAVAILABLE, Check, Verdict, first_of, percentile

MARGIN_US = 150_000
"""What an answer may take beyond the store's deadline: the way there and back, and the sender's own event loop."""

CALM_US = 20_000
"""How late a program that only sleeps may be on a machine that can tell whether an answer was."""

BACK_US = 1_000_000
"""How soon after the store goes on the answers must be decisions again."""

SETTLE_US = 50_000
"""How long a signal may take until the store stands still."""

LEAST = 50
"""Checks of each plan that must have met a store that stood still."""

DEGRADED = "degraded"
UNCHECKED = {"deny": (UNAVAILABLE, "store_unavailable"), "allow": (ALLOWED, DEGRADED)}
"""What `on_store_error` makes of a check, by its value: the names of the scenario's clients."""


def judge(  # noqa: PLR0913 # What happened, and three places that tell of it.
    checks: Sequence[Check],
    *,
    stopped_us: int,
    continued_us: int,
    deadline_us: int,
    charged: Mapping[str, int],
    late_us: int,
) -> Verdict:
    """The verdict on two clients, `deny` and `allow`, whose quotas say that so many units were taken of them.

    `late_us` is how late a program on this machine was that did nothing but sleep.
    """
    late = first_of(_late(checks, deadline_us + MARGIN_US))
    if late and late_us > CALM_US:
        late.append(f"but this machine is too busy to tell: a program that only slept was {late_us / 1000:.0f} ms late")
    faults = [*late, *first_of(_wrong(checks, stopped_us, continued_us))]
    lines = [f"{'on_store_error':<16}{'decided':>9}{'unchecked':>11}{'charged':>9}{'slowest':>10}{'back after':>12}"]
    figures = {}
    for client, units in charged.items():
        own = [check for check in checks if check.client == client]
        unchecked = [check for check in own if _is_unchecked(check)]
        decided = sum(check.status == ALLOWED and not check.said for check in own)
        slowest_us = max((check.took_us for check in own), default=0)
        back_us = max((check.received_us - continued_us for check in unchecked), default=0)
        faults += _charges(client, units, decided, len(unchecked))
        faults += _coverage(client, own, stopped_us, continued_us)
        times = f"{slowest_us / 1000:>7.0f} ms{max(0, back_us) / 1000:>9.0f} ms"
        lines.append(f"{client:<16}{decided:>9}{len(unchecked):>11}{units:>9}{times}")
        figures[client] = {
            "decided": decided,
            "unchecked": len(unchecked),
            "charged": units,
            "slowest_us": slowest_us,
            "p99_us": percentile([check.took_us for check in own], 99) if own else None,
            "last_unchecked_after_us": back_us,
        }
    stalled_ms = (continued_us - stopped_us) / 1000
    return Verdict(
        summary=f"the store stood still for {stalled_ms:.0f} ms: every check was answered in time and as its plan says",
        faults=tuple(faults),
        lines=tuple(lines),
        figures={"stalled_us": continued_us - stopped_us, "deadline_us": deadline_us, "margin_us": MARGIN_US}
        | {"sleeper_late_us": late_us}
        | {"clients": figures},
    )


def _is_unchecked(check: Check) -> bool:
    return (check.status, check.said) == UNCHECKED[check.client]


def _late(checks: Iterable[Check], most_us: int) -> Iterable[str]:
    for check in checks:
        if check.took_us > most_us:
            yield f"{check.client}: an answer took {check.took_us / 1000:.0f} ms, more than {most_us / 1000:.0f}"


def _wrong(checks: Iterable[Check], stopped_us: int, continued_us: int) -> Iterable[str]:
    """Answers that are none of this plan's, and those that do not go with what the store did meanwhile."""
    for check in checks:
        if check.status == REFUSED or (check.status == ALLOWED and not check.said):
            if stopped_us + SETTLE_US <= check.sent_us and check.received_us < continued_us:
                yield f"{check.client}: decided while the store stood still ({check.answer})"
        elif not _is_unchecked(check):
            yield f"{check.client}: answered {check.answer}"
        elif check.received_us < stopped_us:
            early_ms = (stopped_us - check.received_us) / 1000
            yield f"{check.client}: unchecked {early_ms:.0f} ms before the store stood still"
        elif check.sent_us >= continued_us + BACK_US:
            late_ms = (check.sent_us - continued_us) / 1000
            yield f"{check.client}: unchecked {late_ms:.0f} ms after the store went on"


def _charges(client: str, charged: int, decided: int, unchecked: int) -> Iterable[str]:
    """A check that was decided took its unit. One that was answered unchecked may have: it was in flight."""
    if charged < decided:
        yield f"{client}: charged {charged}, less than the {decided} that were allowed"
    if charged > decided + unchecked:
        yield f"{client}: charged {charged}, more than {decided} allowed and {unchecked} in flight"


def _coverage(client: str, own: Sequence[Check], stopped_us: int, continued_us: int) -> Iterable[str]:
    """What must have been asked for the rest to mean anything."""
    sides = {
        "before the store stood still": sum(check.received_us < stopped_us for check in own),
        "while the store stood still": sum(stopped_us <= check.sent_us < continued_us for check in own),
        "after the store was back": sum(check.sent_us >= continued_us + BACK_US for check in own),
    }
    for when, number in sides.items():
        if number < LEAST:
            yield f"{client}: only {number} checks {when}, so nothing is known of that time"
