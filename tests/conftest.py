"""One private Valkey for the whole run: the real server, on a unix socket, emptied before each test.

Modules that ask the store for what is spread over its keys run over a cluster of three masters as well.
"""

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from topology.valkeys import Clustered, clustered

from quotas import embedded
from quotas.store import Store

settings.register_profile("quotas", deadline=None, print_blob=True)
settings.register_profile("soak", settings.get_profile("quotas"), suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quotas"))

# A shell has what runs in its background ignore Ctrl-C, and children inherit that: tests that send it would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)

OVER_A_CLUSTER = {
    "lua/test_amend",
    "lua/test_seen",
    "lua/test_tally",
    "store/test_last_use",
    "store/test_news",
    "store/test_refusals",
    "store/test_scripts",
    "store/test_usage",
    "web/test_changes",
    "web/test_revocations",
    "web/test_usage",
}
"""Modules whose tests run twice: over one server, and over a cluster. Not so what is marked `one_server`, because it
looks for keys or breaks a server, nor what asks through a proxy, whose socket is in `tmp_path`.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path
    asks_proxy = path.parent.name == "store" and "tmp_path" in metafunc.fixturenames
    for_one = asks_proxy or metafunc.definition.get_closest_marker("one_server") is not None
    if f"{path.parent.name}/{path.stem}" in OVER_A_CLUSTER and "redis_url" in metafunc.fixturenames and not for_one:
        metafunc.parametrize("topology", ["one", "cluster"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Over a cluster one road of a check, or of a script, is enough: what they differ in is before the store."""
    items[:] = [item for item in items if not re.search(r"\[(asgi|long road)-cluster\b", item.name)]


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> str:
    """What the store of this test is."""
    found: str = getattr(request, "param", "one")
    return found


@pytest.fixture(scope="session")
def cluster() -> Iterator[Clustered]:
    """Three masters."""
    with tempfile.TemporaryDirectory() as folder, clustered(Path(folder)) as made:
        yield made


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, embedded.hold(Path(folder)) as url:
        yield url


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, topology: str, server_url: str) -> str:
    if topology == "cluster":
        cluster: Clustered = request.getfixturevalue("cluster")
        cluster.empty()
        return cluster.url()

    async def empty() -> None:
        async with Store(server_url) as store:
            await store.call("FLUSHALL")

    asyncio.run(empty())
    return server_url
