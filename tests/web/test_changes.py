"""What an operator changes holds for the very next check, on every worker, however warm (cases C11 and C16)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .monitor import holdings
from .serving import Service, service

PLANS = """
plans:
  small:
    limits:
      yearly: {quota: 10/year}
  large:
    limits:
      yearly: {quota: 100/year}
  each:
    limits:
      per-key: {rate: 0/second, burst: 5, per: key}
      all: {rate: 0/second, burst: 8}
"""
ROUNDS = 20


@asynccontextmanager
async def two_workers(redis_url: str) -> AsyncIterator[tuple[Service, Service]]:
    async with service(redis_url, PLANS) as one, service(redis_url, PLANS) as other:
        yield one, other


async def statuses(workers: tuple[Service, Service], secret: str) -> list[int]:
    return [response.status_code for response in await asyncio.gather(*(one.check(secret) for one in workers))]


async def reasons(workers: tuple[Service, Service], secret: str) -> list[str | None]:
    responses = await asyncio.gather(*(one.check(secret) for one in workers))
    return [response.headers.get("x-quotas-reason") for response in responses]


async def remaining(worker: Service, secret: str) -> int:
    """What the first limit has left after one more check."""
    response = await worker.check(secret)
    assert response.status_code == 200
    return int(response.headers["ratelimit"].partition(";r=")[2].partition(";")[0])


async def spend(worker: Service, secret: str, units: int) -> None:
    for response in await asyncio.gather(*(worker.check(secret) for _ in range(units))):
        assert response.status_code == 200


class TestRevocation:
    def test_a_revoked_key_is_refused_at_once_by_every_worker(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                secret = await workers[0].key(plan="large")
                assert await statuses(workers, secret) == [200, 200]
                (key,) = await workers[0].clients.keys_of("acme")
                await workers[0].clients.revoke_key(key.id)
                assert await reasons(workers, secret) == ["invalid_credential"] * 2

        asyncio.run(work())

    def test_a_revocation_under_load_is_as_exact(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                await workers[0].clients.create("acme", "large")
                for _ in range(ROUNDS):
                    issued = await workers[0].clients.issue_key("acme")
                    meanwhile = [asyncio.create_task(statuses(workers, issued.secret)) for _ in range(2)]
                    await workers[1].clients.revoke_key(issued.key.id)
                    assert await statuses(workers, issued.secret) == [401, 401]
                    for task in meanwhile:
                        assert set(await task) <= {200, 401}

        asyncio.run(work())

    def test_other_keys_of_the_client_go_on(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                kept = await workers[0].key(plan="large")
                issued = await workers[0].clients.issue_key("acme")
                assert await statuses(workers, issued.secret) == [200, 200]
                await workers[1].clients.revoke_key(issued.key.id)
                assert await statuses(workers, kept) == [200, 200]

        asyncio.run(work())


class TestExpiry:
    def test_a_key_is_valid_strictly_before_its_expiry(self, redis_url: str) -> None:
        expires_at_us = 1_800_000_000_000_000
        now_us = expires_at_us - 60_000_000

        async def work() -> None:
            nonlocal now_us
            async with service(redis_url, clock=lambda: now_us) as worker:
                await worker.clients.create("acme", "free")
                secret = (await worker.clients.issue_key("acme", expires_at_us=expires_at_us)).secret
                assert (await worker.check(secret)).status_code == 200
                now_us = expires_at_us - 1
                assert (await worker.check(secret)).status_code == 200
                for late_us in (0, 1, 10**15):
                    now_us = expires_at_us + late_us
                    response = await worker.check(secret)
                    assert response.status_code == 401
                    assert response.headers["x-quotas-reason"] == "expired_credential"
                    assert 'error="invalid_token"' in response.headers["www-authenticate"]
                    assert response.headers["x-quotas-client"] == ""

        asyncio.run(work())


class TestSuspension:
    def test_suspended_is_refused_and_resumed_passes_at_once(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                secret = await workers[0].key(plan="small")
                for _ in range(2):
                    assert await statuses(workers, secret) == [200, 200]
                    await workers[0].clients.suspend("acme")
                    assert await statuses(workers, secret) == [403, 403]
                    assert await reasons(workers, secret) == ["suspended_client"] * 2
                    await workers[1].clients.resume("acme")
                assert await remaining(workers[0], secret) == 5

        asyncio.run(work())

    def test_a_suspended_client_is_still_named_to_the_upstream(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                secret = await worker.key(plan="small")
                await worker.clients.suspend("acme")
                response = await worker.check(secret)
                assert (response.headers["x-quotas-client"], response.headers["x-quotas-plan"]) == ("acme", "small")
                assert "ratelimit" not in response.headers

        asyncio.run(work())


class TestPlan:
    def test_another_plan_holds_from_the_next_check_on(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                secret = await workers[0].key(plan="small")
                await spend(workers[1], secret, 2)
                assert await remaining(workers[0], secret) == 7
                await workers[0].clients.set_plan("acme", "large")
                assert await remaining(workers[1], secret) == 96
                assert await remaining(workers[0], secret) == 95
                await workers[1].clients.set_plan("acme", "small")
                assert await remaining(workers[0], secret) == 4

        asyncio.run(work())

    def test_a_downgrade_below_what_was_spent_shows_nothing_left(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                secret = await workers[0].key(plan="large")
                await spend(workers[1], secret, 35)
                await workers[0].clients.set_plan("acme", "small")
                response = await workers[1].check(secret)
                assert response.status_code == 429
                assert '"yearly";r=0;' in response.headers["ratelimit"]

        asyncio.run(work())


class TestBudget:
    def test_new_keys_are_no_refund(self, redis_url: str) -> None:
        """Case C16: a second key, and revoking all keys and making one, go on with what the client has left."""

        async def work() -> None:
            async with two_workers(redis_url) as workers:
                first = await workers[0].key(plan="small")
                clients = workers[0].clients
                await spend(workers[1], first, 7)
                second = await clients.issue_key("acme")
                assert await remaining(workers[0], second.secret) == 2
                for key in await clients.keys_of("acme"):
                    await clients.revoke_key(key.id)
                third = await clients.issue_key("acme")
                assert await remaining(workers[1], third.secret) == 1
                assert await remaining(workers[0], third.secret) == 0
                assert await statuses(workers, third.secret) == [429, 429]

        asyncio.run(work())

    def test_limits_per_key_count_apart_and_the_client_s_together(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                first = await workers[0].key(plan="each")
                second = (await workers[0].clients.issue_key("acme")).secret
                await spend(workers[0], first, 5)
                refused = await workers[1].check(first)
                assert refused.headers["x-quotas-limit"] == "per-key"
                await spend(workers[1], second, 3)
                refused = await workers[0].check(second)
                assert refused.headers["x-quotas-limit"] == "all"

        asyncio.run(work())


class TestDeletion:
    def test_a_deleted_client_is_refused_and_its_name_starts_anew(self, redis_url: str) -> None:
        async def work() -> None:
            async with two_workers(redis_url) as workers:
                old = await workers[0].key(plan="small")
                await spend(workers[1], old, 7)
                assert await statuses(workers, old) == [200, 200]
                await workers[0].clients.delete("acme")
                assert await reasons(workers, old) == ["invalid_credential"] * 2
                new = await workers[1].key(plan="small")
                assert await remaining(workers[0], new) == 9
                assert await reasons(workers, old) == ["invalid_credential"] * 2

        asyncio.run(work())

    def test_a_deleted_client_leaves_nothing_in_the_store(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                for plan in ("small", "each"):
                    await spend(worker, await worker.key(plan, plan), 3)
                    await worker.clients.delete(plan)
                    assert await holdings(worker.store) == {}

        asyncio.run(work())

    def test_a_revoked_key_leaves_nothing_in_the_store(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                await worker.clients.create("acme", "each")
                before = set(await holdings(worker.store))
                issued = await worker.clients.issue_key("acme")
                await spend(worker, issued.secret, 3)
                await worker.clients.revoke_key(issued.key.id)
                left = set(await holdings(worker.store)) - before
                assert [key for key in left if not key.endswith(b":state") and b":used:" not in key] == []

        asyncio.run(work())
