"""The way between a gateway and the check service: it counts, notes what passes, and can be closed."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from e2e.processes import PATIENCE_S

T = TypeVar("T")


class Road:
    """A listener on a free port that passes everything on to `port`; with None it listens and never answers.

    `connections` counts those taken; `asked` is what came over each of them, in the order of their beginning.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, target: int | None) -> None:
        self.port = 0
        self.asked: list[bytearray] = []
        self.drops = False
        """Whether a connection breaks over the next answer: the service has taken the units by then."""
        self._loop = loop
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self.asked)

    def requests(self, mark: str = "") -> list[bytes]:
        """The heads of requests that passed and hold this text. What is no head, a body, would be one of its own."""
        heads = (head for asked in list(self.asked) for head in bytes(asked).split(b"\r\n\r\n") if head)
        return [head for head in heads if mark.encode() in head]

    def open(self) -> None:
        """Listen, on the port of before if there was one."""
        self._run(self._open())

    def close(self) -> None:
        """Listen no longer and break every connection."""
        self._run(self._close())

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody listens here for a while."""
        self.close()
        try:
            yield
        finally:
            self.open()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=128)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = bytearray()
        self.asked.append(asked)
        task = self._loop.create_task(self._connection(reader, writer, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # Also when it was broken before it began.

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytearray) -> None:
        try:
            if self._target is None:
                while some := await reader.read(65_536):
                    asked += some
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, back, asked))
                    group.create_task(self._answer(there, writer))
            finally:
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while some := await source.read(65_536):
                if self.drops:
                    break
                sink.write(some)
                await sink.drain()
        sink.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, noted: bytearray) -> None:
    with suppress(OSError):
        while some := await source.read(65_536):
            noted += some
            sink.write(some)
            await sink.drain()
    sink.close()


@contextmanager
def roads() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop that roads run in, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def road(loop: asyncio.AbstractEventLoop, target: int | None) -> Iterator[Road]:
    """An open road."""
    made = Road(loop, target)
    made.open()
    try:
        yield made
    finally:
        made.close()
