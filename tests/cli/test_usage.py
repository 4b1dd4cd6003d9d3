"""`quotas usage`: what clients have used, for people and for machines."""

import csv
import io
from collections.abc import Sequence

import pytest
from takes import with_store

from quotas import instants, plan_files
from quotas.refusals import Refusals
from quotas.registry import Registry
from quotas.scripts import PackedPlan, Take, take
from quotas.store import Store

from .terminal import Terminal

PLANS = """
plans:
  free:
    limits:
      burst: {rate: 1000/second}
      monthly: {quota: 1000000/month, timezone: America/New_York}
      daily: {quota: 1000000/day, timezone: Asia/Tokyo}
  plain:
    limits:
      burst: {rate: 1000/second}
"""
KEEP_S = 400 * 86_400
Used = Sequence[tuple[str, str, int]]
"""Client, instant, and units taken, or below 0 checks refused."""


def use(redis_url: str, used: Used) -> None:
    async def work(store: Store) -> None:
        registry, config = Registry(store), plan_files.parse(PLANS, "test")
        refusals = Refusals(store, lambda _: None)
        for name, at, number in used:
            client = await registry.client(name)
            assert client is not None
            at_us = instants.parse(at)
            if number < 0:
                for _ in range(-number):
                    refusals.note(client, "rate_limited", at_us, KEEP_S)
                continue
            asked = Take(
                client_id=client.id,
                generation=client.generation,
                key_id="",
                cost=number,
                now_us=at_us,
                own_clock=True,
                keep_s=KEEP_S,
            )
            decision = await take(store, PackedPlan(config.plans[client.plan].limits), asked)
            assert decision is not None
            assert decision.allowed
        await refusals.write()

    with_store(redis_url, work)


@pytest.fixture
def desk(terminal: Terminal, redis_url: str) -> Terminal:
    terminal.file("quotas.yaml", PLANS)
    for name, plan in (("acme", "free"), ("bolt", "plain"), ("=cmd", "plain")):
        terminal.good("clients", "create", name, "--plan", plan)
    use(
        redis_url,
        [
            ("acme", "2026-02-28T23:00:00Z", 5),
            ("acme", "2026-03-01T04:59:59Z", 7),
            ("acme", "2026-03-01T05:00:00Z", 11),
            ("acme", "2026-03-08T06:30:00Z", 13),
            ("acme", "2026-03-08T06:30:00Z", -3),
            ("acme", "2026-03-20T12:00:00Z", 17),
            ("acme", "2026-04-01T03:59:59Z", 19),
            ("acme", "2026-04-01T04:00:00Z", 23),
            ("bolt", "2026-03-01T00:00:00Z", 400),
            ("bolt", "2026-03-31T23:59:59Z", 500),
            ("bolt", "2026-03-31T23:59:59Z", -2),
        ],
    )
    return terminal


class TestOneClient:
    def test_days_of_the_month_in_the_zone_of_the_plan_s_first_quota(self, desk: Terminal) -> None:
        rows = desk.good("usage", "acme", "--month", "2026-03").rows
        assert rows[:3] == [
            "acme, 2026-03-01 to 2026-03-31, America/New_York",
            "day units rate limited quota exceeded never",
            "2026-03-01 11 0 0 0",
        ]
        assert len(rows) == 2 + 31 + 1
        assert rows[9] == "2026-03-08 13 3 0 0"
        assert rows[-2:] == ["2026-03-31 19 0 0 0", "total 60 3 0 0"]

    def test_another_zone_and_another_first_day(self, desk: Terminal) -> None:
        zone = ("--timezone", "UTC")
        assert desk.good("usage", "acme", "--month", "2026-03", *zone).rows[-1] == "total 48 3 0 0"
        anchored = desk.good("usage", "acme", "--month", "2026-02", *zone, "--anchor-day", "20", "--by", "month").rows
        assert anchored[0] == "acme, 2026-02-20 to 2026-03-19, UTC"
        assert anchored[2:] == ["2026-02-20 36 3 0 0", "total 36 3 0 0"]

    def test_hours_are_told_with_their_offset_and_empty_ones_are_not(self, desk: Terminal) -> None:
        rows = desk.good("usage", "acme", "--month", "2026-03", "--by", "hour").rows
        assert rows[2:] == [
            "2026-03-01 00:00 -05:00 11 0 0 0",
            "2026-03-08 01:00 -05:00 13 3 0 0",
            "2026-03-20 08:00 -04:00 17 0 0 0",
            "2026-03-31 23:00 -04:00 19 0 0 0",
            "total 60 3 0 0",
        ]

    def test_json(self, desk: Terminal) -> None:
        told = desk.good("usage", "acme", "--month", "2026-03", "--json").json
        rows = told.pop("rows")
        assert told == {
            "client": "acme",
            "timezone": "America/New_York",
            "by": "day",
            "start": "2026-03-01T00:00:00-05:00",
            "end": "2026-04-01T00:00:00-04:00",
            "units": 60,
            "refused": {"rate_limited": 3, "quota_exceeded": 0, "never": 0},
        }
        assert rows[7] == {
            "start": "2026-03-08T00:00:00-05:00",
            "units": 13,
            "refused": {"rate_limited": 3, "quota_exceeded": 0, "never": 0},
        }
        assert sum(row["units"] for row in rows) == 60

    def test_csv(self, desk: Terminal) -> None:
        rows = list(csv.DictReader(io.StringIO(desk.good("usage", "acme", "--month", "2026-03", "--csv").out)))
        assert len(rows) == 31
        assert rows[7] == {
            "client": "acme",
            "timezone": "America/New_York",
            "start": "2026-03-08T00:00:00-05:00",
            "units": "13",
            "rate_limited": "3",
            "quota_exceeded": "0",
            "never": "0",
        }

    def test_bars(self, desk: Terminal) -> None:
        done = desk.good("usage", "acme", "--month", "2026-03", "--plot")
        assert len(done.rows) == 2 + 31
        assert done.rows[1] == "units refused"
        assert done.rows[9].split()[::2] == ["2026-03-08", "13", "3"]
        assert max(map(len, done.out.splitlines())) <= 80

    def test_all_months_that_are_kept(self, desk: Terminal) -> None:
        assert len(desk.good("usage", "acme", "--by", "month", "--json").json["rows"]) == 13
        desk.file("quotas.yaml", PLANS + "usage: {keep_months: 2}\n")
        assert len(desk.good("usage", "acme", "--by", "month", "--json").json["rows"]) == 2
        desk.file("quotas.yaml", PLANS + "usage: {keep_months: 0}\n")
        assert len(desk.good("usage", "acme", "--by", "month", "--json").json["rows"]) == 1

    def test_the_current_month_up_to_today(self, desk: Terminal) -> None:
        told = desk.good("usage", "bolt", "--json").json
        assert told["start"][:7] == told["rows"][-1]["start"][:7]
        assert told["rows"][0]["start"] == told["start"]

    def test_a_month_to_come_has_no_rows(self, desk: Terminal) -> None:
        told = desk.good("usage", "bolt", "--month", "2199-12", "--json").json
        assert (told["rows"], told["units"]) == ([], 0)
        assert desk.good("usage", "bolt", "--month", "2199-12").rows[-1] == "total 0 0 0 0"

    def test_nobody(self, desk: Terminal) -> None:
        done = desk("usage", "nobody")
        assert (done.code, done.out) == (1, "")
        assert "there is no client 'nobody'" in done.err


class TestAllClients:
    def test_each_month_in_its_own_zone_most_first_and_their_sum(self, desk: Terminal) -> None:
        assert desk.good("usage", "--month", "2026-03").rows == [
            "the month from 2026-03-01 on, each client in the time zone of its plan",
            "client time zone units rate limited quota exceeded never",
            "bolt UTC 900 2 0 0",
            "acme America/New_York 60 3 0 0",
            "=cmd UTC 0 0 0 0",
            "total 960 5 0 0",
        ]

    def test_one_zone_for_all(self, desk: Terminal) -> None:
        rows = desk.good("usage", "--month", "2026-03", "--timezone", "Asia/Tokyo").rows
        assert rows[0] == "the month from 2026-03-01 on, Asia/Tokyo"
        assert rows[2:4] == ["bolt Asia/Tokyo 400 0 0 0", "acme Asia/Tokyo 53 3 0 0"]

    def test_the_top_and_the_sum_of_all(self, desk: Terminal) -> None:
        rows = desk.good("usage", "--month", "2026-03", "--top", "1").rows
        assert rows[2:] == ["bolt UTC 900 2 0 0", "total 960 5 0 0"]
        assert [each["client"] for each in desk.good("usage", "--top", "2", "--month", "2026-03", "--json").json] == [
            "bolt",
            "acme",
        ]

    def test_more_clients_than_are_read_at_a_time(self, desk: Terminal, redis_url: str) -> None:
        names = [f"client-{number}" for number in range(50)]

        async def make(store: Store) -> None:
            for name in names:
                await Registry(store).create_client(name, "plain", 1)

        with_store(redis_url, make)
        use(redis_url, [(name, "2026-05-05T05:05:05Z", 10 + number) for number, name in enumerate(names)])
        told = desk.good("usage", "--month", "2026-05", "--json").json
        assert [each["units"] for each in told] == [*range(59, 9, -1), 0, 0, 0]
        assert [each["client"] for each in told[-3:]] == ["=cmd", "acme", "bolt"]
        assert desk.good("usage", "--month", "2026-05", "--top", "3").rows[-1] == f"total {sum(range(10, 60))} 0 0 0"

    def test_csv_is_nobody_s_formula(self, desk: Terminal) -> None:
        rows = list(csv.reader(io.StringIO(desk.good("usage", "--month", "2026-03", "--csv").out)))
        assert rows[1:] == [
            ["bolt", "UTC", "2026-03-01T00:00:00+00:00", "900", "2", "0", "0"],
            ["acme", "America/New_York", "2026-03-01T00:00:00-05:00", "60", "3", "0", "0"],
            ["'=cmd", "UTC", "2026-03-01T00:00:00+00:00", "0", "0", "0", "0"],
        ]

    def test_bars(self, desk: Terminal) -> None:
        rows = desk.good("usage", "--month", "2026-03", "--plot", "--top", "2").rows
        assert [row.split()[0] for row in rows[2:]] == ["bolt", "acme"]

    def test_nobody_is_there(self, terminal: Terminal) -> None:
        terminal.file("quotas.yaml", PLANS)
        assert terminal.good("usage").rows == ["There are no clients."]
        assert terminal.good("usage", "--json").json == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("acme", "--month", "2026-13"), "such as 2026-11"),
        (("acme", "--month", "1999-12"), "such as 2026-11"),
        (("acme", "--month", "March"), "such as 2026-11"),
        (("acme", "--timezone", "Mars/Base"), "'Mars/Base' is unknown"),
        (("acme", "--anchor-day", "32"), "--anchor-day"),
        (("acme", "--by", "week"), "--by"),
        (("acme", "--top", "3"), "leave the client out"),
        (("--top", "0"), "--top"),
        (("--by", "day"), "name it"),
        (("acme", "--csv", "--json"), "choose one of"),
    ],
)
def test_wrong_use(desk: Terminal, words: Sequence[str], told: str) -> None:
    done = desk("usage", *words)
    assert (done.code, done.out) == (2, "")
    assert told in " ".join(done.err.replace("│", " ").split())
