"""One private Valkey for the whole run: the real server, on a unix socket, emptied before each test."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from quotas import embedded
from quotas.store import Store

settings.register_profile("quotas", deadline=None, print_blob=True)
settings.register_profile("soak", settings.get_profile("quotas"), suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quotas"))


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
