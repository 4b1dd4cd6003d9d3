"""Many requests through gateways: how often the service is connected to, and what waiting for Retry-After brings."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from quotas.gateway import Gateway

from .conftest import Service, Stand, Stands
from .programs import available

KEPT = 32
"""Idle connections that a printed configuration keeps; nginx does for each worker process."""
CALLERS = 4


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
