"""What operators watch: health, readiness, counters, and what a check costs the store."""

import asyncio

import pytest

from .monitor import watched
from .serving import samples, service

PLANS = """
plans:
  many:
    limits:
      per-second: {rate: 1000000/second}
      per-minute: {rate: 1000000/minute}
      per-key: {rate: 1000000/second, per: key}
      daily: {quota: 1000000/day}
      monthly: {quota: 1000000/month, timezone: America/New_York, anchor_day: 15}
  one:
    limits:
      per-second: {rate: 1000000/second}
"""


def test_health_and_readiness(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            health, ready = await worker.http.get("/healthz"), await worker.http.get("/readyz")
            assert (health.status_code, health.json()["status"]) == (200, "ok")
            assert (ready.status_code, ready.json()["status"]) == (200, "ready")
            assert (await worker.http.head("/healthz")).status_code == 200

    asyncio.run(work())


def test_every_check_is_counted_once_under_its_outcome(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            secret = await worker.key("acme", "once")
            suspended = await worker.key("idle", "free")
            await worker.clients.suspend("idle")
            await asyncio.gather(*(worker.check(secret) for _ in range(13)))
            await asyncio.gather(*(worker.check("junk") for _ in range(4)))
            await worker.http.get("/check")
            await worker.check(suspended)
            response = await worker.http.get("/metrics")
            assert response.headers["content-type"].startswith("text/plain; version=")
            assert samples(response.text, "quotas_checks_total") == {
                '{client="acme",outcome="allowed",plan="once"}': 10,
                '{client="acme",outcome="never",plan="once"}': 3,
                '{client="idle",outcome="forbidden",plan="free"}': 1,
                '{client="unknown",outcome="unauthenticated",plan=""}': 5,
            }
            assert samples(response.text, "quotas_units_total") == {'{client="acme",plan="once"}': 10}
            assert "quotas_check_duration_seconds_count 19.0" in response.text.splitlines()
            assert list(samples(response.text, "quotas_build_info").values()) == [1]

    asyncio.run(work())


@pytest.mark.parametrize("plan", ["one", "many"])
def test_a_warm_check_is_one_command(redis_url: str, plan: str) -> None:
    """One EVALSHA each, whatever the number of limits."""

    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            secret = await worker.key(plan=plan)
            assert (await worker.check(secret)).status_code == 200
            async with watched(redis_url) as commands:
                for _ in range(100):
                    assert (await worker.check(secret)).status_code == 200
            assert len(commands) == 100
            assert all('"EVALSHA"' in command for command in commands)

    asyncio.run(work())


def test_a_malformed_key_asks_the_store_nothing(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            assert (await worker.http.get("/readyz")).status_code == 200  # What a start asks has been asked.
            async with watched(redis_url) as commands:
                for secret in ("junk", "quotas_live_junk", "é"):
                    response = await worker.http.get("/check", headers=[(b"x-api-key", secret.encode())])
                    assert response.status_code == 401
            assert commands == []

    asyncio.run(work())
