"""Sums by the hours, days and months of a zone: whole, right on days on which clocks change, and the quotas' own."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import instants, windows
from quotas.limits import Quota, Window
from quotas.tallies import DAY_US, QUARTER_US, Calendar, Span, Tally, spans

ZONES = [
    "UTC",
    "America/New_York",
    "America/Santiago",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Africa/Casablanca",
]
PREFERRED = [Window.HOUR, Window.DAY, Window.MONTH]


def us(text: str) -> int:
    return instants.parse(text)


def rows(calendar: Calendar, window: Window, year: int, month: int, *at: str) -> list[Span]:
    quarters = {us(each) // QUARTER_US: Tally(units=1) for each in at}
    return list(spans(quarters, calendar, window, *calendar.month(year, month)))


@given(
    zone=st.sampled_from(ZONES),
    anchor_day=st.sampled_from([1, 1, 15, 29, 31]),
    window=st.sampled_from(PREFERRED),
    month=st.tuples(st.sampled_from([2011, 2026, 2028]), st.integers(1, 12)),
    offsets=st.lists(st.tuples(st.integers(-100, 3_100), st.integers(-5, 9)), max_size=60),
)
def test_each_window_has_what_its_quarters_have(
    zone: str, anchor_day: int, window: Window, month: tuple[int, int], offsets: list[tuple[int, int]]
) -> None:
    calendar = Calendar(zone, anchor_day)
    begin_us, end_us = calendar.month(*month)
    quarters = {begin_us // QUARTER_US + offset: Tally(units, never=1) for offset, units in offsets}
    told = list(spans(quarters, calendar, window, begin_us, end_us))
    assert [span.start_us for span in told] == [begin_us, *(span.end_us for span in told[:-1])]
    assert told[-1].end_us == end_us
    for span in told:
        assert (span.start_us, span.end_us) == windows.window_at(calendar.of(window), span.start_us)
        inside = [tally for quarter, tally in quarters.items() if span.start_us <= quarter * QUARTER_US < span.end_us]
        assert span.tally == sum(inside, Tally())


@given(
    zone=st.sampled_from(ZONES),
    anchor_day=st.integers(1, 31),
    at_us=st.integers(us("2001-01-01T00:00:00Z"), us("2099-12-31T00:00:00Z")),
)
def test_a_month_is_the_month_of_a_quota(zone: str, anchor_day: int, at_us: int) -> None:
    calendar = Calendar(zone, anchor_day)
    quota = Quota(units=1, window=Window.MONTH, timezone=zone, anchor_day=anchor_day)
    begin_us, end_us = windows.window_at(quota, at_us)
    assert calendar.months_until(at_us, 1) == (begin_us, end_us)
    local = datetime.fromisoformat(instants.show_in(begin_us, zone))
    assert calendar.month(local.year, local.month) == (begin_us, end_us)
    assert calendar.months_until(at_us, 13)[1] == end_us


@pytest.mark.parametrize("zone", ZONES)
def test_every_window_begins_on_a_quarter(zone: str) -> None:
    for year in (2011, 2026, 2027):
        for month in range(1, 13):
            for window in PREFERRED:
                calendar = Calendar(zone)
                starts = [span.start_us for span in spans({}, calendar, window, *calendar.month(year, month))]
                assert all(start % QUARTER_US == 0 for start in starts)


class TestClockChanges:
    new_york = Calendar("America/New_York")

    def test_days_of_23_and_25_hours(self) -> None:
        spring = rows(self.new_york, Window.DAY, 2026, 3, "2026-03-08T05:00:00Z", "2026-03-09T03:45:00Z")
        assert (spring[7].start_us, spring[7].end_us) == (us("2026-03-08T05:00:00Z"), us("2026-03-09T04:00:00Z"))
        assert [span.tally.units for span in spring[6:9]] == [0, 2, 0]
        autumn = rows(
            self.new_york, Window.DAY, 2026, 11, "2026-11-01T04:00:00Z", "2026-11-02T04:45:00Z", "2026-11-02T05:00:00Z"
        )
        assert autumn[0].end_us - autumn[0].start_us == 25 * 3_600_000_000
        assert [span.tally.units for span in autumn[:3]] == [2, 1, 0]

    def test_an_hour_that_comes_twice_is_two_rows(self) -> None:
        told = rows(self.new_york, Window.HOUR, 2026, 11, "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z")
        shown = [instants.show_in(span.start_us, "America/New_York") for span in told if span.tally.units]
        assert shown == ["2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00"]
        assert len(told) == 30 * 24 + 1

    def test_days_of_zones_off_by_quarters(self) -> None:
        told = rows(Calendar("Asia/Kathmandu"), Window.DAY, 2026, 6, "2026-06-10T18:00:00Z", "2026-06-10T18:15:00Z")
        assert {instants.show_in(span.start_us, "Asia/Kathmandu") for span in told if span.tally.units} == {
            "2026-06-10T00:00:00+05:45",
            "2026-06-11T00:00:00+05:45",
        }


def test_spans_that_have_not_begun_are_left_out() -> None:
    begin_us = us("2026-11-01T00:00:00Z")
    told = list(spans({}, Calendar(), Window.DAY, begin_us, begin_us + DAY_US + 1))
    assert [span.start_us for span in told] == [begin_us, begin_us + DAY_US]
    assert list(spans({}, Calendar(), Window.DAY, begin_us, begin_us)) == []


def test_months_begin_on_their_anchor_and_are_clamped() -> None:
    assert Calendar(anchor_day=31).month(2026, 2) == (us("2026-02-28T00:00:00Z"), us("2026-03-31T00:00:00Z"))
    assert Calendar(anchor_day=31).month(2028, 2) == (us("2028-02-29T00:00:00Z"), us("2028-03-31T00:00:00Z"))


@pytest.mark.parametrize(("timezone", "anchor_day"), [("Mars/Base", 1), ("", 1), ("UTC", 0), ("UTC", 32)])
def test_a_calendar_that_there_is_not(timezone: str, anchor_day: int) -> None:
    with pytest.raises(ValueError, match=r"time zone|anchor day"):
        Calendar(timezone, anchor_day)


def test_tallies_add_up() -> None:
    tally = Tally(1, 2, 3, 4) + Tally(10, 20, 30, 40)
    assert (tally, tally.refused) == (Tally(11, 22, 33, 44), 99)


def test_instants_are_shown_as_the_zone_s_clocks_show_them() -> None:
    at_us = int(datetime(2026, 11, 1, 5, 59, 59, tzinfo=UTC).timestamp()) * 1_000_000 + 999_999
    assert instants.show_in(at_us, "America/New_York") == "2026-11-01T01:59:59-04:00"
    assert instants.show_in(at_us, "UTC") == "2026-11-01T05:59:59+00:00"
