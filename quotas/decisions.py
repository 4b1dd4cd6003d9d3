"""What a check decides, and the pure model of how: all of the limits give the cost, or none gives anything.

`take` is the model that `lua/take.lua` is compared with, to the integer, in the tests. It does no I/O and
never asks the time: what is remembered and `now` go in, what is to be remembered and a decision come out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from quotas import buckets, windows
from quotas.limits import EXACT, Bucket, Limit, Mode, Quota

STEP_BACK_US = 3_600_000_000
"""A clock that stepped back by up to an hour over a window's start goes on counting in the later window."""


FOREVER_US = 3_155_760_000_000_000
"""How long a bucket that never refills is remembered: 100 years."""


class Outcome(Enum):
    """What became of a check: `wait` could pass later, `never` cannot at this cost."""

    TAKEN = "taken"
    WAIT = "wait"
    NEVER = "never"


class Standing(NamedTuple):  # A tuple: each check makes one for each limit, at a third of a dataclass's cost.
    """How one limit stands after a check.

    `remaining` is whole units, rounded down; in overage it is below 0 by the units past the quota.
    `reset_after_us` is None when a bucket never refills. `retry_after_us` is 0 when the cost had room, and
    None when it never will have.
    """

    limit: Limit
    remaining: int
    reset_after_us: int | None
    retry_after_us: int | None

    @property
    def next_unit_after_us(self) -> int | None:
        """Microseconds until more can be taken: a bucket's next token, a window's end; 0 full, None never.

        At most 1 microsecond late: it is told from the whole tokens missing.
        """
        limit, remaining, reset_after_us, _ = self
        rule = limit.rule
        if not reset_after_us or isinstance(rule, Quota):
            return reset_after_us
        whole = rule.burst - remaining - 1
        return max(1, reset_after_us - whole * rule.grains // rule.refill) if whole else reset_after_us


class Decision(NamedTuple):  # A tuple for the same reason.
    """The answer to one check, made at the instant `at_us` of the store's clock.

    `retry_after_us` and `binding` are None when it was allowed; `never` has no retry.

    The binding limit is the one with the longest wait, the first of equals; `never` beats any wait. `repeated` says
    that this was the answer to the same check before, and nothing was taken for it again.
    """

    at_us: int
    outcome: Outcome
    standings: tuple[Standing, ...]
    binding: Limit | None = None
    retry_after_us: int | None = None
    repeated: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the cost was taken (or, at cost 0, could be looked at)."""
        return self.binding is None

    @classmethod
    def of(cls, at_us: int, standings: Sequence[Standing]) -> "Decision":
        """The decision that follows from how every limit that applies stands."""
        binding: Standing | None = None
        for standing in standings:
            if standing.retry_after_us == 0 or standing.limit.mode is not Mode.ENFORCE:
                continue
            if binding is None or _longer(standing.retry_after_us, binding.retry_after_us):
                binding = standing
        if binding is None:
            return cls(at_us, Outcome.TAKEN, tuple(standings))
        outcome = Outcome.NEVER if binding.retry_after_us is None else Outcome.WAIT
        return cls(at_us, outcome, tuple(standings), binding.limit, binding.retry_after_us)


def _longer(wait_us: int | None, than_us: int | None) -> bool:
    return than_us is not None and (wait_us is None or wait_us > than_us)


Layout = tuple[str, tuple[int, int, int] | None]
"""What a memory says of a limit: its name, and of a bucket grains, refill and burst."""


def layout_of(name: str, rule: Bucket | None) -> Layout:
    """One limit's entry; None is a quota."""
    return name, None if rule is None else (rule.grains, rule.refill, rule.burst)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a client's limits remember, by name, at one instant.

    From `until_us` on nothing is left to remember under any plan that the client was on, and fresh is the same.
    `levels` are buckets, as the rule they were last under and the level in its grains; `counts` are quotas, as
    the end of the window in microseconds and the units used in it. Both also hold limits that the plan had before;
    `layout` has all of them in order, those of the plan first.
    """

    at_us: int
    until_us: int
    layout: tuple["Layout", ...] = ()
    levels: Mapping[str, tuple[Bucket, int]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def take(
    limits: Sequence[Limit],
    memory: Memory | None,
    *,
    now_us: int,
    cost: int,
    skipped: Collection[str] = (),
) -> tuple[Memory | None, Decision]:
    """Take `cost` units from every limit, or from none. Memory None is fresh: full buckets, unused quotas.

    Limits named in `skipped` do not match this check: they are remembered and neither asked nor charged.

    A refusal and a look (cost 0) return the memory as it was, with two exceptions. A clock that stepped back takes
    the memory's instant back with it, or the client would be locked out until the old time has come again. And the
    first check after a change of plan carries the memory over: until then buckets refill under the old rules.
    """
    known = _alive(memory, now_us)
    levels, counts = _brought(limits, known, now_us)
    waits = [_wait(limit, levels, counts, cost, now_us) for limit in limits]
    weighed = [(limit, wait) for limit, wait in zip(limits, waits, strict=True) if limit.name not in skipped]
    allowed = all(wait == 0 or limit.mode is not Mode.ENFORCE for limit, wait in weighed)
    if allowed and cost:
        for limit, wait in weighed:
            if wait == 0 or limit.mode is Mode.OVERAGE:
                _charge(limit, cost, levels, counts)
    standings = [_standing(limit, wait, levels, counts, now_us) for limit, wait in weighed]
    charged = allowed and cost and any(wait == 0 or limit.mode is Mode.OVERAGE for limit, wait in weighed)
    if charged or _moved(limits, known, now_us):
        memory = _remembered(limits, known, levels, counts, now_us)
    return memory, Decision.of(now_us, standings)


def take_once(  # noqa: PLR0913 # What is remembered, the plan, and what is asked: all of it is input.
    limits: Sequence[Limit],
    memory: Memory | None,
    first: Decision | None,
    *,
    within_us: int,
    now_us: int,
    cost: int,
    skipped: Collection[str] = (),
) -> tuple[Memory | None, Decision | None, Decision]:
    """`take` for a check that may be sent twice: less than `within_us` after `first` that is its answer, for nothing.

    Returns what is remembered, what is to be repeated from now on, and the decision. Only an allowed cost is repeated,
    also where no limit took it: it is counted. A refusal took nothing, and asking again may find room.
    """
    if first is not None and now_us - first.at_us < within_us:
        return memory, first, first._replace(repeated=True)
    memory, decision = take(limits, memory, now_us=now_us, cost=cost, skipped=skipped)
    return memory, decision if decision.allowed and cost else first, decision


def refund(  # noqa: PLR0913 # What is remembered, the plan, and what is asked: all of it is input.
    limits: Sequence[Limit],
    memory: Memory | None,
    *,
    now_us: int,
    units: int,
    taken_us: int | None = None,
    skipped: Collection[str] = (),
) -> tuple[Memory | None, dict[str, int]]:
    """Give `units` back to every limit that is not skipped; returns the whole units that each got, by name.

    Never above full, never below nothing used, and never to a window that began after `taken_us`, the instant
    they were taken at (None: not known, counts as now).
    """
    known = _alive(memory, now_us)
    levels, counts = _brought(limits, known, now_us)
    given: dict[str, int] = {}
    changed = _moved(limits, known, now_us)
    for limit in limits:
        if limit.name in skipped:
            continue
        if isinstance(limit.rule, Bucket):
            rule, level = levels[limit.name]
            fuller = min(rule.capacity, level + units * rule.grains)
            levels[limit.name] = (rule, fuller)
            given[limit.name] = fuller // rule.grains - level // rule.grains
            changed = changed or fuller != level
        else:
            end_us, used = counts[limit.name]
            begin_us, _ = windows.window_at(limit.rule, end_us - 1)
            back = 0 if taken_us is not None and taken_us < begin_us else min(units, used)
            counts[limit.name] = (end_us, used - back)
            given[limit.name] = back
            changed = changed or back > 0
    if changed:
        memory = _remembered(limits, known, levels, counts, now_us)
    return memory, given


Levels = dict[str, tuple[Bucket, int]]
Counts = dict[str, tuple[int, int]]


def _alive(memory: Memory | None, now_us: int) -> Memory:
    return Memory(now_us, now_us) if memory is None or memory.until_us <= now_us else memory


def _brought(limits: Sequence[Limit], known: Memory, now_us: int) -> tuple[Levels, Counts]:
    """Everything that is remembered, brought up to now under the rules of then, in the units of the limits in force.

    Limits that the plan no longer has stay for as long as there is something to remember of them, so that a
    plan changed to and fro mints nothing.
    """
    elapsed_us = now_us - known.at_us
    levels: Levels = {}
    counts: Counts = {}
    for limit in limits:
        if isinstance(limit.rule, Bucket):
            levels[limit.name] = (limit.rule, _level(limit.rule, known.levels.get(limit.name), elapsed_us))
        else:
            counts[limit.name] = _count(limit.rule, known.counts.get(limit.name), now_us)
    for name, (rule, kept) in known.levels.items():
        level = buckets.refilled(rule, kept, elapsed_us)
        if level < rule.capacity:
            levels.setdefault(name, (rule, level))
    for name, (end_us, used) in known.counts.items():
        if used and end_us + STEP_BACK_US > now_us:
            counts.setdefault(name, (end_us, used))
    return levels, counts


def _moved(limits: Sequence[Limit], known: Memory, now_us: int) -> bool:
    """Whether there is something to write even if nothing is taken."""
    return now_us < known.at_us or (known.until_us > now_us and known.layout[: len(limits)] != _layout(limits))


def _layout(limits: Sequence[Limit]) -> tuple[Layout, ...]:
    return tuple(layout_of(each.name, each.rule if isinstance(each.rule, Bucket) else None) for each in limits)


def _remembered(limits: Sequence[Limit], known: Memory, levels: Levels, counts: Counts, now_us: int) -> Memory | None:
    """The memory to keep; None when there is nothing to remember."""
    until_us = max(known.until_us, now_us + _remembered_us(levels, counts, now_us))
    if until_us <= now_us:
        return None
    layout = _layout(limits)
    # What the plan no longer has stays in the order it was in.
    kept = {layout_of(name, rule) for name, (rule, _) in levels.items()} | {layout_of(name, None) for name in counts}
    attic = tuple(entry for entry in known.layout if entry in kept and entry not in layout)
    return Memory(now_us, until_us, layout + attic, levels, counts)


def _level(bucket: Bucket, kept: tuple[Bucket, int] | None, elapsed_us: int) -> int:
    if kept is None:
        return bucket.capacity
    rule, level = kept
    level = buckets.refilled(rule, level, elapsed_us)
    return min(bucket.capacity, buckets.converted(level, from_grains=rule.grains, to_grains=bucket.grains))


def _count(quota: Quota, kept: tuple[int, int] | None, now_us: int) -> tuple[int, int]:
    _, end_us = windows.window_at(quota, now_us)
    if kept is None or kept[0] <= now_us:
        return end_us, 0
    later_us, used = kept
    if used and later_us == windows.window_at(quota, end_us)[1] and end_us - now_us <= STEP_BACK_US:
        return kept
    return end_us, used


def _remembered_us(levels: Mapping[str, tuple[Bucket, int]], counts: Mapping[str, tuple[int, int]], now_us: int) -> int:
    """How long there is something to remember: until every bucket is full and every window in use has ended."""
    fills = (buckets.reset_after_us(rule, level) for rule, level in levels.values())
    ends = (end_us + STEP_BACK_US - now_us for end_us, used in counts.values() if used)
    return max((FOREVER_US if us is None else min(FOREVER_US, us) for us in (*fills, *ends)), default=0)


def _wait(limit: Limit, levels: Levels, counts: Counts, cost: int, now_us: int) -> int | None:
    """Microseconds until one limit has room for the cost: 0 is now, None is never."""
    rule = limit.rule
    if isinstance(rule, Bucket):
        return buckets.retry_after_us(rule, levels[limit.name][1], cost)
    end_us, used = counts[limit.name]
    if cost > rule.units:
        return None
    return end_us - now_us if cost and used + cost > rule.units else 0


def _charge(limit: Limit, cost: int, levels: dict[str, tuple[Bucket, int]], counts: dict[str, tuple[int, int]]) -> None:
    if isinstance(limit.rule, Bucket):
        rule, level = levels[limit.name]
        levels[limit.name] = (rule, level - cost * rule.grains)
    else:
        end_us, used = counts[limit.name]
        counts[limit.name] = (end_us, min(used + cost, EXACT - 1))


def _standing(limit: Limit, wait_us: int | None, levels: Levels, counts: Counts, now_us: int) -> Standing:
    rule = limit.rule
    if isinstance(rule, Bucket):
        _, level = levels[limit.name]
        return Standing(limit, buckets.remaining(rule, level), buckets.reset_after_us(rule, level), wait_us)
    end_us, used = counts[limit.name]
    left = rule.units - used
    return Standing(limit, left if limit.mode is Mode.OVERAGE else max(0, left), end_us - now_us, wait_us)
