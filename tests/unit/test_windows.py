from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quotas.limits import Quota, Window
from quotas.windows import EARLIEST_US, LATEST_US, MAX_AROUND, boundaries, load_zone, window_at

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
ZONES = sorted(available_timezones() - {"localtime"})


def us(text: str) -> int:
    """Epoch microseconds of an ISO 8601 instant with its offset."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def utc(at_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=at_us)


def clock(zone: str, at_us: int) -> datetime:
    """What the local clock shows at the instant, as a naive datetime."""
    return utc(at_us).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def iso(at_us: int) -> str:
    return utc(at_us).strftime("%Y-%m-%dT%H:%MZ")


def make(window: Window, timezone: str = "UTC", anchor_day: int = 1) -> Quota:
    return Quota(units=10, window=window, timezone=timezone, anchor_day=anchor_day)


def starts(quota: Quota, first: str, last: str) -> list[str]:
    """The starts of all windows from the one that holds `first` to the one that holds `last`, in UTC."""
    found = []
    at = us(first)
    while at <= us(last):
        start, at = window_at(quota, at)
        found.append(iso(start))
    return found


# The cases C19 and C29 of the collected failures.


@pytest.mark.parametrize(
    ("zone", "at", "seconds"),
    [
        ("America/New_York", "2026-03-08T05:00:00Z", 82_800),
        ("America/New_York", "2026-11-01T04:00:00Z", 90_000),
        ("America/Santiago", "2026-09-06T03:59:59Z", 1),
        ("Asia/Shanghai", "2026-09-08T23:47:00Z", 58_380),
    ],
)
def test_a_day_is_as_long_as_the_local_day(zone: str, at: str, seconds: int) -> None:
    assert window_at(make(Window.DAY, zone), us(at))[1] - us(at) == seconds * SECOND


def test_a_day_in_shanghai_is_not_a_day_in_utc() -> None:
    start, end = window_at(make(Window.DAY, "Asia/Shanghai"), us("2026-09-08T23:47:00Z"))
    assert clock("Asia/Shanghai", start).date() == date(2026, 9, 9)
    assert end == us("2026-09-09T16:00:00Z")


@pytest.mark.parametrize(
    ("at", "seconds", "end"),
    [
        ("2026-01-31T00:00:00Z", 86_400, "2026-02-01T00:00:00Z"),
        ("2026-01-31T23:59:59Z", 1, "2026-02-01T00:00:00Z"),
        ("2026-02-01T00:00:00Z", 2_419_200, "2026-03-01T00:00:00Z"),
        ("2028-02-01T00:00:00Z", 2_505_600, "2028-03-01T00:00:00Z"),
        ("2028-02-29T00:00:00Z", 86_400, "2028-03-01T00:00:00Z"),
        ("2026-12-31T23:59:59Z", 1, "2027-01-01T00:00:00Z"),
    ],
)
def test_a_month_is_not_thirty_days(at: str, seconds: int, end: str) -> None:
    got = window_at(make(Window.MONTH), us(at))[1]
    assert (got - us(at), got) == (seconds * SECOND, us(end))


def test_the_first_of_february_2026_is_the_epoch_of_c29() -> None:
    assert window_at(make(Window.MONTH), us("2026-01-01T00:00:00Z"))[1] == 1_769_904_000 * SECOND


# Each window, plainly.


def test_utc_windows_around_an_ordinary_instant() -> None:
    at = us("2026-05-13T10:20:30Z")  # A Wednesday.
    expected = {
        Window.HOUR: ("2026-05-13T10:00Z", "2026-05-13T11:00Z"),
        Window.DAY: ("2026-05-13T00:00Z", "2026-05-14T00:00Z"),
        Window.WEEK: ("2026-05-11T00:00Z", "2026-05-18T00:00Z"),
        Window.MONTH: ("2026-05-01T00:00Z", "2026-06-01T00:00Z"),
        Window.YEAR: ("2026-01-01T00:00Z", "2027-01-01T00:00Z"),
    }
    for window, interval in expected.items():
        start, end = window_at(make(window), at)
        assert (iso(start), iso(end)) == interval, window


def test_the_start_is_inside_and_the_end_is_not() -> None:
    tokyo = make(Window.DAY, "Asia/Tokyo")
    midnight = us("2026-05-12T15:00:00Z")
    assert window_at(tokyo, midnight) == (midnight, midnight + DAY)
    assert window_at(tokyo, midnight - 1) == (midnight - DAY, midnight)


def test_the_year_of_tokyo_starts_nine_hours_early() -> None:
    assert starts(make(Window.YEAR, "Asia/Tokyo"), "2026-01-01T00:00:00Z", "2026-12-31T15:00:00Z") == [
        "2025-12-31T15:00Z",
        "2026-12-31T15:00Z",
    ]


def test_a_week_may_lack_an_hour() -> None:
    start, end = window_at(make(Window.WEEK, "America/New_York"), us("2026-03-08T12:00:00Z"))
    assert (iso(start), end - start) == ("2026-03-02T05:00Z", 7 * DAY - HOUR)


# Anchored months.


@pytest.mark.parametrize(
    ("anchor_day", "year", "expected"),
    [
        (29, 2026, ["01-29", "02-28", "03-29", "04-29"]),
        (30, 2026, ["01-30", "02-28", "03-30", "04-30"]),
        (31, 2026, ["01-31", "02-28", "03-31", "04-30"]),
        (29, 2028, ["01-29", "02-29", "03-29", "04-29"]),
        (30, 2028, ["01-30", "02-29", "03-30", "04-30"]),
        (31, 2028, ["01-31", "02-29", "03-31", "04-30"]),
        (15, 2026, ["01-15", "02-15", "03-15", "04-15"]),
    ],
)
def test_an_anchor_is_clamped_to_each_month_anew(anchor_day: int, year: int, expected: list[str]) -> None:
    quota = make(Window.MONTH, anchor_day=anchor_day)
    got = boundaries(quota, us(f"{year}-02-10T00:00:00Z"), before=0, after=2)
    assert [iso(start) for start in got] == [f"{year}-{day}T00:00Z" for day in expected]


def test_an_anchored_month_spans_the_turn_of_the_year() -> None:
    quota = make(Window.MONTH, "Asia/Kolkata", anchor_day=31)
    assert starts(quota, "2026-01-10T00:00:00Z", "2026-01-31T00:00:00Z") == [
        "2025-12-30T18:30Z",
        "2026-01-30T18:30Z",
    ]


# Days that clocks make odd.


def test_a_missing_midnight_is_the_first_instant_after_the_gap() -> None:
    assert starts(make(Window.DAY, "America/Santiago"), "2026-09-05T12:00:00Z", "2026-09-07T12:00:00Z") == [
        "2026-09-05T04:00Z",
        "2026-09-06T04:00Z",
        "2026-09-07T03:00Z",
    ]
    start, end = window_at(make(Window.DAY, "America/Sao_Paulo"), us("2018-11-04T12:00:00Z"))
    assert (iso(start), end - start) == ("2018-11-04T03:00Z", 23 * HOUR)
    assert clock("America/Sao_Paulo", start) == datetime(2018, 11, 4, 1)  # noqa: DTZ001 - what a clock shows.


def test_a_gap_may_begin_or_end_at_midnight() -> None:
    # Bhutan put its clocks from 00:00 to 00:30 on 1987-10-01, Pyongyang from 23:30 to 00:00 on 2018-05-04.
    assert iso(window_at(make(Window.DAY, "Asia/Thimphu"), us("1987-10-01T00:00:00Z"))[0]) == "1987-09-30T18:30Z"
    assert starts(make(Window.DAY, "Asia/Pyongyang"), "2018-05-04T12:00:00Z", "2018-05-05T12:00:00Z") == [
        "2018-05-03T15:30Z",
        "2018-05-04T15:00Z",
    ]


def test_a_midnight_inside_a_gap_is_the_end_of_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    # No zone has had one since 1970, but the next may: in 1919 Toronto went from 23:30 to 00:30.
    monkeypatch.setattr("quotas.windows.EARLIEST_US", us("1919-01-01T00:00:00Z"))
    assert starts(make(Window.DAY, "America/Toronto"), "1919-03-30T12:00:00Z", "1919-04-01T12:00:00Z") == [
        "1919-03-30T05:00Z",
        "1919-03-31T04:30Z",
        "1919-04-01T04:00Z",
    ]


def test_a_midnight_that_comes_twice_starts_one_day() -> None:
    # Cuba: 01:00 becomes 00:00. Newfoundland, until 2011: 00:01 becomes 23:01 of the day before.
    assert starts(make(Window.DAY, "America/Havana"), "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z") == [
        "2026-10-31T04:00Z",
        "2026-11-01T04:00Z",
        "2026-11-02T05:00Z",
    ]
    newfoundland = make(Window.DAY, "America/St_Johns")
    first, last = "2010-11-06T12:00:00-03:30", "2010-11-08T12:00:00-03:30"
    assert starts(newfoundland, first, last) == [
        "2010-11-06T02:30Z",
        "2010-11-07T02:30Z",
        "2010-11-08T03:30Z",
    ]
    again = us("2010-11-07T02:31:30Z")
    assert clock("America/St_Johns", again).date() == date(2010, 11, 6)
    assert window_at(newfoundland, again)[0] == us("2010-11-07T02:30:00Z")


def test_a_day_that_a_zone_skipped_is_never_returned() -> None:
    apia = make(Window.DAY, "Pacific/Apia")
    assert starts(apia, "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z") == [
        "2011-12-29T10:00Z",  # The 29th; there was no 30th.
        "2011-12-30T10:00Z",  # The 31st.
        "2011-12-31T10:00Z",
    ]
    thirtieth = make(Window.MONTH, "Pacific/Apia", anchor_day=30)
    assert iso(window_at(thirtieth, us("2012-01-10T00:00:00Z"))[0]) == "2011-12-30T10:00Z"


def test_ramadan_in_casablanca_moves_the_clock_and_not_the_tiling() -> None:
    casablanca = make(Window.DAY, "Africa/Casablanca")
    got = boundaries(casablanca, us("2026-02-15T12:00:00Z"), before=1, after=1)
    assert [b - a for a, b in pairwise(got)] == [DAY, 25 * HOUR, DAY]


def test_a_day_on_lord_howe_gains_and_loses_half_an_hour() -> None:
    day = make(Window.DAY, "Australia/Lord_Howe")
    autumn, spring = us("2026-04-05T00:00:00Z"), us("2026-10-04T00:00:00Z")
    lengths = [end - start for start, end in (window_at(day, autumn), window_at(day, spring))]
    assert lengths == [DAY + 30 * MINUTE, DAY - 30 * MINUTE]


# Hours.


def test_an_hour_starts_at_local_minute_zero() -> None:
    assert starts(make(Window.HOUR, "Asia/Kolkata"), "2026-05-13T10:00:00Z", "2026-05-13T11:00:00Z") == [
        "2026-05-13T09:30Z",
        "2026-05-13T10:30Z",
    ]
    assert iso(window_at(make(Window.HOUR, "Asia/Kathmandu"), us("2026-05-13T10:00:00Z"))[0]) == "2026-05-13T09:15Z"


def test_a_repeated_hour_is_two_windows_and_a_missing_hour_is_none() -> None:
    new_york = make(Window.HOUR, "America/New_York")
    for at in ("2026-11-01T06:00:00Z", "2026-03-08T07:00:00Z"):
        got = boundaries(new_york, us(at), before=3, after=3)
        assert got[3] == us(at)
        assert [b - a for a, b in pairwise(got)] == [HOUR] * 7


@pytest.mark.parametrize(
    ("at", "minutes"),
    [
        ("2026-04-04T15:00:00Z", [60, 90, 60]),  # 02:00 becomes 01:30: the hour from 01:00 goes on.
        ("2026-10-03T15:30:00Z", [60, 30, 60]),  # 02:00 becomes 02:30: the hour 02 has half of itself.
    ],
)
def test_half_an_hour_on_lord_howe(at: str, minutes: list[int]) -> None:
    got = boundaries(make(Window.HOUR, "Australia/Lord_Howe"), us(at))
    assert [(b - a) // MINUTE for a, b in pairwise(got)] == minutes


@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("America/New_York", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-11-01T06:00:00Z"),
        ("America/Caracas", "2007-12-09T07:00:00Z"),
        ("America/Caracas", "2016-05-01T07:00:00Z"),
        ("America/St_Johns", "2010-11-07T02:31:00Z"),
        ("Asia/Kathmandu", "1985-12-31T18:30:00Z"),
        ("Asia/Pyongyang", "2015-08-14T15:00:00Z"),
        ("Asia/Pyongyang", "2018-05-04T15:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ],
)
def test_hours_are_those_that_one_sees_watching_the_clock(zone: str, at: str) -> None:
    watched = range(us(at) - 4 * HOUR, us(at) + 4 * HOUR, MINUTE)
    seen = []
    for now in watched:
        shown, before = clock(zone, now), clock(zone, now - MINUTE)
        if shown.minute == 0 or (shown > before and shown.replace(minute=0) > before):
            seen.append(now)
    found = {window_at(make(Window.HOUR, zone), now) for now in watched}
    assert sorted(w for w in found if w[0] in watched and w[1] in watched) == list(pairwise(seen))


# Properties, over all zones and close to where their clocks change.


def changes(zone: str, year: int) -> list[int]:
    """The instants of the year (epoch microseconds, to the minute) at which the zone changes its offset."""

    def offset(at: int) -> timedelta:
        return clock(zone, at) - utc(at).replace(tzinfo=None)

    def change(noon: int) -> int:
        minutes = range(noon, noon + DAY, MINUTE)
        return noon + MINUTE * bisect_left(minutes, 1, key=lambda at: offset(at) != offset(noon))

    first = us(f"{year}-01-01T12:00:00Z")
    noons = range(first, first + 366 * DAY, DAY)
    return [change(noon) for noon in noons if offset(noon) != offset(noon + DAY)]


@st.composite
def quotas(draw: st.DrawFn) -> Quota:
    window = draw(st.sampled_from(Window))
    anchor_day = draw(st.integers(1, 31)) if window is Window.MONTH else 1
    return make(window, draw(st.sampled_from(ZONES)), anchor_day)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Quota, int]:
    quota = draw(quotas())
    if draw(st.booleans()):
        found = changes(quota.timezone, draw(st.integers(1971, 2099)))
        if found:
            away = draw(st.integers(-2 * HOUR, 2 * HOUR) | st.integers(-2 * DAY, 2 * DAY))
            return quota, draw(st.sampled_from(found)) + away
    return quota, draw(st.integers(us("1971-01-01T00:00:00Z"), us("2100-12-31T00:00:00Z")))


def first_date(quota: Quota, day: date) -> date:
    """The first date of the period that the date is in, by walking back to it."""

    def starts_period(day: date) -> bool:
        match quota.window:
            case Window.WEEK:
                return day.isoweekday() == 1
            case Window.MONTH:
                last = (day + timedelta(days=1)).day == 1
                return day.day == quota.anchor_day or (last and day.day < quota.anchor_day)
            case Window.YEAR:
                return (day.month, day.day) == (1, 1)
            case _:
                return True

    while not starts_period(day):
        day -= timedelta(days=1)
    return day


@given(cases())
@example((make(Window.DAY, "Pacific/Apia"), us("2011-12-30T10:00:00Z")))
@example((make(Window.DAY, "America/St_Johns"), us("2010-11-07T02:31:30Z")))
@example((make(Window.HOUR, "Australia/Lord_Howe"), us("2026-04-04T15:10:00Z")))
@settings(max_examples=500, deadline=None)  # No deadline: a test must not depend on the wall clock.
def test_windows_tile_time(case: tuple[Quota, int]) -> None:
    quota, at = case
    start, end = window_at(quota, at)
    assert start <= at < end
    assert window_at(quota, start) == window_at(quota, end - 1) == (start, end)
    assert window_at(quota, end)[0] == end
    assert window_at(quota, start - 1)[1] == start


@given(cases())
@settings(max_examples=500, deadline=None)  # No deadline: a test must not depend on the wall clock.
def test_a_window_starts_when_the_clock_first_shows_its_date(case: tuple[Quota, int]) -> None:
    quota, at = case
    start, end = window_at(quota, at)
    for edge in (start, end):
        before, shown = clock(quota.timezone, edge - 1), clock(quota.timezone, edge)
        if quota.window is Window.HOUR:
            assert (shown.minute, shown.second) == (0, 0) or shown.replace(minute=0, second=0) > before
        else:
            assert before.date() < first_date(quota, shown.date())
    if quota.window is not Window.HOUR:
        latest = max(clock(quota.timezone, start), clock(quota.timezone, at))
        assert first_date(quota, latest.date()) == first_date(quota, clock(quota.timezone, start).date())


@given(cases(), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=200, deadline=None)  # No deadline: a test must not depend on the wall clock.
def test_boundaries_are_the_windows_of_window_at(case: tuple[Quota, int], before: int, after: int) -> None:
    quota, at = case
    got = boundaries(quota, at, before=before, after=after)
    assert len(got) == before + after + 2
    assert got[before] <= at < got[before + 1]
    inside = [(start, end) for start, end in pairwise(got) if start >= EARLIEST_US]
    assert [window_at(quota, start) for start, _ in inside] == inside


@given(cases())
@settings(max_examples=200, deadline=None)  # No deadline: a test must not depend on the wall clock.
def test_a_day_starts_with_an_hour_and_an_hour_is_shorter_than_two(case: tuple[Quota, int]) -> None:
    quota, at = case
    day, hour = make(Window.DAY, quota.timezone), make(Window.HOUR, quota.timezone)
    midnight = window_at(day, at)[0]
    assert window_at(hour, midnight)[0] == midnight
    start, end = window_at(hour, at)
    assert 0 < end - start < 2 * HOUR


# Ranges and names.


@pytest.mark.parametrize("window", Window)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("at", [EARLIEST_US, LATEST_US])
def test_both_ends_of_the_range_have_all_the_windows_around_them(window: Window, zone: str, at: int) -> None:
    got = boundaries(make(window, zone), at, before=MAX_AROUND, after=MAX_AROUND)
    assert all(a < b for a, b in pairwise(got))
    assert (got[MAX_AROUND], got[MAX_AROUND + 1]) == window_at(make(window, zone), at)


def test_the_range_is_what_it_says() -> None:
    assert iso(EARLIEST_US) == "1970-01-01T00:00Z"
    assert us("9000-01-01T00:00:00Z") == LATEST_US


@pytest.mark.parametrize("at", [EARLIEST_US - 1, LATEST_US + 1, -(10**30), 10**30])
def test_an_instant_out_of_range_is_refused(at: int) -> None:
    with pytest.raises(ValueError, match="between 1970-01-01 and 9000-01-01"):
        window_at(make(Window.DAY), at)
    with pytest.raises(ValueError, match="between 1970-01-01 and 9000-01-01"):
        boundaries(make(Window.DAY), at)


@pytest.mark.parametrize(("before", "after"), [(-1, 0), (0, -1), (MAX_AROUND + 1, 0), (0, MAX_AROUND + 1)])
def test_a_walk_too_far_is_refused(before: int, after: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 366"):
        boundaries(make(Window.DAY), 0, before=before, after=after)


def test_a_zone_is_loaded_once() -> None:
    assert load_zone("Europe/Berlin") is load_zone("Europe/Berlin")
    assert load_zone("Europe/Berlin").key == "Europe/Berlin"


def test_every_zone_of_the_machine_loads() -> None:
    assert [load_zone(name).key for name in ZONES] == ZONES


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("/etc/localtime", "'/etc/localtime' is a path"),
        ("../UTC", "'../UTC' is a path"),
        ("Europe/../UTC", "is a path"),
        ("Europe\\Berlin", "is a path"),
        ("Europe/Berlni", r"is unknown \(did you mean 'Europe/Berlin'\?\)"),
        ("america/new york", r"did you mean 'America/New_York'\?"),
        ("Berlin", r"did you mean 'Europe/Berlin'\?"),
        ("Europe", "is unknown"),
        ("zone.tab", "is unknown"),
        ("localtime", "'localtime' is unknown"),
        ("right/UTC", "'right/UTC' is unknown"),
        ("posix/Europe/Berlin", r"did you mean 'Europe/Berlin'\?"),
        ("UTC\0", "is unknown"),
        ("\ud800", "is unknown"),
        ("x" * 100_000, "is unknown"),
    ],
)
def test_what_is_no_zone_is_refused_with_a_hint(name: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"the time zone .*{fault}.*; a time zone is an IANA name") as caught:
        load_zone(name)
    assert len(str(caught.value)) < 300


def test_a_quota_of_an_unknown_zone_has_no_window() -> None:
    with pytest.raises(ValueError, match="'Mars/Olympus' is unknown"):
        window_at(make(Window.DAY, "Mars/Olympus"), 0)
