"""Test keys on a plan of their own: with a state of their own, as exactly revoked as any key."""

import asyncio

import httpx
import pytest
from takes import keys_left

from quotas.keys import Environment
from quotas.overrides import Override

from .conftest import Server
from .monitor import watched
from .serving import service
from .timed import Timed, left, noon, timed

PLANS = """
plans:
  plan:
    limits:
      all: {rate: 0/second, burst: 100}
      each: {rate: 0/second, burst: 90, per: key}
    test_plan: sandbox
  sandbox:
    limits:
      all: {rate: 0/second, burst: 10}
      each: {rate: 0/second, burst: 9, per: key}
      batch: {rate: 0/second, burst: 5, match: {path: /batch}}
    test_plan: plan
    on_store_error: allow
  mirror:
    limits:
      all: {rate: 0/second, burst: 100}
    test_plan: mirror
  shared:
    limits:
      all: {rate: 0/second, burst: 100}
"""


async def keys(worker: Timed, plan: str = "plan", *environments: Environment) -> list[str]:
    """Secrets of a new client's live key and test key."""
    await worker.clients.create("acme", plan)
    return [
        (await worker.clients.issue_key("acme", environment=each)).secret
        for each in environments or (Environment.LIVE, Environment.TEST)
    ]


async def give(worker: Timed, **fields: object) -> httpx.Response:
    return await worker.http.post("/v1/refund", json={"client": "acme", "units": 2, "idempotency_key": "job", **fields})


def test_neither_takes_from_the_other(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            live, test = await keys(worker)
            await worker.spend(live, 30)
            answer = await worker.check(test, cost=4)
            assert answer.headers["x-quotas-plan"] == "sandbox"
            assert answer.headers["x-quotas-client"] == "acme"
            assert left(answer) == {"all": 6, "each": 5}
            answer = await worker.check(test, uri="/batch", cost=5)
            assert left(answer) == {"all": 1, "batch": 0, "each": 0}
            assert (await worker.check(test, cost=2)).status_code == 403
            answer = await worker.check(live)
            assert (answer.headers["x-quotas-plan"], left(answer)) == ("plan", {"all": 69, "each": 59})
            counted = await worker.counted("quotas_units_total")
            assert counted == {'{client="acme",plan="plan"}': 31.0, '{client="acme",plan="sandbox"}': 9.0}

    asyncio.run(work())


def test_a_plan_can_be_its_own_test_plan(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            live, test = await keys(worker, "mirror")
            await worker.spend(live, 30)
            await worker.spend(test, 10)
            assert [left(await worker.check(each, cost=0)) for each in (live, test)] == [{"all": 70}, {"all": 90}]

    asyncio.run(work())


def test_without_a_test_plan_they_share(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            live, test = await keys(worker, "shared")
            await worker.spend(live, 30)
            assert left(await worker.check(test)) == {"all": 69}

    asyncio.run(work())


def test_test_keys_share_what_is_counted_per_client(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            one, other = await keys(worker, "plan", Environment.TEST, Environment.TEST)
            await worker.spend(one, 4)
            assert left(await worker.check(other)) == {"all": 5, "each": 8}

    asyncio.run(work())


def test_a_test_plan_s_own_test_plan_is_not_followed_and_the_client_s_own_limits_are_not_its(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            live, test = await keys(worker)
            await worker.clients.set_limit("acme", "all", Override(burst=7))
            assert left(await worker.check(test)) == {"all": 9, "each": 8}
            assert left(await worker.check(live)) == {"all": 6, "each": 89}
            await worker.clients.set_plan("acme", "sandbox")
            answer = await worker.check(test)
            assert answer.headers["x-quotas-plan"] == "plan"

    asyncio.run(work())


@pytest.mark.parametrize("change", ["revoke", "rotate", "suspend", "delete", "move"])
def test_every_change_counts_from_the_next_check_on_also_when_only_test_keys_are_used(
    redis_url: str, change: str
) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as one, timed(redis_url, PLANS, noon()) as other:
            (test,) = await keys(one, "plan", Environment.TEST)
            assert [(await worker.check(test)).status_code for worker in (one, other)] == [200, 200]
            (key,) = await one.clients.keys_of("acme")
            match change:
                case "revoke":
                    await one.clients.revoke_key(key.id)
                case "rotate":
                    await one.clients.rotate_key(key.id, 0)
                case "suspend":
                    await one.clients.suspend("acme")
                case "delete":
                    await one.clients.delete("acme")
                    assert await keys_left(one.store) == []
                case _:
                    await one.clients.set_plan("acme", "shared")
            expected = {"suspend": 403, "move": 200}.get(change, 401)
            answers = [await worker.check(test) for worker in (one, other)]
            assert [answer.status_code for answer in answers] == [expected] * 2
            if change == "move":
                assert [left(answer) for answer in answers] == [{"all": 99}, {"all": 98}]

    asyncio.run(work())


def test_a_refund_goes_where_the_key_took_from(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            live, test = await keys(worker)
            for each in (live, test):
                await worker.spend(each, 5)
            found = {key.environment: key.id for key in await worker.clients.keys_of("acme")}
            answer = await give(worker, key_id=found[Environment.TEST])
            assert answer.json()["refunded"] == {"all": 2, "each": 2}
            assert left(await worker.check(test, cost=0)) == {"all": 7, "each": 6}
            assert left(await worker.check(live, cost=0)) == {"all": 95, "each": 85}
            answer = await give(worker, key_id=found[Environment.LIVE], idempotency_key="2")
            assert answer.json()["refunded"] == {"all": 2, "each": 2}
            assert left(await worker.check(test, cost=0)) == {"all": 7, "each": 6}
            assert left(await worker.check(live, cost=0)) == {"all": 97, "each": 87}
            assert (await give(worker, idempotency_key="3")).json()["refunded"] == {"all": 2}
            assert left(await worker.check(live, cost=0)) == {"all": 99, "each": 87}

    asyncio.run(work())


def test_no_guess_gives_live_units_back(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            live, _ = await keys(worker)
            await worker.clients.create("other", "plan")
            strange = (await worker.clients.issue_key("other", environment=Environment.TEST)).key.id
            await worker.spend(live, 5)
            gone = (await worker.clients.issue_key("acme", environment=Environment.TEST)).key.id
            await worker.clients.revoke_key(gone)
            for key_id in (gone, strange, "key_none"):
                answer = await give(worker, key_id=key_id)
                assert answer.status_code == 404
            assert left(await worker.check(live, cost=0)) == {"all": 95, "each": 85}
            assert (await give(worker)).json()["refunded"] == {"all": 2}

    asyncio.run(work())


def test_a_warm_test_key_costs_one_command(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            _, test = await keys(worker)
            await worker.check(test)
            async with watched(redis_url) as commands:
                assert (await worker.check(test)).status_code == 200
            (command,) = commands
            assert '"EVALSHA"' in command
            assert ':test"' in command

    asyncio.run(work())


def test_the_test_plan_says_what_happens_without_a_store(server: Server) -> None:
    async def work() -> None:
        async with service(server.url, PLANS, timeout_ms=50) as worker:
            await worker.clients.create("acme", "plan")
            live, test = [
                (await worker.clients.issue_key("acme", environment=each)).secret
                for each in (Environment.LIVE, Environment.TEST)
            ]
            async with asyncio.timeout(30):
                for secret in (live, test):
                    while (await worker.check(secret)).status_code != 200:  # A slow machine misses the deadline.
                        await asyncio.sleep(0.01)
            server.stall()
            assert (await worker.check(live)).status_code == 503
            answer = await worker.check(test)
            assert (answer.status_code, answer.headers["x-quotas-plan"]) == (200, "sandbox")
            server.go_on()

    asyncio.run(work())
