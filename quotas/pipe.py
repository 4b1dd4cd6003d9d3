"""One connection to Redis once it is set up: commands go out in order, replies come back in that order.

Theory of operation. A `Call` is one caller's place in the line. `send` writes any number of them at once, and each
reply belongs to the call at the head of the line, whoever still waits for it: a caller that is gone leaves its
place, so that its reply is read and dropped and no reply can reach another caller. Nothing here awaits; what is done
about a reply is done in the turn of the event loop that brought it.

    send([a, b])    writes GET a, GET b         the line is a b
    b.leave()       its caller is gone          the line is a b
    +1 +2           replies come                a is told 1, 2 is told to nobody, the line is empty
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, cast

import hiredis
from hiredis import ReplyError

_NOTHING = object()
"""What the parser returns when it needs more bytes: no reply is this."""


class Call:
    """One caller's place in the line.

    `packed` is one command or several, `expected` how many replies they have; more than one are told as a list. `done`
    is told the reply, once, and must not raise; None is that nobody waits any more. `future` is the one that `done`
    resolves, None where there is none: who waits for one can leave without a word. `script` is the text to load when
    the server does not know the script that the command names; None is that there is nothing to load.
    """

    __slots__ = ("done", "expected", "found", "future", "packed", "script")

    def __init__(
        self,
        packed: bytes,
        done: Callable[[Any], object] | None,
        future: asyncio.Future[Any] | None = None,
        script: str | None = None,
        expected: int = 1,
    ) -> None:
        self.packed = packed
        self.done = done
        self.future = future
        self.script = script
        self.expected = expected
        self.found: list[Any] | None = None

    def is_awaited(self) -> bool:
        """Whether somebody still waits for the reply."""
        return self.done is not None and (self.future is None or not self.future.done())

    def tell(self, reply: Any) -> None:
        """Give the caller its reply, unless it is gone or has been told. What is wrong with one harms no other."""
        done, self.done = self.done, None
        if done is not None:
            try:
                done(reply)
            except Exception as error:  # noqa: BLE001 # Raised here it would end the connection, for all who wait.
                told = {"message": "a caller of the store failed at its reply", "exception": error}
                asyncio.get_running_loop().call_exception_handler(told)


class Pipe(asyncio.Protocol):
    """The line of one connection. Each call is told its reply, and why the connection is over says `ended`.

    A reply is bytes, an integer, None, or a list of these. A `ReplyError`, alone or in the list of a call that
    has several replies, is for `failed` to tell of. `read` is called when all replies that have come were told,
    `writable` when the transport takes commands again after it had too many (`paused`).
    """

    def __init__(
        self,
        failed: Callable[[Call, ReplyError], None],
        read: Callable[[], None],
        writable: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self._read = read
        self._writable = writable
        self._is_over = False
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._last_reply_at = 0.0
        self.line: deque[Call] = deque()
        self.paused = False
        self.ended: asyncio.Future[str] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin on this transport, which may have had another protocol before."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but for isinstance.

    @property
    def host(self) -> str:
        """The address of the host at the other end; empty for a socket that is a file."""
        assert self._transport is not None, "there is a connection"
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def send(self, calls: Collection[Call]) -> None:
        """Write the commands of these calls at once, and have them wait in line."""
        assert self._transport is not None, "there is a connection to write to"
        if not self.line:
            self._last_reply_at = self._loop.time()
        self.line.extend(calls)
        self._transport.write(b"".join([call.packed for call in calls]))

    def silence_s(self) -> float:
        """Seconds for which replies have been due and none came."""
        return self._loop.time() - self._last_reply_at if self.line else 0.0

    def data_received(self, data: bytes) -> None:
        """Tell every reply that is whole by now."""
        self._last_reply_at = self._loop.time()
        line = self.line
        try:
            self._reader.feed(data)
            gets = self._reader.gets
            while (reply := gets()) is not _NOTHING:
                if not line:
                    self.end("the server said something that nobody had asked")
                if self._is_over:
                    return
                call = line[0]
                if call.expected > 1:
                    call.found = [*(call.found or ()), reply]
                    if len(call.found) < call.expected:
                        continue
                    reply = next((each for each in call.found if isinstance(each, ReplyError)), call.found)
                line.popleft()
                if isinstance(reply, ReplyError):
                    self._failed(call, reply)
                else:
                    call.tell(reply)
        except hiredis.ProtocolError as error:
            self.end(str(error))
        self._read()

    def pause_writing(self) -> None:
        """Hold commands back: the server does not read."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on with what was held back."""
        self.paused = False
        self._writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it is over."""
        self.end(str(exc or "connection closed by the server"))

    def end(self, why: str) -> None:
        """Use this connection no more. Whoever is in the line then is told by who waits for `ended`."""
        self._is_over = True
        if not self.ended.done():
            self.ended.set_result(why)
            if self._transport is not None:
                self._transport.abort()  # What has not left by now never will: its caller is told so.
