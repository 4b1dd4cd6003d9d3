"""Scripts whose callers are called back: each is told once, its own reply or why there is none, within its time."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import uvloop
from jwks.idp import certified

from quotas import embedded, links
from quotas.errors import StoreUnavailableError
from quotas.store import Script, Store

from .proxy import PATIENCE_S, Fate, proxy

ECHO = Script("echo", "return ARGV[1]")
COUNT = Script("count", "return redis.call('INCR', KEYS[1])")


class Told(list[Any]):
    """What a callback was told, and an event for when it was."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def __call__(self, reply: Any) -> None:
        self.append(reply)
        self.event.set()

    async def first(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            await self.event.wait()
        return self[0]


def echo(store: Store, word: str) -> Told:
    told = Told()
    store.run_then(ECHO, ECHO.packed((), (word,)), told)
    assert told == []
    return told


def kind_of(reply: object) -> str:
    assert isinstance(reply, StoreUnavailableError)
    return reply.kind


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_a_reply_that_has_come_is_told_however_late_the_worker_is(redis_url: str, runner: Any) -> None:
    """A worker that got no CPU until its deadlines were over finds timers and replies at once."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with Store(redis_url, patience_s=0.05) as store:
            await store.load(ECHO)
            told = [echo(store, "one"), echo(store, "two")]
            await asyncio.sleep(0)  # They leave.
            after = loop.time() + 0.1
            while loop.time() < after:
                pass
            assert [await each.first() for each in told] == [b"one", b"two"]

    runner(work())


def test_a_script_is_loaded_when_the_server_does_not_know_it(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            await store.call("SCRIPT", "FLUSH")
            told = Told()
            store.run_then(COUNT, COUNT.packed(("counter",), ()), told)
            assert await told.first() == 1
            assert passing.count(b"SCRIPT", b"LOAD") == 1
            store.run_then(COUNT, COUNT.packed(("counter",), ()), told := Told())
            assert await told.first() == 2
            assert passing.count(b"SCRIPT", b"LOAD") == 1

    asyncio.run(work())


def test_a_server_that_forgets_at_once_is_asked_twice_and_no_more(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            passing.fate = lambda command: b"-NOSCRIPT none\r\n" if command[0] == b"EVALSHA" else Fate.PASS
            assert kind_of(await echo(store, "word").first()) == "reply"
            assert passing.count(b"EVALSHA") == 2
            passing.fate = lambda command: b"-ERR no\r\n" if command[0] == b"SCRIPT" else b"-NOSCRIPT none\r\n"
            assert kind_of(await echo(store, "word").first()) == "reply"
            assert passing.count(b"EVALSHA") == 3

    asyncio.run(work())


def test_the_time_is_up_for_each_in_turn_and_late_replies_reach_nobody(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url, patience_s=0.05) as store:
            await store.load(ECHO)
            passing.gate.clear()
            early = [echo(store, f"early {number}") for number in range(10)]
            await asyncio.sleep(0.03)
            late = [echo(store, f"late {number}") for number in range(10)]
            assert [kind_of(await told.first()) for told in early] == ["timeout"] * 10
            assert [kind_of(await told.first()) for told in late] == ["timeout"] * 10
            passing.gate.set()
            assert await echo(store, "in time").first() == b"in time"
            assert [len(told) for told in (*early, *late)] == [1] * 20
            assert passing.connections == 1

    asyncio.run(work())


def test_what_has_not_left_in_time_is_not_sent(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url, patience_s=0.02) as store:
            passing.mute = True
            told = Told()
            store.run_then(COUNT, COUNT.packed(("counter",), ()), told)
            assert kind_of(await told.first()) == "timeout"
            passing.mute = False
        async with Store(redis_url) as store:
            assert await store.call("GET", "counter") is None

    asyncio.run(work())


def test_a_cut_and_the_end_tell_everybody(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            await store.load(ECHO)
            passing.gate.clear()
            told = [echo(store, str(number)) for number in range(10)]
            await passing.until(b"EVALSHA")
            passing.cut()
            assert [kind_of(await each.first()) for each in told] == ["lost"] * 10
            waiting = echo(store, "waiting")
        assert kind_of(await waiting.first()) == "lost"
        passing.gate.set()

    asyncio.run(work())


def test_a_caller_that_fails_at_its_reply_harms_no_other(redis_url: str, tmp_path: Path) -> None:
    """At a reply, at an error, when its time is up and when the connection ends."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    async def work() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url, patience_s=0.05) as store:
            await store.load(ECHO)

            def both(word: str) -> Told:
                store.run_then(ECHO, ECHO.packed((), (word,)), broken)
                return echo(store, word)

            assert await both("well").first() == b"well"
            passing.fate = lambda _: b"-ERR no\r\n"
            assert kind_of(await both("error").first()) == "reply"
            passing.fate = lambda _: Fate.PASS
            assert passing.connections == 1
            passing.gate.clear()
            assert kind_of(await both("late").first()) == "timeout"
            told = both("cut")
            passing.cut()
            assert kind_of(await told.first()) in {"lost", "timeout"}
            passing.gate.set()
        assert [type(failure) for failure in failures] == [ZeroDivisionError] * 4

    asyncio.run(work())


def test_a_full_line_and_a_server_that_was_not_there_a_moment_ago_are_said_at_once(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_IN_LINE", 10)
    monkeypatch.setattr(links, "FIRST_PAUSE_S", 3_600)

    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
            await store.load(ECHO)
            passing.gate.clear()
            told = [echo(store, str(number)) for number in range(10)]
            with pytest.raises(StoreUnavailableError, match="overload"):
                echo(store, "too much")
            passing.gate.set()
            assert [await each.first() for each in told] == [b"%d" % number for number in range(10)]
        async with Store(f"unix://{tmp_path}/none.sock") as store:
            assert kind_of(await echo(store, "word").first()) == "connect"
            with pytest.raises(StoreUnavailableError, match="connect"):
                echo(store, "word")

    asyncio.run(work())


def test_a_server_that_does_not_read_holds_commands_back_and_none_is_lost() -> None:
    """More than the kernel's buffers hold: the transport says stop, and later go on."""
    words = ["x" * 100_000 + str(number) for number in range(200)]

    async def work(folder: Path) -> None:
        with embedded.hold(folder) as url:
            async with Store(url, patience_s=PATIENCE_S) as store:
                await store.load(ECHO)
                pid = int((folder / "valkey.pid").read_text())
                os.kill(pid, signal.SIGSTOP)
                try:
                    told = []
                    for word in words:
                        told.append(echo(store, word))
                        await asyncio.sleep(0)
                finally:
                    os.kill(pid, signal.SIGCONT)
                assert [await each.first() for each in told] == [word.encode() for word in words]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(Path(folder)))


@asynccontextmanager
async def tls(redis_url: str, folder: Path) -> AsyncIterator[str]:
    """The same server behind TLS: its URL, with the certificate that it can be told by."""
    context, _ = certified(folder, "localhost")

    tasks = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_unix_connection(unquote(urlsplit(redis_url).path))
        await asyncio.gather(carry(reader, server_writer), carry(server_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"rediss://localhost:{port}?ssl_ca_certs={folder / 'certificate.pem'}"
    finally:
        server.close()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*filter(None, tasks))  # Or the loop would be closed under them.


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_over_tls_it_is_the_same(redis_url: str, tmp_path: Path, loop_factory: Any) -> None:
    async def work() -> None:
        async with tls(redis_url, tmp_path) as url, Store(url) as store:
            told = [echo(store, "x" * 20_000 + str(number)) for number in range(100)]
            assert [len(await each.first()) for each in told] == [20_001] * 10 + [20_002] * 90
            assert await store.call("ECHO", "well") == b"well"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(work())
