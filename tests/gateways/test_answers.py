"""What a client sees and what the upstream gets, through each gateway."""

from typing import Any

import pytest
from e2e.processes import until
from redis import Redis

from quotas.news import LISTENERS, STREAM, about_clients

from .client import FORGED, ask
from .conftest import Service, Stand, Stands, serving
from .findings import carried_target, identity, is_here, problem
from .programs import available, running
from .upstream import ANSWER, BODY, TRACE


def test_a_burst_of_three_passes_and_the_fourth_is_429(service: Service, stand: Stand) -> None:
    name, key = service.client("three")
    for left in (2, 1, 0):
        reply, received = stand.ask("/", ("X-API-Key", key))
        assert (reply.status, reply.body) == (200, BODY)
        assert reply.one("ratelimit").startswith(f'"hourly";r={left}')
        assert reply.one("ratelimit-policy") == '"hourly";q=3;w=10800'
        assert (reply.one("x-ratelimit-limit"), reply.one("x-ratelimit-remaining")) == ("3", str(left))
        assert reply.one("x-ratelimit-reset").isdigit()
        assert received is not None
        assert received.all("x-quotas-client") == [name]
        assert received.all("x-quotas-plan") == ["three"]
        assert received.all("x-quotas-subject")[0].startswith("key_")
    reply, received = stand.ask("/", ("X-API-Key", key))
    assert (reply.status, received) == (429, None)
    assert 3590 <= int(reply.one("retry-after")) <= 3600
    assert reply.one("ratelimit").startswith('"hourly";r=0')
    assert reply.one("x-ratelimit-remaining") == "0"
    assert reply.one("x-quotas-reason") == "rate_limited"
    assert reply.one("x-quotas-limit") == "hourly"
    assert problem(reply)["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"


def test_a_bad_key_is_401_with_a_challenge(stand: Stand) -> None:
    for headers, error in (([], ""), ([("X-API-Key", "quotas_live_bad")], 'error="invalid_token"')):
        reply, received = stand.ask("/", *headers)
        assert (reply.status, received) == (401, None)
        assert reply.one("www-authenticate").startswith('Bearer realm="quotas"')
        assert error in reply.one("www-authenticate")
        problem(reply)


def test_a_suspended_client_is_403(service: Service, stand: Stand) -> None:
    name, key = service.client("wide")
    service.suspend(name)
    reply, received = stand.ask("/", ("Authorization", f"Bearer {key}"))
    assert (reply.status, received, reply.all("www-authenticate")) == (403, None, [])
    assert reply.one("x-quotas-reason") == "suspended_client"
    problem(reply)


def test_a_credential_without_a_scope_is_403_with_a_challenge(service: Service, stand: Stand) -> None:
    _, key = service.client("scoped")
    reply, received = stand.ask("/", ("X-API-Key", key))
    assert (reply.status, received) == (403, None)
    assert reply.one("www-authenticate") == 'Bearer realm="quotas", error="insufficient_scope", scope="admin"'
    assert problem(reply)["reason"] == "insufficient_scope"


def test_what_a_client_says_about_itself_reaches_nobody(service: Service, stand: Stand) -> None:
    name, key = service.client("three")
    for _ in range(3):
        reply, received = stand.ask("/paid", ("X-API-Key", key), *FORGED)
        assert reply.status == 200
        assert received is not None
        found = identity(received)
        assert found.pop("x-quotas-subject")[0].startswith("key_")
        assert found == {"x-quotas-client": [name], "x-quotas-plan": ["three"]}
        (address,) = received.all("x-forwarded-for")
        assert is_here(address)
    reply, _ = stand.ask("/paid", ("X-API-Key", key), *FORGED)
    assert reply.status == 429, "a cost that the client names is not believed"


def test_only_what_a_check_is_about_goes_to_the_service(service: Service, stand: Stand) -> None:
    _, key = service.client("wide")
    reply, _ = stand.ask(
        "/paid?a=b", ("X-API-Key", key), ("Cookie", "session=1"), ("X-Private", "1"), *FORGED, method="POST", body=b"12"
    )
    assert reply.status == 200
    (asked,) = stand.road.requests(key)
    lines = [line.split(b": ", 1) for line in asked.split(b"\r\n")[1:]]
    fields = [(name.lower(), value) for name, value in lines]
    (address,) = (value for name, value in fields if name == b"x-forwarded-for")
    assert is_here(address.decode())
    assert not [name for name, _ in fields if name.startswith((b"x-quotas", b"x_quotas")) or name == b"cookie"]
    assert len([value for name, value in fields if name == b"x-request-id"]) == 1
    assert b"chosen-by-the-client" not in asked, "whoever names a check could have it taken for one that was made"
    carried = carried_target(stand.running.gateway, asked)
    assert carried == b"/paid?a=b"
    assert [value for name, value in fields if name in {b"content-length", b"transfer-encoding"}] in ([], [b"0"])


def forget(store: Redis) -> None:
    """Have nobody have asked: neither the store remembers it nor a worker that has refused somebody."""
    for key in store.keys("q1:{ip_*"):
        store.delete(key)
    added: Any = store.xadd(STREAM, {"notice": about_clients([])})
    until(lambda: all(entry.startswith(added) for entry in store.hvals(LISTENERS)))


def test_a_caller_without_a_credential_counts_by_its_own_address(stands: Stands) -> None:
    plans = "plans: {three: {limits: {hourly: {rate: 1/hour, burst: 3}}}}\nanonymous: {plan: three}"
    with serving(plans) as service, Redis(unix_socket_path=str(service.home.data / "valkey.sock")) as store:
        for gateway in available():
            forget(store)
            made = running(gateway, stands.new_folder(), upstream=stands.upstream.port, check=service.port)
            with made as started:
                hops = [[("X-Forwarded-For", f"198.51.100.{hop}")] for hop in range(4)]
                statuses = [ask(started.port, "/", hop).status for hop in hops]
            assert statuses == [200, 200, 200, 429], gateway


@pytest.mark.parametrize("status", [200, 204, 301, 401, 403, 404, 429, 500, 503])
def test_what_the_upstream_answers_is_passed_on(service: Service, stand: Stand, status: int) -> None:
    _, key = service.client("wide")
    reply, _ = stand.ask("/", ("X-API-Key", key), (ANSWER, str(status)))
    assert (reply.status, reply.all("x-upstream"), reply.all("x-quotas-reason")) == (status, ["yes"], [])


def test_a_client_cannot_have_the_upstream_asked_again(service: Service, stand: Stand) -> None:
    _, key = service.client("wide")
    again = (("X-Envoy-Retry-On", "5xx"), ("X-Envoy-Max-Retries", "3"))
    trace = f"again-{stand.running.port}"
    reply = ask(stand.running.port, "/", [("X-API-Key", key), (TRACE, trace), (ANSWER, "503"), *again])
    assert (reply.status, stand.upstream.times[trace]) == (503, 1)
