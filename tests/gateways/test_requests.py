"""Requests of every kind: each is right in every gateway, and the check is about what the upstream gets."""

import re

import pytest

from .client import DIGEST, MEGABYTE, say
from .conftest import Service, Stand
from .findings import carried_target, identity
from .upstream import BODY, TRACE


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_body_goes_to_the_upstream_and_nowhere_else(service: Service, stand: Stand, method: str) -> None:
    name, key = service.client("wide")
    reply, received = stand.ask("/up", ("X-API-Key", key), method=method, body=MEGABYTE)
    assert (reply.status, reply.body) == (200, BODY)
    assert received is not None
    assert (received.method, received.body_length, received.body_digest) == (method, len(MEGABYTE), DIGEST)
    assert received.all("x-quotas-client") == [name]
    assert len(stand.road.requests(key)) == 1
    assert MEGABYTE[:256] not in b"".join(stand.road.asked)


def test_a_chunked_body_does_too(service: Service, stand: Stand) -> None:
    _, key = service.client("wide")
    pieces = (MEGABYTE[at : at + 65_536] for at in range(0, len(MEGABYTE), 65_536))
    reply, received = stand.ask("/up", ("X-API-Key", key), method="POST", body=pieces)
    assert reply.status == 200
    assert received is not None
    assert (received.body_length, received.body_digest) == (len(MEGABYTE), DIGEST)
    assert MEGABYTE[:256] not in b"".join(stand.road.asked)


def test_a_refused_body_goes_nowhere(stand: Stand) -> None:
    reply, received = stand.ask("/up", method="POST", body=b"0" * 1000)
    assert (reply.status, received) == (401, None)


def test_a_body_that_waits_to_be_asked_for(service: Service, stand: Stand) -> None:
    """Expect: 100-continue (RFC 9110, section 10.1.1), as curl sends it before a large body."""
    _, key = service.client("wide")
    lines = ["POST /up HTTP/1.1", "Host: here", "Expect: 100-continue", f"Content-Length: {len(MEGABYTE)}"]
    trace = f"waiting-{stand.running.port}"
    reply = say(stand.running.port, "\n".join([*lines, f"X-API-Key: {key}", f"{TRACE}: {trace}"]), MEGABYTE)
    assert reply.status == 200
    assert stand.upstream.received[trace].body_digest == DIGEST


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_method_stays_what_it_is(service: Service, stand: Stand, method: str) -> None:
    _, key = service.client("three")
    for _ in range(3):
        reply, received = stand.ask("/", ("X-API-Key", key), method=method)
        assert (reply.status, reply.body) == (200, b"" if method == "HEAD" else BODY)
        assert received is not None
        assert received.method == method
    reply, received = stand.ask("/", ("X-API-Key", key), method=method)
    assert (reply.status, received) == (429, None)
    assert bool(reply.body) == (method != "HEAD")
    assert reply.one("retry-after")


def test_a_preflight_passes_without_a_credential_and_without_a_charge(service: Service, stand: Stand) -> None:
    """Where the plan file says `preflight: pass`. A plain OPTIONS is a request like any other."""
    _, key = service.client("three")
    preflight = (("Origin", "https://page.example"), ("Access-Control-Request-Method", "PUT"))
    for headers in ((), (("X-API-Key", key),)):
        for _ in range(4):
            reply, received = stand.ask("/", *headers, *preflight, method="OPTIONS")
            assert reply.status == 200
            assert received is not None
            assert received.all("access-control-request-method") == ["PUT"]
            assert identity(received) == {}
    assert stand.ask("/", ("X-API-Key", key))[0].one("x-ratelimit-remaining") == "2"
    assert stand.ask("/", method="OPTIONS")[0].status == 401


TARGETS = [
    "/",
    "/a%2Fb//c?q=1&x=%20y",
    "/%E2%82%AC",
    "/%e2%82%ac",
    "/a/./b/../c",
    "/a/%2e%2E/c",
    "/a;v=1/b;w=2",
    "/a+b%2Bc",
    "/[a]|^{b}",
    "/a%25b",
    "/~a/!$&'()*,=:@",
    "//a///b/",
    "/a?",
    "/a?b?c=/../d",
    "/a?q=%2F%26;+",
    "/a#b",
    "/a\\..\\b",
    "/caf\xc3\xa9",
    "http://elsewhere/held/a?b",
    "http://elsewhere",
    "http://elsewhere?a",
    "*",
]


@pytest.mark.parametrize("target", TARGETS)
def test_the_check_is_about_the_path_that_the_upstream_gets(service: Service, stand: Stand, target: str) -> None:
    _, key = service.client("wide")
    trace = f"{stand.running.port} {target}"
    method = "OPTIONS" if target == "*" else "GET"
    head = f"{method} {target} HTTP/1.1\nHost: elsewhere\nX-API-Key: {key}\n{TRACE}: {trace}"
    reply = say(stand.running.port, head)
    if trace not in stand.upstream.received:
        assert reply.status in {400, 404} or target == "*", (
            "a gateway may refuse a path, or answer OPTIONS *, by itself"
        )
        return
    assert reply.status == 200
    carried = [carried_target(stand.running.gateway, each).decode("latin-1") for each in stand.road.requests(key)]
    assert [re.sub(r"^(?=\?|$)", "/", each) for each in carried] == [stand.upstream.received[trace].target]


def test_nobody_tunnels(service: Service, stand: Stand) -> None:
    """What goes through a tunnel would never be asked about."""
    _, key = service.client("wide")
    trace = f"tunnel-{stand.running.port}"
    head = f"CONNECT elsewhere:80 HTTP/1.1\nHost: elsewhere:80\nX-API-Key: {key}\n{TRACE}: {trace}"
    assert say(stand.running.port, head).status >= 400
    assert trace not in stand.upstream.received


@pytest.mark.parametrize(
    "target", ["/held/it", "/held/it?x=/../y", "/%68eld/i%74", "/x/../held/it", "//held//it", "/held/./it"]
)
def test_no_spelling_of_a_path_passes_its_limit(service: Service, stand: Stand, target: str) -> None:
    _, key = service.client("held")
    replies = [stand.ask(target, ("X-API-Key", key))[0] for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 429]
    assert stand.ask("/free", ("X-API-Key", key))[0].status == 200
