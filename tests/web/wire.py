"""Checks over the hot road in this process: the real protocol on a real socket, from whatever address a test says.

`road` says which way the HTTP clients of `serving` and `timed` go; `conftest` runs each test of a check over both.
"""

import asyncio
import re
import socket
from typing import Any

import h11
import httpx
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from quotas.hot_road import HotRoad

PATIENCE_S = 30
HOT, ASGI = "hot", "asgi"
road = ASGI
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"}
SENDABLE = re.compile(rb"(?!chunked$)(|[!-~\x80-\xff]|[!-~\x80-\xff][\t -~\x80-\xff]*[!-~\x80-\xff])")


class Wire(httpx.AsyncBaseTransport):
    """HTTP/1.1 to `HotRoad`, on connections that are kept. `application` answers what the protocol passes on.

    What no HTTP server lets through goes to `with_state`, and so does a body in pieces: no check waits for one.
    """

    def __init__(self, application: ASGIApp, with_state: ASGIApp, state: dict[str, Any], *, peer: str) -> None:
        self.app = with_state
        self._asgi = httpx.ASGITransport(with_state, client=(peer, 1234))
        self._config = uvicorn.Config(
            application, http=HotRoad, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
        )
        self._config.load()
        self._server = ServerState()
        self._state = state
        self._peer = peer
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in METHODS or not all(SENDABLE.fullmatch(value) for _, value in request.headers.raw):
            return await self._asgi.handle_async_request(request)
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = self._idle.pop() if self._idle else await self._connected()
            body = await request.aread()
            target = request.url.raw_path
            lines = [request.method.encode() + b" " + target + b" HTTP/1.1"]
            lines += [name + b": " + value for name, value in request.headers.raw]
            writer.write(b"\r\n".join([*lines, b"", body]))
            parser = h11.Connection(h11.CLIENT)
            method = "HEAD" if request.method == "HEAD" else "GET"  # Only these two frame answers otherwise here.
            parser.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"quotas")]))
            parser.send(h11.EndOfMessage())
            response, content = None, b""
            while type(event := parser.next_event()) is not h11.EndOfMessage:
                if event is h11.NEED_DATA:
                    parser.receive_data(await reader.read(65_536))
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    content += bytes(event.data)
            assert response is not None
            if parser.their_state is h11.MUST_CLOSE or parser.our_state is h11.MUST_CLOSE:
                writer.close()
            else:
                self._idle.append((reader, writer))
            return httpx.Response(response.status_code, headers=list(response.headers), content=content)

    async def aclose(self) -> None:
        """Close what is kept, and wait until the service has seen it."""
        for _, writer in self._idle:
            writer.close()
        async with asyncio.timeout(PATIENCE_S):
            while self._server.connections:
                await asyncio.sleep(0)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)  # noqa: FBT003 # As it is called.
        _, protocol = await loop.connect_accepted_socket(
            lambda: HotRoad(self._config, self._server, dict(self._state)), theirs
        )
        protocol.client = (self._peer, 1234)
        return await asyncio.open_connection(sock=ours)


def transport(
    application: ASGIApp, with_state: ASGIApp, state: dict[str, Any], *, peer: str
) -> httpx.AsyncBaseTransport:
    """The way to a worker for a test of this road; `with_state` is the application as ASGI has it from a server."""
    if road == HOT:
        return Wire(application, with_state, state, peer=peer)
    return httpx.ASGITransport(with_state, client=(peer, 1234))
