"""An ordinary HTTP client that sends exactly the lines it is told to."""

import hashlib
import http.client
import socket
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from e2e.processes import PATIENCE_S

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
"""What a client may say in names that are not its own."""

MEGABYTE = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(MEGABYTE).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; header names are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of a header, a line each."""
        return [value for each, value in self.headers if each == name]

    def one(self, name: str) -> str:
        """The value of a header that stands exactly once."""
        (value,) = self.all(name)
        return value


def ask(
    port: int,
    target: str = "/",
    headers: Sequence[tuple[str, str]] = (),
    *,
    method: str = "GET",
    body: bytes | Iterable[bytes] | None = None,
) -> Reply:
    """One request on a connection of its own. A body in pieces is sent chunked."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if isinstance(body, bytes):
            connection.putheader("Content-Length", str(len(body)))
        elif body is not None:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(body, encode_chunked=not isinstance(body, bytes) and body is not None)
        return _reply(connection.getresponse())


def say(port: int, head: str, body: bytes = b"") -> Reply:
    """One request of these lines as they are; a body is sent once the other side has said to go on."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
        if body:
            said = b""
            while not said.endswith(b"\r\n\r\n"):
                said += connection.recv(1) or b"\r\n\r\n"
            assert said.startswith(b"HTTP/1.1 100"), said
            connection.sendall(body)
        with closing(http.client.HTTPResponse(connection)) as response:
            response.begin()
            return _reply(response)


def _reply(response: http.client.HTTPResponse) -> Reply:
    return Reply(response.status, [(name.lower(), value) for name, value in response.getheaders()], response.read())
