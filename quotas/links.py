"""The line to one node: commands go out in the order they were asked, replies come back in that order.

Theory of operation. All callers of a worker share one connection (`pipe`) to a node. What they ask in one turn of the
event loop leaves in one write. A caller that is cancelled or out of time leaves its place in the line behind; a
command that has not left yet when its caller goes is not sent at all. Of many that ask by `run_then` in one turn, each
`AT_ONCE` leave together: the server works on them while the rest are made.

Nothing is ever sent twice, but for what surely did not run: a script that the server did not know is loaded and asked
once more, and in a cluster what a node has refused because another has the key (`clusters`). When the connection
breaks, everybody in the line is told so (their commands may have run), and the next command connects anew; after a
failed attempt, commands fail at once for a moment.

Who asks by `run_then` is called back, without a task and without a future, and has a deadline without a timer of its
own: all of them wait equally long, so the calls are due in the order they came, those of one turn together, and one
timer is set to the first.

Set-up is redis-py's, see `servers`. Its exceptions stop here.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

from hiredis import ReplyError
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from quotas.commands import Script, Word, pack
from quotas.errors import StoreUnavailableError
from quotas.pipe import Call, Pipe
from quotas.servers import Place

AT_ONCE = 16
"""Calls by `run_then` that leave together, before their turn of the event loop is over, so that the server has begun
with them while the rest are made. With fewer, writing them would cost more than it gains."""

MAX_IN_LINE = 10_000
"""Commands that may wait or be under way at once in a line; further ones are refused."""

STALL_S = 2.0
"""A connection on which replies are due and none came for this long is given up."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5


class Road(Protocol):
    """What a store asks: one node, or a cluster. What is promised is said at `store.Store`."""

    async def call(self, words: tuple[Word, ...], at: str | None) -> Any:
        """See `Store.call`."""

    async def call_all(self, commands: Collection[tuple[Word, ...]]) -> list[Any]:
        """See `Store.call_all`."""

    async def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> Any:
        """See `Store.run`."""

    def run_then(self, script: Script, packed: bytes, done: Callable[[Any], object]) -> None:
        """See `Store.run_then`."""

    def send(self, call: Call) -> None:
        """See `Store.send`."""

    async def run_all(self, script: Script, calls: Sequence[tuple[tuple[str, ...], tuple[Word, ...]]]) -> list[Any]:
        """See `Store.run_all`."""

    async def load(self, script: Script) -> None:
        """See `Store.load`."""

    async def close(self) -> None:
        """Tell who waits that it is over, and leave nothing behind."""


class Again(Call):
    """A call that is asked once more, for the `origin`; it has been so `times` times."""

    __slots__ = ("origin", "times")

    def __init__(  # noqa: PLR0913 # As a call, and for whom.
        self,
        packed: bytes,
        done: Callable[[Any], object],
        script: str | None,
        *,
        origin: Call,
        times: int,
        expected: int = 1,
    ) -> None:
        super().__init__(packed, done, None, script, expected)
        self.origin = origin
        self.times = times

    def is_awaited(self) -> bool:
        """Whether the one that it is for still is."""
        return self.done is not None and self.origin.is_awaited()


class Link:
    """The line to one place, in one event loop; it connects when it is first asked.

    `patience_s` is how long who asks by `run_then` waits; all others wait as long as they like. `refused` is offered
    each error reply with its call, and says whether it has seen to it. `ended` is called when a connection is over or
    could not be made.
    """

    def __init__(
        self,
        place: Place,
        *,
        patience_s: float,
        refused: Callable[["Link", Call, str], bool] | None = None,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._place = place
        self._patience_s = patience_s
        self._refused = refused
        self._ended = ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Call] = []
        self._pipe: Pipe | None = None
        self._flushing = False
        self._link: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._batch: list[Call] | None = None
        self._asked: list[Call] | None = None
        self._due: deque[tuple[float, list[Call]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Tell who waits that it is over."""
        if self._link is not None:
            self._link.cancel()
            with suppress(asyncio.CancelledError):
                await self._link
        self._give_up("lost", "closed")  # The link does, unless it had not begun.
        if self._alarm is not None:
            self._alarm.cancel()

    async def call(self, words: tuple[Word, ...], at: str | None = None) -> Any:  # noqa: ARG002 # It has every key.
        """The reply to one command."""
        return await self.reply_to(pack(words))

    async def call_all(self, commands: Collection[tuple[Word, ...]]) -> list[Any]:
        """The replies to commands, as one place in the line."""
        return await self._replies([pack(words) for words in commands])

    async def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> Any:
        """The reply of a script, which is loaded first when the server does not know it."""
        return await self.reply_to(script.packed(keys, arguments), script=script.source)

    def run_then(self, script: Script, packed: bytes, done: Callable[[Any], object]) -> None:
        """Have `done` told the reply of a script."""
        self.send(Call(packed, done, None, script.source))

    def send(self, call: Call) -> None:
        """The same for a call of one's own."""
        batch = self._batch
        if batch is not None:
            batch.append(call)
            if len(batch) == AT_ONCE:
                self._leave()
            return
        loop = self._loop or self._running_loop()
        pipe = self._pipe
        if pipe is None or pipe.paused or self._waiting or len(pipe.line) > MAX_IN_LINE - AT_ONCE:
            self.enqueue(call, loop)
            if self._asked is None:
                self._asked = []
                loop.call_soon(self._end_turn)
                self._expect(self._asked, loop)
            self._asked.append(call)
            return
        self._batch = batch = [call]
        self._expect(batch, loop)
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)

    async def run_all(self, script: Script, calls: Sequence[tuple[tuple[str, ...], tuple[Word, ...]]]) -> list[Any]:
        """The replies of runs of one script, as one place in the line."""
        return await self._replies([script.packed(keys, words) for keys, words in calls])

    async def _replies(self, packed: Sequence[bytes]) -> list[Any]:
        """The replies to one or more packed commands, as one place in the line."""
        replies = await self.reply_to(b"".join(packed), expected=len(packed))
        return replies if len(packed) > 1 else [replies]

    async def load(self, script: Script) -> None:
        """Have the server know a script."""
        await self.call(("SCRIPT", "LOAD", script.source))

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._pipe is not None

    @property
    def host(self) -> str:
        """Which host it is connected to, by its address; empty without a connection."""
        return "" if self._pipe is None else self._pipe.host

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked of it, and nobody counts on its alarm who has been sent on to another."""
        is_asked = self._waiting or (self._pipe is not None and self._pipe.line)
        return not is_asked and not any(call.done for _, asked in self._due for call in asked)

    def reply_to(self, packed: bytes, *, expected: int = 1, script: str | None = None) -> asyncio.Future[Any]:
        """The reply to come. Raises StoreUnavailableError."""
        loop = self._loop or self._running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def resolve(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, StoreUnavailableError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.enqueue(Call(packed, resolve, future, script, expected), loop)
        return future

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of this store, which is asked for once: before Python 3.12 that is a system call."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def enqueue(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        """Have a call leave with the others of this turn. Raises StoreUnavailableError, and then it is told nothing."""
        if self._batch is not None:
            self._leave()  # What was asked before goes before.
        pipe = self._pipe
        if pipe is None and loop.time() < self._retry_at:
            raise StoreUnavailableError("connect", "the store could not be reached a moment ago")
        sent = 0 if pipe is None else len(pipe.line)
        if len(self._waiting) + sent >= MAX_IN_LINE:
            self._waiting = [call for call in self._waiting if call.is_awaited()]
            if len(self._waiting) + sent >= MAX_IN_LINE:
                raise StoreUnavailableError("overload", f"{MAX_IN_LINE} commands are under way already")
        self._waiting.append(call)
        if pipe is not None:
            if not self._flushing:
                self._flushing = True
                loop.call_soon(self._flush)
        elif self._link is None or self._link.done():
            self._link = loop.create_task(self._keep_link(), name="quotas-store")

    def _flush(self) -> None:
        """Write what was asked in this turn; what the connection cannot take now goes when it can."""
        self._flushing = False
        if self._batch is not None:
            self._leave()
        if self._pipe is None or self._pipe.paused or not self._waiting:
            return
        calls = [call for call in self._waiting if call.is_awaited()]
        self._waiting.clear()
        if calls:
            self._pipe.send(calls)

    def _leave(self) -> None:
        """Write the calls of the batch, or have them wait with the others if the connection has come to be full."""
        batch, self._batch = self._batch, None
        if batch is not None and self._pipe is not None:
            if self._pipe.paused:
                self._waiting += batch
            else:
                self._pipe.send(batch)

    def _expect(self, asked: list[Call], loop: asyncio.AbstractEventLoop) -> None:
        """Have the calls that are in a list, or will be in this turn, be due together; set the alarm for the first."""
        due_at = loop.time() + self._patience_s
        self._due.append((due_at, asked))
        if self._alarm is None:
            self._alarm = loop.call_at(due_at, self._ring)

    def _end_turn(self) -> None:
        self._asked = None

    def _let_go(self) -> None:
        """Forget the turns of which nobody waits any more."""
        due = self._due
        while due and due[0][1][-1].done is None and not any(call.done for call in due[0][1]):
            due.popleft()

    def _failed(self, call: Call, error: ReplyError) -> None:
        """What is done about an error reply: a script is loaded, a replica left, and all else is the caller's."""
        text = str(error)
        if text.startswith("NOSCRIPT") and call.script is not None and call.is_awaited():
            self._load_for(call, call.script)
            return
        if self._refused is not None and self._refused(self, call, text):
            return
        if self._refused is None and text.startswith(("MOVED ", "ASK ")):
            text += "; a node of a cluster needs redis+cluster:// in QUOTAS_REDIS_URL"
        call.tell(StoreUnavailableError("reply", text))
        if "READONLY" in text and self._pipe is not None:
            self._pipe.end("the server has become a replica")

    def _load_for(self, call: Call, source: str) -> None:
        """Have the server know a script and ask again, once: it has surely not run."""
        again = Again(call.packed, call.tell, None, origin=call, times=times_of(call), expected=call.expected)

        def loaded(reply: Any) -> None:
            if isinstance(reply, StoreUnavailableError):
                call.tell(reply)
            elif again.is_awaited():
                self.put(again)

        self.put(Call(pack(("SCRIPT", "LOAD", source)), loaded))

    def put(self, call: Call) -> None:
        """Have a call leave with the others of this turn; it is told when that cannot be."""
        try:
            self.enqueue(call, asyncio.get_running_loop())
        except StoreUnavailableError as error:
            call.tell(error)

    def _ring(self) -> None:
        """Tell those whose time is up, and set the alarm for the next who wait."""
        loop = asyncio.get_running_loop()
        self._alarm = None
        self._let_go()
        due = self._due
        while due and due[0][0] <= loop.time():
            for call in due.popleft()[1]:
                call.tell(late(self._patience_s))
        if due:
            self._alarm = loop.call_at(due[0][0], self._ring)

    async def _keep_link(self) -> None:
        """The life of one connection: connect, carry calls, and tell everybody when it ends."""
        connection: AbstractConnection | None = None
        kind, detail = "connect", "no connection"
        try:
            async with asyncio.timeout(STALL_S):  # Its set-up asks servers, too.
                connection = await self._place.connect()
            kind = "lost"
            detail = await self._carry(connection)
        except (RedisError, OSError) as error:  # A timeout is an OSError.
            detail = str(error)
        finally:
            self._give_up(kind, detail)
            if connection is not None:
                await connection.disconnect(nowait=True)

    async def _carry(self, connection: AbstractConnection) -> str:
        """Take the connection over from redis-py, carry calls until it ends, and return why it did."""
        pipe = Pipe(self._failed, self._let_go, self._flush)
        _take_over(connection, pipe)
        self._pipe = pipe
        self._pause_s = FIRST_PAUSE_S
        self._flush()
        while not pipe.ended.done():
            await asyncio.wait({pipe.ended}, timeout=STALL_S / 4)
            if pipe.silence_s() > STALL_S:
                pipe.end(f"no reply for {STALL_S:.0f} seconds")
        return pipe.ended.result()

    def _give_up(self, kind: str, detail: str) -> None:
        pipe, self._pipe = self._pipe, None
        if kind == "connect":
            self._retry_at = asyncio.get_running_loop().time() + self._pause_s * random.uniform(0.5, 1)  # noqa: S311 # Jitter.
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        if pipe is not None:
            pipe.end(detail)
        calls = [*([] if pipe is None else pipe.line), *self._waiting, *(self._batch or ())]
        self._waiting, self._batch = [], None
        for call in calls:
            call.tell(StoreUnavailableError(kind, detail))
        self._ended()


def times_of(call: Call) -> int:
    """How often this has been asked again."""
    return call.times if isinstance(call, Again) else 0


def _take_over(connection: AbstractConnection, pipe: Pipe) -> None:
    """Have a connection that redis-py has set up speak to the pipe from now on, TLS or not.

    Raises ConnectionError when it has ended meanwhile, of which the pipe would not hear.
    """
    writer = cast("asyncio.StreamWriter", connection._writer)  # noqa: SLF001 # There is no other way to the transport.
    reader = cast("asyncio.StreamReader", connection._reader)  # noqa: SLF001 # The same.
    transport = writer.transport
    if transport.is_closing() or reader.at_eof():
        raise ConnectionError("the connection ended as soon as it was set up")
    pipe.connection_made(transport)
    transport.set_protocol(pipe)


def late(seconds: float) -> StoreUnavailableError:
    """That the time is up."""
    return StoreUnavailableError("timeout", f"no answer within {seconds * 1000:.0f} ms")
