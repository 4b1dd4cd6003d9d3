"""A script runs once, whatever becomes of its reply; and a server that forgot it learns it again (case C01)."""

import asyncio
from pathlib import Path

import pytest

from quotas.errors import StoreUnavailableError
from quotas.limits import Bucket, Limit, Quota, Window
from quotas.scripts import PackedPlan, Take, record_key, take
from quotas.store import Store, deadline

from .proxy import Command, Fate, proxy

PLAN = PackedPlan(
    [
        Limit("once", Bucket(count=0, period_us=1_000_000, burst=10)),
        Limit("yearly", Quota(units=10, window=Window.YEAR)),
    ]
)
NOW_US = 1_773_144_000_000_000


async def remaining(store: Store, cost: int = 1) -> list[int]:
    """What both limits have left after a take."""
    asked = Take(client_id="cl_test", generation=1, key_id="key_test", cost=cost, now_us=NOW_US, own_clock=True)
    decision = await take(store, PLAN, asked)
    assert decision is not None
    assert decision.allowed
    return [standing.remaining for standing in decision.standings]


async def register(store: Store) -> None:
    await store.call("HSET", record_key("cl_test"), "generation", 1)


class TestLostReply:
    @pytest.mark.parametrize(("fate", "taken"), [(Fate.LOSE, 1), (Fate.CUT, 1), (Fate.CUT_BEFORE, 0)])
    def test_one_check_takes_at_most_one_unit(self, redis_url: str, tmp_path: Path, fate: Fate, taken: int) -> None:
        lost = False

        def lose_the_first(command: Command) -> Fate:
            nonlocal lost
            if command[0] != b"EVALSHA" or lost:
                return Fate.PASS
            lost = True
            return fate

        async def work() -> None:
            async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                await register(direct)
                await remaining(direct, cost=0)  # The server knows the script.
                passing.fate = lose_the_first
                with pytest.raises(StoreUnavailableError, match="timeout" if fate is Fate.LOSE else "lost"):
                    async with deadline(0.1 if fate is Fate.LOSE else 30):
                        await remaining(store)
                assert await remaining(direct, cost=0) == [10 - taken] * 2
                assert passing.count(b"EVALSHA") == 1

        asyncio.run(work())

    def test_a_lost_reply_to_the_reload_takes_nothing(self, redis_url: str, tmp_path: Path) -> None:
        async def work() -> None:
            async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                await register(direct)
                await direct.call("SCRIPT", "FLUSH")
                passing.fate = lambda command: Fate.CUT if command[0] == b"SCRIPT" else Fate.PASS
                with pytest.raises(StoreUnavailableError, match="lost"):
                    await remaining(store)
                assert await remaining(direct, cost=0) == [10, 10]

        asyncio.run(work())


class TestForgottenScript:
    def test_it_is_loaded_once_and_the_check_is_a_normal_one(self, redis_url: str, tmp_path: Path) -> None:
        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                await register(store)
                await store.call("SCRIPT", "FLUSH")
                assert await remaining(store) == [9, 9]
                assert passing.count(b"SCRIPT", b"LOAD") == 1
                await store.call("SCRIPT", "FLUSH")
                assert await remaining(store) == [8, 8]
                assert passing.count(b"SCRIPT", b"LOAD") == 2
                assert await remaining(store) == [7, 7]
                assert passing.count(b"SCRIPT", b"LOAD") == 2

        asyncio.run(work())

    def test_a_crowd_that_finds_it_missing_takes_exactly_what_there_is(self, redis_url: str) -> None:
        async def work() -> None:
            async with Store(redis_url) as store:
                await register(store)
                await store.call("SCRIPT", "FLUSH")
                left = await asyncio.gather(*(remaining(store) for _ in range(10)))
                assert sorted(left) == [[rest, rest] for rest in range(10)]

        asyncio.run(work())

    def test_a_server_that_forgets_for_ever_is_asked_twice(self, redis_url: str, tmp_path: Path) -> None:
        noscript = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                passing.fate = lambda command: noscript if command[0] == b"EVALSHA" else Fate.PASS
                with pytest.raises(StoreUnavailableError) as caught:
                    await remaining(store)
                assert caught.value.kind == "reply"
                assert passing.count(b"EVALSHA") == 2

        asyncio.run(work())
