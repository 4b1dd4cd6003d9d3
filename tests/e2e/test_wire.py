"""Checks as bytes on a connection: framing, keep-alive, bodies that never come, upgrades and CONNECT."""

import socket
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


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = Home(Path(tmp_path_factory.mktemp("wire")))
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
