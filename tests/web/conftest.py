"""A server of the test's own, to be stalled and killed; and each test over both roads of a check."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from redis import Redis

from quotas import embedded

from . import wire

ONE_ROAD = {
    "test_admin",
    "test_audit",
    "test_fuzz",
    "test_memory",
    "test_operations",
    "test_roads",
    "test_self_service",
}
"""Modules that ask other paths than a check's, or the application itself."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    one = metafunc.module.__name__.rpartition(".")[2] in ONE_ROAD
    metafunc.parametrize("road", [wire.ASGI] if one else [wire.ASGI, wire.HOT], indirect=True)


@pytest.fixture(autouse=True)
def road(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which way the checks of this test go."""
    with patch.object(wire, "road", request.param):
        yield request.param


class Server:
    """A Valkey that can stand still, die, and come back with what it had."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = ExitStack()
        self.url = self._running.enter_context(embedded.hold(directory))

    @property
    def pid(self) -> int:
        return int((self._directory / "valkey.pid").read_text())

    def stall(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it once all that it was told is on disk: it may write a moment after it has answered."""
        with Redis.from_url(self.url) as store:
            store.set("settled", 1)
            assert store.waitaof(1, 0, 60_000)[0] == 1
        os.kill(self.pid, signal.SIGKILL)
        self._running.close()

    def restart(self) -> None:
        assert self._running.enter_context(embedded.hold(self._directory)) == self.url

    def close(self) -> None:
        if (self._directory / "valkey.pid").exists():
            self.go_on()
        self._running.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.close()
