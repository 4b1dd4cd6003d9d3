"""Case C13: what is answered when the store is away, and that it is counted, said, and over when it is over."""

import asyncio
import logging
from typing import Protocol

import pytest

from quotas import keys
from quotas.errors import StoreUnavailableError
from quotas.keys import Environment

from .serving import Service, samples, service

PATIENCE_S = 30
DEADLINE_MS = 50


class Server(Protocol):
    """The fixture of conftest.py."""

    url: str

    def stall(self) -> None: ...
    def go_on(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...


@pytest.fixture
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"unix://{tmp_path_factory.mktemp('none')}/valkey.sock"


async def metric(worker: Service, name: str) -> dict[str, float]:
    return samples((await worker.http.get("/metrics")).text, name)


async def until_served(worker: Service, secret: str) -> None:
    """Ask until a check is decided by the store again."""
    async with asyncio.timeout(PATIENCE_S):
        while "ratelimit" not in (await worker.check(secret)).headers:
            await asyncio.sleep(0.01)


def test_a_worker_starts_and_answers_without_a_store(nowhere: str) -> None:
    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), service(nowhere, timeout_ms=DEADLINE_MS) as worker:
            assert (await worker.http.get("/healthz")).status_code == 200
            ready = await worker.http.get("/readyz")
            assert (ready.status_code, ready.json()["store"]) == (503, "connect")
            for _ in range(3):
                response = await worker.check(keys.generate("quotas", Environment.LIVE))
                assert response.status_code == 503
                assert int(response.headers["retry-after"]) >= 1
                assert response.headers["x-quotas-reason"] == "store_unavailable"
                assert response.headers["x-quotas-client"] == ""
                assert response.json()["status"] == 503
            assert (await worker.check("malformed")).status_code == 401
            assert (await worker.http.get("/check")).status_code == 401
            assert await metric(worker, "quotas_degraded_total") == {'{mode="deny"}': 3}

    asyncio.run(work())


@pytest.mark.parametrize("trouble", ["stall", "kill"])
def test_the_plan_decides_for_a_warm_client(server: Server, trouble: str) -> None:
    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), service(server.url, timeout_ms=DEADLINE_MS) as worker:
            lenient, strict = await worker.key("lenient", "lenient"), await worker.key("strict", "slow")
            await until_served(worker, lenient)
            await until_served(worker, strict)
            # A busy machine may have been late for a check.
            before, errors = [await metric(worker, f"quotas_{name}_total") for name in ("degraded", "store_errors")]
            getattr(server, trouble)()
            for _ in range(5):
                passed, refused = await worker.check(lenient), await worker.check(strict)
                assert (passed.status_code, passed.content) == (200, b"")
                assert passed.headers["x-quotas-degraded"] == "1"
                assert passed.headers["x-quotas-client"] == "lenient"
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["x-quotas-client"] == "strict"
                assert "x-quotas-degraded" not in refused.headers
                for response in (passed, refused):
                    assert not {"ratelimit", "ratelimit-policy"} & set(response.headers)
            assert (await worker.http.get("/healthz")).status_code == 200
            assert (await worker.http.get("/readyz")).status_code == 503
            after = await metric(worker, "quotas_degraded_total")
            assert {mode: count - before.get(mode, 0) for mode, count in after.items()} == {
                '{mode="allow"}': 5,
                '{mode="deny"}': 5,
            }
            assert sum((await metric(worker, "quotas_store_errors_total")).values()) == 10 + sum(errors.values())
            units = await metric(worker, "quotas_units_total")
            assert units == {'{client="lenient",plan="lenient"}': 1, '{client="strict",plan="slow"}': 1}

    asyncio.run(work())


@pytest.mark.parametrize(("trouble", "end"), [("stall", "go_on"), ("kill", "restart")])
def test_a_worker_recovers_by_itself(server: Server, trouble: str, end: str) -> None:
    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), service(server.url, timeout_ms=DEADLINE_MS) as worker:
            secret = await worker.key(plan="lenient")
            await until_served(worker, secret)
            getattr(server, trouble)()
            for _ in range(3):
                assert (await worker.check(secret)).headers["x-quotas-degraded"] == "1"
            getattr(server, end)()
            await until_served(worker, secret)
            assert (await worker.http.get("/readyz")).status_code == 200
            response = await worker.check(secret)
            assert response.status_code == 200
            assert "x-quotas-degraded" not in response.headers

    asyncio.run(work())


def test_a_client_that_is_not_warm_does_not_pass_unseen(server: Server) -> None:
    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), service(server.url, timeout_ms=DEADLINE_MS) as worker:
            secret = await worker.key(plan="lenient")
            server.kill()
            assert (await worker.check(secret)).status_code == 503

    asyncio.run(work())


def test_a_revocation_that_the_store_cannot_take_is_no_success(server: Server) -> None:
    """Case C11: it fails, and once the store is back it can be asked again."""

    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), service(server.url) as worker:
            secret = await worker.key()
            (key,) = await worker.clients.keys_of("acme")
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await worker.clients.revoke_key(key.id)
            server.restart()
            await until_served(worker, secret)
            while True:
                try:
                    await worker.clients.revoke_key(key.id)
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(0.01)
            assert (await worker.check(secret)).status_code == 401

    asyncio.run(work())


def test_the_log_speaks_of_an_outage_and_does_not_chatter(nowhere: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), service(nowhere, timeout_ms=DEADLINE_MS) as worker:
            for _ in range(100):
                assert (await worker.check(keys.generate("quotas", Environment.LIVE))).status_code == 503

    asyncio.run(work())
    said = [record for record in caplog.records if record.name.startswith("quotas")]
    assert 1 <= len(said) <= 10
