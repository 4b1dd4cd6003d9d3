"""`lua/amend.lua` on the real server: a change raises the generation in the record and in every state there is."""

from struct import pack, unpack_from

import pytest
from takes import with_store

from quotas.errors import StoreUnavailableError
from quotas.scripts import AMEND, record_key, state_key
from quotas.store import Store

RECORD, LIVE, TEST = record_key("cl"), state_key("cl"), state_key("cl", test=True)
REST = b"whatever the limits remember"


async def registered(store: Store, *states: str) -> None:
    await store.call("HSET", RECORD, "generation", 4, "plan", "free")
    for state in states:
        await store.call("SET", state, pack("<d", 4) + REST, "PXAT", 9_000_000_000_000)


@pytest.mark.parametrize("states", [(), (LIVE,), (TEST,), (LIVE, TEST)])
def test_the_generation_rises_in_what_is_there_and_nothing_else_changes(redis_url: str, states: tuple[str]) -> None:
    async def work(store: Store) -> None:
        await registered(store, *states)
        assert await store.run(AMEND, (RECORD, LIVE, TEST), ("plan", "pro")) == 5
        assert await store.call("HMGET", RECORD, "generation", "plan") == [b"5", b"pro"]
        assert await store.call("DBSIZE") == 1 + len(states)
        for state in states:
            data = await store.call("GET", state)
            assert (unpack_from("<d", data)[0], data[8:]) == (5.0, REST)
            assert await store.call("PEXPIRETIME", state) == 9_000_000_000_000

    with_store(redis_url, work)


def test_a_client_that_is_gone_is_left_so(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await registered(store, TEST)
        await store.call("DEL", RECORD)
        before = await store.call("GET", TEST)
        assert await store.run(AMEND, (RECORD, LIVE, TEST), ("plan", "pro")) == 0
        assert await store.call("GET", TEST) == before
        assert await store.call("DBSIZE") == 1

    with_store(redis_url, work)


@pytest.mark.parametrize(("keys", "words"), [((RECORD,), ()), ((RECORD, LIVE), ("plan",))])
def test_wrong_arguments_change_nothing(redis_url: str, keys: tuple[str, ...], words: tuple[str, ...]) -> None:
    async def work(store: Store) -> None:
        await registered(store)
        with pytest.raises(StoreUnavailableError, match="amend: "):
            await store.run(AMEND, keys, words)
        assert await store.call("HGET", RECORD, "generation") == b"4"

    with_store(redis_url, work)
