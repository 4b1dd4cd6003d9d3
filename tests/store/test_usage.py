"""Histories as they are read: every quarter once, whatever hash it is in, and few commands for who used nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from takes import keys_left, with_store

from quotas import usage
from quotas.limits import Limit, Quota, Window
from quotas.registry import Registry
from quotas.scripts import PackedPlan, Take, refused_key, take, used_key
from quotas.store import Store
from quotas.tallies import DAY_US, QUARTER_US, Tally
from quotas.usage import Usage

from .proxy import proxy

DAY = 20_522
BEGIN_US = DAY * DAY_US
FIRST = DAY * 96


def test_quarters_are_read_from_the_hash_of_their_day_and_of_those_beside_it(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", used_key("cl", DAY), "0", 1, "95", 2, "96", 4, "-1", 8)
        await store.call("HSET", used_key("cl", DAY - 1), "95", 16, "96", 32, "99", 64)
        await store.call("HSET", used_key("cl", DAY + 1), "0", 128, "-1", 256, "-4", 512)
        await store.call("HSET", refused_key("cl", DAY), "0:never", 3, "0:rate_limited", 5, "7:quota_exceeded", 7)
        await store.call("HSET", refused_key("cl", DAY + 1), "0:never", 9)
        await store.call("HSET", used_key("other", DAY), "0", 1_000)
        assert await Usage(store).between("cl", BEGIN_US, BEGIN_US + DAY_US) == {
            FIRST: Tally(1 + 32, never=3, rate_limited=5),
            FIRST + 3: Tally(64),
            FIRST + 7: Tally(quota_exceeded=7),
            FIRST + 92: Tally(512),
            FIRST + 95: Tally(2 + 256),
        }

    with_store(redis_url, work)


@pytest.mark.parametrize(("begin", "end", "found"), [(0, 1, {0}), (1, 3, {1, 2}), (0, 4, {0, 1, 2, 3}), (4, 5, set())])
def test_the_end_is_not_part_of_it(redis_url: str, begin: int, end: int, found: set[int]) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", used_key("cl", DAY), *(word for quarter in range(4) for word in (quarter, 1)))
        quarters = await Usage(store).between("cl", BEGIN_US + begin * QUARTER_US, BEGIN_US + end * QUARTER_US)
        assert set(quarters) == {FIRST + quarter for quarter in found}

    with_store(redis_url, work)


def test_who_used_nothing_costs_two_commands_and_who_did_is_read_piece_by_piece(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_AT_ONCE", 10)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            year = (BEGIN_US, BEGIN_US + 400 * DAY_US)
            assert await Usage(store).between("cl", *year) == {}
            assert len(passing.commands) == 2
            await direct.call("HSET", used_key("cl", DAY), "5", 1)
            await direct.call("HSET", refused_key("cl", DAY + 399), "5:never", 1)
            assert await Usage(store).between("cl", *year) == {
                FIRST + 5: Tally(1),
                FIRST + 399 * 96 + 5: Tally(never=1),
            }
            assert passing.count(b"HGETALL") == 2 * 402

    asyncio.run(work())


QUOTA = PackedPlan([Limit("year", Quota(units=1_000, window=Window.YEAR))])


async def take_at(store: Store, quarter: int, cost: int) -> None:
    """A take in this quarter since the epoch."""
    asked = Take("cl", 0, "", cost, quarter * QUARTER_US, own_clock=True, keep_s=DAY_US)
    assert await take(store, QUOTA, asked)


def test_the_open_quarter_is_part_of_it(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await take_at(store, FIRST + 5, 2)
        assert await Usage(store).between("cl", BEGIN_US, BEGIN_US + DAY_US) == {FIRST + 5: Tally(2)}
        await store.call("HSET", used_key("cl", DAY), "5", -1, "4", 8)
        await store.call("HSET", refused_key("cl", DAY), "5:never", 3)
        assert await Usage(store).between("cl", BEGIN_US, BEGIN_US + DAY_US) == {
            FIRST + 4: Tally(8),
            FIRST + 5: Tally(1, never=3),
        }
        assert await Usage(store).between("cl", BEGIN_US, BEGIN_US + 5 * QUARTER_US) == {FIRST + 4: Tally(8)}
        assert await Usage(store).between("cl", BEGIN_US + DAY_US, BEGIN_US + 9 * DAY_US) == {}

    with_store(redis_url, work)


@pytest.mark.parametrize("before", [{}, {FIRST + 1: Tally(1)}])
@pytest.mark.parametrize("after", ["used", "refused", "state"])
def test_a_quarter_that_ends_while_hashes_are_read_is_found_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, after: str, before: dict[int, Tally]
) -> None:
    """A take of the next quarter comes right after the first look at one of the keys."""
    call, moved = Store.call, False

    async def work(store: Store) -> None:
        for _ in before:
            await store.call("HSET", used_key("cl", DAY), "1", 1)
        await take_at(store, FIRST + 5, 2)

        async def and_then(self: Store, *words: Any, **at: Any) -> Any:
            nonlocal moved
            reply = await call(self, *words, **at)
            if not moved and words[0] in {"GET", "HGETALL"} and f"}}:{after}" in words[1]:
                moved = True
                await take_at(store, FIRST + 6, 16)
            return reply

        monkeypatch.setattr(Store, "call", and_then)
        found = await Usage(store).between("cl", BEGIN_US, BEGIN_US + DAY_US)
        assert moved or not before
        assert found == before | {FIRST + 5: Tally(2)} | ({FIRST + 6: Tally(16)} if moved else {})

    with_store(redis_url, work)


def test_a_subject_that_comes_back_under_its_id_starts_fresh(redis_url: str) -> None:
    """Case C16: it is the same id, because that is made of the subject."""

    async def work(store: Store) -> None:
        registry, names = Registry(store), ("ada@id", "ada@id-2")
        today = int((await store.call("TIME"))[0]) // 86_400
        whole = ((today - 1_200) * DAY_US, (today + 2) * DAY_US)
        for now_us in (1, 2):
            client = await registry.subject_client("sub_1", names, "free", now_us)
            assert client is not None
            assert await Usage(store).between("sub_1", *whole) == {}
            for ago in (1_117, 30, 0, -1):
                await store.call("HSET", used_key("sub_1", today - ago), "5", 1)
                await store.call("HSET", refused_key("sub_1", today - ago), "5:never", 1)
            assert sum((await Usage(store).between("sub_1", *whole)).values(), Tally()) == Tally(4, never=4)
            assert await registry.delete_client("ada@id")
        assert await keys_left(store) == []

    with_store(redis_url, work)
