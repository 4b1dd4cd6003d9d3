"""Revoked tokens over HTTP: refused by every worker once the operator has been answered, and no other ones."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import httpx
import jwt
import pytest

from quotas.errors import StoreUnavailableError
from quotas.identities import _Load
from quotas.links import Link
from quotas.news import LEASE_S, LISTENERS
from quotas.registry import Registry
from quotas.revocations import Revocation, Revocations
from quotas.store import Store

from .serving import Service, service

SECRET = "a secret of thirty-two bytes or more"
ISSUER, OTHER = "https://id.example.com", "https://other.example.com"
ADMIN_TOKEN = "admin-token-of-the-tests"
ADMIN = {"authorization": f"Bearer {ADMIN_TOKEN}"}
PLANS = """
plans:
  free: {limits: {hourly: {rate: 1/hour, burst: 1000}, each: {rate: 1/hour, burst: 1000, per: key}}}
  pro: {limits: {hourly: {rate: 1/hour, burst: 5000}}}
  lenient: {limits: {hourly: {rate: 1/hour, burst: 1000}}, on_store_error: allow}
issuers:
  - {issuer: "https://id.example.com", audience: [api], algorithms: [HS256], secret_env: TEST_TOKEN_SECRET,
     plan_claim: plan, default_plan: free}
  - {issuer: "https://other.example.com", audience: [api], algorithms: [HS256], secret_env: TEST_TOKEN_SECRET,
     default_plan: free}
"""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN_SECRET", SECRET)


def token(**claims: Any) -> str:
    now_s = time.time()  # What a token must say; no assertion depends on it.
    payload = {"iss": ISSUER, "aud": "api", "sub": "ada", "iat": now_s, "exp": now_s + 600, **claims}
    given = {name: value for name, value in payload.items() if value is not None}
    return jwt.PyJWT({"enforce_minimum_key_length": False}).encode(given, SECRET, "HS256")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two workers, of which the first answers the operator."""

    workers: list[Service]

    async def answers(self, credential: str) -> list[tuple[int, str]]:
        """Status and reason from each worker."""
        headers = {"authorization": f"Bearer {credential}"}
        found = [await worker.http.get("/check", headers=headers) for worker in self.workers]
        return [(answer.status_code, answer.headers.get("x-quotas-reason", "")) for answer in found]

    async def pass_everywhere(self, *credentials: str) -> None:
        for credential in (*credentials, *credentials):
            assert await self.answers(credential) == [(200, "")] * len(self.workers)

    async def refused_everywhere(self, credential: str) -> None:
        assert await self.answers(credential) == [(401, "invalid_credential")] * len(self.workers)

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        return await self.workers[0].http.request(method, f"/admin/v1{path}", json=body, headers=ADMIN)

    async def revoke(self, **body: str) -> str:
        answer = await self.ask("POST", "/revocations", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@asynccontextmanager
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        yield Fleet([await stack.enter_async_context(service(redis_url, PLANS, admin=ADMIN_TOKEN)) for _ in range(2)])


def instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06}Z"


def test_a_jti(redis_url: str) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            bad, good, twin = token(jti="1"), token(jti="2"), token(jti="1", iss=OTHER)
            await on.pass_everywhere(bad, good, twin)
            revoked = await on.revoke(issuer=ISSUER, jti="1")
            await on.refused_everywhere(bad)
            await on.pass_everywhere(good, twin)
            assert (await on.ask("DELETE", f"/revocations/{revoked}")).status_code == 204
            await on.pass_everywhere(bad)
            assert (await on.ask("DELETE", f"/revocations/{revoked}")).status_code == 404

    asyncio.run(work())


@pytest.mark.one_server
def test_a_jti_is_kept_as_long_as_its_token_and_not_longer(redis_url: str) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            store, now_s = on.workers[0].store, time.time()
            await on.revoke(issuer=ISSUER, jti="1", expires_at=instant(now_s + 600))
            (key,) = await store.call("KEYS", "q1:jti:*")
            assert 600_000 < await store.call("PTTL", key) <= 600_000 + 121_000
            # Less is never made of more.
            await on.revoke(issuer=ISSUER, jti="1", expires_at=instant(now_s + 60))
            assert await store.call("PTTL", key) > 600_000
            await on.revoke(issuer=ISSUER, jti="1")
            assert await store.call("PTTL", key) == -1
            await on.revoke(issuer=ISSUER, jti="1", expires_at=instant(now_s + 60))
            assert await store.call("PTTL", key) == -1
            await on.refused_everywhere(token(jti="1"))
            assert len((await on.ask("GET", "/revocations")).json()["revocations"]) == 1

    asyncio.run(work())


def test_what_has_expired_is_listed_no_more(redis_url: str) -> None:
    async def work() -> None:
        async with Store(redis_url) as store:
            revocations = Revocations(store, Registry(store))
            for number in range(3):
                kept = Revocation(ISSUER, f"{number}", expires_at_us=number * 1_000_000)
                await revocations.revoke(kept, now_us=0)
            assert len(await revocations.all(now_us=120_000_000)) == 2
            assert len(await revocations.all(now_us=122_000_000)) == 0
            assert await store.call("KEYS", "q1:revocations*") == []

    asyncio.run(work())


def test_a_subject_until_it_is_restored(redis_url: str) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            bad, again, good, twin = token(), token(iat=None), token(sub="bob"), token(iss=OTHER)
            await on.pass_everywhere(bad, again, good, twin)
            revoked = await on.revoke(issuer=ISSUER, subject="ada")
            for each in (bad, again, token(iat=time.time() + 3)):
                await on.refused_everywhere(each)
            await on.pass_everywhere(good, twin)
            await on.ask("DELETE", f"/revocations/{revoked}")
            await on.pass_everywhere(bad, again)

    asyncio.run(work())


def test_what_a_subject_was_issued_before(redis_url: str) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            now_s = float(int(time.time()))
            old, undated, new, good = token(iat=now_s - 1), token(iat=None), token(iat=now_s), token(sub="b", iat=1)
            await on.pass_everywhere(old, undated, new, good)
            await on.revoke(issuer=ISSUER, subject="ada", issued_before=instant(now_s))
            await on.refused_everywhere(old)
            await on.refused_everywhere(undated)
            await on.pass_everywhere(new, good)
            # An earlier instant takes nothing back.
            await on.revoke(issuer=ISSUER, subject="ada", issued_before=instant(now_s - 100))
            await on.refused_everywhere(old)
            (listed,) = (await on.ask("GET", "/revocations")).json()["revocations"]
            assert listed["issued_before"] == instant(now_s)[:19] + "Z"

    asyncio.run(work())


@pytest.mark.parametrize("issuer", [ISSUER, None])
def test_what_an_issuer_or_all_issued_before(redis_url: str, issuer: str | None) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            now_s = float(int(time.time()))
            old, undated, new = token(iat=now_s - 1), token(iat=None, sub="b"), token(iat=now_s, sub="c")
            other = token(iss=OTHER, iat=now_s - 1)
            key = await on.workers[0].key(plan="free")
            await on.pass_everywhere(old, undated, new, other, key)
            named = {} if issuer is None else {"issuer": issuer}
            revoked = await on.revoke(issued_before=instant(now_s), **named)
            await on.refused_everywhere(old)
            await on.refused_everywhere(undated)
            await on.pass_everywhere(new, key)
            if issuer is None:
                await on.refused_everywhere(other)
            else:
                await on.pass_everywhere(other)
            await on.ask("DELETE", f"/revocations/{revoked}")
            await on.pass_everywhere(old, undated, other)

    asyncio.run(work())


def test_a_token_that_is_being_loaded_while_it_is_revoked_is_not_remembered(redis_url: str) -> None:
    """The worker has read that the token is good; then it is revoked; only then the worker goes on."""

    async def work() -> None:
        async with fleet(redis_url) as on:
            await on.pass_everywhere(token(sub="warm"))
            for body in ({"issuer": ISSUER, "jti": "1"}, {"issued_before": instant(time.time() + 1)}):
                bad = token(jti="1", sub="late")
                holding, goes_on = asyncio.Event(), asyncio.Event()
                is_revoked, asked = Revocations.is_revoked, 0

                async def slowly(self: Revocations, *words: Any, real: Any = is_revoked) -> bool:
                    nonlocal asked
                    found = bool(await real(self, *words))
                    asked += 1
                    if asked == 2:  # The last look, after the client's generation.
                        holding.set()  # noqa: B023 # It is called within its round.
                        await goes_on.wait()  # noqa: B023 # As above.
                    return found

                with patch.object(Revocations, "is_revoked", slowly):
                    early = asyncio.create_task(on.answers(bad))
                    await holding.wait()
                    await on.revoke(**body)
                    joined = asyncio.Event()
                    ended = _Load.ended

                    async def joining(self: _Load, joined: asyncio.Event = joined, ended: Any = ended) -> None:
                        joined.set()
                        await ended(self)

                    with patch.object(_Load, "ended", joining):
                        late = asyncio.create_task(on.answers(bad))
                        async with asyncio.timeout(30):
                            await joined.wait()
                    goes_on.set()
                    await early  # It began before: it may pass.
                    assert await late == [(401, "invalid_credential")] * 2, "it has nothing of a load from before"
                await on.refused_everywhere(bad)

    asyncio.run(work())


def test_a_worker_without_a_lease_asks_before_it_decides(redis_url: str) -> None:
    """It was stopped, and the operator was answered without it."""

    async def work() -> None:
        async with fleet(redis_url) as on, Store(redis_url) as store:
            bad, good = token(jti="1"), token(jti="2")
            await on.pass_everywhere(bad, good)
            listener = listener_of(on.workers[1])
            listener._listening.cancel()  # noqa: SLF001 # What stands still is the process.
            await store.call("HDEL", LISTENERS, listener._id)  # noqa: SLF001 # As who is gone is taken off the list.
            await on.revoke(issuer=ISSUER, jti="1")
            assert [status for status, _ in await on.answers(bad)] == [401, 200], "its lease is not over yet"
            listener._lease_until_s -= LEASE_S  # noqa: SLF001 # Its time is over, without waiting for it.
            await on.refused_everywhere(bad)
            await on.pass_everywhere(good)

    asyncio.run(work())


def listener_of(worker: Service) -> Any:
    """The worker's ear. Nothing outside the process shows it."""
    state: Any = worker.http._transport.app.__closure__  # type: ignore[attr-defined] # noqa: SLF001 # As above.
    services = next(cell.cell_contents["services"] for cell in state if isinstance(cell.cell_contents, dict))
    return services.checks._identities._listener  # noqa: SLF001 # As above.


def test_what_makes_no_sense_is_400_and_an_unknown_issuer_409(redis_url: str) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            for body in (
                {},
                {"issuer": ISSUER},
                {"jti": "1"},
                {"subject": "ada"},
                {"issuer": ISSUER, "jti": "1", "subject": "ada"},
                {"issuer": ISSUER, "jti": "1", "issued_before": instant(1)},
                {"issuer": ISSUER, "subject": "ada", "expires_at": instant(1)},
                {"issuer": ISSUER, "jti": ""},
                {"issuer": ISSUER, "jti": "a\nb"},
                {"issuer": ISSUER, "jti": 1},
                {"issued_before": "yesterday"},
                {"issuer": ISSUER, "jti": "1", "why": "stolen"},
            ):
                answer = await on.ask("POST", "/revocations", body)
                assert answer.status_code == 400, body
                assert answer.json()["faults"]
            for name in (ISSUER + "/", "https://ID.example.com"):
                assert (await on.ask("POST", "/revocations", {"issuer": name, "jti": "1"})).status_code == 409
            assert (await on.ask("GET", "/revocations")).json() == {"revocations": []}

    asyncio.run(work())


def test_a_revocation_is_audited_with_whatever_it_names(redis_url: str) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            long = "𐍈" * 512
            revoked = await on.revoke(issuer=ISSUER, subject=long)
            await on.ask("DELETE", f"/revocations/{revoked}")
            entries = (await on.ask("GET", "/audit")).json()["entries"]
            assert [(each["actor"], each["action"], each["target"]) for each in entries] == [
                ("ops", "token.restore", revoked),
                ("ops", "token.revoke", revoked),
            ]
            assert entries[0]["details"] == {"issuer": ISSUER, "subject": long}

    asyncio.run(work())


def test_a_store_that_does_not_answer_is_503_and_never_a_success(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with fleet(redis_url) as on:
            call = Store.call

            async def down(self: Store, *words: Any) -> Any:
                return await call(self, "SHUTDOWN-NOT-A-COMMAND") if words[0] in {"SET", "ZADD"} else None

            with monkeypatch.context() as patched:
                patched.setattr(Store, "call", down)
                for body in ({"issuer": ISSUER, "jti": "1"}, {"issuer": ISSUER, "subject": "a"}):
                    assert (await on.ask("POST", "/revocations", body)).status_code == 503

    asyncio.run(work())


def test_when_the_store_is_down_a_remembered_token_goes_by_its_plans_policy(redis_url: str) -> None:
    """Also when its worker holds no lease any more; one that was revoked in time does not pass."""

    async def work() -> None:
        async with fleet(redis_url) as on:
            worker = on.workers[0]
            lenient, strict, bad = token(plan="lenient"), token(plan="pro", sub="b"), token(plan="lenient", jti="1")
            await on.pass_everywhere(lenient, strict, bad)
            await on.revoke(issuer=ISSUER, jti="1")
            listener = listener_of(worker)
            listener._listening.cancel()  # noqa: SLF001 # A beat that is under way would bring a new lease.
            listener._lease_until_s -= LEASE_S  # noqa: SLF001 # Its time is over, without waiting for it.
            with patch.object(Link, "enqueue", side_effect=lambda *_: _lost()):
                for credential, status in ((lenient, 200), (strict, 503), (bad, 503)):
                    answer = await worker.http.get("/check", headers={"authorization": f"Bearer {credential}"})
                    assert answer.status_code == status
                    assert ("x-quotas-degraded" in answer.headers) is (status == 200)

    asyncio.run(work())


def _lost() -> Any:
    raise StoreUnavailableError("connect", "made up")


class TestAliases:
    def test_key_and_token_share_one_quota_and_the_clients_plan(self, redis_url: str) -> None:
        async def work() -> None:
            async with fleet(redis_url) as on:
                key, given = await on.workers[0].key("acme", "pro"), token(plan="free")
                await on.pass_everywhere(given)
                body = {"issuer": ISSUER, "subject": "ada"}
                made = await on.ask("POST", "/clients/acme/aliases", body)
                assert made.status_code == 201
                left = []
                for worker in on.workers:
                    for credential in (key, given):
                        answer = await worker.http.get("/check", headers={"authorization": f"Bearer {credential}"})
                        assert answer.headers["x-quotas-client"] == "acme"
                        assert answer.headers["x-quotas-plan"] == "pro"
                        left.append(answer.headers["ratelimit"].partition(";r=")[2].partition(";")[0])
                assert left == ["4999", "4998", "4997", "4996"]
                assert (await on.ask("GET", "/clients/acme/aliases")).json() == {"aliases": [made.json()]}
                assert (await on.ask("DELETE", f"/clients/acme/aliases/{made.json()['id']}")).status_code == 204
                for worker in on.workers:
                    answer = await worker.http.get("/check", headers={"authorization": f"Bearer {given}"})
                    assert answer.headers["x-quotas-client"] == "ada@id.example.com"
                assert (await on.ask("GET", "/clients/acme/aliases")).json() == {"aliases": []}
                assert (await on.ask("DELETE", f"/clients/acme/aliases/{made.json()['id']}")).status_code == 404

        asyncio.run(work())

    def test_suspending_the_client_and_revoking_the_subject_hold_at_once(self, redis_url: str) -> None:
        async def work() -> None:
            async with fleet(redis_url) as on:
                key, given = await on.workers[0].key("acme", "pro"), token()
                await on.ask("POST", "/clients/acme/aliases", {"issuer": ISSUER, "subject": "ada"})
                await on.pass_everywhere(given, key)
                await on.ask("PATCH", "/clients/acme", {"status": "suspended"})
                assert await on.answers(given) == [(403, "suspended_client")] * 2
                await on.ask("PATCH", "/clients/acme", {"status": "active"})
                await on.pass_everywhere(given)
                await on.revoke(issuer=ISSUER, subject="ada")
                await on.refused_everywhere(given)
                await on.pass_everywhere(key)

        asyncio.run(work())

    def test_a_subject_is_the_alias_of_one_client_only(self, redis_url: str) -> None:
        async def work() -> None:
            async with fleet(redis_url) as on:
                await on.workers[0].clients.create("acme", "pro")
                await on.workers[0].clients.create("globex", "pro")
                body = {"issuer": ISSUER, "subject": "ada"}
                for status in (201, 201):
                    assert (await on.ask("POST", "/clients/acme/aliases", body)).status_code == status
                assert (await on.ask("POST", "/clients/globex/aliases", body)).status_code == 409
                assert (await on.ask("GET", "/clients/globex/aliases")).json() == {"aliases": []}
                assert (await on.ask("POST", "/clients/nobody/aliases", body)).status_code == 404
                # A client that goes takes its aliases along.
                await on.ask("DELETE", "/clients/acme")
                assert await on.workers[0].store.call("EXISTS", "q1:aliases") == 0
                assert (await on.ask("POST", "/clients/globex/aliases", body)).status_code == 201

        asyncio.run(work())

    def test_an_alias_of_a_client_that_is_deleted_is_its_own_client_again(self, redis_url: str) -> None:
        async def work() -> None:
            async with fleet(redis_url) as on:
                await on.workers[0].clients.create("acme", "pro")
                await on.ask("POST", "/clients/acme/aliases", {"issuer": ISSUER, "subject": "ada"})
                given = token()
                await on.pass_everywhere(given)
                await on.ask("DELETE", "/clients/acme")
                for worker in on.workers:
                    answer = await worker.http.get("/check", headers={"authorization": f"Bearer {given}"})
                    assert answer.headers["x-quotas-client"] == "ada@id.example.com"

        asyncio.run(work())


def test_the_clock_of_tokens_is_the_workers(redis_url: str) -> None:
    """A remembered token ends with its expiry, whatever else is remembered."""

    async def work() -> None:
        now_s = time.time()
        clock = [int(now_s * 1e6)]
        async with service(redis_url, PLANS, clock=lambda: clock[0]) as worker:
            given = token(exp=int(now_s) + 60)
            headers = {"authorization": f"Bearer {given}"}
            assert (await worker.http.get("/check", headers=headers)).status_code == 200
            clock[0] = (int(now_s) + 65) * 1_000_000 - 1
            assert (await worker.http.get("/check", headers=headers)).status_code == 200
            clock[0] += 1
            answer = await worker.http.get("/check", headers=headers)
            assert (answer.status_code, answer.headers["x-quotas-reason"]) == (401, "expired_credential")

    asyncio.run(work())
