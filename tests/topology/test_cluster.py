"""Calls go to the node that has their key, also while slots move and nodes come and go; nothing runs twice."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path

import pytest
from e2e.processes import Home
from redis.crc import key_slot
from web.serving import Service, service

from quotas import clusters
from quotas.errors import StoreUnavailableError
from quotas.scripts import record_key, state_key
from quotas.store import Script, Store, deadline
from quotas.tallies import DAY_US
from quotas.usage import Usage

from .valkeys import LOCAL, PATIENCE_S, Clustered, Valkey, alone, clustered, until

ADD = Script("add", "return redis.call('INCRBY', KEYS[1], ARGV[1])")
ADD_BOTH = Script("add both", "redis.call('INCR', KEYS[2]) return redis.call('INCRBY', KEYS[1], ARGV[1])")
DEADLINE_MS = 300
ANY_PORT = ("--port", "0", "--json")
HOURLY = """
plans:
  slow:    {limits: {hourly: {rate: 1/hour, burst: 100000}, monthly: {quota: 100000/month}}}
  lenient: {limits: {hourly: {rate: 1/hour, burst: 100000}}, on_store_error: allow}
"""


@pytest.fixture
def url(cluster: Clustered) -> Iterator[str]:
    cluster.empty()
    yield cluster.url()
    cluster.settle()


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


def key_at(node: Valkey, cluster: Clustered, place: int = 0) -> str:
    """A key of this master; `place` is for another one."""
    found = (f"q1:{{{number}}}:n" for number in range(10_000) if cluster.owner(slot_of(f"q1:{{{number}}}:n")) is node)
    for _ in range(place):
        next(found)
    return next(found)


def elsewhere(cluster: Clustered, slot: int) -> Valkey:
    owner = cluster.owner(slot)
    return next(each for each in cluster.masters if each is not owner)


@contextmanager
def without_writes(node: Valkey) -> Iterator[None]:
    """The node keeps what would write waiting, and goes on in the cluster, which a stalled one would not."""
    node.ask("CLIENT", "PAUSE", PATIENCE_S * 1_000, "WRITE")
    try:
        yield
    finally:
        node.ask("CLIENT", "UNPAUSE")


async def told(store: Store, key: str, amount: int = 1) -> object:
    """What `run_then` has somebody told about an ADD."""
    reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    store.run_then(ADD, ADD.packed((key,), (amount,)), reply.set_result)
    return await reply


async def until_answered(store: Store, key: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailableError):
                async with deadline(5):
                    await store.call("GET", key)
                    return
            await asyncio.sleep(0.02)


class TestRouting:
    def test_calls_of_every_kind_find_their_node_over_one_connection_each(self, cluster: Clustered, url: str) -> None:
        keys = [f"q1:{{{number}}}:n" for number in range(200)]

        async def work() -> None:
            async with Store(url) as store:
                await store.load(ADD)
                assert await asyncio.gather(*(store.run(ADD, (key,), (1,)) for key in keys)) == [1] * 200
                assert await asyncio.gather(*(told(store, key) for key in keys)) == [2] * 200
                assert await store.run_all(ADD, [((key,), (1,)) for key in [*keys, *keys]]) == [3] * 200 + [4] * 200
                assert await asyncio.gather(*(store.call("GET", key) for key in keys)) == [b"4"] * 200
                assert await store.call("PING") == b"PONG"
                for each in cluster.masters:
                    listed = each.ask("CLIENT", "LIST").decode().splitlines()
                    assert sum(" name=quotas " in line for line in listed) == 1
                    assert 0 < each.ask("DBSIZE") < 200

        asyncio.run(work())

    def test_a_key_s_node_tells_its_time(self, cluster: Clustered, url: str) -> None:
        async def work() -> None:
            async with Store(url) as store:
                for node in cluster.masters:
                    node.ask("CONFIG", "RESETSTAT")
                    await store.call("TIME", at=key_at(node, cluster))
                    assert node.ask("INFO", "COMMANDSTATS")["cmdstat_time"]["calls"] == 1

        asyncio.run(work())

    def test_a_script_that_a_node_lost_is_loaded_there_again(self, cluster: Clustered, url: str) -> None:
        async def work() -> None:
            async with Store(url) as store:
                for node in cluster.masters:
                    key = key_at(node, cluster)
                    assert await told(store, key) == 1
                    node.ask("SCRIPT", "FLUSH")
                    assert [await told(store, key), await store.run(ADD, (key,), (1,))] == [2, 3]
                    node.ask("SCRIPT", "FLUSH")
                    assert await store.run_all(ADD, [((key,), (1,)), ((key,), (1,))]) == [4, 5]

        asyncio.run(work())

    def test_one_error_fails_all_runs_once_all_have_ended(self, cluster: Clustered, url: str) -> None:
        async def work() -> None:
            async with Store(url) as store:
                keys = [key_at(node, cluster) for node in cluster.masters]
                await store.call("SET", keys[1], "text")
                with pytest.raises(StoreUnavailableError, match="not an integer"):
                    await store.run_all(ADD, [((key,), (1,)) for key in [*keys, *keys]])
                assert [await store.call("GET", key) for key in keys] == [b"2", b"text", b"2"]

        asyncio.run(work())

    def test_commands_in_order_wait_for_those_before_them_on_another_node(self, cluster: Clustered, url: str) -> None:
        async def work() -> None:
            async with Store(url) as store:
                await store.load(ADD)
                for first, second in permutations(cluster.masters, 2):
                    one, two, probe = key_at(first, cluster), key_at(second, cluster), key_at(second, cluster, 1)
                    await asyncio.gather(*(store.call("DEL", key) for key in (one, two)))
                    with without_writes(first):
                        asked = asyncio.create_task(store.call_all([("INCR", one), ("INCRBY", two, 5), ("GET", one)]))
                        await asyncio.sleep(0)  # It has asked what it asks at once.
                        # A line keeps its order, so what had gone to the second node would have run before this.
                        await store.call("SET", probe, 1)
                        assert await store.call("EXISTS", two) == 0
                        assert not asked.done()
                    assert await asked == [1, 5, b"1"]

        asyncio.run(work())

    def test_an_error_keeps_back_the_commands_after_it(self, cluster: Clustered, url: str) -> None:
        async def work() -> None:
            async with Store(url) as store:
                one, two = (key_at(node, cluster) for node in cluster.masters[:2])
                await store.call("SET", one, "text")
                with pytest.raises(StoreUnavailableError, match="not an integer"):
                    await store.call_all([("INCR", one), ("INCR", two)])
                assert await store.call("EXISTS", two) == 0

        asyncio.run(work())

    def test_doctor_looks_at_it(self, cluster: Clustered, url: str, tmp_path: Path) -> None:
        home = Home(tmp_path)
        home.environment["QUOTAS_REDIS_URL"] = url
        home.good("clients", "create", "acme", "--plan", "free")
        told = {each["subject"]: each for each in json.loads(home.command("doctor", *ANY_PORT).stdout)["findings"]}
        seen = {subject: told[subject]["verdict"] for subject in ("store", "store role", "store take", "clients")}
        assert seen == dict.fromkeys(seen, "ok")
        assert told["clients"]["message"].startswith("all 1 looked at")
        assert [each.ask("KEYS", "*doctor*") for each in cluster.masters] == [[], [], []]

    def test_nodes_that_are_away_and_hosts_that_are_not_said(
        self, cluster: Clustered, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(random, "sample", lambda addresses, _: list(addresses))
        keys = [f"q1:{{{number}}}:n" for number in range(100)]

        async def work() -> None:
            async with Store(url.replace("://", f"://{LOCAL}:1,")) as store:
                assert await asyncio.gather(*(store.run(ADD, (key,), (1,)) for key in keys)) == [1] * 100
                await store.load(ADD)
                assert await asyncio.gather(*(store.run(ADD, (key,), (1,)) for key in keys)) == [2] * 100

        for each in cluster.masters:
            each.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
        try:
            asyncio.run(work())
        finally:
            for each in cluster.masters:
                each.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


class TestWrongUrl:
    def test_a_node_as_one_server_says_what_to_do(self, cluster: Clustered) -> None:
        async def work() -> None:
            key = key_at(cluster.masters[1], cluster)
            async with Store(f"redis://{LOCAL}:{cluster.masters[0].port}") as store:
                with pytest.raises(StoreUnavailableError, match=r"MOVED .*; a node of a cluster needs redis\+cluster"):
                    await store.call("GET", key)

        asyncio.run(work())

    def test_one_server_as_a_cluster_does_too(self, folder: Path) -> None:
        async def work(port: int) -> None:
            async with Store(f"redis+cluster://{LOCAL}:{port}") as store:
                with pytest.raises(StoreUnavailableError, match="no node of a cluster; write its URL with redis://"):
                    await store.call("PING")

        with alone(folder) as server:
            asyncio.run(work(server.port))


class TestMovedSlots:
    def test_a_moved_slot_is_followed_and_each_call_runs_once(self, cluster: Clustered, url: str) -> None:
        key = key_at(cluster.masters[0], cluster, place=1)

        async def work() -> None:
            async with Store(url) as store:
                assert await store.run(ADD, (key,), (1,)) == 1
                for turn in range(3):
                    cluster.migrate(slot_of(key), elsewhere(cluster, slot_of(key)))
                    tasks = [told(store, key), store.run(ADD, (key,), (1,)), store.call("INCR", key)]
                    assert sorted(await asyncio.gather(*tasks)) == [number + 3 * turn for number in (2, 3, 4)]

        asyncio.run(work())

    def test_a_key_that_has_gone_ahead_is_asked_for_where_it_is(self, cluster: Clustered, url: str) -> None:
        key = key_at(cluster.masters[0], cluster, place=2)
        asked = []

        async def work() -> None:
            async with Store(url) as store:
                assert await store.run(ADD, (key,), (1,)) == 1

                async def add() -> None:
                    asked.extend([await told(store, key), await store.run(ADD, (key,), (1,))])
                    asked.append(await store.call("INCR", key))

                def between() -> None:
                    asyncio.run_coroutine_threadsafe(add(), loop).result(PATIENCE_S)

                loop = asyncio.get_running_loop()
                await asyncio.to_thread(
                    cluster.migrate, slot_of(key), elsewhere(cluster, slot_of(key)), between=between
                )
                assert asked == [2, 3, 4, 5, 6, 7]
                assert await store.run(ADD, (key,), (0,)) == 7

        asyncio.run(work())

    def test_keys_that_are_parted_are_waited_for_and_not_for_ever(
        self, cluster: Clustered, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = key_at(cluster.masters[0], cluster, place=3)
        both = (key, key + ":2")

        async def work() -> None:
            async with Store(url) as store:
                assert await store.run(ADD_BOTH, both, (1,)) == 1
                waiting: list[asyncio.Future[int]] = []

                async def add() -> None:
                    waiting.append(asyncio.ensure_future(store.run(ADD_BOTH, both, (1,))))
                    await asyncio.sleep(0.01)  # Whether it was asked before or after the next key left: it runs once.

                def between() -> None:
                    asyncio.run_coroutine_threadsafe(add(), loop).result(PATIENCE_S)

                loop = asyncio.get_running_loop()
                await asyncio.to_thread(
                    cluster.migrate, slot_of(key), elsewhere(cluster, slot_of(key)), between=between
                )
                assert sorted(await asyncio.gather(*waiting)) == [2, 3, 4]
                assert [await store.call("GET", each) for each in both] == [b"4", b"4"]

                monkeypatch.setattr(clusters, "MAX_TIMES", 3)
                here, there = cluster.owner(slot_of(key)), elsewhere(cluster, slot_of(key))
                with cluster.moving(slot_of(key), there):
                    here.ask("MIGRATE", LOCAL, there.port, "", 0, 1_000, "KEYS", both[1])
                    with pytest.raises(StoreUnavailableError, match="TRYAGAIN"):
                        await store.run(ADD_BOTH, both, (1,))
                assert await store.call("GET", both[0]) == b"4"

        asyncio.run(work())

    @pytest.mark.parametrize("move", [Clustered.migrate, Clustered.migrate_at_once])
    def test_a_slot_that_moves_under_load_costs_no_check_and_charges_none_twice(
        self, cluster: Clustered, url: str, move: Callable[[Clustered, int, Valkey], None]
    ) -> None:
        async def work() -> None:
            async with service(url, HOURLY) as worker:
                secret = await worker.key("acme", "slow")
                client = await worker.clients.get("acme")
                passed = [await worker.check(secret)]
                slot = slot_of(state_key(client.id))
                moves = asyncio.create_task(asyncio.to_thread(move_to_and_fro, move, cluster, slot))

                async def ask() -> None:
                    while not moves.done():
                        passed.append(await worker.check(secret))

                await asyncio.gather(moves, *(ask() for _ in range(8)))
                assert {each.status_code for each in passed} == {200}
                assert not any("x-quotas-degraded" in each.headers for each in passed)
                assert len(passed) > 20
                last = (await worker.check(secret)).headers["ratelimit"]
                assert f'"monthly";r={100_000 - len(passed) - 1};' in last
                assert await used_by(worker, client.id) == len(passed) + 1

        asyncio.run(work())


class TestLostNodes:
    def test_a_lost_node_fails_its_own_calls_and_is_found_when_it_is_back(self, folder: Path) -> None:
        async def work(made: Clustered) -> None:
            async with Store(made.url()) as store:
                for each in made.masters:
                    each.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
                keys = [key_at(each, made) for each in made.masters]
                await store.load(ADD)  # To be connected with all.
                assert await asyncio.gather(*(store.run(ADD, (key,), (1,)) for key in keys)) == [1, 1, 1]
                with made.masters[0].stalled():
                    stuck = asyncio.ensure_future(store.run(ADD, (keys[0],), (1,)))
                    await asyncio.sleep(0)
                    assert [await store.run(ADD, (key,), (1,)) for key in keys[1:]] == [2, 2]
                    with pytest.raises(StoreUnavailableError) as caught:
                        await stuck
                    assert caught.value.kind == "lost"
                    assert [await store.run(ADD, (key,), (1,)) for key in keys[1:]] == [3, 3]
                await until_answered(store, keys[0])
                assert int(await store.call("GET", keys[0])) in {1, 2}  # It may have run.

        with clustered(folder) as made:
            asyncio.run(work(made))

    def test_checks_go_on_with_the_replica_that_takes_over(self, folder: Path) -> None:
        async def work(made: Clustered) -> None:
            async with service(made.url(), HOURLY, timeout_ms=DEADLINE_MS) as worker:
                first = made.masters[0]
                name = await client_at(worker, first, made)
                secret = (await worker.clients.issue_key(name)).secret
                assert '"hourly";r=99999' in (await worker.check(secret)).headers["ratelimit"]
                await asyncio.to_thread(until, lambda: first.ask("WAIT", 1, 1_000) == 1)
                first.kill()
                assert (await worker.check(secret)).headers["x-quotas-degraded"] == "1"
                async with asyncio.timeout(PATIENCE_S):
                    while "ratelimit" not in (answer := await worker.check(secret)).headers:
                        await asyncio.sleep(0.02)
                assert '"hourly";r=99998' in answer.headers["ratelimit"]

        with clustered(folder, replicas=1) as made:
            asyncio.run(work(made))


async def client_at(worker: Service, node: Valkey, cluster: Clustered) -> str:
    """The name of a client that is kept on this master, whose keys and index may be on others."""
    for number in range(1_000):
        client = await worker.clients.create(f"client-{number}", "lenient")
        if cluster.owner(slot_of(record_key(client.id))) is node:
            return client.name
    raise AssertionError("a third of them are there")


async def used_by(worker: Service, client_id: str) -> int:
    """The units that a client's history has of the last days."""
    now_us = int((await worker.store.call("TIME", at=record_key(client_id)))[0]) * 1_000_000
    quarters = await Usage(worker.store).between(client_id, now_us - DAY_US, now_us + DAY_US)
    return sum(tally.units for tally in quarters.values())


def move_to_and_fro(move: Callable[[Clustered, int, Valkey], None], cluster: Clustered, slot: int) -> None:
    for _ in range(3):
        move(cluster, slot, elsewhere(cluster, slot))
