"""Quota 100, 500 parallel checks on 4 workers across a window's end: exactly 100 in each window."""

import asyncio
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from threading import Barrier
from urllib.parse import urlsplit

import pytest

from quotas.decisions import Decision
from quotas.limits import Bucket, Limit, Quota, Window
from quotas.scripts import PackedPlan, Take, record_key, take
from quotas.store import Store

from .processes import PATIENCE_S, Home

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
WORKERS = 4
HALF_HOUR_S = 1_800

PLANS = "plans: {free: {limits: {hourly: {quota: 100/hour}}}}"


def work(url: str, limits: list[Limit], times: list[int], barrier: Barrier) -> list[Decision]:
    """One worker: takes at these times, in this order, on a connection and in an event loop of its own."""

    async def ask() -> list[Decision]:
        plan = PackedPlan(limits)
        async with Store(url) as store:
            await store.call("PING")
            await asyncio.to_thread(barrier.wait, PATIENCE_S)
            decisions = []
            for begin in range(0, len(times), 10):
                asked = [
                    Take(client_id="cl_1", generation=1, key_id="key_1", cost=1, now_us=at_us, own_clock=True)
                    for at_us in times[begin : begin + 10]
                ]
                decisions += await asyncio.gather(*(take(store, plan, each) for each in asked))
            return [decision for decision in decisions if decision is not None]

    return asyncio.run(ask())


def register(url: str) -> None:
    """The client, and nothing that it has spent."""

    async def ask() -> None:
        async with Store(url) as store:
            await store.call("FLUSHALL")
            await store.call("HSET", record_key("cl_1"), "generation", 1)

    asyncio.run(ask())


def across(url: str, limits: list[Limit], times: list[int], random: Random) -> list[Decision]:
    """What all workers decided together; the times are dealt to them, each gets its own in order."""
    random.shuffle(times)
    barrier = Barrier(WORKERS)
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, url, limits, sorted(times[number::WORKERS]), barrier) for number in range(WORKERS)]
        return [decision for future in futures for decision in future.result(PATIENCE_S)]


def given(decisions: list[Decision], name: str) -> Counter[int]:
    """Units that were given in each window of a quota, by its end."""
    ends: Counter[int] = Counter()
    for decision in decisions:
        for standing in decision.standings:
            if standing.limit.name == name and decision.allowed:
                assert standing.reset_after_us is not None
                ends[decision.at_us + standing.reset_after_us] += 1
    return ends


WINDOWS = [
    (Quota(units=100, window=Window.HOUR), 1_781_092_800),
    (Quota(units=100, window=Window.HOUR, timezone="Asia/Kathmandu"), 1_781_093_700),
    (Quota(units=100, window=Window.DAY), 1_781_049_600),
    # The night in which a day of 23 hours begins, and the one in which it ends.
    (Quota(units=100, window=Window.DAY, timezone="America/New_York"), 1_772_946_000),
    (Quota(units=100, window=Window.DAY, timezone="America/New_York"), 1_773_028_800),
    (Quota(units=100, window=Window.MONTH, timezone="America/New_York", anchor_day=31), 1_772_254_800),
    (Quota(units=100, window=Window.YEAR), 1_798_761_600),
]


class TestCarriedTime:
    """Four workers on the real script, each with a clock of its own that goes across the end."""

    @pytest.mark.parametrize(("quota", "end_s"), WINDOWS, ids=lambda value: str(value)[:60])
    @pytest.mark.parametrize("spread_us", [1, 1_000, HOUR_US // 500])
    def test_each_window_gives_its_units(self, server_url: str, quota: Quota, end_s: int, spread_us: int) -> None:
        """No worker is past the end before it has asked 125 times, so none can leave the old window short.

        Another may be behind: to the store, its clock has stepped back, and it is served from the new window.
        """
        end_us = end_s * SECOND_US
        times = [end_us + number * spread_us for number in range(-500, 500)]
        register(server_url)
        decisions = across(server_url, [Limit("quota", quota)], times, Random(end_s))
        assert len(decisions) == 1000
        ends = given(decisions, "quota")
        assert len(ends) == 2
        assert min(ends) == end_us
        assert set(ends.values()) == {100}
        late = [one for one in decisions if one.allowed and one.at_us >= end_us]
        assert all(one.standings[0].reset_after_us != end_us - one.at_us for one in late)

    def test_with_a_bucket_beside_it_both_hold(self, server_url: str) -> None:
        end_us = WINDOWS[0][1] * SECOND_US
        limits = [
            Limit("quota", WINDOWS[0][0]),
            Limit("bucket", Bucket(count=1_000, period_us=SECOND_US, burst=60)),
        ]
        times = [end_us + number * 1_000 for number in range(-500, 500)]
        register(server_url)
        decisions = across(server_url, limits, times, Random(2))
        ends = given(decisions, "quota")
        assert set(ends) <= {end_us, end_us + HOUR_US}
        assert max(ends.values()) <= 100
        # One token comes back each millisecond, as often as somebody asks: the quota is what binds.
        assert sum(ends.values()) == 200

    def test_four_windows_in_a_row(self, server_url: str) -> None:
        """From the middle of one to the middle of the next: the clocks of workers are not hours apart."""
        begin_us = WINDOWS[0][1] * SECOND_US
        decisions: list[Decision] = []
        register(server_url)
        for hour in range(1, 4):
            times = [begin_us + hour * HOUR_US + number * (HOUR_US // 1_000) for number in range(-500, 500)]
            decisions += across(server_url, [Limit("quota", WINDOWS[0][0])], times, Random(hour))
        ends = given(decisions, "quota")
        assert dict(ends) == {begin_us + hour * HOUR_US: 100 for hour in range(1, 5)}


def at_once(url: str, secret: str, times: int) -> list[tuple[int, int]]:
    """Status, and seconds to the end of the window, of as many checks on connections that all stood before."""
    address = urlsplit(url)
    request = f"GET /check HTTP/1.1\r\nHost: quotas\r\nX-API-Key: {secret}\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), PATIENCE_S))
            for _ in range(times)
        ]
        for each in sockets:
            each.sendall(request)
        answers = [stack.enter_context(each.makefile("rb")).read().decode("latin-1") for each in sockets]
    found = []
    for answer in answers:
        standing = re.search(r'^ratelimit: "hourly";r=\d+;t=(\d+)\r$', answer, re.MULTILINE)
        assert standing, answer
        found.append((int(answer.split(" ", 2)[1]), int(standing[1])))
    return found


def test_four_real_workers_give_exactly_the_quota(tmp_path: Path) -> None:
    """If the real hour ends meanwhile, each of the two hours gives its own: the answers say which they are about."""
    home = Home(tmp_path)
    home.plans(PLANS)
    with home.serving("--demo", "--workers", str(WORKERS)) as serving:
        secret, _ = serving.curl
        answers = at_once(serving.url, secret, 500)
    ends = [end_s for _, end_s in answers]
    split = max(ends) - min(ends) > HALF_HOUR_S
    hours: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for status, end_s in answers:
        hours[split and end_s <= HALF_HOUR_S][status] += 1
    for statuses in hours.values():
        assert statuses[200] == min(100, statuses.total())
        assert set(statuses) <= {200, 429}
