"""Refusals as one worker counts and writes them: once each, through an outage, and within bounds that it tells of."""

import asyncio
import logging
from pathlib import Path

import pytest
from takes import keys_left, with_store

from quotas import plan_files, refusals
from quotas.clients import Clients
from quotas.errors import StoreUnavailableError
from quotas.holders import Client, Status
from quotas.refusals import Refusals
from quotas.registry import Registry
from quotas.store import Store
from quotas.tallies import DAY_US, QUARTER_US

from .proxy import Command, Fate, proxy

CONFIG = plan_files.parse("plans: {free: {limits: {a: {rate: 5/second}}}}", "test plans")
DAY = 20_522
NOW_US = DAY * DAY_US + 53 * QUARTER_US
KEEP_S = 400 * 86_400


def clients_on(store: Store) -> Clients:
    return Clients(Registry(store), config=CONFIG, brand="quotas", pepper=None, clock=lambda: NOW_US)


def worker_on(store: Store) -> tuple[Refusals, list[int]]:
    lost: list[int] = []
    return Refusals(store, lost.append), lost


async def counted(store: Store, client: Client) -> dict[tuple[int, str], int]:
    """A client's refusals by the quarter since `NOW_US`, and the outcome."""
    found = {}
    for key in await store.call("KEYS", f"q1:{{{client.id}}}:refused:*"):
        day = int(key.rpartition(b":")[2])
        words = [word.decode() for word in await store.call("HGETALL", key)]
        for field, number in zip(words[::2], words[1::2], strict=True):
            quarter, outcome = field.split(":")
            found[96 * (day - DAY) + int(quarter) - 53, outcome] = int(number)
    return found


def test_they_add_up_by_client_quarter_and_outcome(redis_url: str) -> None:
    async def work(store: Store) -> None:
        acme, bolt = [await clients_on(store).create(name, "free") for name in ("acme", "bolt")]
        worker, lost = worker_on(store)
        for outcome in ("rate_limited", "rate_limited", "never"):
            worker.note(acme, outcome, NOW_US + 5, KEEP_S)
        worker.note(acme, "rate_limited", NOW_US + QUARTER_US, KEEP_S)
        worker.note(bolt, "quota_exceeded", NOW_US + DAY_US, KEEP_S)
        assert await counted(store, acme) == {}
        await worker.write()
        worker.note(acme, "rate_limited", NOW_US, KEEP_S)
        other, _ = worker_on(store)
        other.note(acme, "rate_limited", NOW_US, KEEP_S)
        await other.write()
        await worker.write()
        assert await counted(store, acme) == {(0, "rate_limited"): 4, (0, "never"): 1, (1, "rate_limited"): 1}
        assert await counted(store, bolt) == {(96, "quota_exceeded"): 1}
        assert lost == []

    with_store(redis_url, work)


def test_who_has_refused_nobody_asks_nothing(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            acme = await clients_on(direct).create("acme", "free")
            worker, _ = worker_on(store)
            await worker.write()
            assert passing.commands == []
            worker.note(acme, "never", NOW_US, KEEP_S)
            await worker.write()
            await worker.write()
            assert passing.count(b"EVALSHA") == 1

    asyncio.run(work())


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.CUT_BEFORE, Fate.LOSE])
@pytest.mark.parametrize("at", range(8))
def test_whatever_reply_is_lost_each_counts_once(
    redis_url: str, tmp_path: Path, fate: Fate, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven calls in batches of three, on both sides of a midnight; the connection breaks at each command in turn."""
    monkeypatch.setattr(refusals, "BATCH", 3)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            clients = [await clients_on(direct).create(f"{number}", "free") for number in range(4)]
            worker, _ = worker_on(store)
            for client in clients:
                for at_us in (NOW_US, NOW_US, NOW_US + DAY_US):
                    if client is not clients[0] or at_us == NOW_US:
                        worker.note(client, "never", at_us, KEEP_S)

            def once(_: Command) -> Fate:
                if len(passing.commands) <= at:
                    return Fate.PASS
                passing.fate = lambda _: Fate.PASS
                return fate

            passing.fate = once
            with pytest.raises((StoreUnavailableError, TimeoutError)):
                async with asyncio.timeout(0.2 if fate is Fate.LOSE else 30):
                    await worker.write()
            passing.cut()
            worker.note(clients[0], "never", NOW_US, KEEP_S)
            async with asyncio.timeout(30):
                while True:
                    try:
                        await worker.write()
                        break
                    except StoreUnavailableError:
                        await asyncio.sleep(0.01)
            assert await counted(direct, clients[0]) == {(0, "never"): 3}
            for client in clients[1:]:
                assert await counted(direct, client) == {(0, "never"): 2, (96, "never"): 1}

    asyncio.run(work())


def test_what_it_keeps_is_bounded_and_what_is_lost_is_told(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refusals, "MAX_CELLS", 5)

    async def work() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            acme = await clients_on(direct).create("acme", "free")
            worker, lost = worker_on(store)
            for quarter in range(3):
                worker.note(acme, "never", NOW_US + quarter * QUARTER_US, KEEP_S)
            passing.fate = lambda command: Fate.CUT if command[0] == b"EVALSHA" else Fate.PASS
            with pytest.raises(StoreUnavailableError):
                await worker.write()
            for quarter in range(7):
                for _ in range(2):
                    worker.note(acme, "never", NOW_US + quarter * QUARTER_US, KEEP_S)
            assert lost == [1] * 10
            told = [record.getMessage() for record in caplog.records if record.name == "quotas.usage"]
            assert told == ["5 counts of refusals wait for the store; further ones are in no usage history"]
            passing.fate = lambda _: Fate.PASS
            await worker.write()
            assert await counted(direct, acme) == {(0, "never"): 3, (1, "never"): 3, (2, "never"): 1}
            assert "10 refusals are in no usage history" in caplog.records[-1].getMessage()
            worker.note(acme, "never", NOW_US + 9 * QUARTER_US, KEEP_S)
            await worker.write()
            assert len(lost) == 10
            assert (await counted(direct, acme))[9, "never"] == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())


def test_a_client_that_is_gone_is_not_written_to_nor_its_successor_under_the_same_id(redis_url: str) -> None:
    async def work(store: Store) -> None:
        registry = Registry(store)
        names = ("ada@id", "ada@id-2")
        ada = await registry.subject_client("sub_1", names, "free", NOW_US)
        assert ada is not None
        worker, _ = worker_on(store)
        worker.note(ada, "never", NOW_US, KEEP_S)
        await registry.delete_client("ada@id")
        await worker.write()
        assert await keys_left(store) == []
        worker.note(ada, "never", NOW_US, KEEP_S)
        again = await registry.subject_client("sub_1", names, "free", NOW_US + 1)
        assert again is not None
        assert (again.id, again.status) == (ada.id, Status.ACTIVE)
        await worker.write()
        assert await counted(store, again) == {}
        worker.note(again, "never", NOW_US, KEEP_S)
        await worker.write()
        assert await counted(store, again) == {(0, "never"): 1}

    with_store(redis_url, work)
