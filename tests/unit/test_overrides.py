"""Limits of one client: what is written is read, what is over is over, and what does not fit is left out."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quotas.limits import Bucket, Limit, Mode, Per, Quota, Window
from quotas.overrides import Override, apply, dump, load, written
from quotas.plans import CostRule, Match, Plan, StoreErrorPolicy

NOW_US = 1_781_092_800_000_000
FAST = Limit("fast", Bucket(count=5, period_us=1_000_000, burst=10))
SLOW = Limit("slow", Bucket(count=1, period_us=60_000_000, burst=3), Mode.SHADOW, Per.KEY)
MONTH = Limit("month", Quota(units=100, window=Window.MONTH, timezone="Asia/Tokyo", anchor_day=15), Mode.OVERAGE)
PLAN = Plan(
    "pro",
    (FAST, SLOW, MONTH),
    {"slow": Match(frozenset({"GET"}))},
    (CostRule(Match(frozenset({"POST"})), 5),),
    StoreErrorPolicy.ALLOW,
)

rates = st.builds(
    "{}/{}".format, st.integers(0, 10**6), st.sampled_from(["second", "minute", "hour", "day"])
) | st.builds("{} per {} seconds".format, st.integers(0, 1_000), st.integers(1, 1_000))
quotas = st.builds("{}/{}".format, st.integers(0, 2**53 - 1), st.sampled_from([window.value for window in Window]))
zones = st.sampled_from(["UTC", "America/New_York", "Asia/Tokyo"])
overrides = st.builds(
    Override,
    rate=st.none() | rates,
    burst=st.none() | st.integers(1, 10**6),
    quota=st.none() | quotas,
    timezone=st.none() | zones,
    anchor_day=st.none() | st.integers(1, 31),
    until_us=st.none() | st.integers(NOW_US - 10, NOW_US + 10),
)
names = st.sampled_from(["fast", "slow", "month", "gone", "{}", " a b"])
collections = st.dictionaries(names, overrides, max_size=4)


def limits(given: Mapping[str, Override], now_us: int = NOW_US) -> tuple[Limit, ...]:
    return apply(PLAN, given, now_us).plan.limits


class TestText:
    @given(collections)
    def test_what_is_written_is_read(self, some: dict[str, Override]) -> None:
        assert load(dump(some)) == some

    @given(collections)
    def test_what_is_read_is_written_the_same(self, some: dict[str, Override]) -> None:
        """The text is a key of the planbook's memory: one set of overrides has one text."""
        assert dump(load(dump(some))) == dump(some)

    def test_none_is_no_text(self) -> None:
        assert dump({}) == ""
        assert load("") == {}

    def test_what_is_not_different_is_not_written(self) -> None:
        assert written(Override(burst=80)) == '{"burst":80}'
        assert dump({"fast": Override(burst=80), "slow": Override()}) == 'fast\n{"burst":80}\nslow\n{}\n'

    @pytest.mark.parametrize(
        "text",
        [
            '{"rate":"5/fortnight"}',
            '{"rate":5}',
            '{"rate":"-5/second"}',
            '{"burst":0}',
            '{"burst":"10"}',
            '{"burst":1.5}',
            '{"burst":true}',
            '{"quota":"10/decade"}',
            '{"timezone":"Mars/Olympus"}',
            '{"anchor_day":32}',
            '{"anchor_day":0}',
            '{"mode":"shadow"}',
            '{"until_us":"tomorrow"}',
            "5",
            "[]",
            "{",
            "",
        ],
    )
    def test_what_is_no_override_is_left_out_and_the_rest_is_read(self, text: str) -> None:
        """A later version wrote it, or the machine's time zones have changed since."""
        with pytest.raises(ValidationError):
            Override.model_validate_json(text)
        assert load(f'fast\n{{"burst":80}}\nmonth\n{text}\nslow\n{{"burst":7}}\n') == {
            "fast": Override(burst=80),
            "slow": Override(burst=7),
        }


class TestApplied:
    def test_a_bucket_of_another_rate_and_burst(self) -> None:
        assert Override(rate="50/second", burst=80).applied(FAST) == replace(
            FAST, rule=Bucket(count=50, period_us=1_000_000, burst=80)
        )
        assert Override(burst=80).applied(FAST).rule == Bucket(count=5, period_us=1_000_000, burst=80)
        assert Override(rate="13 per 7 seconds", burst=2).applied(FAST).rule == Bucket(
            count=13, period_us=7_000_000, burst=2
        )

    def test_a_rate_without_a_burst_is_read_as_in_the_plan_file(self) -> None:
        """The burst is the rate's count where none is said."""
        assert Override(rate="50/second").applied(FAST).rule == Bucket(count=50, period_us=1_000_000, burst=50)

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            (Override(quota="500/month"), {"units": 500}),
            (Override(quota="500/day", anchor_day=1), {"units": 500, "window": Window.DAY, "anchor_day": 1}),
            (Override(timezone="UTC"), {"timezone": "UTC"}),
            (Override(anchor_day=31), {"anchor_day": 31}),
            (Override(), {}),
        ],
    )
    def test_a_quota_in_which_only_that_is_different(self, override: Override, expected: dict[str, object]) -> None:
        assert isinstance(MONTH.rule, Quota)
        assert override.applied(MONTH) == replace(MONTH, rule=replace(MONTH.rule, **expected))  # type: ignore[arg-type] # A table of fields.

    @pytest.mark.parametrize(
        ("limit", "override"),
        [
            (FAST, Override(quota="5/day")),
            (FAST, Override(timezone="UTC")),
            (FAST, Override(anchor_day=1)),
            (FAST, Override(rate="5/second", quota="5/day")),
            (FAST, Override(rate="1 per 366 days", burst=2**53 // 1_000)),
            (MONTH, Override(rate="5/second")),
            (MONTH, Override(burst=5)),
            (MONTH, Override(quota="5/day")),
        ],
    )
    def test_what_is_no_limit_is_refused(self, limit: Limit, override: Override) -> None:
        """The last one would give a day the anchor that the month had."""
        with pytest.raises(ValueError, match=r"bucket|quota|anchor day|2\^53"):
            override.applied(limit)

    @given(overrides, st.sampled_from([FAST, SLOW, MONTH]))
    def test_name_mode_and_whom_it_counts_for_are_the_plan_s(self, override: Override, limit: Limit) -> None:
        try:
            made = override.applied(limit)
        except ValueError:
            return
        assert replace(made, rule=limit.rule) == limit
        assert type(made.rule) is type(limit.rule)


class TestApply:
    def test_only_limits_are_different(self) -> None:
        done = apply(PLAN, {"fast": Override(burst=80)}, NOW_US)
        assert done.plan.limits == (Override(burst=80).applied(FAST), SLOW, MONTH)
        assert replace(done.plan, limits=PLAN.limits) == PLAN
        assert done.until_us is None

    @pytest.mark.parametrize(
        ("now_us", "burst", "until_us"),
        [
            (NOW_US - 1, 80, NOW_US),
            (NOW_US, 10, NOW_US + 5),
            (NOW_US + 4, 10, NOW_US + 5),
            (NOW_US + 5, 10, None),
        ],
    )
    def test_each_holds_strictly_before_its_end(self, now_us: int, burst: int, until_us: int | None) -> None:
        some = {
            "fast": Override(burst=80, until_us=NOW_US),
            "month": Override(quota="5/month", until_us=NOW_US + 5),
            "slow": Override(burst=7),
        }
        done = apply(PLAN, some, now_us)
        assert done.until_us == until_us
        fast, slow, month = (limit.rule for limit in done.plan.limits)
        assert isinstance(fast, Bucket)
        assert isinstance(slow, Bucket)
        assert isinstance(month, Quota)
        assert (fast.burst, slow.burst, month.units) == (burst, 7, 100 if until_us is None else 5)

    def test_what_does_not_fit_is_left_out_and_the_rest_holds(self) -> None:
        some = {
            "fast": Override(quota="5/day"),
            "slow": Override(burst=7),
            "month": Override(burst=5),
            "gone": Override(burst=80),
        }
        fast, slow, month = limits(some)
        assert (fast, slow.rule, month) == (FAST, Bucket(count=1, period_us=60_000_000, burst=7), MONTH)

    @given(collections, st.integers(NOW_US - 20, NOW_US + 20))
    def test_it_holds_until_it_says(self, some: dict[str, Override], now_us: int) -> None:
        """At every instant before its end it would be made the same, and at its end another one is due."""
        done = apply(PLAN, some, now_us)
        later = range(now_us, NOW_US + 30 if done.until_us is None else done.until_us)
        assert all(limits(some, at_us) == done.plan.limits for at_us in later)
        if done.until_us is not None:
            assert done.until_us > now_us
            assert any(override.until_us == done.until_us for override in some.values())

    def test_no_overrides_are_the_plan(self) -> None:
        assert apply(PLAN, {}, NOW_US).plan == PLAN
