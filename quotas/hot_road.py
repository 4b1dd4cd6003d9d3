"""The short way of a check: from the bytes of a request to the bytes of its answer without a task, a scope or an app.

It is uvicorn's own protocol, and all that is no check goes on in it as ever. A check of the plainest form is read from
the bytes that came (`plain_requests`), any other when the parser has its head. One that this worker can decide with one
take is asked by callback, and answered in the turn of the event loop that brought the reply; for any other there is a
task. What it decides and how that reads is `checks` and `rendering`, as on the long way: an answer is the same to the
byte on both.

The long way is taken by whatever is rare: a body that is promised, `Expect`, an upgrade, a request that comes while
another is under way on its connection, a client that does not read its answers.

While a check is under way it stands in `cycle`, where uvicorn has what answers a request, with as much of its shape as
uvicorn looks at. So pipelining, the end of a connection and a graceful stop are uvicorn's.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from quotas import faces, plain_requests
from quotas.answers import Answer
from quotas.faces import NATIVE, Face
from quotas.rendering import Response, check_response

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from quotas.web import Services

_PROMISES = frozenset([b"content-length", b"transfer-encoding", b"expect"])
_Fields = list[tuple[bytes, bytes]]
_FAILED = Response(500, b"content-length: 21\r\ncontent-type: text/plain; charset=utf-8\r\n", b"Internal Server Error")


class HotRoad(HttpToolsProtocol):
    """One connection; `http=HotRoad` in uvicorn's configuration. The lifespan's state has the services."""

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.services: Services = app_state["services"]
        self.tracer = self.services.tracer
        self._allowed = not self.access_log and not self.root_path and self.limit_concurrency is None
        self._has_body = False
        self._is_hot = False
        self._is_between = True
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; an answer that is under way is not written."""
        super().connection_lost(exc)
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer a plain check at once; anything else is for the parser, which then has all that came before, too."""
        if self._is_between and self._allowed and self._takes_plain(data):
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request. Its scope is made when it turns out to need one."""
        self._is_between = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._has_body = False
        self._is_hot = False
        self._idle_since = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field, and note whether a body may come."""
        name = name.lower()
        if name in _PROMISES:
            self._has_body = self._has_body or name != b"content-length" or bool(value.strip(b"0 \t"))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Answer a check at once where that is possible; everything else goes on in uvicorn's way."""
        if self.transport.is_closing():  # What follows the last answer of a connection is not asked.
            self._is_hot = True
            return
        self._is_hot = self._allowed and not self._has_body and self._takes()
        if not self._is_hot:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)  # The scope has this list.
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request; one that was answered here has no body to end."""
        self._is_between = True
        if not self._is_hot:
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body for the application."""
        if not self._is_hot:
            super().on_body(body)

    def _takes_plain(self, data: bytes) -> bool:
        """Whether these bytes are a plain check, and its answer is on its way from here."""
        before = self.cycle
        if (before is not None and not before.response_complete) or self.flow.write_paused:
            return False
        if self.transport.is_closing():
            return False
        check = None
        try:
            checks = self.services.checks
            request = checks.plain.request(data)
            if request is None:
                return False
            check = _Check(self, request.face, request.method, data)
            if not checks.plain_then(request, data, check):
                return False
        except Exception as error:  # noqa: BLE001 # It would end the connection.
            check = check or _Check(self, NATIVE, "GET", data)
            self.cycle = check  # type: ignore[assignment] # As below.
            check.answer(error)
            return True
        self.cycle = check  # type: ignore[assignment] # As below.
        self._idle_since = None
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        return True

    def _takes(self) -> bool:
        """Whether the request is a check, and its answer is on its way from here."""
        before, parser, url = self.cycle, self.parser, self.url
        if before is not None and not before.response_complete:
            return False
        if self.flow.write_paused or parser.should_upgrade():
            return False
        if url == faces.PATH:
            path, query = url, b""
        elif url.startswith(faces.PATH) and url.isascii():
            parsed = httptools.parse_url(url)
            path, query = parsed.path, parsed.query or b""
        else:
            return False
        found = faces.find(path, query)
        if found is None:
            return False
        face, target = found
        method = parser.get_method().decode("ascii")
        keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        check = _Check(self, face, method, self.headers, keep_alive=keep_alive)
        self.cycle = check  # type: ignore[assignment] # As much of its shape as uvicorn looks at.
        peer = None if self.client is None else self.client[0]
        try:
            self.services.checks.check_then(self.headers, face, method=method, target=target, peer=peer, asker=check)
        except Exception as error:  # noqa: BLE001 # It would be taken for a request that cannot be parsed.
            check.answer(error)
        return True

    def answered(self) -> None:
        """Go on after an answer: with what came meanwhile, or waiting for the next request."""
        if self.pipeline or self.flow.read_paused:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._has_been_idle)

    def _has_been_idle(self) -> None:
        """Close a connection without a request for so long; one timer is set anew seldom, and not for each request."""
        self._idle_timer = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._has_been_idle)
        else:
            self.transport.close()


class _Unawaited:
    """In the place of an event that nobody waits for."""

    def set(self) -> None:
        """Tell nobody."""


class _Check:
    """A check that is under way. What has no underscore is what uvicorn looks at."""

    __slots__ = ("_begun", "_face", "_method", "_road", "_said", "disconnected", "keep_alive", "response_complete")
    message_event = _Unawaited()

    def __init__(
        self,
        road: HotRoad,
        face: Face,
        method: str,
        said: bytes | list[tuple[bytes, bytes]],
        *,
        keep_alive: bool = True,
    ) -> None:
        self._road = road
        self._face = face
        self._method = method
        self._said = said
        if road.tracer is not None:
            self._begun = road.tracer.timer()
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False

    def answer(self, answer: Answer | Exception) -> None:
        """Write the answer, unless whoever asked is gone."""
        road = self._road
        try:
            response = self._rendered(answer)
        except Exception:
            road.logger.exception("Exception in a check")
            response = _FAILED
        if self.disconnected or road.transport.is_closing():  # uvicorn says so to the newest request only.
            return
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        body = b"" if self._method == "HEAD" else response.body
        stamp = _STAMP.lines(road.server_state.default_headers)
        self.response_complete = True
        road.transport.write(b"".join((STATUS_LINE[response.status], stamp, response.head, end, body)))
        if not self.keep_alive:
            road.transport.close()
        road.answered()

    def allowed(self, head: bytes) -> None:
        """Write that it is allowed, unless whoever asked is gone."""
        road = self._road
        transport = road.transport
        if self.disconnected or transport.is_closing():
            return
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self.response_complete = True
        transport.write(b"".join((_STAMP.allowed(road.server_state.default_headers), head, end)))
        if not self.keep_alive:
            transport.close()
        road.answered()

    def _rendered(self, answer: Answer | Exception) -> Response:
        if isinstance(answer, Exception):
            raise answer
        road = self._road
        services = road.services
        response = check_response(answer, self._face, services.planbook.config.headers, method=self._method)
        if answer.reason is not None:
            services.witness.refused(answer, self._face, response.status, self._headers(), self._method)
        if road.tracer is not None:
            road.tracer.checked(answer, self._face, response.status, self._headers(), self._method, self._begun)
        return response

    def _headers(self) -> _Fields:
        """The header fields, which nobody has looked at one by one if the request was plain."""
        return plain_requests.fields(self._said) if isinstance(self._said, bytes) else self._said


class _Stamp:
    """The lines that uvicorn puts before every answer's own, such as `date`; it makes them anew each second."""

    def __init__(self) -> None:
        self._fields: object = None
        self._lines = b""
        self._allowed = b""

    def lines(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        """These fields as lines."""
        if fields is not self._fields:
            self._fields, self._lines = fields, b"".join([b"%b: %b\r\n" % field for field in fields])
            self._allowed = STATUS_LINE[200] + self._lines
        return self._lines

    def allowed(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        """The same behind the status line of who may pass."""
        if fields is not self._fields:
            self.lines(fields)
        return self._allowed


_STAMP = _Stamp()
