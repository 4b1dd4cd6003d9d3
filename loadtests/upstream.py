"""The application behind a gateway, as small as it can be: it answers 200 without a body, and counts."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

_HEAD_END = b"\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Upstream:
    """It listens on `port` of the loopback address and has got so many requests."""

    port: int = 0
    requests: int = 0


class _Connection(asyncio.Protocol):
    """One connection; a request without a body ends with its head."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None, "data comes on a connection"
        *heads, self._buffer = (self._buffer + data).split(_HEAD_END)
        self._upstream.requests += len(heads)
        self._transport.write(_ANSWER * len(heads))


@contextmanager
def upstream() -> Iterator[Upstream]:
    """An upstream in a thread of its own."""
    made = Upstream()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: _Connection(made), "127.0.0.1", 0))
    made.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
