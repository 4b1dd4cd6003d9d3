"""Keys in the place of keys: the grace is exact, and what the client has spent stays spent."""

import asyncio
import re

import pytest
from takes import with_store

from quotas import keys
from quotas.clients import Clients
from quotas.errors import CredentialError, NotFoundError
from quotas.identities import Identities
from quotas.keys import Environment
from quotas.plan_files import parse
from quotas.registry import Registry
from quotas.store import Store

from .serving import service

NOW_US = 1_800_000_000_000_000
SECOND_US = 1_000_000


def test_the_old_key_is_valid_strictly_before_the_end_of_its_grace_on_every_worker(redis_url: str) -> None:
    """Case C11: 60 seconds of grace from T."""
    now_us = NOW_US

    async def work() -> None:
        nonlocal now_us
        async with (
            service(redis_url, clock=lambda: now_us) as one,
            service(redis_url, clock=lambda: now_us) as other,
        ):
            old = await one.key()
            (key,) = await one.clients.keys_of("acme")
            for worker in (one, other):
                assert (await worker.check(old)).status_code == 200
            issued, client = await one.clients.rotate_key(key.id, 60)
            assert (client.name, issued.key.client_id) == ("acme", key.client_id)
            for after_us, status in ((0, 200), (59_999_000, 200), (60 * SECOND_US, 401), (61 * SECOND_US, 401)):
                now_us = NOW_US + after_us
                for worker in (one, other):
                    assert (await worker.check(old)).status_code == status
                    assert (await worker.check(issued.secret)).status_code == 200

    asyncio.run(work())


def test_no_grace_ends_the_old_key_at_once(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as one, service(redis_url) as other:
            old = await one.key()
            assert [(await worker.check(old)).status_code for worker in (one, other)] == [200, 200]
            (key,) = await one.clients.keys_of("acme")
            issued, _ = await one.clients.rotate_key(key.id, 0)
            assert [(await worker.check(old)).status_code for worker in (one, other)] == [401, 401]
            assert [(await worker.check(issued.secret)).status_code for worker in (one, other)] == [200, 200]

    asyncio.run(work())


def test_a_rotation_is_no_refund_and_keeps_name_and_environment(redis_url: str) -> None:
    """Case C16 (1)."""

    async def work() -> None:
        async with service(redis_url) as worker:
            await worker.clients.create("acme", "once")
            first = await worker.clients.issue_key("acme", name="build", environment=Environment.TEST)
            for _ in range(7):
                assert (await worker.check(first.secret)).status_code == 200
            second, _ = await worker.clients.rotate_key(first.key.id, 60)
            assert (second.key.name, second.key.environment) == ("build", Environment.TEST)
            assert second.secret.startswith("quotas_test_")
            assert (await worker.check(second.secret)).headers["ratelimit"] == '"lifetime";r=2'

    asyncio.run(work())


def test_a_grace_never_lengthens_a_key_s_life(redis_url: str) -> None:
    now_us = NOW_US

    async def work() -> None:
        nonlocal now_us
        async with service(redis_url, clock=lambda: now_us) as worker:
            await worker.clients.create("acme", "slow")
            old = await worker.clients.issue_key("acme", expires_at_us=NOW_US + 10 * SECOND_US)
            await worker.clients.rotate_key(old.key.id, 60)
            now_us = NOW_US + 10 * SECOND_US
            assert (await worker.check(old.secret)).status_code == 401
            with pytest.raises(NotFoundError):
                await worker.clients.rotate_key(old.key.id, 60)

    asyncio.run(work())


@pytest.mark.parametrize("key_id", ["key_none", "", "\udcff", "é"])
def test_what_is_no_key_cannot_be_rotated(redis_url: str, key_id: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            with pytest.raises(NotFoundError):
                await worker.clients.rotate_key(key_id, 60)

    asyncio.run(work())


@pytest.mark.parametrize("before", [None, b"an older pepper, once"])
def test_keys_outlive_a_change_of_pepper_as_long_as_the_previous_one_is_named(
    redis_url: str, before: bytes | None
) -> None:
    config = parse("plans: {free: {limits: {a: {rate: 5/second}}}}", "test plans")
    after = b"the pepper of today"

    async def work(store: Store) -> None:
        registry = Registry(store)
        clients = Clients(registry, config=config, brand="quotas", pepper=before, clock=lambda: NOW_US)
        await clients.create("acme", "free")
        secret = (await clients.issue_key("acme")).secret.encode()
        with pytest.raises(CredentialError):
            await Identities(registry, brand="quotas", pepper=after, remembered=9).find(secret, NOW_US)
        knowing = Identities(registry, brand="quotas", pepper=after, previous_peppers=(before,), remembered=9)
        for _ in range(2):
            _, identity = await knowing.find(secret, NOW_US)
            assert identity.client.name == "acme"

    with_store(redis_url, work)


@pytest.mark.parametrize("environment", Environment)
def test_the_pattern_finds_keys_and_nothing_near_them(environment: Environment) -> None:
    pattern = re.compile(keys.pattern("quotas"))
    key = keys.generate("quotas", environment)
    assert pattern.findall(f"X-API-Key: {key}\nkey='{key}'") == [key, key]
    for near in (key[:-1], key + "x", "x" + key, key.replace("quotas", "quota"), key.replace("_", "-")):
        assert not pattern.search(near)
