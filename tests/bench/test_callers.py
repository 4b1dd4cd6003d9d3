import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from loadtests.bench import callers, walks
from loadtests.bench.cases import Draw
from loadtests.bench.walks import Walk
from loadtests.processes import LoadTestError

pytestmark = pytest.mark.skipif(
    shutil.which("wrk") is None, reason="WRK IS NOT TRIED: it is not installed (apt-get install wrk)"
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"
LINES = [b"X-API-Key: %04d" % number for number in range(2000)]
RATE = 1_000


class Peer:
    """A server that answers at once, but to none for `stall_s` from the beginning of the second round on."""

    def __init__(self, answer: bytes, stall_s: float) -> None:
        self.answer, self.stall_s = answer, stall_s
        self.asked: list[tuple[asyncio.Transport, bytes]] = []
        self.lines: dict[asyncio.Transport, None] = {}
        self.waiting: list[asyncio.Transport] = []
        self.stalls = False

    def ask(self, request: bytes, transport: asyncio.Transport) -> None:
        self.asked.append((transport, request))
        if transport not in self.lines:
            self.lines[transport] = None
            if self.stall_s and len(self.lines) == callers.CALLERS + 1:
                self.stalls = True
                asyncio.get_running_loop().call_later(self.stall_s, self.go_on)
        if self.stalls:
            self.waiting.append(transport)
        else:
            transport.write(self.answer)

    def go_on(self) -> None:
        self.stalls = False
        for transport in self.waiting:
            transport.write(self.answer)
        self.waiting.clear()


class Line(asyncio.Protocol):
    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.peer.ask(data, self.transport)


@contextmanager
def peer(answer: bytes = OK, stall_s: float = 0) -> Iterator[tuple[int, Peer]]:
    made = Peer(answer, stall_s)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: Line(made), "127.0.0.1", 0, backlog=512))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        server.close()
        for line in made.lines:
            line.abort()
        loop.run_until_complete(server.wait_closed())
        loop.close()


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    return walks.write_lines(tmp_path / "walk", LINES, Draw.UNIFORM)


def test_callers_ask_as_the_walk_says_at_times_of_their_own(walk: Walk) -> None:
    with peer() as (port, answering):
        called = callers.ask(port, walk, 0, rate=RATE, seconds=1)
    requests = Counter(request for _, request in answering.asked)
    assert set(requests) <= {walks.request(line) for line in LINES}
    assert max(requests.values()) <= 2, "each thread has a part of the walk to begin with"
    first = {transport for transport, _ in answering.asked[: callers.CALLERS]}
    assert len(first) < 0.8 * callers.CALLERS, "some ask twice before others have begun"
    assert 0 < called.p50_us <= called.p99_us
    assert called.rate < 1.2 * RATE


@pytest.mark.parametrize("stall_s", [0.1, 0.5])
def test_a_standstill_shows_in_the_percentiles(walk: Walk, stall_s: float) -> None:
    """Of requests at a constant rate over two seconds, one of a hundred would wait for all but 0.02 s of it."""
    with peer(stall_s=stall_s) as (port, _):
        called = callers.ask(port, walk, 0, rate=RATE, seconds=2)
    assert called.p99_us >= (stall_s - 0.05) * 1e6


def test_what_a_long_standstill_keeps_back_shows_in_the_rate(walk: Walk) -> None:
    """At a constant rate 70 of 100 requests would come in it; those of 256 callers are at most 256."""
    with peer(stall_s=1.4) as (port, _):
        called = callers.ask(port, walk, 0, rate=RATE, seconds=2)
    assert called.p99_us >= 1.3 * 1e6
    assert called.rate < 0.7 * RATE


def test_a_refusal_is_no_figure(walk: Walk) -> None:
    with peer(REFUSED) as (port, _), pytest.raises(LoadTestError, match="not answered with 200"):
        callers.ask(port, walk, 0, rate=RATE, seconds=1)
