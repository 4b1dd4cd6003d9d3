"""Tokens over HTTP: a subject is a client of its own, on the same plans and limits as clients with keys."""

import asyncio
import time
from typing import Any

import jwt
import pytest
from redis.asyncio import Redis

from quotas.news import LISTENERS

from .serving import Service, service

SECRET = "a secret of thirty-two bytes or more"
ISSUER = "https://id.example.com"
PLANS = """
plans:
  free: {limits: {hourly: {rate: 1/hour, burst: 10}}}
  pro: {limits: {hourly: {rate: 1/hour, burst: 100}}}
issuers:
  - issuer: https://id.example.com
    audience: [api]
    algorithms: [HS256]
    secret_env: TEST_TOKEN_SECRET
    plan_claim: plan
    default_plan: free
"""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN_SECRET", SECRET)


def token(key: str = SECRET, **claims: Any) -> str:
    now_s = int(time.time())  # What a token must say; no assertion depends on it.
    payload = {"iss": ISSUER, "aud": "api", "sub": "ada", "iat": now_s, "exp": now_s + 600, **claims}
    given = {name: value for name, value in payload.items() if value is not None}
    return jwt.PyJWT({"enforce_minimum_key_length": False}).encode(given, key, "HS256")


async def ask(worker: Service, credential: str) -> tuple[int, str, str, str]:
    """Status, client, plan and reason of a check with a token."""
    answer = await worker.http.get("/check", headers={"authorization": f"Bearer {credential}"})
    names = ("x-quotas-client", "x-quotas-plan", "x-quotas-reason")
    client, plan, reason = (answer.headers.get(name, "") for name in names)
    return answer.status_code, client, plan, reason


def test_a_subject_is_a_client_on_the_default_plan_and_its_tokens_share_its_limits(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as one, service(redis_url, PLANS) as other:
            for left, (worker, given) in enumerate([(one, token()), (other, token(jti="2")), (one, token())]):
                answer = await worker.http.get("/check", headers={"authorization": f"Bearer {given}"})
                assert answer.status_code == 200
                assert answer.headers["x-quotas-client"] == "ada@id.example.com"
                assert answer.headers["x-quotas-subject"] == "ada"
                assert answer.headers["ratelimit"].startswith(f'"hourly";r={9 - left};')
            assert (await ask(one, token(sub="bob")))[1] == "bob@id.example.com"

    asyncio.run(work())


def test_the_plan_claim_chooses_the_plan(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            assert (await ask(worker, token(plan="pro")))[2] == "pro"
            assert (await ask(worker, token()))[2] == "free"
            assert (await ask(worker, token(plan="gold")))[2] == "free"

    asyncio.run(work())


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": [1]},
        {"exp": 10**50},
        {"sub": 1234},
        {"sub": ""},
        {"sub": None},
        {"iss": "https://id.example.com/"},
        {"aud": "API"},
        {"aud": []},
        {"nbf": 10**10},
        {"cnf": {"jkt": "x"}},
    ],
)
def test_what_is_wrong_with_a_token_is_401(redis_url: str, claims: dict[str, Any]) -> None:
    """Cases C03 and C26."""

    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            status, client, plan, reason = await ask(worker, token(**claims))
            assert (status, client, plan) == (401, "", "")
            assert reason == ("expired_credential" if claims == {"exp": 1} else "invalid_credential")
            assert await worker.store.call("DBSIZE") == 0

    asyncio.run(work())


@pytest.mark.parametrize("credential", ["foo", "a.b", "null", "a.b.c", "e30.e30.e30", "a.b.c.d.e", token("x" * 40)])
def test_what_is_no_token_of_ours_is_401(redis_url: str, credential: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            assert await ask(worker, credential) == (401, "", "", "invalid_credential")

    asyncio.run(work())


def test_without_issuers_a_token_is_like_any_unknown_credential(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            assert await ask(worker, token()) == (401, "", "", "invalid_credential")

    asyncio.run(work())


def test_a_subject_without_a_plan_is_403_and_leaves_nothing(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS.replace("    default_plan: free\n", "")) as worker:
            assert await ask(worker, token()) == (403, "", "", "no_plan")
            assert set(await worker.store.call("KEYS", "*")) <= {LISTENERS.encode()}

    asyncio.run(work())


def test_suspending_and_deleting_its_client_holds_for_every_worker_at_once(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as one, service(redis_url, PLANS) as other:
            given = token()
            for _ in range(4):
                assert [(await ask(worker, given))[0] for worker in (one, other)] == [200, 200]
            await one.clients.suspend("ada@id.example.com")
            assert [(await ask(worker, given))[3] for worker in (one, other)] == ["suspended_client"] * 2
            await one.clients.resume("ada@id.example.com")
            assert (await ask(other, given))[0] == 200
            await one.clients.delete("ada@id.example.com")
            answer = await other.http.get("/check", headers={"authorization": f"Bearer {given}"})
            assert answer.headers["ratelimit"].startswith('"hourly";r=9;')

    asyncio.run(work())


def test_a_name_that_a_client_has_already_is_not_shared(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            await worker.key("ada@id.example.com", "pro")
            status, client, plan, _ = await ask(worker, token())
            assert (status, plan) == (200, "free")
            assert client.endswith("@id.example.com")
            assert client != "ada@id.example.com"

    asyncio.run(work())


def test_a_warm_token_costs_one_command(redis_url: str) -> None:
    async def calls(url: str) -> int:
        async with Redis.from_url(url) as redis:
            return int((await redis.info("commandstats"))["cmdstat_evalsha"]["calls"])

    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            given = token(plan="pro")
            await ask(worker, given)
            before = await worker.store.call("INFO", "commandstats")
            count = await calls(redis_url)
            for _ in range(20):
                assert (await ask(worker, given))[0] == 200
            after = await worker.store.call("INFO", "commandstats")
            assert await calls(redis_url) == count + 20
            for command in (b"cmdstat_hgetall", b"cmdstat_hmget"):
                assert _calls(after, command) == _calls(before, command)

    asyncio.run(work())


def _calls(stats: bytes, command: bytes) -> bytes:
    return stats.partition(command + b":calls=")[2].partition(b",")[0]
