"""Checks that a gateway sends twice: charged once, answered alike, and never taken for one another."""

import asyncio

import httpx
import pytest

from .monitor import watched
from .serving import PLANS as OTHER_PLANS
from .timed import Timed, left, noon, timed, verdict

PLANS = """
dedupe: {header: X-Request-ID, within: 5 s}
plans:
  plan:
    limits:
      units: {quota: 100/day}
      search: {quota: 50/day, match: {path: /search}}
    costs:
      - {path: /dear, cost: 10}
  single:
    limits:
      one: {rate: 1/second, burst: 1}
  over:
    limits:
      over: {quota: 1/day, mode: overage}
      shadow: {quota: 1/day, mode: shadow}
"""


async def sent(worker: Timed, secret: str, request_id: str, method: str = "GET", uri: str = "/") -> httpx.Response:
    return await worker.check(secret, method, uri, extra=[("x-request-id", request_id)])


async def charged(worker: Timed, secret: str) -> int:
    """Units of `units` that are gone."""
    return 100 - left(await worker.check(secret, cost=0))["units"]


def test_the_second_of_two_is_charged_nothing_and_answered_like_the_first(redis_url: str) -> None:
    clock = noon()

    async def work() -> None:
        async with timed(redis_url, PLANS, clock) as worker:
            secret = await worker.key()
            first = await sent(worker, secret, "a", uri="/dear")
            clock.go_on(4.999999)
            again = await sent(worker, secret, "a", uri="/dear")
            assert (again.status_code, again.headers.raw, again.content) == (200, first.headers.raw, b"")
            assert await charged(worker, secret) == 10
            clock.go_on(0.000001)
            assert left(await sent(worker, secret, "a", uri="/dear")) == {"units": 80}

    asyncio.run(work())


def test_what_differs_in_anything_is_another_check(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            other = (await worker.clients.issue_key("acme")).secret
            await sent(worker, secret, "a")
            for number, different in enumerate(
                [
                    sent(worker, secret, "A"),
                    sent(worker, secret, "a", "POST"),
                    sent(worker, secret, "a", uri="/?"),
                    sent(worker, secret, "a", uri="/search"),
                    sent(worker, other, "a"),
                    worker.check(secret, "GET", "/", extra=[("x-request-id", "a"), ("x-quotas-cost", "3")]),
                ]
            ):
                gone = await charged(worker, secret)
                assert (await different).status_code == 200
                assert await charged(worker, secret) == gone + (3 if number == 5 else 1)
            stranger = await worker.key("stranger")
            await sent(worker, stranger, "a")
            assert await charged(worker, stranger) == 1

    asyncio.run(work())


@pytest.mark.parametrize("extra", [[], [("x-request-id", "")], [("x-request-id", " ")]], ids=["none", "empty", "blank"])
def test_without_an_id_every_check_is_charged(redis_url: str, extra: list[tuple[str, str]]) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            for _ in range(3):
                await worker.check(secret, extra=extra)
            assert await charged(worker, secret) == 3

    asyncio.run(work())


def test_without_the_option_an_id_means_nothing(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, OTHER_PLANS, noon()) as worker:
            secret = await worker.key(plan="slow")
            twice = [("x-request-id", "a"), ("x-request-id", "a")]
            assert [left(await worker.check(secret, extra=twice))["hourly"] for _ in range(2)] == [99, 98]

    asyncio.run(work())


def test_two_ids_are_malformed_and_charged_nothing(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            response = await worker.check(secret, extra=[("x-request-id", "a"), ("x-request-id", "a")])
            assert (response.status_code, response.json()["reason"]) == (400, "invalid_request")
            assert await charged(worker, secret) == 0

    asyncio.run(work())


def test_a_refusal_is_asked_again(redis_url: str) -> None:
    clock = noon()

    async def work() -> None:
        async with timed(redis_url, PLANS, clock) as worker:
            secret = await worker.key(plan="single")
            assert verdict(await sent(worker, secret, "a")) == (200, None)
            assert verdict(await sent(worker, secret, "b")) == (429, 1)
            assert verdict(await sent(worker, secret, "a")) == (200, None)
            clock.go_on(1)
            assert verdict(await sent(worker, secret, "b")) == (200, None)
            assert verdict(await sent(worker, secret, "b")) == (200, None)
            assert verdict(await sent(worker, secret, "c")) == (429, 1)

    asyncio.run(work())


def test_a_revoked_key_is_not_answered_from_memory(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            assert (await sent(worker, secret, "a")).status_code == 200
            (key,) = await worker.clients.keys_of("acme")
            await worker.clients.revoke_key(key.id)
            assert (await sent(worker, secret, "a")).status_code == 401

    asyncio.run(work())


def test_under_another_plan_a_check_is_another(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            assert left(await sent(worker, secret, "a")) == {"units": 99}
            worker.use(PLANS.replace("{quota: 100/day}", "{rate: 1/hour, burst: 7}"))
            assert left(await sent(worker, secret, "a")) == {"units": 6}
            worker.use(PLANS.replace("{path: /search}", "{methods: [GET]}"))
            assert left(await sent(worker, secret, "a")) == {"units": 98, "search": 49}

    asyncio.run(work())


def test_a_repetition_counts_as_an_answer_and_not_as_units(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key("acme", "over")
            for request_id in ("a", "b", "b", "b"):
                assert (await sent(worker, secret, request_id)).status_code == 200
            assert await worker.counted("quotas_checks_total") == {'{client="acme",outcome="allowed",plan="over"}': 4}
            assert await worker.counted("quotas_units_total") == {'{client="acme",plan="over"}': 2}
            assert await worker.counted("quotas_overage_units_total") == {'{limit="over",plan="over"}': 1}
            assert await worker.counted("quotas_shadow_refused_total") == {'{limit="shadow",plan="over"}': 1}

    asyncio.run(work())


def test_callers_without_a_credential_are_told_apart_by_their_address(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS + "anonymous: {plan: plan}\n", noon()) as worker:

            async def units(http: httpx.AsyncClient, request_id: str) -> int:
                return left(await http.get("/check", headers={"x-request-id": request_id}))["units"]

            assert [await units(worker.http, each) for each in ("a", "a", "b")] == [99, 99, 98]
            assert [await units(worker.stranger, each) for each in ("a", "b", "b")] == [99, 98, 98]

    asyncio.run(work())


def test_many_at_once_are_charged_once(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as one, timed(redis_url, PLANS, noon()) as two:
            secret = await one.key()
            answers = await asyncio.gather(*(sent((one, two)[n % 2], secret, "a") for n in range(20)))
            assert {left(answer)["units"] for answer in answers} == {99}
            assert await charged(one, secret) == 1

    asyncio.run(work())


def test_it_is_still_one_command_for_each_check(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            await sent(worker, secret, "warm")
            async with watched(redis_url) as commands:
                await sent(worker, secret, "a")
                await sent(worker, secret, "a")
            assert len([command for command in commands if "EVALSHA" in command.upper()]) == len(commands) == 2

    asyncio.run(work())
