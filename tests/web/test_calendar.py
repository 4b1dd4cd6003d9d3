"""Time over HTTP: calendar windows to the second (cases C19, C29), buckets (C05, C15), and whose clock decides."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import httpx
import pytest

from quotas import assembly

from .timed import SECOND_US, Clock, Timed, items, left, timed, us, verdict

HALF_HOUR_S = 1_800
DAY_S = 86_400


def plan(units: int, window: str, zone: str = "UTC", anchor_day: int = 1) -> str:
    anchor = "" if anchor_day == 1 else f", anchor_day: {anchor_day}"
    return f"plans: {{plan: {{limits: {{quota: {{quota: {units}/{window}, timezone: {zone}{anchor}}}}}}}}}"


async def exhausted(worker: Timed, units: int = 10) -> str:
    """The key of a client that has used up what there is in the window of now."""
    secret = await worker.key()
    await worker.spend(secret, units)
    return secret


@dataclass(frozen=True)
class Day:
    """A window, and an instant in it: seconds from then to its end, and from its start to its end."""

    zone: str
    at: str
    to_end_s: int
    whole_s: int
    window: str = "day"
    anchor_day: int = 1


DAYS = [
    Day("America/New_York", "2026-03-08T05:00:00Z", 82_800, 82_800),
    Day("America/New_York", "2026-11-01T04:00:00Z", 90_000, 90_000),
    Day("America/New_York", "2026-11-01T06:30:00Z", 81_000, 90_000),
    Day("America/New_York", "2026-03-07T05:00:00Z", DAY_S, DAY_S),
    Day("America/Santiago", "2026-09-06T03:59:59Z", 1, DAY_S),
    Day("America/Santiago", "2026-09-06T04:00:00Z", 82_800, 82_800),
    Day("Asia/Shanghai", "2026-09-08T23:47:00Z", 58_380, DAY_S),
    Day("UTC", "2026-01-01T00:00:00Z", 31 * DAY_S, 31 * DAY_S, "month"),
    Day("UTC", "2026-02-01T00:00:00Z", 28 * DAY_S, 28 * DAY_S, "month"),
    Day("UTC", "2028-02-29T00:00:00Z", DAY_S, 29 * DAY_S, "month"),
    Day("UTC", "2026-12-31T23:59:59Z", 1, 31 * DAY_S, "month"),
    Day("America/New_York", "2026-03-01T05:00:00Z", 31 * DAY_S - 3_600, 31 * DAY_S - 3_600, "month"),
    Day("America/New_York", "2026-11-01T04:00:00Z", 30 * DAY_S + 3_600, 30 * DAY_S + 3_600, "month"),
    Day("UTC", "2026-06-10T12:00:00Z", 4 * DAY_S + DAY_S // 2, 7 * DAY_S, "week"),
    Day("UTC", "2026-06-15T00:00:00Z", 7 * DAY_S, 7 * DAY_S, "week"),
    Day("UTC", "2028-02-29T00:00:00Z", 307 * DAY_S, 366 * DAY_S, "year"),
    Day("Asia/Kathmandu", "2026-06-10T12:00:00Z", 900, 3_600, "hour"),
    Day("Australia/Lord_Howe", "2026-04-04T14:10:00Z", 4_800, 5_400, "hour"),
    Day("UTC", "2026-02-27T23:59:59Z", 1, 28 * DAY_S, "month", 31),
    Day("UTC", "2026-02-28T00:00:00Z", 31 * DAY_S, 31 * DAY_S, "month", 31),
    Day("UTC", "2026-03-31T00:00:00Z", 30 * DAY_S, 30 * DAY_S, "month", 31),
    Day("UTC", "2026-04-30T00:00:00Z", 31 * DAY_S, 31 * DAY_S, "month", 31),
    Day("UTC", "2028-02-28T12:00:00Z", DAY_S // 2, 29 * DAY_S, "month", 31),
    Day("UTC", "2028-02-29T00:00:00Z", 31 * DAY_S, 31 * DAY_S, "month", 31),
    Day("America/New_York", "2026-02-28T05:00:00Z", 31 * DAY_S - 3_600, 31 * DAY_S - 3_600, "month", 31),
    Day("America/New_York", "2027-01-31T04:59:59Z", 1, 31 * DAY_S, "month", 31),
]


@pytest.mark.parametrize("day", DAYS, ids=lambda day: f"{day.window} {day.anchor_day} {day.zone} {day.at}")
def test_a_window_is_told_to_the_second_and_retrying_then_passes(redis_url: str, day: Day) -> None:
    clock = Clock(us(day.at))

    async def work() -> None:
        async with timed(redis_url, plan(10, day.window, day.zone, day.anchor_day), clock) as worker:
            secret = await exhausted(worker)
            refused = await worker.check(secret)
            assert verdict(refused) == (429, day.to_end_s)
            assert items(refused, "ratelimit") == {"quota": {"r": 0, "t": day.to_end_s}}
            assert items(refused, "ratelimit-policy") == {"quota": {"q": 10, "w": day.whole_s}}
            clock.now_us += day.to_end_s * SECOND_US - 1
            assert verdict(await worker.check(secret)) == (429, 1)
            clock.now_us += 1
            allowed = await worker.check(secret)
            assert (allowed.status_code, left(allowed)) == (200, {"quota": 9})

    asyncio.run(work())


def test_a_month_is_not_30_days(redis_url: str) -> None:
    """Case C29."""
    clock = Clock(us("2026-01-01T00:00:00Z"))

    async def work() -> None:
        async with timed(redis_url, plan(10, "month"), clock) as worker:
            secret = await exhausted(worker)
            for instant, expected in (
                ("2026-01-30T23:59:59Z", (429, 86_401)),
                ("2026-01-31T00:00:00Z", (429, 86_400)),
                ("2026-01-31T23:59:59Z", (429, 1)),
                ("2026-01-31T23:59:59.999999Z", (429, 1)),
                ("2026-02-01T00:00:00Z", (200, None)),
            ):
                clock.set(instant)
                response = await worker.check(secret)
                assert verdict(response) == expected
            assert left(response) == {"quota": 9}
            assert items(response, "ratelimit")["quota"]["t"] == 2_419_200

    asyncio.run(work())


def test_an_anchor_is_clamped_to_every_month_anew(redis_url: str) -> None:
    """Once around the year, each month's units are given once."""
    starts = [
        "01-31",
        "02-28",
        "03-31",
        "04-30",
        "05-31",
        "06-30",
        "07-31",
        "08-31",
        "09-30",
        "10-31",
        "11-30",
        "12-31",
    ]
    clock = Clock(us("2026-01-30T12:00:00Z"))

    async def work() -> None:
        async with timed(redis_url, plan(3, "month", anchor_day=31), clock) as worker:
            secret = await exhausted(worker, 3)
            for start in starts:
                clock.set(f"2026-{start}T00:00:00Z")
                clock.now_us -= 1
                assert verdict(await worker.check(secret)) == (429, 1)
                clock.now_us += 1
                assert [(await worker.check(secret)).status_code for _ in range(4)] == [200, 200, 200, 429]

    asyncio.run(work())


class TestBuckets:
    def test_a_fraction_of_a_token_is_not_lost(self, redis_url: str) -> None:
        """Case C05 (1): asking every second does not keep a token from coming."""
        plans = "plans: {plan: {limits: {slow: {rate: 1 per 10 seconds, burst: 1}}}}"
        clock = Clock(us("2026-01-01T00:00:00Z"))

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                verdicts = []
                for _ in range(11):
                    verdicts.append(verdict(await worker.check(secret)))
                    clock.go_on(1)
                assert verdicts == [(200, None), *[(429, 10 - n) for n in range(1, 10)], (200, None)]

        asyncio.run(work())

    def test_half_tokens_add_up(self, redis_url: str) -> None:
        """Case C05 (2)."""
        plans = "plans: {plan: {limits: {burst: {rate: 1/second, burst: 4}}}}"
        clock = Clock(us("2026-01-01T00:00:00Z"))

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                verdicts = []
                for _ in range(8):
                    verdicts.append(verdict(await worker.check(secret)))
                    clock.go_on(0.5)
                assert verdicts == [(200, None)] * 7 + [(429, 1)]

        asyncio.run(work())

    def test_a_tenth_of_a_second_brings_a_tenth_of_ten(self, redis_url: str) -> None:
        """Case C05 (3): as doubles, these instants are not a tenth of a second apart."""
        plans = "plans: {plan: {limits: {fast: {rate: 10/second, burst: 1}}}}"
        clock = Clock(1_767_225_600_000_000)

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                assert (await worker.check(secret)).status_code == 200
                clock.now_us = 1_767_225_600_099_999
                assert verdict(await worker.check(secret)) == (429, 1)
                clock.now_us = 1_767_225_600_100_000
                assert (await worker.check(secret)).status_code == 200

        asyncio.run(work())

    def test_an_empty_bucket_does_not_come_back_full(self, redis_url: str) -> None:
        """Case C15 (1)."""
        plans = "plans: {plan: {limits: {slow: {rate: 1 per 15 seconds, burst: 3}}}}"
        clock = Clock(us("2026-01-01T00:00:00Z"))

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                await worker.spend(secret, 3, at_once=1)
                client = await worker.clients.get("acme")
                assert await worker.store.call("PTTL", f"q1:{{{client.id}}}:state") >= 45_000
                clock.go_on(7)
                assert verdict(await worker.check(secret)) == (429, 8)
                clock.go_on(8)
                assert (await worker.check(secret)).status_code == 200
                assert verdict(await worker.check(secret)) == (429, 15)

        asyncio.run(work())


def by_window(responses: Iterable[httpx.Response], name: str) -> list[Counter[int]]:
    """The statuses in each window of a quota in which there were answers, told apart by when they say it ends.

    A window of an hour or longer is meant: its last seconds and the first of the next are half an hour apart.
    """
    ends = [(items(one, "ratelimit")[name]["t"], one.status_code) for one in responses]
    ended = max(end for end, _ in ends) - min(end for end, _ in ends) > HALF_HOUR_S
    old = Counter(status for end, status in ends if ended and end <= HALF_HOUR_S)
    new = Counter(status for end, status in ends if not ended or end > HALF_HOUR_S)
    return [each for each in (old, new) if each]


class TestClocks:
    """The store's clock decides; that of a worker may be anything."""

    @pytest.mark.parametrize("window", ["hour", "day", "month", "year"])
    @pytest.mark.parametrize("skew_s", [0, 5, -5, 2 * 3_600, -2 * 3_600, 8_220, 40 * DAY_S, -400 * DAY_S, 10**9])
    def test_two_workers_give_what_one_would(self, redis_url: str, window: str, skew_s: int) -> None:
        def skewed() -> int:
            return assembly.clock() + skew_s * SECOND_US

        async def work() -> None:
            async with (
                timed(redis_url, plan(20, window), assembly.clock, clock_decides=False) as right,
                timed(redis_url, plan(20, window), skewed, clock_decides=False) as wrong,
            ):
                secret = await right.key()
                answers = await asyncio.gather(*((right, wrong)[n % 2].check(secret) for n in range(60)))
                for statuses in by_window(answers, "quota"):
                    assert statuses[200] == min(20, statuses.total())
                    assert set(statuses) <= {200, 429}
                lengths = {one.headers["ratelimit-policy"] for one in answers}
                assert len(lengths) == len(by_window(answers, "quota")) or len(lengths) == 1

        asyncio.run(work())

    def test_a_worker_an_hour_off_says_the_store_s_time(self, redis_url: str) -> None:
        """What is left until the window's end does not depend on who is asked."""

        def skewed() -> int:
            return assembly.clock() + 3_000 * SECOND_US

        async def work() -> None:
            async with (
                timed(redis_url, plan(20, "hour"), assembly.clock, clock_decides=False) as right,
                timed(redis_url, plan(20, "hour"), skewed, clock_decides=False) as wrong,
            ):
                secret = await right.key()
                while True:
                    before, between, after = [
                        items(await worker.check(secret, cost=0), "ratelimit")["quota"]["t"]
                        for worker in (right, wrong, right)
                    ]
                    if before >= after:  # Else the hour ended meanwhile.
                        break
                assert before >= between >= after

        asyncio.run(work())
