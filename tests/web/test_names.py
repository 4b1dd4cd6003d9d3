"""Case C14: names that differ are clients that differ, and names that cannot be told apart or written are refused."""

import asyncio
from urllib.parse import unquote

import pytest

from quotas.errors import ConflictError

from .serving import samples, service

COMPOSED, COMBINING = "caf\u00e9", "cafe\u0301"
NAMES = {
    "a:b": "a:b",
    "a": "a",
    "A": "A",
    "b": "b",
    " ": "%20",
    "  ": "%20%20",
    "a ": "a%20",
    "a}b": "a}b",
    "{a}": "{a}",
    "}": "}",
    "%20": "%2520",
    "%": "%25",
    '"': '"',
    "\\": "\\",
    "a,b": "a,b",
    COMPOSED: "caf%C3%A9",
    COMBINING: "cafe%CC%81",
    "日本": "%E6%97%A5%E6%9C%AC",
    "🦊": "%F0%9F%A6%8A",
    "x" * 128: "x" * 128,
    "é" * 128: "%C3%A9" * 128,
    "unknown": "unknown",
    "other": "other",
}


def test_every_name_has_a_bucket_of_its_own(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            secrets = {name: await worker.key(name, "once") for name in NAMES}
            for spent, (name, secret) in enumerate(secrets.items()):
                for used in range(spent % 10):
                    assert (await worker.check(secret)).headers["ratelimit"] == f'"lifetime";r={9 - used}'
                response = await worker.check(secret)
                assert response.headers["ratelimit"] == f'"lifetime";r={9 - spent % 10}'
                assert response.headers["x-quotas-client"] == NAMES[name]
                assert unquote(response.headers["x-quotas-client"]) == name

    asyncio.run(work())


def test_every_name_is_found_exactly(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            for name in NAMES:
                await worker.clients.create(name, "once")
            assert [client.name for client in await worker.clients.all()] == sorted(NAMES)
            for name in NAMES:
                assert (await worker.clients.get(name)).name == name
                with pytest.raises(ConflictError):
                    await worker.clients.create(name, "once")

    asyncio.run(work())


@pytest.mark.parametrize("name", ["unknown", "other"])
def test_a_client_is_not_counted_with_those_who_are_none(redis_url: str, name: str) -> None:
    """A client may bear the name of the label for callers without a client; the series must stay apart."""

    async def work() -> None:
        async with service(redis_url) as worker:
            await worker.check(await worker.key(name))
            await worker.check("junk")
            clients = {
                line.partition('client="')[2].partition('"')[0]: value
                for line, value in samples((await worker.http.get("/metrics")).text, "quotas_checks_total").items()
            }
            assert len(clients) == 2
            assert set(clients.values()) == {1}

    asyncio.run(work())


@pytest.mark.parametrize(
    "name", ["", "a\nb", "\n", "a\0", "\t", "a\u200bb", "\u2028", "\ufeff", "\ud800", "x" * 129, "x" * 10_000]
)
def test_a_name_that_cannot_be_written_is_refused(redis_url: str, name: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            with pytest.raises(ConflictError):
                await worker.clients.create(name, "once")
            assert await worker.store.call("DBSIZE") == 0

    asyncio.run(work())
