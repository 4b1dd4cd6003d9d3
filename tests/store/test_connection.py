"""Connections break, and the store says so, stays up and connects anew."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quotas import embedded, links
from quotas.errors import ConfigError, StoreUnavailableError
from quotas.store import Script, Store, deadline

from .proxy import PATIENCE_S, Command, Fate, proxy

WRITE = Script("write", "return redis.call('SET', KEYS[1], ARGV[1])")


async def kind_of(store: Store, *words: str) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        await store.call(*words)
    return caught.value.kind


async def until_answered(store: Store) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with deadline(1):
                    await store.call("PING")
                    return
            except StoreUnavailableError:
                await asyncio.sleep(0.01)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def stalled(folder: Path) -> Iterator[None]:
    """The Valkey of this folder stands still."""
    pid = int((folder / "valkey.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class TestCut:
    def test_all_in_line_are_told_and_the_next_call_connects_anew(self, redis_url: str, tmp_path: Path) -> None:
        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                for connections in (1, 2, 3):
                    assert await store.call("ECHO", "well") == b"well"
                    assert passing.connections == connections
                    passing.gate.clear()
                    tasks = [asyncio.create_task(kind_of(store, "ECHO", str(number))) for number in range(20)]
                    await passing.until(b"ECHO", b"0", times=connections)
                    passing.cut()
                    assert await asyncio.gather(*tasks) == ["lost"] * 20
                    passing.gate.set()

        asyncio.run(work())

    def test_what_was_lost_is_never_sent_again(self, redis_url: str, tmp_path: Path) -> None:
        def fate(command: Command) -> Fate:
            return Fate.CUT if command[0] == b"INCR" else Fate.PASS

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                passing.fate = fate
                assert await kind_of(store, "INCR", "counter") == "lost"
                assert await store.call("GET", "counter") == b"1"
                assert passing.count(b"INCR") == 1

        asyncio.run(work())

    def test_an_idle_connection_that_broke_costs_at_most_one_call(self, redis_url: str, tmp_path: Path) -> None:
        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                assert await store.call("PING") == b"PONG"
                passing.cut()
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.sleep(0.05)  # Not awaited as a fact: either answer below is right.
                try:
                    await store.call("PING")
                except StoreUnavailableError as error:
                    assert error.kind == "lost"  # noqa: PT017 # The call may also have been in time.
                assert await store.call("ECHO", "well") == b"well"

        asyncio.run(work())


class TestUnreachable:
    def test_a_failed_attempt_is_followed_by_a_pause(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "FIRST_PAUSE_S", 3_600)
        monkeypatch.setattr(links, "LONGEST_PAUSE_S", 3_600)

        async def work() -> None:
            async with Store(f"unix://{tmp_path}/proxy.sock") as store:
                assert await kind_of(store, "PING") == "connect"
                async with proxy(redis_url, tmp_path) as passing:
                    for _ in range(10):
                        assert await kind_of(store, "PING") == "connect"
                    assert passing.connections == 0

        asyncio.run(work())

    @pytest.mark.parametrize("scheme", ["unix", "redis"])
    def test_every_caller_is_told(self, tmp_path: Path, scheme: str) -> None:
        url = f"unix://{tmp_path}/none.sock" if scheme == "unix" else "redis://127.0.0.1:1"

        async def work() -> None:
            async with Store(url) as store:
                kinds = await asyncio.gather(*(kind_of(store, "PING") for _ in range(100)))
                assert kinds == ["connect"] * 100

        asyncio.run(work())

    def test_the_server_is_found_when_it_appears(self, redis_url: str, tmp_path: Path) -> None:
        async def work() -> None:
            async with Store(f"unix://{tmp_path}/proxy.sock") as store:
                for _ in range(3):
                    assert await kind_of(store, "PING") == "connect"
                async with proxy(redis_url, tmp_path):
                    await until_answered(store)

        asyncio.run(work())

    def test_a_server_that_takes_connections_and_is_mute_is_given_up(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The set-up of a connection asks the server as well: it must not wait for ever."""
        monkeypatch.setattr(links, "STALL_S", 0.1)

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                passing.mute = True
                with pytest.raises(StoreUnavailableError):
                    async with deadline(0.05):
                        await store.call("PING")
                passing.mute = False  # For new connections; the one that was taken stays mute.
                async with asyncio.timeout(5):
                    while passing.connections < 2:
                        try:
                            async with deadline(0.5):
                                await store.call("PING")
                        except StoreUnavailableError:
                            await asyncio.sleep(0.01)

        asyncio.run(work())

    @pytest.mark.parametrize("url", ["redis://localhost:port", "http://localhost", "redis://localhost?nonsense=1"])
    def test_a_url_that_cannot_be_read_is_a_fault_of_the_configuration(self, url: str) -> None:
        with pytest.raises(ConfigError, match="QUOTAS_REDIS_URL"):
            Store(url)


class TestErrorReplies:
    def test_they_reach_their_caller_and_the_connection_stays(self, redis_url: str, tmp_path: Path) -> None:
        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                await store.call("SET", "text", "text")
                good, bad, unknown, after = await asyncio.gather(
                    store.call("ECHO", "good"),
                    kind_of(store, "INCR", "text"),
                    kind_of(store, "NONSENSE"),
                    store.call("ECHO", "after"),
                )
                assert (good, bad, unknown, after) == (b"good", "reply", "reply", b"after")
                assert await kind_of(store, "EVALSHA", "0" * 40, "0") == "reply"
                assert passing.connections == 1

        asyncio.run(work())

    @pytest.mark.parametrize(
        "text",
        [
            b"-READONLY You can't write against a read only replica.\r\n",
            b"-ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write\r\n",
        ],
    )
    def test_a_demoted_primary_is_left(self, redis_url: str, tmp_path: Path, text: bytes) -> None:
        """Case C23: failover can leave the connection standing."""

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                passing.fate = lambda command: text if command[0] == b"SET" else Fate.PASS
                assert await kind_of(store, "SET", "key", "1") == "reply"
                passing.fate = lambda _: Fate.PASS
                await until_answered(store)
                assert passing.connections == 2
                assert passing.count(b"SET") == 1

        asyncio.run(work())

    def test_a_real_replica_is_left_and_works_again_as_primary(self, own_folder: Path) -> None:
        async def work(url: str) -> None:
            async with Store(url) as store, Store(url) as operator:
                await store.run(WRITE, ("key",), ("1",))
                before = await store.call("CLIENT", "ID")
                await operator.call("REPLICAOF", "127.0.0.1", "1")
                with pytest.raises(StoreUnavailableError) as caught:
                    await store.run(WRITE, ("key",), ("2",))
                assert caught.value.kind == "reply"
                await operator.call("REPLICAOF", "NO", "ONE")
                await until_answered(store)
                assert await store.call("CLIENT", "ID") != before
                await store.run(WRITE, ("key",), ("3",))
                assert await store.call("GET", "key") == b"3"

        with embedded.hold(own_folder) as url:
            asyncio.run(work(url))


class TestStall:
    def test_a_caller_waits_no_longer_than_it_wants_and_the_server_is_used_again(self, own_folder: Path) -> None:
        async def work(url: str) -> None:
            async with Store(url) as store:
                await store.call("SET", "counter", 0)
                with stalled(own_folder):
                    for _ in range(3):
                        with pytest.raises(StoreUnavailableError) as caught:
                            async with deadline(0.02):
                                await store.call("INCR", "counter")
                        assert caught.value.kind == "timeout"
                await until_answered(store)
                assert int(await store.call("GET", "counter")) <= 3

        with embedded.hold(own_folder) as url:
            asyncio.run(work(url))

    def test_a_connection_without_replies_is_given_up(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "STALL_S", 0.1)

        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                passing.fate = lambda command: Fate.LOSE if command[0] == b"INCR" else Fate.PASS
                async with asyncio.timeout(PATIENCE_S):
                    assert await kind_of(store, "INCR", "counter") == "lost"
                    assert await store.call("GET", "counter") == b"1"
                assert passing.connections == 2

        asyncio.run(work())

    def test_an_idle_connection_is_kept(self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def work() -> None:
            async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store:
                assert await store.call("PING") == b"PONG"
                monkeypatch.setattr(links, "STALL_S", 0.02)  # Not before: the set-up has as long, too.
                for _ in range(5):
                    assert await store.call("PING") == b"PONG"
                    await asyncio.sleep(0.05)
                assert passing.connections == 1

        asyncio.run(work())
