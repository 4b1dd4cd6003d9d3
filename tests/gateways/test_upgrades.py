"""What becomes of a connection that asks to speak something else than HTTP."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.processes import PATIENCE_S

from .conftest import Service, Stand
from .upstream import TRACE


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
