"""What becomes of one whole check when the connection breaks under it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from quotas import app, assembly, plan_files
from quotas.answers import Answer, Reason
from quotas.checks import Checks
from quotas.clients import Clients
from quotas.configuration import ConfigFile
from quotas.registry import Registry
from quotas.settings import Settings
from quotas.store import Store

from .proxy import Command, Fate, proxy

CONFIG = plan_files.parse(
    "plans: {lenient: {limits: {once: {rate: 0/second, burst: 10}}, on_store_error: allow}}", "test plans"
)


@asynccontextmanager
async def checks_on(url: str) -> AsyncIterator[Checks]:
    settings = Settings(redis_url=url, store_timeout_ms=30_000)
    application = app.Worker(settings, ConfigFile(None), None, CONFIG, None, None)()
    with patch.object(app, "UPKEEP_S", 3600.0):
        async with application.router.lifespan_context(application) as state:
            assert state is not None
            yield state["services"].checks


def clients_on(store: Store) -> Clients:
    return Clients(Registry(store), config=CONFIG, brand="quotas", pepper=None, clock=assembly.clock)


async def check(checks: Checks, secret: str) -> Answer:
    return await checks.check([(b"x-api-key", secret.encode())], method="GET", peer=None)


def left(answer: Answer) -> int:
    assert answer.decision is not None
    return answer.decision.standings[0].remaining


def test_a_check_whose_reply_was_lost_took_one_unit(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            Store(redis_url) as store,
            proxy(redis_url, tmp_path) as passing,
            checks_on(passing.url) as checks,
        ):
            clients = clients_on(store)
            await clients.create("acme", "lenient")
            secret = (await clients.issue_key("acme")).secret
            assert left(await check(checks, secret)) == 9
            passing.fate = lambda command: Fate.CUT if command[0] == b"EVALSHA" else Fate.PASS
            assert (await check(checks, secret)).degraded
            passing.fate = lambda _: Fate.PASS
            assert left(await check(checks, secret)) == 7

    asyncio.run(work())


def test_what_is_known_to_be_out_of_date_does_not_pass_when_the_store_fails(redis_url: str, tmp_path: Path) -> None:
    """The take says that the client has changed, and then nobody can say how: a revoked key must not pass on that."""

    async def work() -> None:
        async with (
            Store(redis_url) as store,
            proxy(redis_url, tmp_path) as passing,
            checks_on(passing.url) as checks,
        ):
            clients = clients_on(store)
            await clients.create("acme", "lenient")
            issued = await clients.issue_key("acme")
            assert (await check(checks, issued.secret)).reason is None
            await clients.revoke_key(issued.key.id)
            passing.fate = lambda command: Fate.CUT if command[0] == b"HMGET" else Fate.PASS
            answer = await check(checks, issued.secret)
            assert passing.count(b"EVALSHA") >= 2
            assert answer.reason is Reason.STORE_UNAVAILABLE

    asyncio.run(work())


def test_a_key_revoked_while_it_is_loaded_does_not_pass(redis_url: str, tmp_path: Path) -> None:
    """Whichever command of the load the revocation comes in front of."""

    async def work(place: int) -> None:
        async with (
            Store(redis_url) as store,
            proxy(redis_url, tmp_path) as passing,
            checks_on(passing.url) as checks,
        ):
            clients = clients_on(store)
            name = f"client {place}"
            await clients.create(name, "lenient")
            issued = await clients.issue_key(name)

            places = 0

            async def revoke(command: Command) -> None:
                nonlocal places
                if command[0] not in {b"HMGET", b"HGETALL", b"HGET", b"EVALSHA"}:
                    return  # The script is loaded meanwhile.
                if places == place:
                    await clients.revoke_key(issued.key.id)
                places += 1

            passing.commands.clear()  # Those of the worker's start.
            passing.before = revoke
            assert (await check(checks, issued.secret)).reason is Reason.INVALID_CREDENTIAL
            assert places > place

    for place in range(4):
        asyncio.run(work(place))
