"""Who goes on asking although it was refused: the store is not asked, and nobody can tell by the answers."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
import jwt
import pytest
from timers import Timers

from quotas import app, checks
from quotas.keys import Environment
from quotas.news import LEASE_S, LISTENERS, Listener
from quotas.overrides import Override
from quotas.pace import Pace

from .conftest import Server
from .monitor import watched
from .timed import Clock, Timed, left, noon, timed, verdict

PATIENCE_S = 30
REMEMBERED = "quotas_refusals_remembered_total"
PLANS = """
plans:
  plan:
    limits:
      hourly: {rate: 1/hour, burst: 3}
      monthly: {quota: 1000/month}
      odd: {rate: 13 per 7 seconds, burst: 29}
  wide:
    limits:
      hourly: {rate: 100/hour, burst: 100}
  fast:
    limits:
      fifth: {rate: 5/second, burst: 1}
  daily:
    limits:
      day: {quota: 3/day}
  modes:
    limits:
      hourly: {rate: 1/hour, burst: 3}
      tried: {quota: 1/day, mode: shadow}
      billed: {quota: 1/day, mode: overage}
  tested:
    limits:
      hourly: {rate: 1/hour, burst: 50}
    test_plan: plan
anonymous: {plan: plan}
"""


async def remembered(worker: Timed) -> int:
    """How many checks this worker has refused from memory."""
    text = (await worker.http.get("/metrics")).text
    found = re.search(rf"^{REMEMBERED} (\S+)$", text, re.MULTILINE)
    assert found
    return int(float(found[1]))


Ask = Callable[[], Awaitable[httpx.Response]]


async def refused(worker: Timed, ask: Ask) -> httpx.Response:
    """Ask what is refused until it is refused from memory, and a worker listens by then."""
    before = await remembered(worker)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await ask()
            assert response.status_code == 429
            if await remembered(worker) > before:
                return response


async def exhausted(worker: Timed, plan: str = "plan", units: int = 3) -> str:
    """The secret of a new client that has nothing left, and that the worker refuses from memory."""
    secret = await worker.key(plan, plan)
    await worker.spend(secret, units)
    await refused(worker, lambda: worker.check(secret))
    return secret


async def takes(redis_url: str, work: Callable[[], Awaitable[object]]) -> int:
    """How many scripts the store is asked for meanwhile."""
    async with watched(redis_url) as commands:
        await work()
    return sum('"EVALSHA"' in command for command in commands)


@asynccontextmanager
async def one(redis_url: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Timed]:
    async with timed(redis_url, PLANS, clock or noon(), **settings) as worker:
        yield worker


@pytest.mark.parametrize("plan", ["plan", "daily"])
def test_the_store_is_not_asked_and_the_answers_are_its_own(redis_url: str, plan: str) -> None:
    """At each instant they are those of a worker that remembers nothing, on all faces, to the byte."""

    async def work() -> None:
        clock = noon()
        async with one(redis_url, clock) as worker, one(redis_url, clock, refusal_memory=False) as other:
            secret = await exhausted(worker, plan)
            for seconds in (0, 0.000_001, 0.3, 0.6, 0.05, 0.04):
                clock.go_on(seconds)
                for path in ("/check", "/check/nginx", "/check/envoy/a"):
                    for extra in ({}, {"x-quotas-cost": "2"}, {"x-quotas-cost": "999"}):
                        asked = {"x-api-key": secret, **extra}
                        before = await remembered(worker)
                        ours = await worker.http.get(path, headers=asked)
                        theirs = await other.http.get(path, headers=asked)
                        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
                        assert dict(ours.headers) | {"date": ""} == dict(theirs.headers) | {"date": ""}
                        assert await remembered(worker) == before + 1
            before = await remembered(worker)
            assert await takes(redis_url, lambda: asyncio.gather(*(worker.check(secret) for _ in range(20)))) == 0
            assert await remembered(worker) == before + 20
            clock.go_on(0.01)
            assert await takes(redis_url, lambda: worker.check(secret)) == 1
            assert await takes(redis_url, lambda: worker.check(secret)) == 0
            assert await remembered(other) == 0

    asyncio.run(work())


def test_it_counts_as_any_refusal_does(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quotas.refusals")

    async def work() -> None:
        clock = noon()
        async with one(redis_url, clock, log_refusals=1000) as worker:
            secret = await exhausted(worker)
            before = await worker.counted("quotas_checks_total")
            text = (await worker.http.get("/metrics")).text
            lines = len(caplog.records)
            for _ in range(7):
                await worker.check(secret)
            after = await worker.counted("quotas_checks_total")
            refusals = '{client="plan",outcome="rate_limited",plan="plan"}'
            assert after[refusals] == before[refusals] + 7
            assert len(caplog.records) == lines + 7
            assert vars(caplog.records[-1])["fields"]["limit"] == "hourly"
            both = (text, (await worker.http.get("/metrics")).text)
            for name, more in (("check", 7), ("store", 0)):
                seconds = rf'^quotas_{name}_duration_seconds_count(?:{{script="take"}})? (\S+)$'
                counts = [re.findall(seconds, each, re.MULTILINE)[0] for each in both]
                assert float(counts[1]) == float(counts[0]) + more
            units = await worker.counted("quotas_units_total")
            assert units['{client="plan",plan="plan"}'] == 3
        # A worker that ends has written its usage history.
        async with one(redis_url, clock) as worker:
            keys = await worker.store.call("KEYS", "q1:*:refused:*")
            words = await worker.store.call("HGETALL", keys[0])
            assert (len(keys), words[0].endswith(b":rate_limited")) == (1, True)
            assert int(words[1]) == after[refusals]

    asyncio.run(work())


def test_who_asks_again_at_once_waits_a_moment_and_nobody_else_does(redis_url: str) -> None:
    """What it is told then is what holds then, be it that it may pass."""

    async def work() -> None:
        clock, timers, stack = noon(), Timers(), AsyncExitStack()
        with patch.object(checks, "Pace", lambda: Pace(timers.later)):
            worker = await stack.enter_async_context(one(redis_url, clock))
        async with stack:
            other = await worker.key("other")
            secret = await exhausted(worker, "fast", 1)
            before = await remembered(worker)
            asked = [asyncio.create_task(worker.check(secret)) for _ in range(3)]
            for _ in range(3):
                assert (await worker.check(other)).status_code == 200
            assert (await remembered(worker), any(each.done() for each in asked)) == (before, False)
            timers.fire()
            assert [(await each).status_code for each in asked] == [429] * 3
            assert await remembered(worker) == before + 3

            late = asyncio.create_task(worker.check(secret))
            assert (await worker.check(other)).status_code == 429
            clock.go_on(0.2)
            assert not late.done()
            timers.fire()
            assert (await late).status_code == 200
            assert await remembered(worker) == before + 3
            timers.fire()

            assert (await worker.check(secret)).status_code == 429, "the store says so"
            assert (await worker.check(secret)).status_code == 429, "and then the worker, who has no pause now"
            assert await remembered(worker) == before + 4

    asyncio.run(work())


def test_who_asks_all_the_time_passes_at_the_very_instant(redis_url: str) -> None:
    """A check each millisecond of the clock, for two seconds: each fifth of a second one passes, at no moment later."""

    async def work() -> None:
        clock = noon()
        async with one(redis_url, clock) as worker:
            secret = await exhausted(worker, "fast", 1)
            before = await remembered(worker)
            passed = []
            for millisecond in range(1, 2001):
                clock.go_on(0.001)
                if (await worker.check(secret)).status_code == 200:
                    passed.append(millisecond)
            assert passed == list(range(200, 2001, 200))
            # The last millisecond of each wait is the store's, and each first refusal.
            assert await remembered(worker) - before >= 2000 - 3 * 11

    asyncio.run(work())


def test_a_smaller_cost_a_look_and_another_path_are_asked_about(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as worker:
            secret = await worker.key()
            await worker.spend(secret, 3)
            await refused(worker, lambda: worker.check(secret, cost=2))
            before = await remembered(worker)
            assert (await worker.check(secret, cost=1)).status_code == 429
            assert (await worker.check(secret, cost=0)).status_code == 200
            assert await remembered(worker) == before
            assert (await worker.check(secret, cost=3)).status_code == 429
            assert (await worker.http.get("/v1/usage", headers={"x-api-key": secret})).status_code == 200

    asyncio.run(work())


def test_while_something_is_left_each_check_is_the_store_s(redis_url: str) -> None:
    """Another worker may let a smaller cost pass, and the numbers are other ones then."""

    async def work() -> None:
        async with one(redis_url) as worker, one(redis_url) as other:
            await exhausted(worker)
            secret = await worker.key("acme")
            await worker.spend(secret, 1)
            for rest in (2, 1):
                for _ in range(3):
                    response = await worker.check(secret, cost=3)
                    assert (response.status_code, left(response)["hourly"]) == (429, rest)
                assert (await other.check(secret)).status_code == 200

    asyncio.run(work())


def test_a_check_that_may_be_a_repetition_is_asked_about(redis_url: str) -> None:
    plans = PLANS + "dedupe: {header: X-Request-ID, within: 5 s}\n"

    async def work() -> None:
        async with timed(redis_url, plans, noon()) as worker:
            secret = await worker.key()
            first = [("x-request-id", "one")]
            assert (await worker.check(secret, cost=3, extra=first)).status_code == 200
            await refused(worker, lambda: worker.check(secret))
            assert (await worker.check(secret, cost=3, extra=first)).status_code == 200
            before = await remembered(worker)
            assert (await worker.check(secret, extra=[("x-request-id", "two")])).status_code == 429
            assert await remembered(worker) == before

    asyncio.run(work())


def test_limits_that_refuse_nothing_count_on(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as worker:
            secret = await worker.key("modes", "modes")
            await worker.spend(secret, 3, at_once=1)
            await refused(worker, lambda: worker.check(secret))
            before = await worker.counted("quotas_shadow_refused_total")
            response = await worker.check(secret)
            assert left(response) == {"hourly": 0, "billed": 0}
            after = await worker.counted("quotas_shadow_refused_total")
            assert {name: count - before[name] for name, count in after.items()} == {'{limit="tried",plan="modes"}': 1}
            assert await worker.counted("quotas_overage_units_total") == {'{limit="billed",plan="modes"}': 2}

    asyncio.run(work())


def test_test_keys_on_a_test_plan_are_remembered_apart(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as worker:
            live = await worker.key("acme", "tested")
            test = (await worker.clients.issue_key("acme", environment=Environment.TEST)).secret
            await worker.spend(test, 3)
            await refused(worker, lambda: worker.check(test))
            assert left(await worker.check(live)) == {"hourly": 49}
            assert (await worker.check(test)).status_code == 429

    asyncio.run(work())


def test_an_address_is_remembered_and_no_other(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as worker:

            def ask(address: str) -> Awaitable[httpx.Response]:
                return worker.http.get("/check", headers={"x-forwarded-for": address})

            for _ in range(3):
                assert (await ask("203.0.113.1")).status_code == 200
            await refused(worker, lambda: ask("203.0.113.1"))
            assert (await ask("203.0.113.2")).status_code == 200
            assert await takes(redis_url, lambda: ask("203.0.113.1")) == 0

    asyncio.run(work())


CHANGES = ["plan", "limit", "suspend", "delete", "revoke", "rotate"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_counts_from_the_next_check_on_on_every_worker(redis_url: str, change: str) -> None:
    """An operator's, from another process, who was answered."""

    async def work() -> None:
        async with one(redis_url) as here, one(redis_url) as there:
            secret = await exhausted(here)
            await refused(there, lambda: there.check(secret))
            clients = here.clients
            (key,) = await clients.keys_of("plan")
            match change:
                case "plan":
                    await clients.set_plan("plan", "wide")
                case "limit":
                    await clients.set_limit("plan", "hourly", Override(burst=9))
                case "suspend":
                    await clients.suspend("plan")
                case "delete":
                    await clients.delete("plan")
                case "revoke":
                    await clients.revoke_key(key.id)
                case _:
                    await clients.rotate_key(key.id, 0)
            expected = {"plan": (429, None), "limit": (429, None), "suspend": (403, None)}.get(change, (401, None))
            answers = [await worker.check(secret) for worker in (here, there)]
            assert [answer.status_code for answer in answers] == [expected[0]] * 2
            if change in {"plan", "limit"}:
                policies = [answer.headers["ratelimit-policy"] for answer in answers]
                assert all(("q=100;" if change == "plan" else "q=9;") in policy for policy in policies)
            if change == "suspend":
                await clients.resume("plan")
                assert (await there.check(secret)).status_code == 429

    asyncio.run(work())


def test_a_refund_counts_from_the_next_check_on_here_and_soon_everywhere(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as here, one(redis_url) as there:
            secret = await exhausted(here)
            await refused(there, lambda: there.check(secret))
            body = {"client": "plan", "units": 2, "idempotency_key": "job"}
            assert (await here.http.post("/v1/refund", json=body)).status_code == 200
            assert (await here.check(secret)).status_code == 200
            async with asyncio.timeout(PATIENCE_S):
                while (await there.check(secret)).status_code != 200:
                    pass
            assert verdict(await here.check(secret)) == (429, 3600)
            # The same again gives nothing, and nobody needs to hear of it.
            notices = await here.store.call("XLEN", "q1:{news}")
            assert (await here.http.post("/v1/refund", json=body)).json()["repeated"]
            assert (await here.check(secret)).status_code == 429
            assert await here.store.call("XLEN", "q1:{news}") == notices

    asyncio.run(work())


def test_a_new_plan_file_counts_from_the_next_check_on(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as worker:
            secret = await exhausted(worker)
            worker.use(PLANS.replace("{rate: 1/hour, burst: 3}", "{rate: 2/hour, burst: 4}"))
            response = await worker.check(secret)
            assert verdict(response) == (429, 1800)
            assert '"hourly";q=4;' in response.headers["ratelimit-policy"]

    asyncio.run(work())


@pytest.mark.parametrize("claim", ["", "plan_claim: plan, "])
def test_a_token_is_remembered_unless_another_of_its_subject_may_claim_another_plan(
    redis_url: str, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the other plan the same bucket may fill faster."""
    key = "a secret of thirty-two bytes or more"
    monkeypatch.setenv("TEST_TOKEN_SECRET", key)
    issuer = "issuer: 'https://a.example', audience: [api], algorithms: [HS256], secret_env: TEST_TOKEN_SECRET"
    plans = f"{PLANS}issuers: [{{{issuer}, {claim}default_plan: plan}}]\n"
    clock = noon()
    now_s = clock.now_us // 1_000_000
    claims = {"iss": "https://a.example", "aud": "api", "sub": "ada", "iat": now_s, "exp": now_s + 600}
    token = jwt.PyJWT({"enforce_minimum_key_length": False}).encode(claims, key, "HS256")

    async def work() -> None:
        async with timed(redis_url, plans, clock) as worker:

            def ask() -> Awaitable[httpx.Response]:
                return worker.http.get("/check", headers={"authorization": f"Bearer {token}"})

            for _ in range(3):
                assert (await ask()).status_code == 200
            if claim:
                await exhausted(worker, "daily")  # This worker listens.
                before = await remembered(worker)
                for _ in range(3):
                    assert (await ask()).status_code == 429
                assert await remembered(worker) == before
            else:
                await refused(worker, ask)

    asyncio.run(work())


def test_without_the_store_it_lasts_as_long_as_the_lease(server: Server) -> None:
    async def work() -> None:
        seconds = 1000.0
        listens = partial(Listener, clock=lambda: seconds)
        with patch.object(app, "Listener", listens):
            async with one(server.url) as worker:
                secret = await exhausted(worker)
                server.kill()
                assert (await worker.check(secret)).status_code == 429
                seconds += LEASE_S
                assert (await worker.check(secret)).status_code == 503

    asyncio.run(work())


def test_turned_off_each_check_is_the_store_s_and_nobody_listens(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url, refusal_memory=False) as worker:
            secret = await worker.key()
            await worker.spend(secret, 3)

            async def three() -> None:
                for _ in range(3):
                    assert (await worker.check(secret)).status_code == 429

            assert await takes(redis_url, three) == 3
            assert await worker.store.call("EXISTS", LISTENERS) == 0

    asyncio.run(work())


def test_who_was_never_refused_makes_nobody_listen(redis_url: str) -> None:
    async def work() -> None:
        async with one(redis_url) as worker:
            secret = await worker.key()
            await worker.spend(secret, 2, at_once=1)
            assert (await worker.check(secret, cost=0)).status_code == 200
            assert await worker.store.call("EXISTS", LISTENERS) == 0

    asyncio.run(work())
