"""Decisions over several limits: all or none, the binding limit, modes, refunds, and plans that change."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.decisions import Decision, Memory, Outcome, Standing, refund, take
from quotas.limits import Bucket, Limit, Mode, Quota, Window

NOW = 1_773_144_000_000_000
SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(text: str) -> int:
    """Epoch microseconds of an ISO 8601 instant with its offset."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def bucket(count: int, period_us: int, burst: int, name: str = "b", mode: Mode = Mode.ENFORCE) -> Limit:
    return Limit(name, Bucket(count=count, period_us=period_us, burst=burst), mode)


def quota(units: int, window: Window = Window.DAY, name: str = "q", mode: Mode = Mode.ENFORCE) -> Limit:
    return Limit(name, Quota(units=units, window=window), mode)


class Client:
    """One client on the pure model, with a clock that starts at NOW."""

    def __init__(self, *limits: Limit) -> None:
        self.limits = list(limits)
        self.memory: Memory | None = None

    def take(self, at_us: int = 0, cost: int = 1, skipped: frozenset[str] = frozenset()) -> Decision:
        """A take at NOW + `at_us`."""
        return self.take_at(NOW + at_us, cost, skipped)

    def take_at(self, now_us: int, cost: int = 1, skipped: frozenset[str] = frozenset()) -> Decision:
        self.memory, decision = take(self.limits, self.memory, now_us=now_us, cost=cost, skipped=skipped)
        return decision

    def remaining(self, at_us: int = 0) -> list[int]:
        """What is left of each limit at NOW + `at_us`; takes nothing."""
        _, decision = take(self.limits, self.memory, now_us=NOW + at_us, cost=0)
        return [standing.remaining for standing in decision.standings]


def binding(decision: Decision) -> str | None:
    return None if decision.binding is None else decision.binding.name


class TestARefusalChangesNothing:
    """Case C02."""

    def test_a_refused_cost_is_not_owed(self) -> None:
        client = Client(bucket(1, 10 * SECOND, 10))
        assert client.take(cost=8).allowed
        refused = client.take(cost=5)
        assert (refused.outcome, refused.standings[0].remaining) == (Outcome.WAIT, 2)
        assert refused.retry_after_us == 30 * SECOND
        allowed = client.take(cost=2)
        assert (allowed.allowed, allowed.standings[0].remaining) == (True, 0)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_of_two_limits_neither_is_charged_for_the_other_s_refusal(self, *, reverse: bool) -> None:
        limits = [bucket(1, SECOND, 1), quota(2)]
        client = Client(*(reversed(limits) if reverse else limits))
        bound = [binding(client.take(seconds * SECOND)) for seconds in (0, 0, 1, 2)]
        assert bound == [None, "b", None, "q"]
        assert client.memory is not None
        assert client.memory.counts["q"][1] == 2
        assert sorted(client.remaining(2 * SECOND)) == [0, 1]

    def test_a_bucket_that_never_refills_keeps_what_a_full_quota_refused(self) -> None:
        client = Client(bucket(0, SECOND, 5), quota(1))
        assert [client.take().allowed for _ in range(10)] == [True] + [False] * 9
        assert client.remaining() == [4, 0]

    def test_refused_calls_do_not_use_up_a_raised_quota(self) -> None:
        client = Client(quota(10, Window.MONTH))
        assert sum(client.take().allowed for _ in range(20)) == 10
        client.limits = [quota(20, Window.MONTH)]
        assert sum(client.take().allowed for _ in range(20)) == 10

    def test_the_memory_is_the_very_same(self) -> None:
        client = Client(bucket(1, SECOND, 5), quota(100))
        client.take(cost=4)
        before = client.memory
        for cost in (0, 2, 6, 101):
            client.take(cost=cost)
            assert client.memory is before

    def test_a_fresh_client_stays_fresh(self) -> None:
        client = Client(bucket(1, SECOND, 5), quota(0))
        client.take()
        client.take(cost=0)
        assert client.memory is None


class TestNoFractionIsLost:
    """Case C05."""

    def test_polling_faster_than_the_rate_loses_nothing(self) -> None:
        client = Client(bucket(1, 10 * SECOND, 1))
        allowed = [second for second in range(11) if client.take(second * SECOND).allowed]
        assert allowed == [0, 10]

    def test_half_tokens_add_up(self) -> None:
        client = Client(bucket(1, SECOND, 4))
        decisions = [client.take(half * 500_000) for half in range(8)]
        assert [decision.allowed for decision in decisions] == [True] * 7 + [False]
        assert decisions[-1].retry_after_us == 500_000

    def test_a_tenth_of_a_second_of_an_epoch_is_a_tenth(self) -> None:
        client = Client(bucket(10, SECOND, 1))
        assert client.take_at(1_767_225_600_000_000).allowed
        assert client.take_at(1_767_225_600_100_000).allowed


class TestSlowFastAndNone:
    """Case C15, (1) to (3)."""

    def test_a_slow_bucket_does_not_come_back_full(self) -> None:
        client = Client(bucket(1, 15 * SECOND, 3))
        assert all(client.take().allowed for _ in range(3))
        assert client.memory is not None
        assert client.memory.until_us - NOW >= 45 * SECOND
        assert client.take(7 * SECOND).retry_after_us == 8 * SECOND
        assert client.take(15 * SECOND).allowed
        assert not client.take(15 * SECOND).allowed

    def test_a_fast_bucket_is_a_limit(self) -> None:
        client = Client(bucket(3, SECOND, 1))
        assert [client.take().allowed for _ in range(5)] == [True] + [False] * 4
        assert client.memory is not None

    def test_a_rate_of_zero_gives_its_burst_once(self) -> None:
        client = Client(bucket(0, SECOND, 5))
        assert [client.take().outcome for _ in range(6)] == [Outcome.TAKEN] * 5 + [Outcome.NEVER]
        later = client.take(50 * 365 * 86_400 * SECOND)
        assert (later.outcome, later.retry_after_us) == (Outcome.NEVER, None)


class TestBinding:
    slow, slower, other = (bucket(1, seconds * SECOND, 1, name) for name, seconds in (("s", 5), ("t", 9), ("u", 9)))

    @pytest.mark.parametrize(
        ("limits", "expected", "wait_us"),
        [
            ([slow, slower], "t", 9 * SECOND),
            ([slower, slow], "t", 9 * SECOND),
            ([slower, other], "t", 9 * SECOND),
            ([other, slower], "u", 9 * SECOND),
            ([slow, slower, other], "t", 9 * SECOND),
        ],
    )
    def test_the_longest_wait_binds_and_the_first_of_equals(
        self, limits: list[Limit], expected: str, wait_us: int
    ) -> None:
        client = Client(*limits)
        assert client.take().allowed
        decision = client.take()
        assert (decision.outcome, binding(decision), decision.retry_after_us) == (Outcome.WAIT, expected, wait_us)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_never_beats_any_wait(self, *, reverse: bool) -> None:
        limits = [quota(10, Window.YEAR), bucket(1, SECOND, 4)]
        client = Client(*(reversed(limits) if reverse else limits))
        for second in (0, 4):
            assert client.take(second * SECOND, cost=4).allowed
        decision = client.take(8 * SECOND, cost=5)
        assert (decision.outcome, binding(decision), decision.retry_after_us) == (Outcome.NEVER, "b", None)

    def test_the_first_never_binds(self) -> None:
        assert binding(Client(quota(1, name="x"), quota(1, name="y")).take(cost=2)) == "x"

    @pytest.mark.parametrize("limit", [quota(0), bucket(5, SECOND, 1)])
    def test_a_cost_above_all_that_there_is_can_never_pass(self, limit: Limit) -> None:
        decision = Client(limit).take(cost=2)
        assert (decision.outcome, decision.retry_after_us) == (Outcome.NEVER, None)

    def test_retrying_after_the_longest_wait_passes_all_limits(self) -> None:
        client = Client(self.slow, self.slower, quota(5))
        client.take()
        wait_us = client.take().retry_after_us
        assert wait_us is not None
        assert not client.take(wait_us - 1).allowed
        assert client.take(wait_us).allowed

    def test_a_full_quota_waits_for_the_end_of_its_window(self) -> None:
        client = Client(quota(1))
        midnight_us = us("2026-03-11T00:00:00Z")
        assert client.take_at(midnight_us - SECOND).allowed
        assert client.take_at(midnight_us - 1).retry_after_us == 1
        assert client.take_at(midnight_us).allowed

    def test_nothing_binds_what_is_allowed(self) -> None:
        decision = Decision.of(NOW, [Standing(quota(1), 0, 1, 0)])
        assert (decision.outcome, decision.binding, decision.retry_after_us) == (Outcome.TAKEN, None, None)
        assert Decision.of(NOW, []).allowed


class TestModes:
    def test_a_shadow_refuses_nothing_and_is_not_charged_without_room(self) -> None:
        client = Client(bucket(1, 10 * SECOND, 2, "s", Mode.SHADOW), quota(100))
        seen = [client.take() for _ in range(5)]
        assert [decision.outcome for decision in seen] == [Outcome.TAKEN] * 5
        assert [decision.standings[0].retry_after_us for decision in seen] == [0, 0, *[10 * SECOND] * 3]
        assert client.remaining() == [0, 95]
        assert client.remaining(10 * SECOND) == [1, 95]

    def test_a_shadow_that_can_never_give_the_cost_refuses_nothing(self) -> None:
        decision = Client(quota(3, mode=Mode.SHADOW)).take(cost=4)
        assert (decision.allowed, decision.binding, decision.standings[0].retry_after_us) == (True, None, None)
        assert decision.standings[0].remaining == 3

    def test_a_shadow_has_room_for_what_an_enforced_limit_refused(self) -> None:
        client = Client(bucket(0, SECOND, 5, "s", Mode.SHADOW), bucket(0, SECOND, 1))
        assert [client.take().allowed for _ in range(3)] == [True, False, False]
        assert client.remaining() == [4, 0]

    def test_overage_lets_calls_through_and_goes_below_zero(self) -> None:
        client = Client(quota(3, mode=Mode.OVERAGE))
        seen = [client.take(cost=2) for _ in range(3)]
        assert [decision.allowed for decision in seen] == [True] * 3
        assert [decision.standings[0].remaining for decision in seen] == [1, -1, -3]

    def test_overage_takes_even_a_cost_above_the_quota(self) -> None:
        decision = Client(quota(3, mode=Mode.OVERAGE)).take(cost=10)
        assert (decision.allowed, decision.standings[0].remaining) == (True, -7)

    def test_overage_is_not_charged_for_what_an_enforced_limit_refused(self) -> None:
        client = Client(quota(1, mode=Mode.OVERAGE), bucket(0, SECOND, 2))
        assert [client.take().allowed for _ in range(4)] == [True, True, False, False]
        assert client.remaining() == [-1, 0]

    def test_a_quota_no_longer_in_overage_shows_no_negative_number(self) -> None:
        client = Client(quota(1, mode=Mode.OVERAGE))
        client.take(cost=5)
        client.limits = [quota(2)]
        decision = client.take()
        assert (decision.outcome, decision.standings[0].remaining) == (Outcome.WAIT, 0)


class TestSkipped:
    def test_a_skipped_limit_is_neither_asked_nor_charged(self) -> None:
        client = Client(bucket(0, SECOND, 1), quota(10))
        first = client.take(skipped=frozenset("b"))
        assert [standing.limit.name for standing in first.standings] == ["q"]
        assert client.remaining() == [1, 9]
        assert client.take().allowed
        assert not client.take().allowed
        assert client.take(skipped=frozenset("b")).allowed
        assert client.remaining() == [0, 7]

    def test_a_skipped_limit_goes_on_refilling(self) -> None:
        client = Client(bucket(1, SECOND, 3), quota(10))
        client.take(cost=3)
        client.take(2 * SECOND, skipped=frozenset("b"))
        assert client.remaining(2 * SECOND) == [2, 6]

    def test_with_every_limit_skipped_a_check_passes_and_takes_nothing(self) -> None:
        client = Client(quota(0))
        decision = client.take(cost=7, skipped=frozenset("q"))
        assert (decision.allowed, decision.standings, client.memory) == (True, (), None)

    def test_a_name_that_no_limit_has_skips_nothing(self) -> None:
        assert not Client(quota(0)).take(skipped=frozenset({"other"})).allowed


class TestNamesKeepLimitsApart:
    """Case C14."""

    @pytest.mark.parametrize(
        ("first", "second"), [("200", "2"), ("a", "aa"), ("a:b", "a"), ("", " "), ("\u00e9", "e\u0301"), ("a", "A")]
    )
    def test_two_limits_of_one_period_have_two_counters(self, first: str, second: str) -> None:
        client = Client(bucket(1, 60 * SECOND, 200, first), bucket(1, 60 * SECOND, 2, second))
        assert [binding(client.take()) for _ in range(3)] == [None, None, second]
        assert client.remaining() == [198, 0]

    def test_a_bucket_and_a_quota_of_one_name_in_two_plans_do_not_mix(self) -> None:
        client = Client(bucket(0, SECOND, 5, "same"))
        client.take(cost=4)
        client.limits = [quota(5, name="same")]
        assert client.remaining() == [5]
        client.take(cost=3)
        client.limits = [bucket(0, SECOND, 5, "same")]
        assert client.remaining() == [1]


class TestPlanChanges:
    """Case C06."""

    @pytest.mark.parametrize(("before", "holding", "after", "tokens"), [(100, 60, 10, 10), (10, 4, 100, 4)])
    def test_a_bucket_keeps_what_it_holds_up_to_the_new_burst(
        self, before: int, holding: int, after: int, tokens: int
    ) -> None:
        client = Client(bucket(1, SECOND, before))
        assert client.take(cost=before - holding).allowed
        client.limits = [bucket(5, SECOND, after)]
        assert client.take(cost=0).standings[0].remaining == tokens
        assert client.remaining(SECOND) == [min(after, tokens + 5)]

    def test_a_lowered_quota_refuses_and_a_raised_one_gives_the_difference(self) -> None:
        at_us = us("2026-06-22T00:00:00Z")
        client = Client(quota(5_000_000, Window.MONTH))
        client.take_at(at_us - 86_400 * SECOND, cost=35)
        client.limits = [quota(10, Window.MONTH)]
        refused = client.take_at(at_us)
        assert (refused.outcome, refused.standings[0].remaining) == (Outcome.WAIT, 0)
        assert refused.retry_after_us == 777_600 * SECOND
        client.limits = [quota(100, Window.MONTH)]
        allowed = client.take_at(at_us)
        assert (allowed.allowed, allowed.standings[0].remaining) == (True, 64)

    def test_a_quota_lowered_to_one_above_what_is_used_has_one_left(self) -> None:
        client = Client(quota(2_000))
        client.take(cost=199)
        client.limits = [quota(200)]
        assert [client.take().outcome for _ in range(2)] == [Outcome.TAKEN, Outcome.WAIT]

    def test_a_limit_that_was_gone_for_a_while_comes_back_as_it_was(self) -> None:
        both = [bucket(1, 60 * SECOND, 5), quota(10)]
        client = Client(*both)
        client.take(cost=5)
        client.limits = [quota(10)]
        client.take(SECOND)
        client.limits = both
        assert client.remaining(SECOND) == [0, 4]
        assert client.remaining(60 * SECOND) == [1, 4]

    def test_a_moment_on_a_fast_plan_does_not_forgive_what_the_slow_one_remembers(self) -> None:
        client = Client(bucket(1, 3_600 * SECOND, 5))
        assert client.take(cost=5).allowed
        client.limits = [bucket(1, SECOND, 1)]
        assert not client.take().allowed  # The fast plan counts from here on.
        assert client.take(SECOND).allowed
        client.limits = [bucket(1, 3_600 * SECOND, 5)]
        assert not client.take(SECOND).allowed
        assert client.remaining(10 * SECOND) == [0]

    rules = st.builds(
        lambda count, period_us, burst: Bucket(count=count, period_us=period_us, burst=burst),
        st.integers(0, 50),
        st.sampled_from([1_000, SECOND, 7 * SECOND, 3_600 * SECOND]),
        st.integers(1, 60),
    )
    calls = st.lists(
        st.tuples(st.integers(0, 4 * SECOND) | st.just(3_600 * SECOND), st.integers(0, 3), st.integers(0, 20)),
        max_size=40,
    )

    @given(st.lists(rules, min_size=2, max_size=3), calls)
    def test_no_change_to_and_fro_mints(self, choice: list[Bucket], sequence: list[tuple[int, int, int]]) -> None:
        """Plans of one bucket each, and one plan without it; each interval stays within the widest of the plans."""
        burst = max(rule.burst for rule in choice)
        rate = max(Fraction(rule.count, rule.period_us) for rule in choice)
        client = Client()
        at_us = 0
        taken: list[tuple[int, int]] = []
        for after_us, plan, cost in sequence:
            at_us += after_us
            client.limits = [Limit("b", choice[plan])] if plan < len(choice) else [quota(10**6)]
            if client.take(at_us, cost).allowed and plan < len(choice):
                taken.append((at_us, cost))
        for first, (begin_us, _) in enumerate(taken):
            total = 0
            for end_us, cost in taken[first:]:
                total += cost
                assert total <= burst + rate * (end_us - begin_us)

    @given(st.lists(st.integers(0, 30), min_size=2, max_size=3), calls)
    def test_a_quota_changed_to_and_fro_never_gives_more_than_the_largest(
        self, units: list[int], sequence: list[tuple[int, int, int]]
    ) -> None:
        client = Client()
        total = 0
        for _, plan, cost in sequence:
            client.limits = [quota(units[plan])] if plan < len(units) else [bucket(0, SECOND, 1_000)]
            if client.take(0, cost).allowed and plan < len(units):
                total += cost
        assert total <= max(units)


class TestRefunds:
    def test_a_refund_gives_back_what_was_taken(self) -> None:
        client = Client(bucket(0, SECOND, 5), quota(10))
        client.take(cost=3)
        client.memory, given_back = refund(client.limits, client.memory, now_us=NOW, units=2)
        assert given_back == {"b": 2, "q": 2}
        assert client.remaining() == [4, 9]

    @given(st.integers(0, 5), st.integers(1, 50), st.integers(0, 2 * SECOND))
    def test_a_refund_never_lifts_above_full(self, cost: int, units: int, later_us: int) -> None:
        client = Client(bucket(3, SECOND, 5), quota(10))
        client.take(cost=cost)
        before = client.remaining(later_us)
        client.memory, given_back = refund(client.limits, client.memory, now_us=NOW + later_us, units=units)
        after = client.remaining(later_us)
        assert after[0] <= 5
        assert after[1] <= 10
        assert [given_back["b"], given_back["q"]] == [after[0] - before[0], after[1] - before[1]]
        assert given_back["q"] == min(units, cost)

    def test_a_refund_of_a_fresh_client_leaves_it_fresh(self) -> None:
        assert refund([bucket(1, SECOND, 5), quota(10)], None, now_us=NOW, units=3) == (None, {"b": 0, "q": 0})

    def test_units_of_an_earlier_window_do_not_go_to_this_one(self) -> None:
        client = Client(quota(10))
        yesterday_us, today_us = us("2026-03-10T23:59:59Z"), us("2026-03-11T00:00:01Z")
        client.take_at(yesterday_us, cost=4)
        client.take_at(today_us, cost=3)
        before = client.memory
        memory, given_back = refund(client.limits, before, now_us=today_us, units=4, taken_us=yesterday_us)
        assert given_back == {"q": 0}
        assert memory is before
        _, given_back = refund(client.limits, before, now_us=today_us, units=2, taken_us=today_us)
        assert given_back == {"q": 2}

    def test_a_skipped_limit_gets_nothing_back(self) -> None:
        client = Client(bucket(0, SECOND, 5), quota(10))
        client.take(cost=3)
        memory, given_back = refund(client.limits, client.memory, now_us=NOW, units=3, skipped={"b"})
        client.memory = memory
        assert given_back == {"q": 3}
        assert client.remaining() == [2, 10]
