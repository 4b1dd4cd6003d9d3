"""Where the load comes from: wrk where it is installed, else a client of our own. Both walk the same file.

wrk is written in C and takes a fifth of what the bundled client takes, which competes with the service for two cores:
ratios of one run are made with one of them, and the report says with which.
"""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import uvloop

from loadtests.bench.walks import Walk
from loadtests.processes import LoadTestError

_AT_ONCE = 32
"""Connections over which each credential is asked with once."""

_SCRIPT = Path(__file__).with_name("walk.lua")
_PATIENCE_S = 30.0
"""How long wrk may take beyond its round, and each last answer to the bundled client."""

_END = b"\r\n\r\n"
"""How a good answer ends: those of the servers here have no body."""

_GOOD = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class Asked:
    """What a round of load came to: requests answered with 200, and in which time."""

    requests: int
    duration_us: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.duration_us * 1e6


class Generator(Protocol):
    """Something that asks for so many seconds over so many connections, each again as soon as it has its answer.

    It begins with the line `start` of the walk. Raises LoadTestError when anything but 200 was answered.
    """

    name: str

    def ask(self, port: int, walk: Walk, seconds: int, start: int, connections: int) -> Asked:
        """Ask for so many seconds."""


class Wrk:
    """wrk with one thread, told by `walk.lua` who asks."""

    name = "wrk"

    def ask(self, port: int, walk: Walk, seconds: int, start: int, connections: int) -> Asked:
        """Ask for so many seconds."""
        found = wrk(["-t1", f"-c{connections}", "-s", str(_SCRIPT)], port, walk, seconds, start)
        failed = found["failed"]
        return _good(found["requests"], f"{failed} were an error or late" if failed else None, found["duration_us"])


class Bundled:
    """A client on asyncio and uvloop, in this process."""

    name = "bundled asyncio client"

    def ask(self, port: int, walk: Walk, seconds: int, start: int, connections: int) -> Asked:
        """Ask for so many seconds."""
        return _run(port, walk.requests(start), seconds, connections)


def find(name: str | None) -> Generator:
    """The generator of this name; None is wrk where it is installed, else the bundled one. Raises LoadTestError."""
    installed = shutil.which("wrk") is not None
    if name == "wrk" and not installed:
        raise LoadTestError("wrk is not installed (apt-get install wrk); --generator bundled works without")
    return Wrk() if name == "wrk" or (name is None and installed) else Bundled()


def wrk(options: Sequence[str], port: int, walk: Walk, seconds: int, start: int, *more: str) -> dict[str, int]:
    """What a run of wrk prints at its end, see `walk.lua`; the options name its script, `more` is for that as well.

    Raises LoadTestError.
    """
    command = ["wrk", *options, f"-d{seconds}s", "--timeout", "10s", f"http://127.0.0.1:{port}/check", "--"]
    command += [str(walk.path), str(walk.width), str(start), *more]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _PATIENCE_S, check=False)
    told = next((line for line in ran.stdout.splitlines() if line.startswith("walked ")), None)
    if ran.returncode or told is None:
        raise LoadTestError(f"wrk ended with status {ran.returncode}: {ran.stderr.strip() or ran.stdout.strip()}")
    found: dict[str, int] = json.loads(told.removeprefix("walked "))
    return found


def ask_each(port: int, walk: Walk) -> int:
    """Ask with every credential of a walk once, and say how many there were. Raises LoadTestError, as a round does."""
    return _run(port, walk.once(), None, _AT_ONCE).requests


def _good(requests: int, wrong: str | None, duration_us: int) -> Asked:
    if wrong is not None or not requests:
        raise LoadTestError(f"not every answer was 200, but: {wrong or 'there was none'}")
    return Asked(requests, duration_us)


def _run(port: int, requests: Iterator[bytes], seconds: int | None, connections: int) -> Asked:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ask(port, requests, seconds, connections))


async def _ask(port: int, requests: Iterator[bytes], seconds: int | None, connections: int) -> Asked:
    """Ask for so many seconds, or until there are no requests left."""
    loop = asyncio.get_running_loop()
    begun = time.monotonic_ns()
    askers = [
        (await loop.create_connection(lambda: _Asker(requests), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    overs = [asker.over for asker in askers]
    await asyncio.wait(overs, timeout=seconds)
    for asker in askers:
        asker.ask_no_more()
    await asyncio.wait(overs, timeout=_PATIENCE_S)  # What was asked was taken, and counts at the other end.
    duration_us = (time.monotonic_ns() - begun) // 1000
    for asker in askers:
        asker.close()
    wrong = next((asker.wrong for asker in askers if asker.wrong), None)
    return _good(sum(asker.answered for asker in askers), wrong, duration_us)


class _Asker(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer; `over` when it can ask no more."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._transport: asyncio.Transport | None = None
        self._part = b""
        self.over = asyncio.get_running_loop().create_future()
        self.answered = 0
        self.wrong = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but for isinstance.
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._part:
            data = self._part + data
        if not data.startswith(_GOOD):  # It may have a body, and nothing after it counts.
            self.wrong = self.wrong or data.partition(b"\r\n")[0].decode("latin-1")
            self.close()
        elif data.endswith(_END):
            self._part = b""
            self.answered += 1
            self._next()
        else:
            self._part = data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 # asyncio says why; that it did is enough.
        if not self.over.done():
            self.wrong = "a connection that the server ended"
            self.over.set_result(None)

    def ask_no_more(self) -> None:
        """Be over with the next answer."""
        self._requests = iter(())

    def close(self) -> None:
        """End the connection. One that still waits for its answer has failed."""
        if not self.over.done():
            self.wrong = self.wrong or f"no answer within {_PATIENCE_S:.0f} s"
            self.over.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        assert self._transport is not None, "requests go over a connection"
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
        elif not self.over.done():
            self.over.set_result(None)
