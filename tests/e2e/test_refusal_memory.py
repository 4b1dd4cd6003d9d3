"""Four real workers that refuse from memory: what that saves the store, and how soon they hear that it is over."""

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from .processes import PATIENCE_S, Home, Serving, until
from .test_revocation import ADMIN, WORKERS, Desk, desk

ROUNDS = 25
PLANS = """
plans:
  free: {limits: {hourly: {rate: 1/hour, burst: 100}}}
  wide: {limits: {hourly: {rate: 1/hour, burst: 100}, more: {rate: 1000/second}}}
  none: {limits: {other: {rate: 1000/second}}}
"""
pytestmark = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="asks the kernel which worker holds a connection"
)


class Scene:
    """Four warm workers and a client that has nothing left."""

    def __init__(self, home: Home, serving: Serving, on: Desk, *, client: str) -> None:
        self.home, self.on, self.client = home, on, client
        url = urlsplit(serving.url)
        assert url.hostname is not None
        self._beside = HTTPConnection(url.hostname, url.port or 0, timeout=PATIENCE_S)
        self.store = Redis(unix_socket_path=str(home.data / "valkey.sock"))
        self._refunds = 0
        on.admin("POST", "/clients", {"name": client, "plan": "free"})
        self.key: str = on.admin("POST", "/keys", {"client": client, "name": "one"})["key"]
        self.exhaust()

    def close(self) -> None:
        self._beside.close()
        self.store.close()

    def exhaust(self) -> None:
        """Take what there is, and then ask until each worker refuses from memory."""
        while 200 in self.statuses():
            pass
        self.remembering()

    def statuses(self) -> list[int]:
        return self.on.statuses(self.key)

    def remembered(self) -> int:
        """How many checks were refused from memory, by all workers together."""
        self._beside.request("GET", "/metrics")
        text = self._beside.getresponse().read().decode()
        found = re.search(r"^quotas_refusals_remembered_total (\S+)$", text, re.MULTILINE)
        assert found
        return int(float(found[1]))

    def remembering(self) -> None:
        """Ask until each worker refuses from memory."""

        def all_of_them() -> bool:
            before = self.remembered()
            assert self.statuses() == [429] * WORKERS
            return self.remembered() == before + WORKERS

        until(all_of_them)

    def refund(self, units: int) -> float:
        """Give units back, through a worker; when that was answered."""
        self._refunds += 1
        body = {"client": self.client, "units": units, "idempotency_key": f"job-{self._refunds}"}
        self._beside.request("POST", "/v1/refund", json.dumps(body), {"content-type": "application/json"})
        answer = self._beside.getresponse()
        assert answer.status == 200, answer.read()
        answered_at = time.perf_counter()
        assert json.loads(answer.read())["refunded"] == {"hourly": units}
        return answered_at

    def scripts(self) -> int:
        """How many scripts the store has been asked for."""
        return int(self.store.info("commandstats")["cmdstat_evalsha"]["calls"])


@pytest.fixture(scope="module", params=["1", "0"], ids=["hot", "asgi"])
def running(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Home, Serving, Desk]]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.plans(PLANS)
    home.environment |= {"QUOTAS_ADMIN_TOKEN": ADMIN, "QUOTAS_HOT_ROAD": request.param}
    with home.serving("--workers", str(WORKERS)) as serving, desk(serving) as on:
        yield home, serving, on


@pytest.fixture
def scene(running: tuple[Home, Serving, Desk], request: pytest.FixtureRequest) -> Iterator[Scene]:
    with closing(Scene(*running, client=request.function.__name__)) as made:
        yield made


def test_a_flood_of_refusals_asks_the_store_about_once_a_second_and_worker(scene: Scene) -> None:
    before, begun = scene.scripts(), time.monotonic()
    for _ in range(500):
        assert scene.statuses() == [429] * WORKERS
    seconds = time.monotonic() - begun
    # Two scripts a second for each worker: a refusal anew, and those for the usage history. Twice that is no surprise.
    assert scene.scripts() - before <= 4 * WORKERS * (seconds + 1)


def test_a_refund_is_heard_of_by_every_worker_in_a_moment(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """The moment is printed, not asserted: it is this machine's."""
    delays_ms = []
    for _ in range(ROUNDS):
        answered_at = scene.refund(50)
        heard = [False] * WORKERS
        deadline = time.monotonic() + PATIENCE_S
        while not all(heard):
            assert time.monotonic() < deadline, "a worker never heard of it"
            heard = [before or status == 200 for before, status in zip(heard, scene.statuses(), strict=True)]
        delays_ms.append((time.perf_counter() - answered_at) * 1000)
        scene.exhaust()
    with capsys.disabled():
        median, most = statistics.median(delays_ms), max(delays_ms)
        sys.stdout.write(f"\na refund is heard of by {WORKERS} workers: median {median:.1f} ms, most {most:.1f} ms\n")


def test_what_an_operator_changes_counts_from_the_next_check_on(scene: Scene) -> None:
    for _ in range(ROUNDS):
        scene.on.admin("PATCH", f"/clients/{scene.client}", {"plan": "none"})
        assert scene.statuses() == [200] * WORKERS
        scene.on.admin("PATCH", f"/clients/{scene.client}", {"plan": "free"})
        assert scene.statuses() == [429] * WORKERS
        scene.remembering()


def test_so_does_what_a_command_changes(scene: Scene) -> None:
    scene.home.good("clients", "set-plan", scene.client, "none")
    assert scene.statuses() == [200] * WORKERS
    scene.home.good("clients", "set-plan", scene.client, "wide")
    assert scene.statuses() == [429] * WORKERS
    scene.remembering()
    scene.home.good("refund", scene.client, "--units", "100", "--idempotency-key", "nightly")
    until(lambda: scene.statuses() == [200] * WORKERS)
