"""Self-service over HTTP: what is left, and the client's keys, for who holds a credential and no further."""

import asyncio
import time
from typing import Any
from unittest.mock import patch

import httpx
import jwt
import pytest

from quotas.errors import StoreUnavailableError
from quotas.holders import Alias
from quotas.keys import Environment
from quotas.links import Link

from .serving import Service, service
from .timed import noon

SECRET = "a secret of thirty-two bytes or more"
ISSUER = "https://id.example.com"
PLANS = """
plans:
  free:
    test_plan: sandbox
    limits:
      per-second: {rate: 5/second, burst: 100}
      monthly: {quota: 1000/month}
      each: {rate: 1/hour, burst: 20, per: key}
      search: {rate: 1/hour, burst: 7, match: {path: /search/*}}
      tried: {rate: 1/hour, burst: 1, mode: shadow}
    costs:
      - {path: /v1/keys/*, cost: 3}
  sandbox: {limits: {hourly: {rate: 1/hour, burst: 4}}}
  tight: {limits: {once: {rate: 1/hour, burst: 2}}}
  reading: {required_scopes: [read], limits: {once: {rate: 0/second, burst: 2}}}
  lenient: {limits: {once: {rate: 0/second, burst: 9}}, on_store_error: allow}
credentials: {cookie: session}
anonymous: {plan: free}
issuers:
  - {issuer: "https://id.example.com", audience: [api], algorithms: [HS256], secret_env: TEST_TOKEN_SECRET,
     default_plan: free}
"""
MANAGE = ("self:manage",)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN_SECRET", SECRET)


def token(**claims: Any) -> str:
    now_s = int(time.time())  # What a token must say; no assertion depends on it.
    payload = {"iss": ISSUER, "aud": "api", "sub": "ada", "iat": now_s, "exp": now_s + 600, **claims}
    return jwt.PyJWT({"enforce_minimum_key_length": False}).encode(payload, SECRET, "HS256")


async def ask(worker: Service, method: str, path: str, credential: str, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {credential}"}
    return await worker.http.request(method, path, headers=headers, **options)


async def key(worker: Service, client: str = "acme", plan: str = "free", **options: Any) -> tuple[str, str]:
    """Id and secret of a new key, with `self:manage` unless another scope is named."""
    if client not in {each.name for each in await worker.clients.all()}:
        await worker.clients.create(client, plan)
    issued = await worker.clients.issue_key(client, **{"scopes": MANAGE, **options})
    return issued.key.id, issued.secret


def left(answer: httpx.Response) -> dict[str, int]:
    return {limit["name"]: limit["remaining"] for limit in answer.json()["limits"]}


class TestUsage:
    def test_every_limit_with_what_is_left_and_when_more_comes(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS, clock=noon()) as worker:
                key_id, secret = await key(worker, scopes=())
                for _ in range(3):
                    await worker.check(secret)
                answer = await ask(worker, "GET", "/v1/usage", secret)
                assert answer.status_code == 200
                body = answer.json()
                assert (body["client"], body["plan"], body["subject"]) == ("acme", "free", key_id)
                limits = {limit.pop("name"): limit for limit in body["limits"]}
                assert list(limits) == ["per-second", "monthly", "search", "each"]
                assert limits["monthly"]["kind"] == "quota"
                assert (limits["monthly"]["limit"], limits["monthly"]["remaining"]) == (1000, 997)
                assert limits["monthly"]["reset_at"].endswith("-01T00:00:00Z")
                assert limits["search"] | {"reset_at": None} == {
                    "kind": "bucket",
                    "per": "client",
                    "limit": 7,
                    "remaining": 7,
                    "reset_at": None,
                    "reset_after_seconds": 0,
                }
                assert (limits["each"]["per"], limits["each"]["remaining"]) == ("key", 17)
                assert answer.headers["cache-control"] == "no-store"
                assert '"monthly";r=997' in answer.headers["ratelimit"]

        asyncio.run(work())

    def test_it_takes_nothing_and_is_told_to_who_has_nothing_left(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                _, secret = await key(worker, plan="tight", scopes=())
                for _ in range(3):
                    assert left(await ask(worker, "GET", "/v1/usage", secret)) == {"once": 2}
                await worker.check(secret)
                await worker.check(secret)
                assert (await worker.check(secret)).status_code == 429
                answer = await ask(worker, "GET", "/v1/usage", secret)
                assert (answer.status_code, left(answer)) == (200, {"once": 0})
                head = await ask(worker, "HEAD", "/v1/usage", secret)
                assert (head.status_code, head.content) == (200, b"")

        asyncio.run(work())

    def test_of_a_token_and_of_a_test_key(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                answer = await ask(worker, "GET", "/v1/usage", token())
                assert answer.json()["client"] == "ada@id.example.com"
                _, secret = await key(worker, environment=Environment.TEST)
                await worker.check(secret)
                answer = await ask(worker, "GET", "/v1/usage", secret)
                assert (answer.json()["plan"], left(answer)) == ("sandbox", {"hourly": 3})

        asyncio.run(work())

    @pytest.mark.parametrize("path", ["/v1/usage", "/v1/keys"])
    def test_without_a_credential_nobody_is_told_anything(self, redis_url: str, path: str) -> None:
        """Not even where callers without one are served by their address, and not by a cookie."""

        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                _, secret = await key(worker)
                for headers in ({}, {"cookie": f"session={secret}"}, {"x-forwarded-for": "203.0.113.9"}):
                    answer = await worker.http.get(path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"].startswith("Bearer ")
                    assert answer.json()["reason"] == "missing_credential"
                assert (await worker.http.get("/check", headers={"cookie": f"session={secret}"})).status_code == 200
                assert (await ask(worker, "GET", path, secret[:-1] + "!")).json()["reason"] == "invalid_credential"
                await worker.clients.suspend("acme")
                assert (await ask(worker, "GET", path, secret)).json()["reason"] == "suspended_client"

        asyncio.run(work())

    def test_what_the_plan_asks_for_is_needed_here_as_well(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                _, without = await key(worker, plan="reading")
                _, reader = await key(worker, scopes=("read",))
                assert (await ask(worker, "GET", "/v1/usage", without)).json()["reason"] == "insufficient_scope"
                assert (await ask(worker, "GET", "/v1/usage", reader)).status_code == 200

        asyncio.run(work())

    def test_a_cost_that_somebody_claims_is_not_taken(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                _, secret = await key(worker, plan="tight")
                headers = {"authorization": f"Bearer {secret}", "x-quotas-cost": "2"}
                for path in ("/v1/usage", "/v1/keys"):
                    assert (await worker.http.get(path, headers=headers)).status_code == 200
                assert left(await ask(worker, "GET", "/v1/usage", secret)) == {"once": 1}

        asyncio.run(work())


class TestKeys:
    def test_list_rotate_and_revoke(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                own_id, own = await key(worker, name="own")
                other_id, other = await key(worker, name="other", scopes=())
                listed = await ask(worker, "GET", "/v1/keys", own)
                assert listed.status_code == 200
                assert [(each["id"], each["name"]) for each in listed.json()["keys"]] == [
                    (own_id, "own"),
                    (other_id, "other"),
                ]
                assert own not in listed.text
                made = await ask(worker, "POST", f"/v1/keys/{other_id}/rotate", own, json={"grace_seconds": 0})
                assert made.status_code == 201
                assert made.headers["cache-control"] == "no-store"
                assert (await worker.check(other)).status_code == 401
                assert (await worker.check(made.json()["key"])).status_code == 200
                gone = await ask(worker, "DELETE", f"/v1/keys/{made.json()['id']}", own)
                assert (gone.status_code, gone.content) == (204, b"")
                assert (await worker.check(made.json()["key"])).status_code == 401
                # Its own, too; then it is over.
                assert (await ask(worker, "DELETE", f"/v1/keys/{own_id}", own)).status_code == 204
                assert (await ask(worker, "GET", "/v1/keys", own)).status_code == 401

        asyncio.run(work())

    def test_it_needs_the_scope(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                key_id, secret = await key(worker, scopes=("read",))
                calls = [("GET", "/v1/keys"), ("POST", f"/v1/keys/{key_id}/rotate"), ("DELETE", f"/v1/keys/{key_id}")]
                for credential in (secret, token(), token(scope="read", jti="1")):
                    for method, path in calls:
                        answer = await ask(worker, method, path, credential)
                        assert (answer.status_code, answer.json()["reason"]) == (403, "insufficient_scope")
                        assert 'scope="self:manage"' in answer.headers["www-authenticate"]
                assert (await worker.check(secret)).status_code == 200

        asyncio.run(work())

    def test_a_token_with_the_scope_manages_the_keys_of_the_client_it_is_an_alias_of(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                key_id, _ = await key(worker, scopes=())
                given = token(scope="openid self:manage")
                assert (await ask(worker, "GET", "/v1/keys", given)).json() == {"keys": []}
                await worker.clients.add_alias("acme", Alias(ISSUER, "ada"))
                listed = (await ask(worker, "GET", "/v1/keys", given)).json()["keys"]
                assert [each["id"] for each in listed] == [key_id]

        asyncio.run(work())

    def test_another_clients_key_is_like_none(self, redis_url: str) -> None:
        """Case C36."""

        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                _, mine = await key(worker)
                theirs_id, theirs = await key(worker, client="globex", plan="free")
                for key_id in (theirs_id, "key_0000000000aaaa", "%F0%9F%91%8D", "a%2Fb"):
                    for method, path in (("DELETE", f"/v1/keys/{key_id}"), ("POST", f"/v1/keys/{key_id}/rotate")):
                        answer = await ask(worker, method, path, mine)
                        assert answer.status_code in {404, 429}
                assert (await worker.check(theirs)).status_code == 200

        asyncio.run(work())

    def test_nobody_comes_by_more_than_it_has(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                own_id, own = await key(worker)
                strong_id, strong = await key(worker, scopes=("admin", "self:manage"))
                refused = await ask(worker, "POST", f"/v1/keys/{strong_id}/rotate", own)
                assert (refused.status_code, refused.json()["reason"]) == (403, "insufficient_scope")
                assert "admin" in refused.headers["www-authenticate"]
                assert (await ask(worker, "POST", f"/v1/keys/{own_id}/rotate", strong)).status_code == 201
                assert len(await worker.clients.keys_of("acme")) == 3

        asyncio.run(work())

    def test_a_test_key_sees_test_keys_alone(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                live_id, live = await key(worker)
                test_id, test = await key(worker, environment=Environment.TEST)
                assert [each["id"] for each in (await ask(worker, "GET", "/v1/keys", test)).json()["keys"]] == [test_id]
                assert len((await ask(worker, "GET", "/v1/keys", live)).json()["keys"]) == 2
                assert (await ask(worker, "DELETE", f"/v1/keys/{live_id}", test)).status_code == 404
                assert (await ask(worker, "DELETE", f"/v1/keys/{test_id}", live)).status_code == 204

        asyncio.run(work())

    def test_a_rotated_key_ends_when_the_old_one_would_have(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                expires_at_us = (int(time.time()) + 3600) * 1_000_000
                key_id, secret = await key(worker, expires_at_us=expires_at_us)
                made = (await ask(worker, "POST", f"/v1/keys/{key_id}/rotate", secret)).json()
                ends = {each.id: each.expires_at_us for each in await worker.clients.keys_of("acme")}
                assert ends[made["id"]] == expires_at_us
                assert made["expires_at"] is not None

        asyncio.run(work())

    def test_calls_are_charged_by_the_plan_and_refused_by_it(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS, clock=noon()) as worker:
                _, secret = await key(worker, plan="tight")
                for _ in range(2):
                    assert (await ask(worker, "GET", "/v1/keys", secret)).status_code == 200
                answer = await ask(worker, "GET", "/v1/keys", secret)
                assert answer.status_code == 429
                assert answer.headers["x-quotas-limit"] == "once"
                _, other = await key(worker, client="globex", plan="free")
                await ask(worker, "DELETE", "/v1/keys/key_0000000000aaaa", other)
                assert left(await ask(worker, "GET", "/v1/usage", other))["monthly"] == 997

        asyncio.run(work())

    @pytest.mark.parametrize("body", [b"{", b"[]", b'{"grace_seconds": -1}', b'{"grace_seconds": "1"}', b'{"x": 1}'])
    def test_a_body_that_cannot_be_read_is_400_and_changes_nothing(self, redis_url: str, body: bytes) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                key_id, secret = await key(worker)
                answer = await ask(worker, "POST", f"/v1/keys/{key_id}/rotate", secret, content=body)
                assert answer.status_code == 400
                assert len(await worker.clients.keys_of("acme")) == 1

        asyncio.run(work())

    def test_changes_are_audited_as_the_holders(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                key_id, secret = await key(worker)
                await ask(worker, "POST", f"/v1/keys/{key_id}/rotate", secret)
                await ask(worker, "DELETE", f"/v1/keys/{key_id}", secret)
                entries = await worker.store.call("XRANGE", "q1:audit", "-", "+")
                told = [dict(zip(words[::2], words[1::2], strict=True)) for _, words in entries]
                assert [(each[b"actor"].decode(), each[b"action"].decode()) for each in told] == [
                    (f"self:{key_id}", "key.rotate"),
                    (f"self:{key_id}", "key.revoke"),
                ]
                assert secret.encode() not in repr(entries).encode()

        asyncio.run(work())


def test_what_passes_without_a_store_can_change_nothing(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            _, secret = await key(worker, plan="lenient")
            assert (await worker.check(secret)).status_code == 200
            with patch.object(Link, "enqueue", side_effect=StoreUnavailableError("connect", "made up")):
                assert (await worker.check(secret)).headers["x-quotas-degraded"] == "1"
                for method, path in (("GET", "/v1/keys"), ("DELETE", "/v1/keys/key_1")):
                    answer = await ask(worker, method, path, secret)
                    assert answer.status_code == 503
                    assert int(answer.headers["retry-after"]) >= 1
                usage = await ask(worker, "GET", "/v1/usage", secret)
                assert usage.status_code == 503

    asyncio.run(work())
