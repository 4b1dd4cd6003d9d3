"""Checks as bytes on a connection: framing, keep-alive, bodies that never come, upgrades and CONNECT.

Each test runs over both roads: the hot one and the ASGI application.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from .processes import PATIENCE_S, Home, Serving

PLANS = """
plans:
  free:
    limits:
      units: {quota: 1000000/year}
"""
PATHS = ["/check", "/check/nginx", "/check/envoy/a?b"]
paths = pytest.mark.parametrize("path", PATHS)


@dataclass(frozen=True)
class Answered:
    """One answer as it was read from the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Wire:
    """One connection to the service, and a key to ask with."""

    sock: socket.socket
    file: BinaryIO
    secret: str

    def send(self, method: str, path: str, *lines: str, body: bytes = b"", key: bool = True) -> None:
        head = [f"{method} {path} HTTP/1.1", "Host: quotas", *lines]
        if key:
            head.append(f"X-API-Key: {self.secret}")
        self.sock.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def read(self, *, method: str = "GET") -> Answered:
        """The next answer, framed as RFC 9112, section 6.3 has it for this method."""
        status = int(self.file.readline().split(b" ")[1])
        headers: dict[str, str] = {}
        while (line := self.file.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode().strip().partition(": ")
            assert name not in headers
            headers[name] = value
        length = 0 if method == "HEAD" else int(headers["content-length"])
        return Answered(status, headers, self.file.read(length))

    def is_open(self) -> bool:
        """Whether the connection still answers: a whole check goes through it."""
        self.send("GET", "/check")
        return self.read().status == 200

    def has_ended(self) -> bool:
        """Whether the service has closed its side, without another byte."""
        return self.file.read() == b""


@pytest.fixture(scope="module", params=["1", "0"], ids=["hot", "asgi"])
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = Home(Path(tmp_path_factory.mktemp("wire")))
    home.environment["QUOTAS_HOT_ROAD"] = request.param
    home.plans(PLANS)
    with home.serving("--demo") as serving:
        yield serving


@contextmanager
def connected(serving: Serving) -> Iterator[Wire]:
    address = urlsplit(serving.url)
    with socket.create_connection((address.hostname, address.port), PATIENCE_S) as sock, sock.makefile("rb") as file:
        yield Wire(sock, file, serving.curl[0])


@paths
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_keeps_the_connection_whatever_the_answer(serving: Serving, path: str, method: str) -> None:
    with connected(serving) as wire:
        for key, status in ((True, 200), (False, 401), (True, 200)):
            wire.send(method, path, "Content-Length: 0", key=key)
            answer = wire.read(method=method)
            assert answer.status == status
            assert answer.headers["cache-control"] == "no-store"
            assert "connection" not in answer.headers
        assert wire.is_open()


def test_head_says_how_long_the_body_of_get_would_be(serving: Serving) -> None:
    with connected(serving) as wire:
        wire.send("GET", "/check", key=False)
        get = wire.read()
        wire.send("HEAD", "/check", key=False)
        head = wire.read(method="HEAD")
        assert int(head.headers["content-length"]) == len(get.body) > 0
        assert head.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]], ids=["sends", "expects"])
def test_a_body_that_never_comes_is_not_waited_for_and_ends_the_connection(serving: Serving, expect: list[str]) -> None:
    """What came next on this connection would be taken for the body: the next check of somebody else."""
    with ExitStack() as stack:
        asked = []
        for path in PATHS:
            for line in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
                for key in (True, False):
                    wire = stack.enter_context(connected(serving))
                    wire.send("POST", path, line, *expect, key=key)
                    asked.append((wire, 200 if key else 401))
        for wire, status in asked:
            answer = wire.read()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
        for wire, _ in asked:
            assert wire.has_ended()


@paths
@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_who_is_sending_a_body_gets_the_whole_answer(serving: Serving, path: str, size: int) -> None:
    with connected(serving) as wire:
        wire.send("POST", path, f"Content-Length: {size}", body=b"x" * size, key=False)
        answer = wire.read()
        assert answer.status == 401
        assert len(answer.body) == int(answer.headers["content-length"])


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "anything/1"])
def test_an_upgrade_is_ignored_and_not_logged(serving: Serving, upgrade: str) -> None:
    with connected(serving) as wire:
        for path in PATHS:
            wire.send("GET", path, "Connection: Upgrade", f"Upgrade: {upgrade}", "Sec-WebSocket-Version: 13")
            answer = wire.read()
            assert (answer.status, answer.body) == (200, b"")
            assert "upgrade" not in answer.headers
            assert wire.is_open()
    assert "pgrade" not in serving.err()
    assert "WebSocket" not in serving.err()


@paths
def test_connect_is_decided_and_opens_no_tunnel(serving: Serving, path: str) -> None:
    """RFC 9110, section 9.3.6: what follows a 2xx answer to CONNECT is no HTTP, so nothing may be read as a request."""
    with connected(serving) as wire:
        wire.send("CONNECT", path)
        answer = wire.read()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert wire.has_ended()


@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
def test_two_lines_of_a_credential_are_ambiguous(serving: Serving, name: str) -> None:
    with connected(serving) as wire:
        value = wire.secret if name == "X-API-Key" else f"Bearer {wire.secret}"
        wire.send("GET", "/check/nginx", f"{name}: {value}", f"{name}: {value}", key=False)
        answer = wire.read()
        assert (answer.status, answer.headers["x-quotas-reason"]) == (401, "ambiguous_credentials")


def test_http_1_0_is_answered_and_closed(serving: Serving) -> None:
    with connected(serving) as wire:
        wire.sock.sendall(f"GET /check/nginx HTTP/1.0\r\nX-API-Key: {wire.secret}\r\n\r\n".encode())
        answer = wire.read()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert wire.has_ended()


def test_requests_that_come_all_at_once_are_answered_in_their_order(serving: Serving) -> None:
    """RFC 9112, section 9.3.2: known and unknown callers, checks and pages, with and without bodies."""
    with connected(serving) as wire:
        asked: list[tuple[str, str, bool, int]] = [
            ("GET", "/check", True, 200),
            ("GET", "/check", False, 401),
            ("GET", "/healthz", False, 200),
            ("POST", "/check/nginx", True, 200),
            ("HEAD", "/check", False, 401),
            ("GET", "/none", False, 404),
            ("GET", "/check/envoy/a?b", True, 200),
        ]
        for _ in range(30):
            for method, path, key, _status in asked:
                body = b"body" if method == "POST" else b""
                wire.send(method, path, f"Content-Length: {len(body)}", body=body, key=key)
        for _ in range(30):
            for method, path, _key, status in asked:
                answer = wire.read(method=method)
                assert answer.status == status, path
        assert wire.is_open()


def test_a_head_that_comes_in_pieces_is_one_request(serving: Serving) -> None:
    with connected(serving) as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for byte in f"GET /check HTTP/1.1\r\nHost: quotas\r\nX-API-Key: {wire.secret}\r\n\r\n".encode():
                wire.sock.sendall(bytes([byte]))
            assert wire.read().status == 200


def test_connection_close_is_followed(serving: Serving) -> None:
    with connected(serving) as wire:
        wire.send("GET", "/check", "Connection: close")
        answer = wire.read()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert wire.has_ended()


def test_http_1_0_is_closed_also_when_it_asks_to_be_kept(serving: Serving) -> None:
    with connected(serving) as wire:
        head = f"GET /check HTTP/1.0\r\nConnection: keep-alive\r\nX-API-Key: {wire.secret}\r\n\r\n"
        wire.sock.sendall(head.encode())
        assert wire.read().status == 200
        assert wire.has_ended()


@pytest.mark.parametrize(
    "target", ["http://quotas/check", "/check#fragment", "/check?query", "/check//a%2f..", "/checked"]
)
def test_every_form_of_a_target_is_read_the_same(serving: Serving, target: str) -> None:
    with connected(serving) as wire:
        wire.send("GET", target)
        assert wire.read().status == (404 if target == "/checked" else 200)
        assert wire.is_open()


@pytest.mark.parametrize("head", ["GET /check\xe9 HTTP/1.1\r\n\r\n", "GET /check HTTP/1.1\r\nbad header\r\n\r\n"])
def test_what_is_no_http_is_refused_and_the_connection_ends(serving: Serving, head: str) -> None:
    with connected(serving) as wire:
        wire.sock.sendall(head.encode("latin-1"))
        assert wire.read().status == 400
        assert wire.has_ended()


def test_a_client_that_goes_away_in_the_middle_harms_nobody(serving: Serving) -> None:
    with connected(serving) as other:
        for _ in range(20):
            with connected(serving) as wire:
                wire.send("GET", "/check")
        assert other.is_open()


def test_a_client_that_does_not_read_its_answers_gets_all_of_them_later(serving: Serving) -> None:
    """More than the kernel's buffers hold of answers; the service waits for this client, and for no other."""
    checks = 5_000
    with connected(serving) as wire, connected(serving) as other:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"GET /check HTTP/1.1\r\nX-API-Key: {wire.secret}\r\n\r\n".encode()
        sending = threading.Thread(target=wire.sock.sendall, args=(head * checks,))
        sending.start()
        for _ in range(20):
            assert other.is_open()
        for _ in range(checks):
            assert wire.read().status == 200
        sending.join(PATIENCE_S)
        assert wire.is_open()
