"""Usage histories under load: what four workers counted is what callers saw and the quota says, to the unit."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import orjson

from .processes import PATIENCE_S, Home, Serving, until

PLANS = """
plans:
  busy:
    limits:
      per-second: {rate: 300/second, burst: 40}
      monthly: {quota: 1200/month}
      yearly: {quota: 1000000/year}
  open:
    limits:
      yearly: {quota: 1000000/year}
"""
CALLERS = 24
CHECKS = 150
Counts = Counter[str]


def seen(status: int, headers: httpx.Headers, cost: int) -> Counts:
    """What one answer is in a history."""
    if status == 200:
        return Counter({"units": cost})
    reasons = {"rate_limited": "rate_limited", "quota_exceeded": "quota_exceeded", "cost_exceeds_limit": "never"}
    return Counter({reasons[headers["x-quotas-reason"]]: 1})


async def load(url: str, secrets: list[str], *, checks: int = CHECKS) -> list[Counts]:
    """What the callers of each secret saw of so many checks, at once and of different costs."""
    counted = [Counts() for _ in secrets]

    async def caller(number: int, http: httpx.AsyncClient) -> None:
        for check in range(checks):
            cost = (1, 1, 2, 1, 5, 41)[(number + check) % 6]
            headers = {"x-api-key": secrets[number % len(secrets)], "x-quotas-cost": f"{cost}"}
            answer = await http.get(f"{url}/check", headers=headers)
            counted[number % len(secrets)] += seen(answer.status_code, answer.headers, cost)

    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        await asyncio.gather(*(caller(number, http) for number in range(CALLERS)))
    return counted


def told(home: Home, client: str) -> Counts:
    """What the history of a client says."""
    history: dict[str, Any] = orjson.loads(home.good("usage", client, "--by", "month", "--json"))
    return Counts(units=history["units"], **history["refused"])


def used(serving: Serving, secret: str, limit: str) -> int:
    limits = httpx.get(f"{serving.url}/v1/usage", headers={"x-api-key": secret}, trust_env=False).json()["limits"]
    (found,) = [each for each in limits if each["name"] == limit]
    return int(found["limit"] - found["remaining"])


def test_the_history_is_the_counter_is_what_the_callers_saw(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plans(PLANS)
    with home.serving("--workers", "4") as serving:
        secrets = []
        for client, plan in (("acme", "busy"), ("bolt", "open")):
            home.create(client, plan)
            secrets.append(home.key(client))
        acme, bolt = asyncio.run(load(serving.url, secrets))
        assert acme.total() > acme["units"] > 0
        assert acme["quota_exceeded"]
        assert acme["never"] == CALLERS * CHECKS // 2 // 6
        until(lambda: +told(home, "acme") == +acme)
        assert +told(home, "bolt") == +bolt
        assert used(serving, secrets[0], "yearly") == acme["units"]
        assert used(serving, secrets[1], "yearly") == bolt["units"]
        for number, units in enumerate((30, 7)):
            words = ("--units", f"{units}", "--idempotency-key", f"{number}")
            home.good("refund", "acme", *words)
        assert told(home, "acme")["units"] == acme["units"] - 37 == used(serving, secrets[0], "yearly")
        assert "no usage history" not in serving.err()


def test_a_service_that_is_stopped_writes_what_it_has_counted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plans(PLANS)
    with home.serving("--workers", "2") as serving:
        home.create("acme", "busy")
        secret = home.key("acme")
        (acme,) = asyncio.run(load(serving.url, [secret], checks=30))
        assert acme["never"]
        assert serving.stop() == 0
    assert +told(home, "acme") == +acme
