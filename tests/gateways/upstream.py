"""The application behind a gateway: it notes what it gets, and says so."""

import base64
import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Headers = list[tuple[str, str]]
BODY = b"from the upstream"
ANSWER = "X-Answer"
"""A request header with the status that the upstream is to answer."""
TRACE = "X-Trace"
"""A request header with the name under which a request is noted."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in: the target byte for byte, header names in lower case."""

    method: str
    target: str
    headers: Headers
    body_length: int
    body_digest: str

    def all(self, name: str) -> list[str]:
        """The values of a header, a line each."""
        return [value for each, value in self.headers if each == name]


class Upstream(ThreadingHTTPServer):
    """Serves on a free port of the loopback address."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: dict[str, Received] = {}
        self.times: Counter[str] = Counter()
        """How often each request was received."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A gateway may close a connection as it likes; anything else is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def answer(self) -> None:
        """Note the request and answer it."""
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        body = self._body()
        received = Received(
            self.command, self.requestline.split(" ")[1], headers, len(body), hashlib.sha256(body).hexdigest()
        )
        trace = self.headers.get(TRACE, "")
        self.server.received[trace] = received
        self.server.times[trace] += 1
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._speak()
            return
        status = int(self.headers.get(ANSWER, "200"))
        self.send_response(status)
        self.send_header("X-Upstream", "yes")
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if status != HTTPStatus.NO_CONTENT and self.command != "HEAD":
            self.wfile.write(BODY)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_CONNECT = answer  # noqa: N815 # Its names.

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _speak(self) -> None:
        """Agree to another protocol (RFC 6455, section 4.2.2), and then say everything back."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        while said := self.connection.recv(4096):
            self.wfile.write(said)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[Upstream]:
    """An upstream that serves as long as this context."""
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
