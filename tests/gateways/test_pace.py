"""Many requests through gateways: how often the service is connected to, and what waiting for Retry-After brings."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from e2e.processes import until

from loadtests.processes import standing_still
from quotas.gateway import Gateway

from .conftest import Service, Stand, Stands
from .programs import available

KEPT = 32
"""More connections than few callers need, though each thread of a gateway has its own."""
CALLERS = 4
CROWD = 100
"""Callers at once, fewer than a printed configuration keeps idle connections for."""


def test_checks_go_over_kept_connections(gateway: Gateway, service: Service, stand: Stand) -> None:
    """Half of them are refused: over a refusal with a body nginx would close its connection."""
    plan, checks = ("half", 1000) if gateway is Gateway.NGINX else ("tenth", 200)
    _, key = service.client(plan)
    before = stand.road.connections

    def some(_: int) -> Counter[int]:
        return Counter(stand.ask("/", ("X-API-Key", key))[0].status for _ in range(checks // CALLERS))

    with ThreadPoolExecutor(CALLERS) as pool:
        statuses = sum(pool.map(some, range(CALLERS)), Counter[int]())
    assert statuses == {200: checks // 2, 429: checks // 2}
    assert stand.road.connections - before <= KEPT


@pytest.mark.parametrize("gateway", [Gateway.NGINX, Gateway.CADDY], ids=lambda gateway: gateway.value)
def test_a_crowd_finds_the_connections_of_the_one_before(service: Service, stand: Stand) -> None:
    """The service stands still until all checks of a crowd are on their way, each over a connection of its own.

    Those two are told how many they keep; threads of Envoy and HAProxy have their own, and of each crowd another part.
    """
    _, key = service.client("wide")

    def crowd(pool: ThreadPoolExecutor) -> int:
        before = len(stand.road.requests(key))
        with standing_still([service.serving.process.pid]):
            asked = [pool.submit(stand.ask, "/", ("X-API-Key", key)) for _ in range(CROWD)]
            until(lambda: len(stand.road.requests(key)) == before + CROWD)
        assert {each.result()[0].status for each in asked} == {200}
        return stand.road.connections

    with ThreadPoolExecutor(CROWD) as pool:
        first, second = crowd(pool), crowd(pool)
    assert first >= CROWD
    assert second - first < CROWD // 10


def test_who_waits_for_retry_after_is_never_refused_twice_in_a_row(service: Service, stands: Stands) -> None:
    found = [stands.get(gateway) for gateway in available()]

    def ten(stand: Stand) -> list[int]:
        _, key = service.client("paced")
        statuses = []
        for _ in range(10):
            reply, _ = stand.ask("/", ("X-API-Key", key))
            statuses.append(reply.status)
            if reply.status == 429:
                time.sleep(int(reply.one("retry-after")))  # What the test is about.
        return statuses

    with ThreadPoolExecutor(len(found)) as pool:
        for statuses in pool.map(ten, found):
            assert set(statuses) == {200, 429}
            assert (429, 429) not in list(pairwise(statuses))
