import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from loadtests.bench import cases, generators, population, servers
from quotas import embedded, keys
from quotas.registry import Registry
from quotas.store import Store

NOW_US = 1_800_000_000_000_000


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with embedded.hold(tmp_path / "data") as found:
        yield found


def dump(url: str) -> dict[bytes, dict[bytes, bytes]]:
    with Redis.from_url(url) as store:
        return {name: store.hgetall(name) for name in store.scan_iter()}


def test_what_is_written_is_what_the_registry_writes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = range(3)
    population.settle(url, "main", len(numbers), NOW_US)
    written = dump(url)
    with Redis.from_url(url) as store:
        store.flushall()

    async def register() -> None:
        async with Store(url) as store:
            registry = Registry(store)
            for number in numbers:
                expected = population.client(number, "main", NOW_US)
                monkeypatch.setattr(keys, "new_id", lambda _, expected=expected: expected.id)
                made = await registry.create_client(expected.name, expected.plan, NOW_US)
                assert made == expected
                await registry.create_key(population.key(number, made), population.digest(number))
                digest = keys.digest(population.secret(number).encode(), None)
                assert await registry.identity([digest]) is not None

    asyncio.run(register())
    assert written == dump(url)
    assert len(written) == 2 + 3 * len(numbers)


def test_the_last_batch_may_be_a_part(url: str) -> None:
    population.settle(url, "main", population.BATCH + 1, NOW_US)
    with Redis.from_url(url) as store:
        assert store.hlen("q1:clients") == store.hlen("q1:keys") == population.BATCH + 1


@pytest.mark.parametrize("number", [0, 999_999])
def test_secrets_are_keys_of_ours(number: int) -> None:
    assert keys.is_well_formed(population.secret(number).encode(), population.BRAND)


def test_thousands_of_them_are_known_to_the_service(tmp_path: Path) -> None:
    """Every answer but 200 is an error of the generator."""
    case = cases.Case(name="thousands", clients=2_000)
    with servers.started(case, tmp_path / "service") as (serving, walk):
        assert generators.ask_each(serving.port, walk) == 2_000


def test_tokens_are_known_to_the_service(tmp_path: Path) -> None:
    case = cases.Case(name="tokens", clients=5, credential=cases.Credential.TOKEN)
    with servers.started(case, tmp_path / "service") as (serving, walk):
        assert generators.ask_each(serving.port, walk) == 5
        assert serving.store_url is not None
        with Redis.from_url(serving.store_url) as store:
            names = store.hkeys("q1:clients")
    assert set(names) == {f"bench-{number:07d}@bench.example".encode() for number in range(5)}
