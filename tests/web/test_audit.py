"""The audit log on the real store: newest first, pages that stay, a cap, the server's time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from quotas import audit
from quotas.audit import Audit, Entry
from quotas.errors import StoreUnavailableError
from quotas.store import Store


def on_store(redis_url: str, work: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Store(redis_url) as store:
            await work(store)

    asyncio.run(run())


def targets(entries: list[Entry]) -> list[str]:
    return [entry.target for entry in entries]


def test_an_entry_says_who_did_what_to_whom_and_when(redis_url: str) -> None:
    async def work(store: Store) -> None:
        log = Audit(store)
        await log.record("ops", "client.create", "caf\u00e9 / \U0001f98a", {"plan": "free", "n": 1, "none": None})
        seconds, _ = await store.call("TIME")
        (entry,) = await log.entries()
        assert (entry.actor, entry.action, entry.target) == ("ops", "client.create", "caf\u00e9 / \U0001f98a")
        assert entry.details == {"plan": "free", "n": 1, "none": None}
        at = datetime.fromisoformat(entry.at)
        assert at.tzinfo == UTC
        assert round(at.timestamp() * 1000) == int(entry.id.partition("-")[0])
        assert 0 <= int(seconds) - int(at.timestamp()) <= 5

    on_store(redis_url, work)


def test_a_known_id_is_shown_as_its_instant(redis_url: str) -> None:
    async def work(store: Store) -> None:
        words = ("actor", "a", "action", "b", "target", "c", "details", "{}")
        await store.call("XADD", audit.STREAM, "1763999999003-7", *words)
        (entry,) = await Audit(store).entries()
        assert (entry.id, entry.at) == ("1763999999003-7", "2025-11-24T15:59:59.003Z")

    on_store(redis_url, work)


def test_pages_go_back_in_time_and_stay_while_more_is_written(redis_url: str) -> None:
    async def work(store: Store) -> None:
        log = Audit(store)
        assert await log.entries() == []
        for number in range(25):
            await log.record("ops", "client.create", str(number), {})
        first = await log.entries(limit=10)
        assert targets(first) == [str(number) for number in range(24, 14, -1)]
        await log.record("ops", "client.create", "late", {})
        second = await log.entries(first[-1].id, 10)
        assert targets(second) == [str(number) for number in range(14, 4, -1)]
        third = await log.entries(second[-1].id, 10)
        assert targets(third) == [str(number) for number in range(4, -1, -1)]
        assert await log.entries(third[-1].id, 10) == []
        assert await log.entries(first[-1].id, 10) == second

    on_store(redis_url, work)


@pytest.mark.parametrize("before", ["0-0", "00-0", "0-1", "1-0", "00000000000000000001-1"])
def test_nothing_is_older_than_the_beginning(redis_url: str, before: str) -> None:
    async def work(store: Store) -> None:
        await Audit(store).record("ops", "client.create", "acme", {})
        assert await Audit(store).entries(before) == []

    on_store(redis_url, work)


def test_the_end_of_time_is_behind_everything(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await Audit(store).record("ops", "client.create", "acme", {})
        assert len(await Audit(store).entries(f"{2**64 - 1}-{2**64 - 1}")) == 1

    on_store(redis_url, work)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("1763999999003-7", True),
        (f"{2**64 - 1}-{2**64 - 1}", True),
        (f"{2**64}-0", False),
        (f"0-{2**64}", False),
        ("", False),
        ("-", False),
        ("+", False),
        ("1", False),
        ("1-", False),
        ("1-2-3", False),
        ("(1-2", False),
        ("1-2\n", False),
        ("\u0661-\u0662", False),
    ],
)
def test_ids(text: str, right: bool) -> None:  # noqa: FBT001 # A column of the table.
    assert audit.is_id(text) is right


def test_the_log_is_cut_to_about_its_cap(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_ENTRIES", 200)

    async def work(store: Store) -> None:
        log = Audit(store)
        for number in range(600):
            await log.record("ops", "client.create", str(number), {})
        assert 200 <= await store.call("XLEN", audit.STREAM) <= 300
        assert targets(await log.entries(limit=3)) == ["599", "598", "597"]

    on_store(redis_url, work)


def test_what_is_too_long_is_a_fault_of_the_caller(redis_url: str) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(AssertionError):
            await Audit(store).record("ops", "client.create", "acme", {"x": "x" * audit.MAX_DETAILS})
        assert await Audit(store).entries() == []

    on_store(redis_url, work)


def test_without_a_store_it_says_so(tmp_path: object) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(StoreUnavailableError):
            await Audit(store).record("ops", "client.create", "acme", {})
        with pytest.raises(StoreUnavailableError):
            await Audit(store).entries()

    on_store(f"unix://{tmp_path}/none.sock", work)
