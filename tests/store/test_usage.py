"""Histories as they are read: every quarter once, whatever hash it is in, and few commands for who used nothing."""

import asyncio
from pathlib import Path

import pytest
from takes import keys_left, with_store

from quotas import usage
from quotas.registry import Registry
from quotas.scripts import refused_key, used_key
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


def test_who_used_nothing_costs_one_command_and_who_did_is_read_piece_by_piece(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_AT_ONCE", 10)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            year = (BEGIN_US, BEGIN_US + 400 * DAY_US)
            assert await Usage(store).between("cl", *year) == {}
            assert len(passing.commands) == 1
            await direct.call("HSET", used_key("cl", DAY), "5", 1)
            await direct.call("HSET", refused_key("cl", DAY + 399), "5:never", 1)
            assert await Usage(store).between("cl", *year) == {
                FIRST + 5: Tally(1),
                FIRST + 399 * 96 + 5: Tally(never=1),
            }
            assert passing.count(b"HGETALL") == 2 * 402

    asyncio.run(work())


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
