"""What four real workers count together, while they are killed and replaced, and what is left of it on the disk."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from .processes import PATIENCE_S, Home, Serving, runs, until

PLANS = """
plans:
  free:
    limits:
      hourly: {quota: 1000000/hour}
"""
CLIENTS = ("one", "two", "three")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.plans(PLANS)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    home.environment["TMPDIR"] = str(temporary)
    return home


def folders(home: Home) -> list[Path]:
    """What services keep in the place for temporary files."""
    return sorted(Path(home.environment["TMPDIR"]).glob("quotas-*"))


@dataclass(slots=True)
class Tally:
    """What callers have sent and were answered, by client."""

    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)


def connect(serving: Serving) -> httpx.Client:
    return httpx.Client(base_url=serving.url, timeout=PATIENCE_S, trust_env=False)


def counted(serving: Serving) -> Counter[str]:
    """The allowed checks of each client, as a worker that is asked on a new connection tells them."""
    with connect(serving) as http:
        families = parse(http.get("/metrics").text)
    found = Counter[str]()
    for family in families:
        for sample in family.samples:
            assert "pid" not in sample.labels
            if sample.name == "quotas_checks_total" and sample.labels["outcome"] == "allowed":
                found[sample.labels["client"]] += int(sample.value)
    return found


def call(serving: Serving, client: str, secret: str, tally: Tally, goes_on: Callable[[], bool]) -> None:
    """Check in a row on one connection, and on another when that breaks."""
    while goes_on():
        with connect(serving) as http:
            try:
                while goes_on():
                    tally.sent[client] += 1
                    assert http.get("/check", headers={"x-api-key": secret}).status_code == 200
                    tally.answered[client] += 1
            except httpx.TransportError:
                continue  # The worker was killed; what it had counted of this check is not known.


def test_sums_are_those_of_the_callers_and_never_go_back(home: Home) -> None:
    with home.serving("--workers", "4") as serving:
        until(lambda: len(serving.workers()) == 4)
        secrets = {}
        for client in CLIENTS:
            home.create(client)
            secrets[client] = home.key(client)
        tallies = [Tally() for _ in range(6)]
        done = threading.Event()
        sums: list[int] = []
        with ThreadPoolExecutor(len(tallies)) as pool:
            calls = [
                pool.submit(call, serving, client, secrets[client], tally, lambda: not done.is_set())
                for client, tally in zip(2 * CLIENTS, tallies, strict=True)
            ]
            try:
                for _ in range(2):
                    kill_one_in_the_middle(serving, sums)
            finally:
                done.set()
            for each in calls:
                each.result(PATIENCE_S)
        assert sums == sorted(sums)
        told = counted(serving)
        for client in CLIENTS:
            sent, answered = (sum(getattr(tally, what)[client] for tally in tallies) for what in ("sent", "answered"))
            assert answered <= told[client] <= sent
        assert serving.on_each_worker(lambda: counted(serving)) == 4 * [told]
        (folder,) = folders(home)
        assert len(list(folder.glob("slot-*"))) == 4
        assert serving.stop() == 0
    assert folders(home) == []


def kill_one_in_the_middle(serving: Serving, sums: list[int]) -> None:
    """Kill a worker once 200 more checks were made, and wait for its replacement; `sums` gets what is seen."""
    goal = sum(counted(serving).values()) + 200
    until(lambda: _looked(serving, sums) >= goal)
    before = serving.workers()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: _looked(serving, sums) > 0 and len(set(serving.workers()) - set(before)) == 1)


def _looked(serving: Serving, sums: list[int]) -> int:
    """One more look at the sum of all clients."""
    sums.append(sum(counted(serving).values()))
    return sums[-1]


def test_what_a_killed_service_left_goes_with_the_next(home: Home) -> None:
    with home.serving("--workers", "2") as serving:
        until(lambda: len(serving.workers()) == 2)
        workers = serving.workers()
        (left,) = folders(home)
        serving.kill()
        until(lambda: not any(runs(pid) for pid in workers))
        assert folders(home) == [left]
    with home.serving("--workers", "2") as serving:
        (folder,) = folders(home)
        assert folder != left
        assert serving.stop() == 0
    assert folders(home) == []


def test_clients_that_are_made_and_deleted_by_commands_come_and_go_on_every_worker(home: Home) -> None:
    with home.serving("--workers", "4") as serving:
        until(lambda: len(serving.workers()) == 4)
        home.good("clients", "create", "acme", "--plan", "free")
        assert all("acme" in counted(serving) for _ in range(12))
        home.good("clients", "delete", "acme", "--yes")
        assert not any("acme" in counted(serving) for _ in range(12))


def test_another_bound_is_in_force_once_the_file_says_so(home: Home) -> None:
    home.plans(PLANS + "metrics: {max_clients: 1}\n")
    with home.serving("--workers", "2") as serving:
        for client in CLIENTS:
            home.create(client)
            secret = home.key(client)
            with connect(serving) as http:
                assert http.get("/check", headers={"x-api-key": secret}).status_code == 200
        assert counted(serving) == {"unknown": 0, "one": 1, "other": 2}
        home.plans(PLANS)
        until(lambda: set(CLIENTS) <= counted(serving).keys())
        assert counted(serving) == {"unknown": 0, "one": 1, "two": 0, "three": 0, "other": 2}
