"""A credential in the header and the cookie that the configuration names, over HTTP."""

import asyncio
import logging

import pytest

from .monitor import watched
from .timed import noon, timed

PLAN = "plans: {plan: {limits: {units: {rate: 0/second, burst: 100}}}}\n"
PLACES = PLAN + "credentials: {header: X-Acme-Key, cookie: acme_session}"


def test_one_client_through_every_place_and_a_reload_moves_them(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLACES, noon()) as worker:
            secret = await worker.key()

            async def asked(**fields: str) -> tuple[int, str, str | None]:
                headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]
                answer = await worker.http.get("/check", headers=headers)
                client, reason = answer.headers["x-quotas-client"], answer.headers.get("x-quotas-reason")
                return answer.status_code, client, reason

            allowed, missing = (200, "acme", None), (401, "", "missing_credential")
            assert await asked(x_acme_key=secret) == allowed
            assert await asked(cookie=f'theme=dark; acme_session="{secret}"') == allowed
            assert await asked(x_acme_key=secret, x_api_key=secret, authorization=f"bearer {secret}") == allowed
            assert await asked(x_acme_key=secret, x_api_key="x") == (401, "", "ambiguous_credentials")
            assert await asked(cookie=f"acme_session={secret}x") == (401, "", "invalid_credential")
            assert await asked(cookie="\x01;;=\xff") == missing
            worker.use(PLAN)
            assert await asked(x_acme_key=secret) == missing
            assert await asked(cookie=f"acme_session={secret}") == missing
            assert await asked(x_acme_key="x", x_api_key=secret) == allowed
            worker.use(PLAN + "credentials: {cookie: other}")
            assert await asked(cookie=f"acme_session=x; other={secret}") == allowed

    asyncio.run(work())


def test_a_secret_there_is_nowhere_else(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Case C33; the query string is no place."""
    caplog.set_level(logging.DEBUG)

    async def work() -> None:
        async with timed(redis_url, PLACES, noon()) as worker:
            async with watched(redis_url) as commands:
                answers = [
                    await worker.http.get("/check", headers={"x-acme-key": "SECRET123"}),
                    await worker.http.get("/check", headers={"cookie": "acme_session=SECRET123"}),
                    await worker.http.get("/check", headers={"cookie": "acme_session=SECRET123; acme_session=x"}),
                    await worker.http.get("/check?acme_session=SECRET123&X-Acme-Key=SECRET123"),
                ]
                exposition = (await worker.http.get("/metrics")).text
            assert [answer.headers["x-quotas-reason"] for answer in answers] == [
                *["invalid_credential"] * 2,
                "ambiguous_credentials",
                "missing_credential",
            ]
            told = [str(answer.headers.raw) + answer.text for answer in answers]
            logged = [record.getMessage() for record in caplog.records if record.name != "httpx"]
            assert "SECRET123" not in "".join((*told, *logged, *commands, exposition))

    asyncio.run(work())
