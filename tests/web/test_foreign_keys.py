"""Imported keys over HTTP: they work like ours, and services without them look nothing up."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from hashlib import sha256

import pytest

from quotas import assembly
from quotas.importing import Importer
from quotas.registry import Registry
from quotas.store import Store

from .monitor import watched
from .serving import Service, service

PLANS = """
plans:
  slow: {limits: {hourly: {rate: 1/hour, burst: 100}}}
  scoped: {required_scopes: [read], limits: {hourly: {rate: 1/hour, burst: 100}}}
"""
FOREIGN = [
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "SG.ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf-09kqeF8tAm",
    "a b",
    "é",
    "%00",
]


async def bring_in(store: Store, *secrets: str, client: str = "acme", more: str = "", values: str = "") -> None:
    rows = [f"{client},n,{sha256(secret.encode()).hexdigest()}{values}" for secret in secrets]
    lines = io.StringIO("\n".join([f"client,name,sha256{more}", *rows]))
    assert (await Importer(Registry(store), clock=assembly.clock).run(lines, "keys.csv")).new == len(secrets)


async def ask(worker: Service, secret: str) -> tuple[int, str]:
    answer = await worker.http.get("/check", headers=[(b"x-api-key", secret.encode())])
    return answer.status_code, answer.headers["x-quotas-client"]


async def until(asked: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await asked():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("pepper", [None, b"a pepper of sixteen bytes"])
def test_they_pass_and_share_the_client_s_limits_with_its_other_keys(redis_url: str, pepper: bytes | None) -> None:
    async def work() -> None:
        async with Store(redis_url) as store, service(redis_url, PLANS, pepper=pepper) as before:
            ours = await before.key()
            await bring_in(store, *FOREIGN)
            async with service(redis_url, PLANS, pepper=pepper) as worker:
                for number, secret in enumerate([ours, *FOREIGN]):
                    answer = await worker.http.get("/check", headers=[(b"x-api-key", secret.encode())])
                    assert (answer.status_code, answer.headers["x-quotas-client"]) == (200, "acme")
                    assert answer.headers["ratelimit"].startswith(f'"hourly";r={99 - number};')

    asyncio.run(work())


def test_a_running_worker_learns_of_them(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS, upkeep_s=0.01) as worker, Store(redis_url) as store:
            await worker.key()
            assert await ask(worker, FOREIGN[0]) == (401, "")
            await bring_in(store, FOREIGN[0])

            async def passes() -> bool:
                return await ask(worker, FOREIGN[0]) == (200, "acme")

            await until(passes)

    asyncio.run(work())


def test_without_any_nothing_is_looked_up(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            async with watched(redis_url) as commands:
                for secret in [*FOREIGN, "quotas_live_x", "quotas_", "x"]:
                    assert await ask(worker, secret) == (401, "")
            assert commands == []

    asyncio.run(work())


def test_with_some_only_what_may_be_one_is_looked_up(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as before, Store(redis_url) as store:
            await before.key()
            await bring_in(store, FOREIGN[0], "quotas_live_foreign")
            async with service(redis_url, PLANS) as worker:
                async with watched(redis_url) as commands:
                    for secret in ("quotas_live_x", "quotas_", "quotas_live_foreign"):
                        assert await ask(worker, secret) == (401, "")
                assert commands == []
                async with watched(redis_url) as commands:
                    assert await ask(worker, "unknown") == (401, "")
                assert len(commands) == 1
                assert await ask(worker, FOREIGN[0]) == (200, "acme")
                async with watched(redis_url) as commands:
                    assert await ask(worker, FOREIGN[0]) == (200, "acme")
                assert len(commands) == 1

    asyncio.run(work())


@pytest.mark.parametrize("secret", FOREIGN[:2])
def test_a_revocation_is_as_exact(redis_url: str, secret: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as office, Store(redis_url) as store:
            await office.clients.create("acme", "slow")
            await bring_in(store, secret)
            async with service(redis_url, PLANS) as one, service(redis_url, PLANS) as other:
                assert [await ask(worker, secret) for worker in (one, other)] == [(200, "acme")] * 2
                (key,) = await office.clients.keys_of("acme")
                issued, _ = await office.clients.rotate_key(key.id, 3600)
                assert not issued.key.imported
                for each in (secret, issued.secret):
                    assert [await ask(worker, each) for worker in (one, other)] == [(200, "acme")] * 2
                await office.clients.revoke_key(key.id)
                assert [await ask(worker, secret) for worker in (one, other)] == [(401, "")] * 2
                assert await ask(one, issued.secret) == (200, "acme")

    asyncio.run(work())


def test_scopes_and_expiry_are_the_file_s(redis_url: str) -> None:
    now_us = assembly.clock()

    async def work() -> None:
        nonlocal now_us
        async with service(redis_url, PLANS) as office, Store(redis_url) as store:
            await office.clients.create("acme", "scoped")
            await bring_in(store, "without")
            await bring_in(store, "with", more=",scopes,expires_at", values=",a read,2999-01-01T00:00:00Z")
            async with service(redis_url, PLANS, clock=lambda: now_us) as worker:
                assert (await ask(worker, "without"))[0] == 403
                assert (await ask(worker, "with"))[0] == 200
                now_us = 32_472_144_000_000_000
                assert (await ask(worker, "with"))[0] == 401

    asyncio.run(work())


def test_keys_of_ours_that_a_change_of_pepper_ended_stay_ended(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as before, Store(redis_url) as store:
            ours = await before.key()
            await bring_in(store, FOREIGN[0])
            async with service(redis_url, PLANS, pepper=b"the first pepper there is") as worker:
                assert await ask(worker, ours) == (401, "")
                assert await ask(worker, FOREIGN[0]) == (200, "acme")

    asyncio.run(work())


def test_what_a_broken_import_left_takes_nobody_s_key_along(redis_url: str) -> None:
    """The index of one client names the digest that another client's key has by now."""

    async def work() -> None:
        async with service(redis_url, PLANS) as office, Store(redis_url) as store:
            for name in ("acme", "other"):
                await office.clients.create(name, "slow")
            client = await office.clients.get("acme")
            digest = sha256(FOREIGN[0].encode()).hexdigest()
            await store.call("HSET", f"q1:{{{client.id}}}:keys", "key_left", digest)
            await store.call("HSET", "q1:keys", "key_left", client.id)
            await bring_in(store, FOREIGN[0], client="other")
            assert await office.clients.keys_of("acme") == []
            async with service(redis_url, PLANS) as worker:
                await office.clients.revoke_key("key_left")
                assert await ask(worker, FOREIGN[0]) == (200, "other")
                await store.call("HSET", f"q1:{{{client.id}}}:keys", "key_left", digest)
                await office.clients.delete("acme")
                assert await ask(worker, FOREIGN[0]) == (200, "other")

    asyncio.run(work())
