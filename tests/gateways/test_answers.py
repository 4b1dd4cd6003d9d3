"""What a client sees and what the upstream gets, through each gateway."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2e.processes import PATIENCE_S
from redis import Redis

from quotas.gateway import Gateway
from quotas.places import MAX_CREDENTIAL

from .client import Reply, ask
from .conftest import Service, Stand, Stands, serving
from .programs import available, running
from .upstream import ANSWER, BODY, TRACE, Received

FORGED = [
    ("X-Quotas-Client", "root"),
    ("X-Quotas-Plan", "unlimited"),
    ("X-Quotas-Subject", "root"),
    ("X-Quotas-Cost", "0"),
    ("X-Quotas-Degraded", "1"),
    ("X_Quotas_Client", "root"),
    ("X-Forwarded-For", "198.51.100.7"),
    ("X-Forwarded-Method", "OPTIONS"),
    ("X-Forwarded-Uri", "/free"),
    ("X-Original-Method", "OPTIONS"),
    ("X-Original-URI", "/free"),
    ("X-Original-URL", "/free"),
    ("X-Request-ID", "chosen-by-the-client"),
]


def is_here(address: str) -> bool:
    """Whether this is an address of this machine: Envoy names another one than the loopback address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def problem(reply: Reply) -> dict[str, object]:
    """The problem details of a refusal, which is for nobody else."""
    assert reply.one("content-type").split(";")[0] == "application/problem+json"
    assert "no-store" in reply.one("cache-control")
    found: dict[str, object] = json.loads(reply.body)
    assert found["status"] == reply.status
    return found


def identity(received: Received | None) -> dict[str, list[str]]:
    """What the upstream could take for who is calling, underscores included."""
    assert received is not None
    named = {name.replace("_", "-") for name, _ in received.headers}
    return {
        name: [value for each, value in received.headers if each.replace("_", "-") == name and value]
        for name in named
        if name.startswith("x-quotas-")
    }


def without_empty(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: values for name, values in found.items() if values}


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
        found = without_empty(identity(received))
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


def test_a_caller_without_a_credential_counts_by_its_own_address(stands: Stands) -> None:
    plans = "plans: {three: {limits: {hourly: {rate: 1/hour, burst: 3}}}}\nanonymous: {plan: three}"
    with serving(plans) as service, Redis(unix_socket_path=str(service.home.data / "valkey.sock")) as store:
        for gateway in available():
            store.flushall()
            made = running(gateway, stands.new_folder(), upstream=stands.upstream.port, check=service.port)
            with made as started:
                hops = [[("X-Forwarded-For", f"198.51.100.{hop}")] for hop in range(4)]
                statuses = [ask(started.port, "/", hop).status for hop in hops]
            assert statuses == [200, 200, 200, 429], gateway


def carried_target(gateway: Gateway, asked: bytes) -> bytes:
    """The target that a check is about, as the gateway carries it."""
    line, *lines = asked.split(b"\r\n")
    if gateway is Gateway.ENVOY:
        return line.split(b" ")[1].removeprefix(b"/check/envoy")
    name = b"x-original-uri" if gateway is Gateway.NGINX else b"x-forwarded-uri"
    (found,) = (value for each, value in (line.split(b": ", 1) for line in lines) if each.lower() == name)
    return found


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


class TestCredentials:
    def test_the_upstream_gets_them_by_default(self, service: Service, stand: Stand) -> None:
        _, key = service.client("wide")
        for header in (("X-API-Key", key), ("Authorization", f"Bearer {key}")):
            _, received = stand.ask("/", header)
            assert received is not None
            assert received.all(header[0].lower()) == [header[1]]

    def test_and_not_when_they_are_hidden(self, service: Service, open_stand: Stand) -> None:
        name, key = service.client("wide")
        for header in (("X-API-Key", key), ("Authorization", f"Bearer {key}")):
            reply, received = open_stand.ask("/", header)
            assert reply.status == 200
            assert received is not None
            assert received.all("x-quotas-client") == [name]
            assert not [value for _, value in received.headers if key in value]

    def test_the_further_places_of_the_plan_file_are_handed_on(self, service: Service, open_stand: Stand) -> None:
        """With --credential-header and --credential-cookie."""
        name, key = service.client("wide")
        for header in (("X-Acme-Key", key), ("Cookie", f"a=b; acme_session={key}; c=d")):
            reply, received = open_stand.ask("/", header)
            assert reply.status == 200
            assert received is not None
            assert received.all("x-quotas-client") == [name]
            assert received.all("x-acme-key") == []

    def test_and_not_otherwise(self, service: Service, stand: Stand) -> None:
        _, key = service.client("wide")
        assert stand.ask("/", ("Cookie", f"acme_session={key}"))[0].status == 401

    def test_two_credentials_are_none(self, service: Service, stand: Stand) -> None:
        """Refused by the gateway or by the service, and never the first one or the last one wins."""
        keys = [service.client("wide")[1] for _ in range(2)]
        for header in ("X-API-Key", "Authorization"):
            lines = [(header, key if header == "X-API-Key" else f"Bearer {key}") for key in keys]
            reply, received = stand.ask("/", *lines)
            assert received is None
            assert reply.status in {400, 401}

    @pytest.mark.parametrize("length", [7_000, MAX_CREDENTIAL])
    def test_a_long_credential_arrives_whole(self, stand: Stand, length: int) -> None:
        """A JWT of 7 kB, and the longest that the service looks at."""
        mark = f"{stand.running.port}-{length}-"
        reply, _ = stand.ask("/", ("Authorization", f"Bearer {mark}{'e' * (length - len(mark))}"))
        assert reply.status == 401
        (asked,) = stand.road.requests(mark)
        assert f"{mark}{'e' * (length - len(mark))}\r\n".encode() in asked + b"\r\n"


def test_a_web_socket_passes(service: Service, stand: Stand) -> None:
    name, key = service.client("wide")
    with upgraded(stand, key, "websocket") as (connection, head):
        assert head.startswith(b"HTTP/1.1 101")
        for said in (b"over", b"and over"):
            connection.sendall(said)
            assert connection.recv(4096) == said
    received = stand.upstream.received[f"socket-{stand.running.port}-websocket"]
    assert received.all("x-quotas-client") == [name]


def test_no_other_protocol_does(service: Service, stand: Stand) -> None:
    """What goes over an h2c connection would never be asked about."""
    _, key = service.client("wide")
    with upgraded(stand, key, "h2c") as (_, head):
        assert not head.startswith(b"HTTP/1.1 101")
    received = stand.upstream.received.get(f"socket-{stand.running.port}-h2c")
    assert received is None or received.all("upgrade") == []


@contextmanager
def upgraded(stand: Stand, key: str, protocol: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection that has asked to speak something else, and the head of the answer."""
    lines = [
        "GET /speak HTTP/1.1",
        "Host: here",
        f"X-API-Key: {key}",
        f"{TRACE}: socket-{stand.running.port}-{protocol}",
        f"Upgrade: {protocol}",
        "Connection: Upgrade, HTTP2-Settings",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    with socket.create_connection(("127.0.0.1", stand.running.port), PATIENCE_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            some = connection.recv(1)
            assert some, head
            head += some
        yield connection, head
