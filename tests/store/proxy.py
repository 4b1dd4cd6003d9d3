"""A unix socket between a store and the real server, where replies can be held, lost and made up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

Command = list[bytes]
PATIENCE_S = 30
POLL_S = 0.002


class Fate(Enum):
    """What becomes of a command that the server would answer."""

    PASS = "pass"
    CUT = "cut"
    """The server carries it out, and the connection breaks before the reply."""
    CUT_BEFORE = "cut before"
    """The connection breaks before the server sees it."""
    LOSE = "lose"
    """The server carries it out; this reply and all behind it never come, and the connection stays."""


def _pass(_: Command) -> Fate:
    return Fate.PASS


async def _nothing(_: Command) -> None:
    pass


class Proxy:
    """What passed, and what is to become of what comes.

    `fate` is asked about each command but those of the set-up; bytes are a reply that the server never made.
    `before` is waited for before the server sees a command.
    Replies wait while `gate` is not set; those of the set-up do not.
    """

    def __init__(self, server_url: str, path: Path) -> None:
        self.url = "unix://" + quote(str(path))
        self.fate: Callable[[Command], Fate | bytes] = _pass
        self.before: Callable[[Command], Awaitable[None]] = _nothing
        self.gate = asyncio.Event()
        self.gate.set()
        self.mute = False
        """Connections are taken, and nothing is ever said."""
        self.commands: list[Command] = []
        self.connections = 0
        self._server_path = unquote(urlsplit(server_url).path)
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self, *words: bytes) -> int:
        """How many commands that begin with these words have come."""
        return sum(tuple(command[: len(words)]) == words for command in self.commands)

    async def until(self, *words: bytes, times: int = 1) -> None:
        """Wait until that many of these commands have come."""
        async with asyncio.timeout(PATIENCE_S):
            while self.count(*words) < times:
                await asyncio.sleep(POLL_S)

    async def until_connected(self) -> None:
        """Wait for the first connection."""
        async with asyncio.timeout(PATIENCE_S):
            while self.connections == 0:
                await asyncio.sleep(POLL_S)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # Also when it was cut before it began.

    def cut(self) -> None:
        """Break every connection."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_path)
        come: asyncio.Queue[tuple[bytes, Command] | None] = asyncio.Queue()
        listening = asyncio.create_task(self._listen(reader, come))
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._carry(come, writer, server_reader, server_writer):
                    pass
        finally:
            listening.cancel()
            server_writer.close()
            with suppress(ConnectionError):
                await server_writer.wait_closed()

    async def _listen(self, reader: asyncio.StreamReader, come: "asyncio.Queue[tuple[bytes, Command] | None]") -> None:
        """Note commands as they come, perhaps before the replies to those before them have gone; None is the end."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                raw, command = await _command(reader)
                while self.mute:
                    await asyncio.Event().wait()
                if not _is_set_up(command):
                    self.commands.append(command)
                come.put_nowait((raw, command))
        come.put_nowait(None)

    async def _carry(
        self,
        come: "asyncio.Queue[tuple[bytes, Command] | None]",
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> bool:
        """One command there and its reply back; whether the connection lives on."""
        next_ = await come.get()
        if next_ is None:
            return False
        raw, command = next_
        set_up = _is_set_up(command)
        fate = Fate.PASS if set_up else self.fate(command)
        if fate is Fate.CUT_BEFORE:
            return False
        if isinstance(fate, bytes):
            writer.write(fate)
            return True
        if not set_up:
            await self.before(command)
        server_writer.write(raw)
        reply = await _reply(server_reader)
        if not set_up:
            await self.gate.wait()
        if fate is Fate.LOSE:
            await asyncio.Event().wait()
        if fate is Fate.CUT:
            return False
        writer.write(reply)
        return True


def _is_set_up(command: Command) -> bool:
    """Whether it is one of those with which redis-py begins a connection."""
    return command[0] == b"CLIENT"


async def _command(reader: asyncio.StreamReader) -> tuple[bytes, Command]:
    """The bytes of the next command, and its words."""
    raw = await reader.readuntil(b"\r\n")
    words = []
    for _ in range(int(raw[1:])):
        length = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(length[1:]) + 2)
        raw += length + word
        words.append(word[:-2])
    return raw, words


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """The bytes of the next reply (RESP2)."""
    raw = await reader.readuntil(b"\r\n")
    length = int(raw[1:]) if raw[:1] in b"$*" else 0
    if raw[:1] == b"$" and length >= 0:
        raw += await reader.readexactly(length + 2)
    elif raw[:1] == b"*":
        for _ in range(length):
            raw += await _reply(reader)
    return raw


@asynccontextmanager
async def proxy(server_url: str, folder: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of this server, on a socket in the folder."""
    path = folder / "proxy.sock"
    passing = Proxy(server_url, path)
    server = await asyncio.start_unix_server(passing.accept, path)
    try:
        yield passing
    finally:
        server.close()
        await passing.close()
        await server.wait_closed()
        path.unlink(missing_ok=True)
