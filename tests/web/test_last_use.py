"""The last use of keys over HTTP: shown by the hour, written beside the checks."""

import asyncio

from quotas import assembly
from quotas.holders import HOUR_US

from .conftest import Server
from .monitor import watched
from .serving import service

NOW_US = 500_000 * HOUR_US + 12_345_678


def test_a_worker_writes_it_in_passing_and_when_it_ends(redis_url: str) -> None:
    now_us = NOW_US

    async def work() -> None:
        nonlocal now_us
        async with service(redis_url, clock=lambda: now_us) as office:
            secret = await office.key()

            async def last_used_at_us() -> int | None:
                (key,) = await office.clients.keys_of("acme")
                return key.last_used_at_us

            async with service(redis_url, clock=lambda: now_us, upkeep_s=0.01) as worker:
                assert (await worker.check("quotas_live_x")).status_code == 401
                assert await last_used_at_us() is None
                assert (await worker.check(secret)).status_code == 200
                async with asyncio.timeout(30):
                    while await last_used_at_us() is None:
                        await asyncio.sleep(0.005)
                assert await last_used_at_us() == 500_000 * HOUR_US
            async with service(redis_url, clock=lambda: now_us) as worker:
                now_us = NOW_US + HOUR_US
                assert (await worker.check(secret)).status_code == 200
                assert await last_used_at_us() == 500_000 * HOUR_US
            assert await last_used_at_us() == 500_001 * HOUR_US

    asyncio.run(work())


def test_a_check_is_one_command_at_the_beginning_of_an_hour_as_well(redis_url: str) -> None:
    now_us = assembly.clock()

    async def work() -> None:
        nonlocal now_us
        async with service(redis_url, clock=lambda: now_us) as worker:
            secret = await worker.key()
            await worker.check(secret)
            for _ in range(3):
                now_us += HOUR_US
                async with watched(redis_url) as commands:
                    assert (await worker.check(secret)).status_code == 200
                assert len(commands) == 1

    asyncio.run(work())


def test_what_was_revoked_meanwhile_stays_so(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as office:
            async with service(redis_url) as worker:
                secret = await office.key()
                assert (await worker.check(secret)).status_code == 200
                await office.clients.delete("acme")
                before = await office.store.call("KEYS", "q1:key:*")
            assert await office.store.call("KEYS", "q1:key:*") == before == []

    asyncio.run(work())


def test_a_worker_whose_store_is_gone_ends_all_the_same(server: Server) -> None:
    async def work() -> None:
        async with service(server.url) as worker:
            secret = await worker.key()
            assert (await worker.check(secret)).status_code == 200
            server.stall()
        server.go_on()

    asyncio.run(work())
