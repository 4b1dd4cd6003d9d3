"""Exactly what a plan gives, however many ask at once."""

import asyncio
from collections import Counter

import httpx
import pytest

from .serving import Service, service

PLANS = """
plans:
  both:
    limits:
      bucket: {rate: 0/second, burst: 5}
      yearly: {quota: 1/year}
  fast:
    limits:
      bucket: {rate: 3/second, burst: 1}
"""


async def at_once(worker: Service, secret: str, times: int) -> list[httpx.Response]:
    return await asyncio.gather(*(worker.check(secret) for _ in range(times)))


def statuses(responses: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(response.status_code for response in responses))


def test_of_15_calls_on_a_burst_of_10_exactly_10_pass(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            responses = await at_once(worker, await worker.key(plan="free"), 15)
            assert statuses(responses) == {200: 10, 429: 5}
            assert {one.headers["retry-after"] for one in responses if one.status_code == 429} == {"1"}
            left = [one.headers["ratelimit"] for one in responses if one.status_code == 200]
            assert sorted(left) == [f'"per-second";r={rest};t=1' for rest in range(10)]

    asyncio.run(work())


def test_of_500_calls_on_a_burst_of_100_exactly_100_pass(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as one, service(redis_url) as other:
            secret = await one.key(plan="slow")
            halves = await asyncio.gather(at_once(one, secret, 250), at_once(other, secret, 250))
            responses = [*halves[0], *halves[1]]
            assert statuses(responses) == {200: 100, 429: 400}
            assert all(3_590 <= int(one.headers.get("retry-after", 3_600)) <= 3_600 for one in responses)

    asyncio.run(work())


def test_a_crowd_is_neither_refused_nor_failed_by_the_connection(redis_url: str) -> None:
    """Cases C13 (B) and C15 (3): what a rate of zero has given is never given again."""

    async def work() -> None:
        async with service(redis_url) as worker:
            responses = await at_once(worker, await worker.key(plan="once"), 100)
            assert statuses(responses) == {200: 10, 403: 90}
            assert not any("retry-after" in response.headers for response in responses)

    asyncio.run(work())


def test_a_refusal_charges_no_limit(redis_url: str) -> None:
    """Case C02 (3): the bucket keeps what the quota refuses."""

    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            secret = await worker.key(plan="both")
            responses = [await worker.check(secret) for _ in range(10)]
            assert statuses(responses) == {200: 1, 429: 9}
            assert {one.headers["x-quotas-reason"] for one in responses[1:]} == {"quota_exceeded"}
            assert {one.headers["x-quotas-limit"] for one in responses[1:]} == {"yearly"}
            assert all(one.headers["ratelimit"].startswith('"bucket";r=4, "yearly";r=0;t=') for one in responses)

    asyncio.run(work())


@pytest.mark.parametrize("times", [2, 5])
def test_a_fast_bucket_limits(redis_url: str, times: int) -> None:
    """Case C15 (2): a state that rounded to whole seconds would switch this limit off."""

    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            responses = await at_once(worker, await worker.key(plan="fast"), times)
            assert statuses(responses) == {200: 1, 429: times - 1}

    asyncio.run(work())
