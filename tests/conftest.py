"""One private Valkey for the whole run: the real server, on a unix socket, emptied before each test."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from quotas import embedded
from quotas.store import Store

settings.register_profile("quotas", deadline=None, print_blob=True)
settings.load_profile("quotas")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, embedded.hold(Path(folder)) as url:
        yield url


@pytest.fixture
def redis_url(server_url: str) -> str:
    async def empty() -> None:
        async with Store(server_url) as store:
            await store.call("FLUSHALL")

    asyncio.run(empty())
    return server_url
