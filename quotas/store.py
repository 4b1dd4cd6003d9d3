"""The one road to Redis: commands go out in the order they were asked, replies come back in that order.

Theory of operation. All callers of a worker share one connection (`pipe`). What they ask in one turn of the event loop
leaves in one write. A caller that is cancelled or out of time leaves its place in the line behind; a command that has
not left yet when its caller goes is not sent at all.

Nothing is ever sent twice, with one exception: a script that the server did not know surely did not run, so
it is loaded and asked once more. When the connection breaks, everybody in the line is told so (their commands
may have run), and the next command connects anew; after a failed attempt, commands fail at once for a moment.

Who asks by `run_then` is called back, without a task and without a future, and has a deadline without a timer of its
own: all of them wait equally long, so the calls are due in the order they came, those of one turn together, and one
timer is set to the first.

Set-up (TLS, authentication, database, sockets) is redis-py's; its retries are off. Its exceptions stop here.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Self, cast

import redis.asyncio
from hiredis import ReplyError, pack_command
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from quotas.errors import ConfigError, Fault, StoreUnavailableError
from quotas.pipe import Call, Pipe

MAX_IN_LINE = 10_000
"""Commands that may wait or be under way at once in a worker; further ones are refused."""

CONNECT_TIMEOUT_S = 1.0
STALL_S = 2.0
"""A connection on which replies are due and none came for this long is given up."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5

_OURS: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
    "socket_timeout": None,
    "socket_connect_timeout": CONNECT_TIMEOUT_S,
    "health_check_interval": 0,
    "client_name": "quotas",
}

Word = bytes | str | int


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script: its name for messages and metrics, its text, and the SHA-1 that EVALSHA knows it by."""

    name: str
    source: str = field(repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    def packed(self, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> bytes:
        """The command that runs it."""
        return _pack(("EVALSHA", self.digest, len(keys), *keys, *arguments))


def _pack(words: tuple[Word, ...]) -> bytes:
    packed: bytes = pack_command(words)  # type: ignore[arg-type] # Typed for one word.
    return packed


class Store:
    """A worker's connection to Redis. Use it as an async context manager, in one event loop.

    `patience_s` is how long who asks by `run_then` waits; all others wait as long as they like.
    Raises ConfigError for a URL that redis-py cannot read.
    """

    def __init__(self, url: str, *, patience_s: float = STALL_S) -> None:
        try:
            self._pool = redis.asyncio.ConnectionPool.from_url(url)
            self._pool.connection_kwargs.update(_OURS)  # Over whatever the URL says.
            self._pool.make_connection()  # type: ignore[no-untyped-call] # As it ships. It checks what the URL says.
        except (ValueError, TypeError):
            # What redis-py says can quote a part of the password.
            told = "cannot be read; write it as redis://user:password@host:6379/0, with what is special percent-encoded"
            raise ConfigError("store", [Fault("QUOTAS_REDIS_URL", told)]) from None
        self._patience_s = patience_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Call] = []
        self._pipe: Pipe | None = None
        self._flushing = False
        self._link: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._asked: list[Call] | None = None
        self._due: deque[tuple[float, list[Call]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            self._link.cancel()
            with suppress(asyncio.CancelledError):
                await self._link
        self._give_up("lost", "closed")  # The link does, unless it had not begun.
        if self._alarm is not None:
            self._alarm.cancel()

    async def call(self, *words: Word) -> Any:
        """The reply to one command: bytes, an integer, None or a list of these.

        It waits as long as its caller does. Raises StoreUnavailableError; an error reply is one of kind `reply`.
        """
        # A word that cannot be written, such as text that is no Unicode, is its caller's fault alone.
        return await self._reply_to(_pack(words))

    async def call_all(self, commands: Collection[tuple[Word, ...]]) -> list[Any]:
        """The replies to one or more commands, in order and as one place in the line: none runs before those before it.

        Errors are `call`'s; one error reply fails them all.
        """
        replies = await self._reply_to(b"".join([_pack(words) for words in commands]), expected=len(commands))
        return replies if len(commands) > 1 else [replies]

    async def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> Any:
        """The reply of a script; it is loaded first when the server does not know it. Errors are `call`'s."""
        return await self._reply_to(script.packed(keys, arguments), script=script.source)

    def run_then(self, script: Script, packed: bytes, done: Callable[[Any], object]) -> None:
        """Have `done` told what `run` would return, or the StoreUnavailableError that it would raise.

        `packed` is from `Script.packed`. `done` is told once, after the store's patience at the latest and never within
        this call; it must not raise. Raises StoreUnavailableError, and then `done` is told nothing.
        """
        self.send(Call(packed, done, None, script.source))

    def send(self, call: Call) -> None:
        """The same for a call of one's own, which is told by `Call.tell`, and has no future."""
        loop = self._loop or self._running_loop()
        self._enqueue(call, loop)
        asked = self._asked
        if asked is None:
            self._begin_turn([call], loop)
        else:
            asked.append(call)

    async def run_all(self, script: Script, calls: Sequence[tuple[tuple[str, ...], tuple[Word, ...]]]) -> list[Any]:
        """The replies of one or more runs of one script, in order, as one place in the line; see `load`.

        Errors are `call`'s; one error reply fails them all.
        """
        packed = b"".join([script.packed(keys, words) for keys, words in calls])
        replies = await self._reply_to(packed, expected=len(calls))
        return replies if len(calls) > 1 else [replies]

    async def load(self, script: Script) -> None:
        """Have the server know a script."""
        await self.call("SCRIPT", "LOAD", script.source)

    def _reply_to(self, packed: bytes, *, expected: int = 1, script: str | None = None) -> asyncio.Future[Any]:
        loop = self._loop or self._running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def resolve(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, StoreUnavailableError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self._enqueue(Call(packed, resolve, future, script, expected), loop)
        return future

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of this store, which is asked for once: before Python 3.12 that is a system call."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _enqueue(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
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
        if self._pipe is None or self._pipe.paused or not self._waiting:
            return
        calls = [call for call in self._waiting if call.is_awaited()]
        self._waiting.clear()
        if calls:
            self._pipe.send(calls)

    def _begin_turn(self, asked: list[Call], loop: asyncio.AbstractEventLoop) -> None:
        """Begin the list of the calls of this turn, which are due together, and set the alarm if it is the first."""
        due_at = loop.time() + self._patience_s
        self._asked = asked
        self._due.append((due_at, asked))
        loop.call_soon(self._end_turn)
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
        call.tell(StoreUnavailableError("reply", text))
        if "READONLY" in text and self._pipe is not None:
            self._pipe.end("the server has become a replica")

    def _load_for(self, call: Call, source: str) -> None:
        """Have the server know a script and ask again, once: it has surely not run."""
        loop = asyncio.get_running_loop()
        call.script = None

        def again(reply: Any) -> None:
            if isinstance(reply, StoreUnavailableError):
                call.tell(reply)
            elif call.is_awaited():
                enqueue(call)

        def enqueue(each: Call) -> None:
            try:
                self._enqueue(each, loop)
            except StoreUnavailableError as error:
                call.tell(error)

        enqueue(Call(_pack(("SCRIPT", "LOAD", source)), again))

    def _ring(self) -> None:
        """Tell those whose time is up, and set the alarm for the next who wait."""
        loop = asyncio.get_running_loop()
        self._alarm = None
        self._let_go()
        due = self._due
        while due and due[0][0] <= loop.time():
            for call in due.popleft()[1]:
                call.tell(_late(self._patience_s))
        if due:
            self._alarm = loop.call_at(due[0][0], self._ring)

    async def _keep_link(self) -> None:
        """The life of one connection: connect, carry calls, and tell everybody when it ends."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call] # As it ships.
        kind, detail = "connect", "no connection"
        try:
            async with asyncio.timeout(STALL_S):  # Its set-up asks the server, too.
                await connection.connect()  # type: ignore[no-untyped-call] # As it ships.
            kind = "lost"
            detail = await self._carry(connection)
        except (RedisError, OSError) as error:  # A timeout is an OSError.
            detail = str(error)
        finally:
            self._give_up(kind, detail)
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
        calls = [*([] if pipe is None else pipe.line), *self._waiting]
        self._waiting = []
        for call in calls:
            call.tell(StoreUnavailableError(kind, detail))


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


def _late(seconds: float) -> StoreUnavailableError:
    return StoreUnavailableError("timeout", f"no answer within {seconds * 1000:.0f} ms")


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bound everything inside; raises StoreUnavailableError of kind `timeout` when the time is up."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise _late(seconds) from error
