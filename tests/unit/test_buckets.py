"""The bucket against rational numbers: no fraction lost, none minted, every wait the least one."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import buckets
from quotas.decisions import Decision, Memory, Outcome, Standing, take
from quotas.limits import Bucket, Limit

NOW = 1_773_144_000_000_000
SECOND = 1_000_000
PERIODS = [1, 7, 1_000, SECOND, 7 * SECOND, 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND]


def bucket(count: int, period_us: int, burst: int) -> Bucket:
    return Bucket(count=count, period_us=period_us, burst=burst)


def one(rule: Bucket) -> list[Limit]:
    return [Limit("b", rule)]


any_bucket = st.builds(bucket, st.integers(0, 100_000), st.sampled_from(PERIODS), st.integers(1, 60) | st.just(9_999))
refilling = any_bucket.filter(lambda rule: rule.count > 0)


@dataclass(frozen=True)
class Step:
    """Wait for these twelfths of the time in which one token comes, give or take a microsecond, then ask."""

    twelfths: int
    off_us: int
    cost: int

    def after_us(self, rule: Bucket) -> int:
        return max(0, self.twelfths * rule.period_us // (12 * max(1, rule.count)) + self.off_us)


steps = st.lists(
    st.builds(Step, st.integers(0, 24) | st.integers(0, 1_200), st.integers(-1, 1), st.integers(0, 5)),
    min_size=1,
    max_size=20,
)


def asked(rule: Bucket, sequence: list[Step]) -> list[tuple[int, int, Memory | None, Memory | None, Decision]]:
    """An emptied bucket and then each step, as (instant, cost, memory before, memory after, decision)."""
    now_us = NOW
    memory, first = take(one(rule), None, now_us=now_us, cost=rule.burst)
    seen: list[tuple[int, int, Memory | None, Memory | None, Decision]] = [(now_us, rule.burst, None, memory, first)]
    for step in sequence:
        now_us += step.after_us(rule)
        before = memory
        memory, decision = take(one(rule), before, now_us=now_us, cost=step.cost)
        seen.append((now_us, step.cost, before, memory, decision))
    return seen


@pytest.mark.parametrize(
    ("count", "period_us"), [(70_000, SECOND), (1_000_000, 86_400 * SECOND), (13, 7 * SECOND), (3, SECOND), (7, 1)]
)
@pytest.mark.parametrize("periods", [1, 2, 7, 1_000])
def test_after_k_periods_exactly_k_times_the_count_came_back(count: int, period_us: int, periods: int) -> None:
    rule = bucket(count, period_us, periods * count + 1)
    memory, _ = take(one(rule), None, now_us=NOW, cost=rule.burst)
    _, early = take(one(rule), memory, now_us=NOW + periods * period_us - 1, cost=0)
    _, exact = take(one(rule), memory, now_us=NOW + periods * period_us, cost=0)
    assert exact.standings[0].remaining == periods * count
    assert early.standings[0].remaining < periods * count
    assert buckets.refilled(rule, 0, periods * period_us) == periods * count * rule.grains


@given(st.integers(1, 2_000), st.sampled_from(PERIODS), st.integers(1, 50), st.data())
def test_however_often_it_is_called_k_periods_bring_k_times_the_count(
    count: int, period_us: int, periods: int, data: st.DataObject
) -> None:
    """Every token is taken as soon as a call sees it, so that nothing is ever lost to a full bucket."""
    wide = bucket(count, period_us, periods * count + 1)
    end_us = periods * period_us
    calls = sorted({*data.draw(st.lists(st.integers(0, end_us), max_size=20)), end_us})
    memory, _ = take(one(wide), None, now_us=NOW, cost=wide.burst)
    came = 0
    for at_us in calls:
        _, seen = take(one(wide), memory, now_us=NOW + at_us, cost=0)
        memory, decision = take(one(wide), memory, now_us=NOW + at_us, cost=seen.standings[0].remaining)
        assert decision.allowed
        came += seen.standings[0].remaining
    assert came == periods * count


@given(any_bucket, steps)
def test_every_step_is_what_rational_numbers_say(rule: Bucket, sequence: list[Step]) -> None:
    rate = Fraction(rule.count, rule.period_us)
    tokens, last_us = Fraction(rule.burst), NOW
    for now_us, cost, _, _, decision in asked(rule, sequence):
        tokens, last_us = min(Fraction(rule.burst), tokens + rate * (now_us - last_us)), now_us
        allowed = cost <= tokens
        wait_us = None if cost > rule.burst or not rate else ceil((cost - tokens) / rate)
        tokens -= cost if allowed else 0
        missing = rule.burst - tokens
        (standing,) = decision.standings
        assert decision.allowed == allowed
        assert decision.retry_after_us == (None if allowed else wait_us)
        assert standing.remaining == floor(tokens)
        assert standing.reset_after_us == (0 if not missing else ceil(missing / rate) if rate else None)


@given(any_bucket, steps)
def test_no_interval_gives_more_than_burst_and_rate_allow(rule: Bucket, sequence: list[Step]) -> None:
    taken = [(now_us, cost) for now_us, cost, _, _, decision in asked(rule, sequence) if decision.allowed]
    for first, (begin_us, _) in enumerate(taken):
        total = 0
        for end_us, cost in taken[first:]:
            total += cost
            assert total * rule.period_us <= rule.burst * rule.period_us + rule.count * (end_us - begin_us)


@given(refilling, steps)
def test_a_retry_passes_exactly_then_and_not_a_microsecond_before(rule: Bucket, sequence: list[Step]) -> None:
    for now_us, cost, before, _, decision in asked(rule, sequence):
        wait_us = decision.retry_after_us
        if wait_us is None:
            assert decision.allowed or cost > rule.burst
            continue
        assert wait_us > 0
        assert not take(one(rule), before, now_us=now_us + wait_us - 1, cost=cost)[1].allowed
        assert take(one(rule), before, now_us=now_us + wait_us, cost=cost)[1].allowed


@given(any_bucket, steps, st.integers(0, 2 * 86_400 * SECOND), st.integers(0, 86_400 * SECOND))
def test_waiting_never_leaves_less(rule: Bucket, sequence: list[Step], sooner_us: int, later_us: int) -> None:
    now_us, _, _, memory, _ = asked(rule, sequence)[-1]
    sooner = take(one(rule), memory, now_us=now_us + sooner_us, cost=0)[1].standings[0]
    later = take(one(rule), memory, now_us=now_us + sooner_us + later_us, cost=0)[1].standings[0]
    assert sooner.remaining <= later.remaining <= rule.burst


@given(any_bucket, steps)
def test_a_look_and_a_refusal_return_the_very_memory(rule: Bucket, sequence: list[Step]) -> None:
    for now_us, cost, before, after, decision in asked(rule, sequence):
        if not decision.allowed or cost == 0:
            assert after is before
        looked, _ = take(one(rule), after, now_us=now_us + 1, cost=0)
        refused, never = take(one(rule), after, now_us=now_us + 1, cost=rule.burst + 1)
        assert looked is after
        assert refused is after
        assert never.outcome is Outcome.NEVER


@given(any_bucket, steps, st.lists(st.integers(0, 5), min_size=21, max_size=21))
def test_looks_and_refusals_in_between_change_no_decision(
    rule: Bucket, sequence: list[Step], between_us: list[int]
) -> None:
    memory: Memory | None = None
    for (now_us, cost, _, _, expected), ago_us in zip(asked(rule, sequence), between_us, strict=False):
        memory, decision = take(one(rule), memory, now_us=now_us, cost=cost)
        assert decision == expected
        for other in (0, rule.burst + 1):
            memory, _ = take(one(rule), memory, now_us=now_us + ago_us, cost=other)


@given(any_bucket, st.lists(st.tuples(st.integers(-3 * SECOND, 3 * SECOND), st.integers(0, 5)), max_size=30))
def test_a_clock_that_steps_back_earns_nothing(rule: Bucket, sequence: list[tuple[int, int]]) -> None:
    memory: Memory | None = None
    now_us, forward_us, total = NOW, 0, 0
    for step_us, cost in sequence:
        before = take(one(rule), memory, now_us=now_us, cost=0)[1].standings[0].remaining
        now_us += step_us
        forward_us += max(0, step_us)
        memory, decision = take(one(rule), memory, now_us=now_us, cost=cost)
        total += cost if decision.allowed else 0
        assert step_us > 0 or decision.standings[0].remaining <= before
        assert total * rule.period_us <= rule.burst * rule.period_us + rule.count * forward_us


@pytest.mark.parametrize("back_us", [1, SECOND, 5 * SECOND, 86_400 * SECOND, 365 * 86_400 * SECOND])
@pytest.mark.parametrize("looked", [True, False], ids=["seen stepping back", "refused stepping back"])
def test_a_clock_that_steps_back_locks_nobody_out(back_us: int, *, looked: bool) -> None:
    rule = bucket(5, SECOND, 10)
    memory, _ = take(one(rule), None, now_us=NOW, cost=10)
    memory, decision = take(one(rule), memory, now_us=NOW - back_us, cost=0 if looked else 1)
    assert decision.standings[0].remaining == 0
    for number in range(1, 4):
        memory, decision = take(one(rule), memory, now_us=NOW - back_us + number * 200_000, cost=1)
        assert decision.allowed


@given(any_bucket, steps)
def test_the_next_unit_is_told_within_a_microsecond_and_never_early(rule: Bucket, sequence: list[Step]) -> None:
    for now_us, _, _, after, decision in asked(rule, sequence):
        (standing,) = decision.standings
        told_us = standing.next_unit_after_us
        if standing.remaining == rule.burst:
            assert told_us == 0
            continue
        if rule.refill == 0:
            assert told_us is None
            continue
        level = rule.capacity if after is None else after.levels["b"][1]
        at_us = now_us if after is None else after.at_us
        exact_us = buckets.next_unit_after_us(rule, buckets.refilled(rule, level, now_us - at_us))
        assert exact_us is not None
        assert told_us is not None
        assert exact_us <= told_us <= exact_us + 1
        there = take(one(rule), after, now_us=now_us + exact_us, cost=0)[1].standings[0].remaining
        before = take(one(rule), after, now_us=now_us + exact_us - 1, cost=0)[1].standings[0].remaining
        assert before == standing.remaining < there


@given(refilling, st.data())
def test_the_next_unit_of_a_level_is_the_least_wait_for_it(rule: Bucket, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, rule.capacity - 1))
    wait_us = buckets.next_unit_after_us(rule, level)
    assert wait_us is not None
    whole = buckets.remaining(rule, level)
    assert buckets.remaining(rule, buckets.refilled(rule, level, wait_us)) > whole
    assert buckets.remaining(rule, buckets.refilled(rule, level, wait_us - 1)) == whole


def test_the_standing_of_a_quota_or_a_full_bucket_needs_no_estimate() -> None:
    limit = Limit("b", bucket(5, SECOND, 10))
    assert Standing(limit, 10, 0, 0).next_unit_after_us == 0
    assert Standing(Limit("b", bucket(0, SECOND, 10)), 3, None, 0).next_unit_after_us is None


@pytest.mark.parametrize(
    ("level", "cost", "expected"),
    [
        (2_000_000, 10, 0),
        (0, 0, 0),
        (0, 1, 200_000),
        (199_999, 1, 1),
        (200_000, 1, 0),
        (0, 10, 2_000_000),
        (2_000_000, 11, None),
        (0, 11, None),
    ],
)
def test_waits_of_five_a_second(level: int, cost: int, expected: int | None) -> None:
    assert buckets.retry_after_us(bucket(5, SECOND, 10), level, cost) == expected


@pytest.mark.parametrize(("level", "cost", "expected"), [(5, 5, 0), (4, 5, None), (0, 0, 0), (0, 1, None)])
def test_what_never_refills_is_now_or_never(level: int, cost: int, expected: int | None) -> None:
    rule = bucket(0, SECOND, 5)
    assert buckets.retry_after_us(rule, level, cost) == expected
    assert buckets.reset_after_us(rule, level) == (0 if level == 5 else None)
    assert buckets.next_unit_after_us(rule, level) == (0 if level == 5 else None)


def test_a_level_above_a_lowered_burst_is_cut() -> None:
    rule = bucket(5, SECOND, 10)
    assert buckets.refilled(rule, 100 * rule.grains, 0) == rule.capacity
    assert buckets.refilled(rule, 3, -SECOND) == 3


@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_level_in_another_unit_is_the_same_or_less_than_a_grain_less(
    level: int, from_grains: int, to_grains: int
) -> None:
    got = buckets.converted(level, from_grains=from_grains, to_grains=to_grains)
    assert 0 <= Fraction(level, from_grains) - Fraction(got, to_grains) < Fraction(1, to_grains)
