"""Case C33: what a caller holds in confidence is nowhere but in its own request."""

import asyncio
import logging
from hashlib import sha256

import httpx
import pytest

from .monitor import holdings, watched
from .serving import Service, service

JUNK = "SECRET123"
PEPPER = b"a pepper of many bytes"


async def misuse(worker: Service, secret: str) -> list[httpx.Response]:
    """Everything that a caller may do with a key, good and bad."""
    get = worker.http.get
    uri = f"/v1/x?api_key={JUNK}"
    tampered = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    return [
        *[await worker.check(secret) for _ in range(11)],
        await worker.check(JUNK),
        await worker.check(tampered),
        await get(f"/check?api_key={JUNK}"),
        await get(f"/check/{JUNK}", headers={"x-api-key": secret}),
        await get(f"/nothing?api_key={secret}"),
        await worker.http.post(f"/healthz?api_key={JUNK}"),
        await get("/check", headers={"x-original-uri": uri, "x-api-key": secret}),
        await get("/check", headers={"x-forwarded-uri": "%2Fv1%2Fx%3Fapi_key%3D" + JUNK}),
        await get("/check", headers={"authorization": f"Bearer {JUNK} {secret}"}),
        await get("/check", headers={"authorization": f"Basic {JUNK}"}),
        await get("/check", headers=[("x-api-key", secret), ("x-api-key", JUNK)]),
        await get("/check", headers={"cookie": f"key={JUNK}", "x-api-key": secret}),
    ]


@pytest.mark.parametrize("pepper", [None, PEPPER])
def test_a_secret_is_nowhere(redis_url: str, caplog: pytest.LogCaptureFixture, pepper: bytes | None) -> None:
    caplog.set_level(logging.DEBUG)

    async def work() -> None:
        async with service(redis_url, pepper=pepper, log_refusals=1000) as worker:
            async with watched(redis_url) as commands:
                await worker.clients.create("acme", "once")
                issued = await worker.clients.issue_key("acme", name="production")
                assert issued.secret not in repr(issued)
                responses = await misuse(worker, issued.secret)
                listed = repr(await worker.clients.keys_of("acme"))
                held = b" ".join([word for pair in (await holdings(worker.store)).items() for word in pair])
                exposition = (await worker.http.get("/metrics")).text
                await worker.clients.revoke_key(issued.key.id)
                responses.append(await worker.check(issued.secret))
            assert {response.status_code for response in responses} == {200, 401, 403, 404, 405}
            assert any("EVALSHA" in command for command in commands)
            texts = {
                "commands": "".join(commands),
                "holdings": held.decode("latin-1"),
                "metrics": exposition,
                "answers": "".join(str(one.headers.raw) + one.text for one in responses),
                "listing": listed,
                # The test's own HTTP client says what it asks.
                "log": "\n".join(str(vars(record)) for record in caplog.records if record.name != "httpx"),
            }
            assert texts["log"].count("a check was refused") > 5
            body = issued.secret.rpartition("_")[2]
            for where, text in texts.items():
                assert JUNK not in text, where
                assert body not in text, where
                assert body[4:30] not in text, where
                assert PEPPER.decode() not in text, where
            plain = sha256(issued.secret.encode()).hexdigest()
            assert (plain in texts["holdings"]) == (pepper is None)

    asyncio.run(work())


def test_a_listing_shows_four_characters_of_a_key(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            secret = await worker.key()
            (key,) = await worker.clients.keys_of("acme")
            assert key.shown == secret[: len("quotas_live_") + 4]

    asyncio.run(work())
