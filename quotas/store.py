"""The one road to Redis: commands go out in the order they were asked, replies come back in that order.

Theory of operation. All callers of a worker share one connection. What they ask in one turn of the event
loop leaves in one write, and each reply resolves the caller at the head of the line. A caller that is
cancelled or out of time leaves its place in the line: its reply is read and dropped, so no reply can ever
reach another caller. A command that has not left yet when its caller goes is not sent at all.

Nothing is ever sent twice, with one exception: a script that the server did not know surely did not run, so
it is loaded and asked once more. When the connection breaks, everybody in the line is told so (their commands
may have run), and the next command connects anew; after a failed attempt, commands fail at once for a moment.

Set-up (TLS, authentication, database, sockets) is redis-py's; its retries are off. Its exceptions stop here.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Self

import redis.asyncio
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from quotas.errors import ConfigError, Fault, StoreUnavailableError

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


class _Unknown(Exception):  # noqa: N818 # It never leaves this file: a reply, NOSCRIPT, on its way to `run`.
    pass


@dataclass(slots=True)
class _Replies:
    """The replies of a call that has several commands, as they come."""

    expected: int
    found: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Call:
    packed: bytes
    future: asyncio.Future[Any]
    replies: _Replies | None


def _pack(words: tuple[Word, ...]) -> bytes:
    packed: bytes = pack_command(words)  # type: ignore[arg-type] # Typed for one word.
    return packed


class Store:
    """A worker's connection to Redis. Use it as an async context manager, in one event loop.

    Raises ConfigError for a URL that redis-py cannot read.
    """

    def __init__(self, url: str) -> None:
        try:
            self._pool = redis.asyncio.ConnectionPool.from_url(url)
            self._pool.connection_kwargs.update(_OURS)  # Over whatever the URL says.
            self._pool.make_connection()  # type: ignore[no-untyped-call] # As it ships. It checks what the URL says.
        except (ValueError, TypeError):
            # What redis-py says can quote a part of the password.
            told = "cannot be read; write it as redis://user:password@host:6379/0, with what is special percent-encoded"
            raise ConfigError("store", [Fault("QUOTAS_REDIS_URL", told)]) from None
        self._waiting: deque[_Call] = deque()
        self._sent: deque[_Call] = deque()
        self._asked = asyncio.Event()
        self._link: asyncio.Task[None] | None = None
        self._connected = False
        self._retry_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._last_reply_at = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            self._link.cancel()
            with suppress(asyncio.CancelledError):
                await self._link

    async def call(self, *words: Word) -> Any:
        """The reply to one command: bytes, an integer, None or a list of these.

        It waits as long as its caller does. Raises StoreUnavailableError; an error reply is one of kind `reply`.
        """
        try:
            return await self._ask(words)
        except _Unknown as error:
            raise StoreUnavailableError("reply", "NOSCRIPT") from error

    async def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> Any:
        """The reply of a script; it is loaded first when the server does not know it. Errors are `call`'s."""
        words = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        try:
            return await self._ask(words)
        except _Unknown:
            await self.load(script)
        return await self.call(*words)

    async def run_all(self, script: Script, calls: Sequence[tuple[tuple[str, ...], tuple[Word, ...]]]) -> list[Any]:
        """The replies of one or more runs of one script, in order, as one place in the line; see `load`.

        Errors are `call`'s; one error reply fails them all.
        """
        packed = [_pack(("EVALSHA", script.digest, len(keys), *keys, *words)) for keys, words in calls]
        try:
            replies: list[Any] = await self._enqueue(b"".join(packed), _Replies(len(packed)))
        except _Unknown as error:
            raise StoreUnavailableError("reply", "NOSCRIPT") from error
        return replies

    async def load(self, script: Script) -> None:
        """Have the server know a script."""
        await self.call("SCRIPT", "LOAD", script.source)

    def _ask(self, words: tuple[Word, ...]) -> asyncio.Future[Any]:
        # A word that cannot be written, such as text that is no Unicode, is its caller's fault alone.
        return self._enqueue(_pack(words))

    def _enqueue(self, packed: bytes, replies: "_Replies | None" = None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if not self._connected and loop.time() < self._retry_at:
            raise StoreUnavailableError("connect", "the store could not be reached a moment ago")
        if len(self._waiting) + len(self._sent) >= MAX_IN_LINE:
            self._waiting = deque(call for call in self._waiting if not call.future.done())
        if len(self._waiting) + len(self._sent) >= MAX_IN_LINE:
            raise StoreUnavailableError("overload", f"{MAX_IN_LINE} commands are under way already")
        call = _Call(packed, loop.create_future(), replies)
        self._waiting.append(call)
        self._asked.set()
        if self._link is None or self._link.done():
            self._link = loop.create_task(self._keep_link(), name="quotas-store")
        return call.future

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
        """Write, read and watch until one of them fails; returns why."""
        self._connected = True
        self._pause_s = FIRST_PAUSE_S
        why = "closed"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(connection))
                group.create_task(self._read(connection))
                group.create_task(self._watch())
        except* (RedisError, OSError) as errors:
            why = str(errors.exceptions[0])
        return why

    def _give_up(self, kind: str, detail: str) -> None:
        self._connected = False
        if kind == "connect":
            self._retry_at = asyncio.get_running_loop().time() + self._pause_s * random.uniform(0.5, 1)  # noqa: S311 # Jitter.
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
        for call in (*self._sent, *self._waiting):
            if not call.future.done():
                call.future.set_exception(StoreUnavailableError(kind, detail))
        self._sent.clear()
        self._waiting.clear()

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            calls = [call for call in self._waiting if not call.future.done()]
            self._waiting.clear()
            if not self._sent:
                self._last_reply_at = asyncio.get_running_loop().time()
            self._sent.extend(calls)
            if calls:
                packed = b"".join([call.packed for call in calls])
                await connection.send_packed_command(packed, check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            self._last_reply_at = loop.time()
            replies = self._sent[0].replies
            if replies is not None:
                replies.found.append(reply)
                if len(replies.found) < replies.expected:
                    continue
                reply = next((each for each in replies.found if isinstance(each, ResponseError)), replies.found)
            _resolve(self._sent.popleft().future, reply)
            if isinstance(reply, ResponseError) and (isinstance(reply, ReadOnlyError) or "READONLY" in str(reply)):
                raise redis.exceptions.ConnectionError("the server has become a replica")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(STALL_S / 4)
            if self._sent and loop.time() - self._last_reply_at > STALL_S:
                raise redis.exceptions.ConnectionError(f"no reply for {STALL_S:.0f} seconds")


def _resolve(future: asyncio.Future[Any], reply: Any) -> None:
    """Give a caller its reply; one that is gone leaves it behind."""
    if future.done():
        return
    if isinstance(reply, NoScriptError):
        future.set_exception(_Unknown())
    elif isinstance(reply, ResponseError):
        future.set_exception(StoreUnavailableError("reply", str(reply)))
    else:
        future.set_result(reply)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bound everything inside; raises StoreUnavailableError of kind `timeout` when the time is up."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StoreUnavailableError("timeout", f"no answer within {seconds * 1000:.0f} ms") from error
