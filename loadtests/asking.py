"""A client of many connections, each of which asks again as soon as it has its answer: for what locust is too slow for.

As a program it is the abuser of a scenario. It yields the processor to every other program, because on one
machine it would take from the service and from who measures what in the world it would take from its own machine alone:

    python -m loadtests.asking HOST PORT CONNECTIONS KEY COUNTS

KEY is a file with the API key. COUNTS is a file that is made when all connections stand, and holds the counts as JSON
when SIGTERM has ended it.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

HEAD_END = b"\r\n\r\n"
LEAST_PRIORITY = 19
"""Of those that a program can have elsewhere than on Linux."""


def yield_to_others() -> None:
    """Have this process run only where no other wants to, on Linux; elsewhere, have it come last."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(LEAST_PRIORITY)


@dataclass(slots=True)
class Counts:
    """What one client was answered, by status, and from when to when, in nanoseconds of the monotonic clock."""

    client: str
    statuses: Counter[int] = field(default_factory=Counter)
    first_sent_ns: int = 0
    last_received_ns: int = 0

    @property
    def elapsed_us(self) -> int:
        """From before the first check was sent until after the last was answered, rounded up."""
        return -(-(self.last_received_ns - self.first_sent_ns) // 1000)


class Connection(asyncio.Protocol):
    """Sends `request` as long as `more()` says so, each time when the answer to the one before is whole."""

    def __init__(self, request: bytes, counts: Counts, more: Callable[[], bool], ended: Callable[[], object]) -> None:
        self._request = request
        self._counts = counts
        self._more = more
        self._ended = ended
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._waits = False
        self.answered = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be there; `begin` asks."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but for isinstance.

    def begin(self) -> None:
        """Ask, or end."""
        assert self._transport is not None, "it is connected"
        if not self._more():
            self.answered.set()
            self._transport.close()
            return
        self._waits = True
        self._counts.first_sent_ns = self._counts.first_sent_ns or time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the answer once it is whole, and go on."""
        self._buffer += data
        head, found, body = self._buffer.partition(HEAD_END)
        if not found or len(body) < _length(head):
            return
        self._counts.last_received_ns = time.monotonic_ns()
        self._counts.statuses[int(head[9:12])] += 1
        self._buffer, self._waits = b"", False
        self.answered.set()
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 # As asyncio calls it.
        """Count a check without an answer as status 0."""
        if self._waits:
            self._counts.statuses[0] += 1
        self.answered.set()
        self._ended()


def _length(head: bytes) -> int:
    """The length of an answer's body; the service says it of every answer."""
    return int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)


def request_of(key: str) -> bytes:
    """A check with an API key."""
    return f"POST /check HTTP/1.1\r\nHost: quotas\r\nX-API-Key: {key}\r\nContent-Length: 0\r\n\r\n".encode()


async def ask(  # noqa: PLR0913 # Whom, what, how long, and two moments to be told of.
    host: str,
    port: int,
    each: Sequence[tuple[bytes, Counts]],
    more: Callable[[], bool],
    *,
    begun: Callable[[], object] = lambda: None,
    place: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Ask on a connection for each request until `more()` says no and all answers are there.

    `begun` is called when all connections stand and ask. `place(number)` is open while the number-th is made, until its
    first answer. Raises OSError when one cannot be made.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    left = len(each)

    def ended() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    for number, (request, counts) in enumerate(each):
        connection = Connection(request, counts, more, ended)
        with place(number):
            await loop.create_connection(lambda made=connection: made, host, port)  # type: ignore[misc] # Bound now.
            connection.begin()
            await connection.answered.wait()
    begun()
    await done.wait()


def main() -> None:
    """Be the abuser until SIGTERM."""
    host, port, connections, key, file = sys.argv[1:]
    counts = Counts("abuser")
    request = request_of(Path(key).read_text("ascii"))
    asking = True

    def end() -> None:
        nonlocal asking
        asking = False

    async def work() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        each = [(request, counts)] * int(connections)
        await ask(host, int(port), each, lambda: asking, begun=Path(file).touch)

    yield_to_others()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    told = {"statuses": counts.statuses, "elapsed_us": counts.elapsed_us}
    Path(file).write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    main()
