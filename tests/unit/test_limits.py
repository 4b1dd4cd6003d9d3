"""The numbers of a limit: its unit of account, and the bounds within which a script's doubles are exact."""

from dataclasses import FrozenInstanceError
from math import gcd

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from quotas.limits import EXACT, MAX_LIMITS, MAX_PERIOD_US, Bucket, Limit, Mode, Per, Quota, Window

SECOND = 1_000_000
DAY = 86_400 * SECOND


@pytest.mark.parametrize(
    ("count", "period_us", "burst", "grains", "refill", "refill_time_us"),
    [
        (5, SECOND, 10, 200_000, 1, 2_000_000),
        (3, SECOND, 1, 1_000_000, 3, 333_334),
        (70_000, SECOND, 70_000, 100, 7, 1_000_000),
        (1_000_000, DAY, 1_000_000, 86_400, 1, DAY),
        (13, 7 * SECOND, 29, 7_000_000, 13, 15_615_385),
        (1, 15 * SECOND, 3, 15_000_000, 1, 45_000_000),
        (7, 1, 7, 1, 7, 1),
        (1, MAX_PERIOD_US, 1, MAX_PERIOD_US, 1, MAX_PERIOD_US),
        (0, SECOND, 5, 1, 0, None),
    ],
)
def test_a_rate_in_grains(  # noqa: PLR0913 # A row of the table: the three inputs and the three answers.
    *, count: int, period_us: int, burst: int, grains: int, refill: int, refill_time_us: int | None
) -> None:
    bucket = Bucket(count=count, period_us=period_us, burst=burst)
    assert (bucket.grains, bucket.refill, bucket.capacity) == (grains, refill, burst * grains)
    assert bucket.refill_time_us == refill_time_us


@given(st.integers(0, 10**9), st.integers(1, MAX_PERIOD_US))
def test_grains_lose_no_fraction_and_are_the_fewest_that_do_not(count: int, period_us: int) -> None:
    assume(period_us + count < EXACT)
    bucket = Bucket(count=count, period_us=period_us, burst=1)
    assert bucket.refill * period_us == count * bucket.grains
    assert gcd(bucket.refill, bucket.grains) == 1


@pytest.mark.parametrize(
    ("count", "period_us", "burst", "message"),
    [
        (-1, SECOND, 1, "the rate must not be negative"),
        (1, SECOND, 0, "the burst must be at least 1"),
        (0, SECOND, 0, "the burst must be at least 1"),
        (1, SECOND, -5, "the burst must be at least 1"),
        (1, 0, 1, "the period must be between 1 microsecond and 366 days"),
        (1, -1, 1, "the period must be between 1 microsecond and 366 days"),
        (1, MAX_PERIOD_US + 1, 1, "the period must be between 1 microsecond and 366 days"),
        (1, 1, EXACT - 1, "use a burst of at most 9007199254740990"),
        (1, 1, 10**30, "use a burst of at most 9007199254740990"),
        (70_000, SECOND, 90_071_992_547_410, "use a burst of at most 90071992547409"),
        (1, MAX_PERIOD_US, 285, "use a burst of at most 284"),
        (EXACT, 1, 1, "pass 2\\^53"),
    ],
)
def test_a_bucket_out_of_range_says_why(count: int, period_us: int, burst: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bucket(count=count, period_us=period_us, burst=burst)


@pytest.mark.parametrize(
    ("count", "period_us", "burst"),
    [(1, 1, EXACT - 2), (70_000, SECOND, 90_071_992_547_409), (1, MAX_PERIOD_US, 284), (EXACT - 2, 1, 1)],
)
def test_a_bucket_just_in_range_is_made(count: int, period_us: int, burst: int) -> None:
    bucket = Bucket(count=count, period_us=period_us, burst=burst)
    assert bucket.capacity + bucket.refill < EXACT


@given(st.integers(0, 2 * EXACT), st.integers(1, MAX_PERIOD_US), st.integers(1, 2 * EXACT))
@example(1, 1, EXACT - 1)
def test_whatever_is_made_can_be_filled_below_2_53(count: int, period_us: int, burst: int) -> None:
    try:
        bucket = Bucket(count=count, period_us=period_us, burst=burst)
    except ValueError as error:
        assert "2^53" in str(error)  # noqa: PT017 # Only the numbers beyond the bound are refused, and say so.
    else:
        assert bucket.capacity + bucket.refill < EXACT


def test_the_advice_against_2_53_is_a_sentence_where_no_burst_would_do() -> None:
    with pytest.raises(ValueError, match=r": use a rate whose count divides its period in microseconds$"):
        Bucket(count=EXACT - 1, period_us=1, burst=1)


@pytest.mark.parametrize("units", [0, 1, EXACT - 1])
def test_a_quota_of_these_units_is_made(units: int) -> None:
    assert Quota(units=units, window=Window.DAY).units == units


@pytest.mark.parametrize(
    ("units", "window", "anchor_day", "message"),
    [
        (-1, Window.DAY, 1, "the quota must not be negative"),
        (EXACT, Window.DAY, 1, "the quota must be less than 2\\^53"),
        (1, Window.MONTH, 0, "the anchor day must be between 1 and 31"),
        (1, Window.MONTH, 32, "the anchor day must be between 1 and 31"),
        (1, Window.MONTH, -1, "the anchor day must be between 1 and 31"),
        (1, Window.DAY, 2, "only a month can have an anchor day"),
        (1, Window.YEAR, 31, "only a month can have an anchor day"),
    ],
)
def test_a_quota_out_of_range_says_why(units: int, window: Window, anchor_day: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quota(units=units, window=window, anchor_day=anchor_day)


@pytest.mark.parametrize("anchor_day", [1, 28, 29, 31])
def test_a_month_can_start_on_any_day(anchor_day: int) -> None:
    assert Quota(units=1, window=Window.MONTH, anchor_day=anchor_day).anchor_day == anchor_day


def test_only_a_quota_can_be_in_overage() -> None:
    with pytest.raises(ValueError, match="only a quota can be in overage mode"):
        Limit("a", Bucket(count=1, period_us=SECOND, burst=1), Mode.OVERAGE)
    assert Limit("a", Quota(units=1, window=Window.DAY), Mode.OVERAGE).mode is Mode.OVERAGE


def test_a_limit_enforces_and_counts_per_client_unless_told_otherwise() -> None:
    limit = Limit("a", Quota(units=1, window=Window.DAY))
    assert (limit.mode, limit.per) == (Mode.ENFORCE, Per.CLIENT)


def test_a_limit_cannot_be_changed() -> None:
    limit = Limit("a", Quota(units=1, window=Window.DAY))
    with pytest.raises(FrozenInstanceError):
        limit.name = "b"  # type: ignore[misc] # That it cannot be written is what is tested.


def test_a_check_passes_at_most_sixteen_limits() -> None:
    assert MAX_LIMITS == 16
