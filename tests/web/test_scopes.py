"""Scopes over HTTP: who lacks one is told which, and pays nothing."""

import asyncio
from unittest.mock import patch

import httpx
import pytest

from quotas.errors import ConflictError
from quotas.overrides import Override
from quotas.scopes import MAX_SCOPES
from quotas.store import Store

from .conftest import Server
from .serving import Service, samples, service
from .test_tokens import SECRET, token

PLANS = """
plans:
  open: {limits: {hourly: {rate: 1/hour, burst: 100}}}
  pro:
    limits:
      hourly: {rate: 1/hour, burst: 100}
      admin: {rate: 1/hour, burst: 10, match: {path: /admin/*, required_scopes: [write, admin]}}
  strict:
    required_scopes: [read]
    limits:
      hourly: {rate: 1/hour, burst: 100}
    on_store_error: allow
issuers:
  - issuer: https://id.example.com
    audience: [api]
    algorithms: [HS256]
    secret_env: TEST_TOKEN_SECRET
    plan_claim: plan
    default_plan: strict
"""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN_SECRET", SECRET)


async def key(worker: Service, plan: str, *scopes: str, name: str = "acme") -> str:
    await worker.clients.create(name, plan)
    return (await worker.clients.issue_key(name, scopes=scopes)).secret


async def ask(worker: Service, secret: str, path: str = "/") -> httpx.Response:
    return await worker.http.get("/check", headers={"x-api-key": secret, "x-forwarded-uri": path})


async def state(store: Store) -> list[tuple[bytes, object]]:
    return [(each, await store.call("DUMP", each)) for each in sorted(await store.call("KEYS", "q1:*"))]


def test_who_lacks_a_scope_is_told_which_and_nothing_is_charged(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            given = await key(worker, "pro", "read", "admin")
            assert (await ask(worker, given)).status_code == 200
            before = await state(worker.store)
            answer = await ask(worker, given, "/admin/users")
            assert answer.status_code == 403
            assert answer.headers["x-quotas-reason"] == "insufficient_scope"
            assert answer.headers["x-quotas-client"] == "acme"
            assert answer.headers["www-authenticate"] == (
                'Bearer realm="quotas", error="insufficient_scope", scope="admin write"'
            )
            assert not {"retry-after", "ratelimit", "x-quotas-limit"} & set(answer.headers)
            assert answer.json() == {
                "type": "about:blank",
                "title": "Forbidden",
                "status": 403,
                "reason": "insufficient_scope",
                "detail": "The credential may not do this. This request needs the scopes: admin write.",
                "required-scopes": ["admin", "write"],
            }
            assert await state(worker.store) == before
            answer = await ask(worker, given)
            assert answer.headers["ratelimit"].startswith('"hourly";r=98;')
            counted = samples((await worker.http.get("/metrics")).text, "quotas_checks_total")
            assert counted['{client="acme",outcome="forbidden",plan="pro"}'] == 1

    asyncio.run(work())


def test_who_has_them_passes_and_is_limited_as_ever(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            given = await key(worker, "pro", "write", "admin", "more")
            for left in (9, 8):
                answer = await ask(worker, given, "/admin/users")
                assert answer.status_code == 200
                assert f'"admin";r={left};' in answer.headers["ratelimit"]

    asyncio.run(work())


@pytest.mark.parametrize(
    "path", ["/admin/x", "/%61dmin/x", "/x/../admin/x", "//admin/x", "/admin%2Fx", "/a/b;c/..%2F../admin/x", "x" * 9000]
)
def test_no_spelling_gets_around_it(redis_url: str, path: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            assert (await ask(worker, await key(worker, "pro"), path)).status_code == 403

    asyncio.run(work())


def test_a_plan_asks_every_check_and_a_client_s_own_limits_change_nothing_about_it(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            without, reading = await key(worker, "strict"), (await worker.clients.issue_key("acme", scopes=["read"]))
            for _ in range(2):
                answer = await ask(worker, without)
                assert answer.headers["www-authenticate"].endswith('scope="read"')
                assert (await ask(worker, reading.secret)).status_code == 200
                await worker.clients.set_limit("acme", "hourly", Override(burst=50))
            await worker.clients.create("other", "pro")
            await worker.clients.set_limit("other", "admin", Override(burst=5))
            given = (await worker.clients.issue_key("other")).secret
            assert [(await ask(worker, given, path)).status_code for path in ("/", "/admin/x")] == [200, 403]

    asyncio.run(work())


def test_another_plan_counts_from_the_next_check_on_whatever_a_worker_knew(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as one, service(redis_url, PLANS) as other:
            given = await key(one, "open")
            workers = (one, other)
            for plan, status in (("open", 200), ("strict", 403), ("open", 200), ("strict", 403)):
                await one.clients.set_plan("acme", plan)
                assert [(await ask(worker, given)).status_code for worker in workers] == [status] * 2
            await one.clients.set_plan("acme", "pro")
            assert [(await ask(worker, given)).status_code for worker in workers] == [200, 200]
            assert [(await ask(worker, given, "/admin/x")).status_code for worker in workers] == [403, 403]
            await one.clients.set_plan("acme", "open")
            assert [(await ask(worker, given, "/admin/x")).status_code for worker in workers] == [200, 200]
            await one.clients.set_plan("acme", "pro")
            assert (await ask(one, given, "/")).status_code == 200
            (found,) = await other.clients.keys_of("acme")
            await other.clients.revoke_key(found.id)
            assert (await ask(one, given, "/admin/x")).status_code == 401

    asyncio.run(work())


def test_a_store_that_fails_lets_nobody_pass_who_lacks_a_scope(server: Server) -> None:
    async def work() -> None:
        async with service(server.url, PLANS, timeout_ms=50) as worker:
            has, lacks = await key(worker, "strict", "read"), await key(worker, "strict", name="other")
            async with asyncio.timeout(30):
                for secret, status in ((has, 200), (lacks, 403)):
                    while (await ask(worker, secret)).status_code != status:  # A slow machine misses the deadline.
                        await asyncio.sleep(0.01)
            server.stall()
            answer = await ask(worker, has)
            assert (answer.status_code, answer.headers["x-quotas-degraded"]) == (200, "1")
            for _ in range(2):
                assert (await ask(worker, lacks)).status_code == 403
            server.go_on()

    asyncio.run(work())


def test_a_rotation_keeps_scopes_and_listings_show_them(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            await worker.clients.create("acme", "strict")
            old = await worker.clients.issue_key("acme", scopes=["write", "read", "read"])
            issued, _ = await worker.clients.rotate_key(old.key.id, 0)
            assert issued.key.scopes == {"read", "write"}
            assert (await ask(worker, issued.secret)).status_code == 200
            assert [each.scopes for each in await worker.clients.keys_of("acme")] == [{"read", "write"}] * 2

    asyncio.run(work())


@pytest.mark.parametrize("scopes", [["a b"], [""], ['"'], ["x" * 65], [f"s{n}" for n in range(MAX_SCOPES + 1)]])
def test_a_key_is_not_made_with_what_is_no_scope(redis_url: str, scopes: list[str]) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            await worker.clients.create("acme", "open")
            with pytest.raises(ConflictError, match="scope"):
                await worker.clients.issue_key("acme", scopes=scopes)
            assert await worker.clients.keys_of("acme") == []

    asyncio.run(work())


def test_a_token_s_scopes_are_its_claim_s(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            for claims, status in (
                ({}, 403),
                ({"scope": "write"}, 403),
                ({"scope": "write read"}, 200),
                ({"scp": ["read"]}, 200),
                ({"scp": 5}, 401),
            ):
                answer = await worker.http.get("/check", headers={"authorization": f"Bearer {token(**claims)}"})
                assert answer.status_code == status, claims

    asyncio.run(work())


def test_who_has_no_credential_has_no_scope_and_is_asked_for_one(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS + "anonymous: {plan: pro}\n") as worker:
            for path, status in (("/", 200), ("/admin/x", 401), ("/", 200)):
                answer = await worker.http.get("/check", headers={"x-forwarded-uri": path})
                assert answer.status_code == status
                if status == 401:
                    assert answer.headers["x-quotas-reason"] == "missing_credential"
                    assert answer.headers["www-authenticate"] == 'Bearer realm="quotas", scope="admin write"'
            assert answer.headers["ratelimit"].startswith('"hourly";r=98;')

    asyncio.run(work())


def test_with_enough_scopes_a_check_is_one_command(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            given = await key(worker, "pro", "write", "admin")
            assert (await ask(worker, given, "/admin/x")).status_code == 200
            with patch.object(Store, "call", side_effect=AssertionError("nothing is looked up")):
                assert (await ask(worker, given, "/admin/x")).status_code == 200

    asyncio.run(work())
