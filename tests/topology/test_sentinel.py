"""Sentinels name the master, and are asked again whenever a connection is made."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from e2e.processes import Home
from web.serving import Service, samples, service

from quotas.errors import StoreUnavailableError
from quotas.store import Script, Store, deadline

from .valkeys import PATIENCE_S, WITHOUT_ROLE, Valkey, Watched, until, watched

WRITE = Script("write", "return redis.call('SET', KEYS[1], ARGV[1])")
DEADLINE_MS = 300


async def until_true(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(until, condition)


async def until_written(store: Store, word: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailableError):
                async with deadline(5):
                    await store.run(WRITE, ("q1:word",), (word,))
                    return
            await asyncio.sleep(0.02)


async def until_decided(worker: Service, secret: str) -> int:
    """Ask until a check is decided by the store again; what is left then."""
    async with asyncio.timeout(PATIENCE_S):
        while "ratelimit" not in (response := await worker.check(secret)).headers:
            await asyncio.sleep(0.02)
    return remaining(response.headers["ratelimit"])


def remaining(ratelimit: str) -> int:
    return int(ratelimit.partition("r=")[2].partition(";")[0])


def other(group: Watched, master: Valkey) -> Valkey:
    return next(each for each in group.servers if each is not master)


class TestDiscovery:
    def test_the_master_is_found_and_a_user_without_role_will_do(self, group: Watched) -> None:
        async def work(url: str) -> None:
            async with Store(url) as store:
                assert await store.call("SET", "q1:place", "master") == b"OK"
                assert group.master().ask("GET", "q1:place") == b"master"
                assert await store.call("ACL", "WHOAMI") == user.encode()

        for user in ("quotas", WITHOUT_ROLE):
            asyncio.run(work(group.url(user=user)))

    def test_sentinels_that_hang_or_are_gone_are_passed_over(
        self, group: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(random, "sample", lambda addresses, _: list(addresses))

        async def work() -> None:
            async with Store(group.url().replace("@", "@127.0.0.1:1,")) as store:
                async with asyncio.timeout(PATIENCE_S):
                    assert await store.call("SET", "q1:word", "found") == b"OK"

        with ExitStack() as stack:
            for each in group.sentinels[:2]:
                stack.enter_context(each.stalled())
            asyncio.run(work())

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (("/main/", "/other/"), "no sentinel that answers knows a master of 'other' that is up"),
            (("sentinel_password=for", "sentinel_password=fur"), "no sentinel that answers knows a master of 'main'"),
            (("ss%2Fw", "ss%2Fv"), "invalid username-password pair"),
        ],
    )
    def test_what_is_wrong_is_said_without_a_password(self, group: Watched, change: tuple[str, str], told: str) -> None:
        async def work() -> None:
            async with Store(group.url().replace(*change)) as store:
                with pytest.raises(StoreUnavailableError, match=told) as caught:
                    await store.call("PING")
                assert caught.value.kind == "connect"
                assert "sentinels" not in str(caught.value).replace("no sentinel ", "")
                assert "w:rd" not in str(caught.value)

        asyncio.run(work())

    def test_commands_find_it_too(self, group: Watched, tmp_path: Path) -> None:
        home = Home(tmp_path)
        home.environment["QUOTAS_REDIS_URL"] = group.url()
        home.good("clients", "create", "by-command", "--plan", "free")
        assert "by-command" in home.good("clients", "list")

    def test_doctor_looks_at_the_master(self, group: Watched, tmp_path: Path) -> None:
        home = Home(tmp_path)
        home.environment["QUOTAS_REDIS_URL"] = group.url()
        told = json.loads(home.good("doctor", "--port", "0", "--json"))["findings"]
        assert {"store", "store take", "clients"} <= {each["subject"] for each in told if each["verdict"] == "ok"}
        assert "problem" not in {each["verdict"] for each in told}

    def test_a_replica_that_sentinels_take_for_a_master_is_not_asked(self, folder: Path) -> None:
        """A sentinel hears of a change of roles up to ten seconds late."""

        async def work(watched_pair: Watched) -> None:
            master, replica = watched_pair.servers
            async with Store(watched_pair.url()) as store:
                master.ask("REPLICAOF", "127.0.0.1", replica.port)
                with pytest.raises(StoreUnavailableError, match="no master any more, or not yet") as caught:
                    await store.call("GET", "q1:word")
                assert caught.value.kind == "connect"
                master.ask("REPLICAOF", "NO", "ONE")
                await until_written(store, "again")

        with watched(folder, sentinels=1, down_after_ms=60_000) as made:
            asyncio.run(work(made))


class TestFailover:
    def test_checks_follow_the_plan_meanwhile_and_the_new_master_afterwards(self, folder: Path) -> None:
        async def work(group: Watched) -> None:
            async with service(group.url(), timeout_ms=DEADLINE_MS) as worker:
                strict, lenient = await worker.key("strict", "slow"), await worker.key("lenient", "lenient")
                for secret in (strict, lenient):
                    assert remaining((await worker.check(secret)).headers["ratelimit"]) == 99
                old = group.master()
                await until_true(lambda: old.ask("WAIT", 1, 1_000) == 1)
                old.kill()
                closed, opened = await worker.check(strict), await worker.check(lenient)
                assert (closed.status_code, closed.headers["x-quotas-reason"]) == (503, "store_unavailable")
                assert (opened.status_code, opened.headers["x-quotas-degraded"]) == (200, "1")
                # What the replica had is there: the check before, and what of those in between was taken.
                assert await until_decided(worker, strict) == 98
                assert await until_decided(worker, lenient) == 98
                assert group.master() is other(group, old)
                await until_revoked(worker, strict)
                degraded = samples((await worker.http.get("/metrics")).text, "quotas_degraded_total")
                assert set(degraded) == {'{mode="allow"}', '{mode="deny"}'}

        with watched(folder) as made:
            asyncio.run(work(made))

    def test_a_master_that_lives_and_is_demoted_is_left(self, group: Watched) -> None:
        """Sentinel makes a replica of it; whoever is connected to it still must not stay."""

        async def work() -> None:
            async with Store(group.url()) as store:
                await until_written(store, "before")
                old = group.master()
                assert group.sentinels[0].ask("SENTINEL", "FAILOVER", "main")
                await until_true(lambda: group.master() is not old)
                old.ask("REPLICAOF", "127.0.0.1", group.master().port)  # As Sentinel does in the end.
                await until_written(store, "after")
                await until_true(lambda: group.master().ask("GET", "q1:word") == b"after")

        asyncio.run(work())

    def test_a_master_that_hangs_is_left(self, folder: Path) -> None:
        async def work(group: Watched) -> None:
            async with Store(group.url()) as store:
                await until_written(store, "before")
                old = group.master()
                with old.stalled():
                    await until_written(store, "after")
                    assert group.master() is other(group, old)
                    assert group.master().ask("GET", "q1:word") == b"after"

        with watched(folder) as made:
            asyncio.run(work(made))


async def until_revoked(worker: Service, secret: str) -> None:
    """Revocation is as exact as before once the store answers again."""
    (key,) = await worker.clients.keys_of("strict")
    await worker.clients.revoke_key(key.id)
    assert (await worker.check(secret)).status_code == 401
