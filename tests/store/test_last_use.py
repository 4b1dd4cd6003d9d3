"""When keys were last seen, as one worker notes and writes it."""

import asyncio
from pathlib import Path

import pytest
from takes import with_store

from quotas import last_use, plan_files
from quotas.clients import Clients
from quotas.errors import StoreUnavailableError
from quotas.last_use import LastUse
from quotas.registry import HOUR_US, Registry
from quotas.store import Store

from .proxy import Command, Fate, Proxy, proxy

CONFIG = plan_files.parse("plans: {free: {limits: {a: {rate: 5/second}}}}", "test plans")
HOUR = 500_000
NOW_US = HOUR * HOUR_US + 1_234


def clients_on(store: Store) -> Clients:
    return Clients(Registry(store), config=CONFIG, brand="quotas", pepper=None, clock=lambda: NOW_US)


async def new_keys(store: Store, number: int) -> list[str]:
    clients = clients_on(store)
    await clients.create("acme", "free")
    return [(await clients.issue_key("acme")).key.id for _ in range(number)]


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
        worker.note(one, NOW_US)
        worker.note(other, NOW_US + HOUR_US)
        assert await hours(store) == [None, None, None]
        await worker.write()
        assert await hours(store) == [0, 1, None]
        LastUse(Registry(store)).note(one, NOW_US)
        behind = LastUse(Registry(store))
        behind.note(other, NOW_US)
        await behind.write()
        assert await hours(store) == [0, 1, None]

    with_store(redis_url, work)


def test_a_key_is_written_once_an_hour(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            one, other = await new_keys(direct, 2)
            worker = LastUse(Registry(store))
            await worker.write()
            assert passing.commands == []
            for second in range(50):
                worker.note(one, NOW_US + second * 1_000_000)
                await worker.write()
            assert writes(passing) == 1
            for key_id in (one, other, one, other):
                worker.note(key_id, NOW_US + HOUR_US)
                await worker.write()
            assert writes(passing) == 3
            assert await hours(direct) == [1, 1]

    asyncio.run(work())


def test_many_are_written_in_batches(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_use, "BATCH", 3)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            worker = LastUse(Registry(store))
            for key_id in [*await new_keys(direct, 7), "key_none"]:
                worker.note(key_id, NOW_US)
            await worker.write()
            assert passing.count(b"HMGET") == 3
            assert writes(passing) == 7
            assert await hours(direct) == [0] * 7

    asyncio.run(work())


def test_what_it_remembers_is_bounded_and_then_it_starts_over(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_use, "MAX_NOTED", 3)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            ids = await new_keys(direct, 5)
            worker = LastUse(Registry(store))
            for key_id in ids:
                worker.note(key_id, NOW_US)
            await worker.write()
            assert writes(passing) == 2
            for key_id in ids:
                worker.note(key_id, NOW_US)
                await worker.write()
            assert await hours(direct) == [0] * 5
            for hour in range(9):  # In an outage the hours go on.
                worker.note(ids[hour % 5], NOW_US + hour * HOUR_US)
            before = writes(passing)
            await worker.write()
            assert writes(passing) - before <= 3

    asyncio.run(work())


def test_a_key_that_is_gone_is_not_made_again(redis_url: str) -> None:
    async def work(store: Store) -> None:
        (one,) = await new_keys(store, 1)
        worker = LastUse(Registry(store))
        worker.note(one, NOW_US)
        await clients_on(store).delete("acme")
        before = await store.call("KEYS", "*")
        await worker.write()
        assert await store.call("KEYS", "*") == before == []

    with_store(redis_url, work)


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.CUT_BEFORE])
@pytest.mark.parametrize("word", [b"HMGET", b"SCRIPT", b"EVALSHA"])
def test_what_could_not_be_written_is_written_the_next_time(
    redis_url: str, tmp_path: Path, fate: Fate, word: bytes
) -> None:
    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            one, other = await new_keys(direct, 2)
            worker = LastUse(Registry(store))
            for key_id in (one, other):
                worker.note(key_id, NOW_US)

            def once(command: Command) -> Fate:
                if command[0] != word:
                    return Fate.PASS
                passing.fate = lambda _: Fate.PASS
                return fate

            passing.fate = once
            with pytest.raises(StoreUnavailableError):
                await worker.write()
            worker.note(one, NOW_US + HOUR_US)
            await worker.write()
            assert await hours(direct) == [0, 1]

    asyncio.run(work())
