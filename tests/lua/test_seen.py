"""`lua/seen.lua` on the real server: an hour in a key's record, never an earlier one, and never a record of its own."""

import pytest
from takes import with_store

from quotas.errors import StoreUnavailableError
from quotas.scripts import SEEN
from quotas.store import Store

RECORD = "q1:key:digest"


async def seen(store: Store, hour: int | str, key_id: str = "key_1") -> int:
    return int(await store.run(SEEN, (RECORD,), (key_id, hour)))


def test_the_latest_hour_stays(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "id", "key_1", "name", "n")
        for hour, noted, known in ((9, 1, b"9"), (9, 0, b"9"), (8, 0, b"9"), (10, 1, b"10"), (0, 0, b"10")):
            assert await seen(store, hour) == noted
            assert await store.call("HGET", RECORD, "used_hour") == known
        assert await store.call("HLEN", RECORD) == 3
        assert await store.call("PTTL", RECORD) == -1

    with_store(redis_url, work)


def test_the_first_hour_of_all_is_one(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "id", "key_1")
        assert [await seen(store, 0), await seen(store, 0)] == [1, 0]

    with_store(redis_url, work)


def test_what_is_gone_stays_so_and_another_s_record_is_left_alone(redis_url: str) -> None:
    async def work(store: Store) -> None:
        assert await seen(store, 9) == 0
        assert await store.call("DBSIZE") == 0
        await store.call("HSET", RECORD, "id", "key_2")
        assert await seen(store, 9) == 0
        assert await store.call("HGETALL", RECORD) == [b"id", b"key_2"]

    with_store(redis_url, work)


@pytest.mark.parametrize("hour", ["", "x", "1.5"])
def test_what_is_no_hour(redis_url: str, hour: str) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "id", "key_1")
        with pytest.raises(StoreUnavailableError, match="seen: the hour"):
            await seen(store, hour)

    with_store(redis_url, work)
