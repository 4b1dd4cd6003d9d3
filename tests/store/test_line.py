"""Everybody gets their own reply, whoever else goes away (case C20)."""

import asyncio
import gc
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from quotas import links
from quotas.errors import StoreUnavailableError
from quotas.store import Store, deadline

from .proxy import proxy

ROUNDS = 1_000


async def cancelled(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_replies_come_in_the_order_asked(redis_url: str) -> None:
    async def work() -> None:
        async with Store(redis_url) as store:
            words = [f"word {number}" for number in range(2_000)]
            replies = await asyncio.gather(*(store.call("ECHO", word) for word in words))
            assert replies == [word.encode() for word in words]

    asyncio.run(work())


def test_replies_are_of_every_type(redis_url: str) -> None:
    async def work() -> None:
        async with Store(redis_url) as store:
            assert await store.call("GET", "none") is None
            assert await store.call("SET", "key", b"\x00\r\n\xff") == b"OK"
            assert await store.call("GET", "key") == b"\x00\r\n\xff"
            assert await store.call("INCRBY", "number", 2**53) == 2**53
            assert await store.call("MGET", "number", "none") == [b"9007199254740992", None]
            assert await store.call("GET", "key") == b"\x00\r\n\xff"
            assert await store.call("ECHO", "") == b""
            assert await store.call("ECHO", "x" * 5_000_000) == b"x" * 5_000_000
            assert await store.call("KEYS", "none*") == []

    asyncio.run(work())


def test_a_call_cancelled_under_way_leaves_its_reply_to_nobody(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            assert await store.call("PING") == b"PONG"
            passing.gate.clear()
            first = asyncio.create_task(store.call("ECHO", "first"))
            await passing.until(b"ECHO")
            await cancelled(first)
            second = asyncio.create_task(store.call("ECHO", "second"))
            await turns(3)
            passing.gate.set()
            assert await second == b"second"
            assert passing.connections == 1

    asyncio.run(work())


def test_a_call_out_of_time_leaves_its_reply_to_nobody(redis_url: str) -> None:
    """With the server's own pause, as in the report."""

    async def work() -> None:
        async with Store(redis_url) as store, Store(redis_url) as other:
            assert await store.call("PING") == b"PONG"
            await other.call("CLIENT", "PAUSE", 500)
            for number in range(3):
                with suppress(StoreUnavailableError):  # Of kind `timeout`, unless the pause was over before.
                    async with deadline(0.01):
                        await store.call("ECHO", f"late {number}")
            assert await store.call("ECHO", "mine") == b"mine"

    asyncio.run(work())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_however_calls_and_cancellations_mix_no_reply_goes_astray(redis_url: str, seed: int) -> None:
    random = Random(seed)

    async def client(store: Store, word: str) -> int:
        task = asyncio.create_task(store.call("ECHO", word))
        await turns(random.randrange(6))
        if random.random() < 0.5:
            task.cancel()
        with suppress(asyncio.CancelledError):
            assert await task == word.encode()
            return 1
        return 0

    async def work() -> None:
        answered = 0
        async with Store(redis_url) as store:
            for number in range(ROUNDS // 4):
                answers = await asyncio.gather(*(client(store, f"{number} {place}") for place in range(4)))
                answered += sum(answers)
        assert 0 < answered < ROUNDS

    asyncio.run(work())


def test_what_is_cancelled_before_it_leaves_is_not_sent(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            before = asyncio.create_task(store.call("SET", "unconnected", 1))
            await turns(1)
            await cancelled(before)
            assert await store.call("PING") == b"PONG"
            between = asyncio.create_task(store.call("SET", "connected", 1))
            await turns(1)
            await cancelled(between)
            assert await store.call("PING") == b"PONG"
            assert passing.count(b"SET") == 0
            assert passing.connections == 1

    asyncio.run(work())


class TestBound:
    def test_a_full_line_refuses_and_goes_on(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "MAX_IN_LINE", 10)

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                assert await store.call("PING") == b"PONG"
                passing.gate.clear()
                tasks = [asyncio.create_task(store.call("ECHO", number)) for number in range(10)]
                await passing.until(b"ECHO")
                with pytest.raises(StoreUnavailableError, match="overload") as caught:
                    await store.call("ECHO", "too much")
                assert caught.value.kind == "overload"
                passing.gate.set()
                assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(10)]
                assert await store.call("ECHO", "again") == b"again"

        asyncio.run(work())

    def test_who_left_before_the_connection_stood_takes_no_place(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "MAX_IN_LINE", 10)

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing:
                passing.mute = True
                async with Store(passing.url) as store:
                    for _ in range(11):
                        with pytest.raises(StoreUnavailableError, match="timeout"):
                            async with deadline(0.01):
                                await store.call("PING")

        asyncio.run(work())


class TestEnd:
    @pytest.mark.parametrize("state", ["waiting for a reply", "connecting", "unreachable", "unused", "idle"])
    def test_closing_fails_what_is_under_way_and_leaves_nothing(
        self, redis_url: str, tmp_path: Path, state: str
    ) -> None:
        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing:
                around = asyncio.all_tasks()
                tasks: list[asyncio.Task[object]] = []
                async with Store("unix:///nowhere.sock" if state == "unreachable" else passing.url) as store:
                    if state == "idle":
                        assert await store.call("PING") == b"PONG"
                    elif state != "unused":
                        passing.gate.clear()
                        passing.mute = state == "connecting"
                        tasks = [asyncio.create_task(store.call("ECHO", "under way")) for _ in range(3)]
                        if state == "waiting for a reply":
                            await passing.until(b"ECHO")
                        elif state == "connecting":
                            await passing.until_connected()
                        else:
                            await turns(5)
                for task in tasks:
                    with pytest.raises(StoreUnavailableError):
                        await task
                await passing.close()
                assert asyncio.all_tasks() == around

        asyncio.run(work())
        gc.collect()
