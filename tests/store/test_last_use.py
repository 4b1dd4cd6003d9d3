"""When keys were last seen, as one worker notes and writes it."""

import asyncio
from pathlib import Path

import pytest
from takes import keys_left, with_store

from quotas import last_use, plan_files
from quotas.clients import Clients
from quotas.errors import StoreUnavailableError
from quotas.holders import HOUR_US
from quotas.keys import digest
from quotas.last_use import LastUse
from quotas.registry import Registry
from quotas.store import Store

from .proxy import Command, Fate, Proxy, proxy

CONFIG = plan_files.parse("plans: {free: {limits: {a: {rate: 5/second}}}}", "test plans")
HOUR = 500_000
NOW_US = HOUR * HOUR_US + 1_234


def clients_on(store: Store) -> Clients:
    return Clients(Registry(store), config=CONFIG, brand="quotas", pepper=None, clock=lambda: NOW_US)


Noted = tuple[bytes, str]
"""The digest that a key's record is under, and its id: as a worker notes it."""


async def new_keys(store: Store, number: int) -> list[Noted]:
    clients = clients_on(store)
    await clients.create("acme", "free")
    issued = [await clients.issue_key("acme") for _ in range(number)]
    return [(digest(each.secret.encode(), None), each.key.id) for each in issued]


async def hours(store: Store) -> list[int | None]:
    """When each key was last seen, in hours after `HOUR`."""
    found = [key.last_used_at_us for key in await clients_on(store).keys_of("acme")]
    assert all(each is None or each % HOUR_US == 0 for each in found)
    return sorted(
        (None if each is None else each // HOUR_US - HOUR for each in found), key=lambda each: (each is None, each)
    )


def writes(passing: Proxy) -> int:
    return passing.count(b"EVALSHA")


def test_it_is_the_hour_in_which_the_key_was_seen(redis_url: str) -> None:
    async def work(store: Store) -> None:
        one, other, _ = await new_keys(store, 3)
        worker = LastUse(Registry(store))
        assert await hours(store) == [None, None, None]
        worker.note(*one, HOUR)
        worker.note(*other, HOUR + 1)
        assert await hours(store) == [None, None, None]
        await worker.write()
        assert await hours(store) == [0, 1, None]
        LastUse(Registry(store)).note(*one, HOUR)
        behind = LastUse(Registry(store))
        behind.note(*other, HOUR)
        await behind.write()
        assert await hours(store) == [0, 1, None]

    with_store(redis_url, work)


def test_many_are_written_in_batches(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_use, "BATCH", 3)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            worker = LastUse(Registry(store))
            for key in [*await new_keys(direct, 7), (bytes(32), "key_none")]:
                worker.note(*key, HOUR)
            await worker.write()
            assert passing.count(b"SCRIPT") == 3
            assert writes(passing) == 8
            assert await hours(direct) == [0] * 7

    asyncio.run(work())


def test_what_waits_is_bounded_and_who_has_no_room_is_told(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_use, "MAX_NOTED", 3)

    async def work(store: Store) -> None:
        keys = await new_keys(store, 5)
        worker = LastUse(Registry(store))
        assert [worker.note(*key, HOUR) for key in keys] == [True, True, True, False, False]
        assert worker.note(*keys[0], HOUR + 1)
        await worker.write()
        assert await hours(store) == [0, 0, 1, None, None]
        assert [worker.note(*key, HOUR + 1) for key in keys[3:]] == [True, True]
        await worker.write()
        assert await hours(store) == [0, 0, 1, 1, 1]

    with_store(redis_url, work)


def test_a_key_that_is_gone_is_not_made_again(redis_url: str) -> None:
    async def work(store: Store) -> None:
        (one,) = await new_keys(store, 1)
        worker = LastUse(Registry(store))
        worker.note(*one, HOUR)
        await clients_on(store).delete("acme")
        before = await keys_left(store)
        await worker.write()
        assert await keys_left(store) == before == []

    with_store(redis_url, work)


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.CUT_BEFORE])
@pytest.mark.parametrize("word", [b"SCRIPT", b"EVALSHA"])
def test_what_could_not_be_written_is_written_the_next_time(
    redis_url: str, tmp_path: Path, fate: Fate, word: bytes
) -> None:
    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            one, other = await new_keys(direct, 2)
            worker = LastUse(Registry(store))
            for key in (one, other):
                worker.note(*key, HOUR)

            def once(command: Command) -> Fate:
                if command[0] != word:
                    return Fate.PASS
                passing.fate = lambda _: Fate.PASS
                return fate

            passing.fate = once
            with pytest.raises(StoreUnavailableError):
                await worker.write()
            worker.note(*one, HOUR + 1)
            await worker.write()
            assert await hours(direct) == [0, 1]

    asyncio.run(work())
