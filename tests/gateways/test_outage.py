"""What is answered while the check service, or its store, is not there."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from e2e.processes import until

from quotas.gateway import Gateway

from .client import DIGEST, FORGED, MEGABYTE, Reply
from .conftest import Service, Stand, Stands
from .findings import identity, is_unavailable
from .programs import CLOSED, OPEN, available, running
from .road import road
from .upstream import BODY, Received

DEFAULT_MS = "250"


def test_closed_is_503_and_service_comes_back(service: Service, stand: Stand) -> None:
    _, key = service.client("wide")
    with stand.road.closed():
        for method in ("GET", "POST"):
            reply, received = stand.ask("/", ("X-API-Key", key), method=method)
            assert is_unavailable(reply)
            assert received is None
    until(lambda: stand.ask("/", ("X-API-Key", key))[0].status == 200)


def test_open_lets_through_whom_nobody_knows(service: Service, open_stand: Stand) -> None:
    _, key = service.client("wide")
    with open_stand.road.closed():
        reply, received = open_stand.ask("/up", ("X-API-Key", key), *FORGED, method="POST", body=MEGABYTE)
        assert (reply.status, reply.body, reply.all("ratelimit")) == (200, BODY, [])
        assert received is not None
        assert identity(received) == {}
        assert received.body_digest == DIGEST
        assert not [value for _, value in received.headers if key in value]
    until(lambda: open_stand.ask("/", ("X-API-Key", "bad"))[0].status == 401)


def test_an_upstream_that_is_down_is_not_taken_for_the_service(
    gateway: Gateway, service: Service, stands: Stands
) -> None:
    """Also in an open gateway: the request was checked, and failed behind that."""
    _, key = service.client("wide")
    with ExitStack() as stack:
        nobody = stack.enter_context(road(stands.loop, service.port))
        nobody.close()
        for variant in (CLOSED, OPEN):
            way = stack.enter_context(road(stands.loop, service.port))
            made = running(gateway, stands.new_folder(), *variant, upstream=nobody.port, check=way.port)
            stand = Stand(stack.enter_context(made), way, stands.upstream)
            reply, _ = stand.ask("/", ("X-API-Key", key))
            assert reply.status in {502, 503}
            assert reply.all("x-quotas-reason") == []
            assert len(way.requests(key)) == 1


@pytest.mark.parametrize("variant", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_service_that_does_not_answer_is_asked_once(
    gateway: Gateway, variant: tuple[str, ...], stands: Stands
) -> None:
    """With the timeouts that are printed by default."""
    with ExitStack() as stack:
        silent = stack.enter_context(road(stands.loop, None))
        folder = stands.new_folder()
        options = ("--check-timeout-ms", DEFAULT_MS, *variant)
        made = running(gateway, folder, *options, upstream=stands.upstream.port, check=silent.port)
        stand = Stand(stack.enter_context(made), silent, stands.upstream)
        is_as_documented(variant, *stand.ask("/", ("X-API-Key", "some-key")))
        assert len(silent.requests("some-key")) == 1


@pytest.mark.parametrize("variant", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_check_whose_answer_is_lost_is_charged_once(
    gateway: Gateway, variant: tuple[str, ...], service: Service, stands: Stands
) -> None:
    """A connection that was kept breaks over it."""
    stand = stands.get(gateway, variant)
    _, key = service.client("wide")
    before = [stand.ask("/", ("X-API-Key", key))[0].one("x-ratelimit-remaining") for _ in range(3)]
    stand.road.drops = True
    try:
        is_as_documented(variant, *stand.ask("/", ("X-API-Key", key)))
    finally:
        stand.road.drops = False
    # Caddy asks again when a kept connection breaks; `dedupe` knows both for one by the id that Caddy gave them.
    assert len(stand.road.requests(key)) - len(before) == (2 if gateway is Gateway.CADDY else 1)
    after = stand.ask("/", ("X-API-Key", key))[0].one("x-ratelimit-remaining")
    assert int(before[-1]) - int(after) == 2


@pytest.mark.parametrize("variant", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_lua_file_that_fails_is_no_answer(variant: tuple[str, ...], service: Service, stands: Stands) -> None:
    """HAProxy goes on after an action that failed."""
    failing = 'core.register_action("quotas_check", { "http-req" }, function(txn) error("failed") end, 0)'
    folder, way = stands.new_folder(), stands.get(Gateway.HAPROXY).road
    made = running(Gateway.HAPROXY, folder, *variant, upstream=stands.upstream.port, check=service.port, lua=failing)
    with made as started:
        stand = Stand(started, way, stands.upstream)
        is_as_documented(variant, *stand.ask("/"))


def is_as_documented(variant: tuple[str, ...], reply: Reply, received: Received | None) -> None:
    """503 behind a closed gateway, and through to the upstream behind an open one."""
    if variant == CLOSED:
        assert is_unavailable(reply)
        assert received is None
    else:
        assert (reply.status, reply.body) == (200, BODY)
        assert received is not None
        assert identity(received) == {}


def test_a_store_that_stalls_is_answered_as_the_plan_says(service: Service, stands: Stands) -> None:
    """And soon after it goes on, so does everything else. All gateways at once: each answer waits for the store."""
    keys = {plan: service.client(plan)[1] for plan in ("wide", "lenient")}
    found = {(gateway, variant): stands.get(gateway, variant) for gateway in available() for variant in (CLOSED, OPEN)}
    for stand in found.values():  # The service remembers both clients from here on.
        assert [stand.ask("/", ("X-API-Key", key))[0].status for key in keys.values()] == [200, 200]
    with ThreadPoolExecutor(2 * len(found)) as pool, service.stalled_store():
        replies = {
            (*of, plan): pool.submit(stand.ask, "/", ("X-API-Key", key), *FORGED)
            for of, stand in found.items()
            for plan, key in keys.items()
        }
        for (gateway, variant, plan), future in replies.items():
            reply, received = future.result()
            if plan == "wide" and (gateway, variant) != (Gateway.ENVOY, OPEN):
                assert is_unavailable(reply)
                assert received is None
                continue
            # An open Envoy takes the 503 of a plan that denies for a service that is down: no degraded answer there.
            degraded = ["1"] if plan == "lenient" else []
            assert (reply.status, reply.body, reply.all("ratelimit")) == (200, BODY, [])
            assert reply.all("x-quotas-degraded") == degraded
            assert received is not None
            assert received.all("x-quotas-degraded") == degraded
    until(
        lambda: all(
            stand.ask("/", ("X-API-Key", key))[0].all("ratelimit") for stand in found.values() for key in keys.values()
        )
    )
