import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.bench import generators, paced, walks
from loadtests.bench.cases import Draw
from loadtests.bench.generators import Bundled, Generator, Wrk
from loadtests.processes import LoadTestError

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"
LINES = [b"X-API-Key: %03d" % number for number in range(50)]


class Peer:
    """A server that answers each request with `answer`, once `held` have come, and keeps what it was asked."""

    def __init__(self, answer: bytes, held: int = 0) -> None:
        self.answer = answer
        self.held = held
        self.asked: list[bytes] = []
        self.enough = threading.Event()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self.listener.getsockname()[1])

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while request := connection.recv(4096):
                    with self.lock:
                        self.asked.append(request)
                        if len(self.asked) >= self.held:
                            self.enough.set()
                    self.enough.wait(60)
                    connection.sendall(self.answer)
            except OSError:
                return


@contextmanager
def peer(answer: bytes = OK, held: int = 0) -> Iterator[Peer]:
    made = Peer(answer, held)
    thread = threading.Thread(target=made.accept, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.listener.shutdown(socket.SHUT_RDWR)
        made.listener.close()
        thread.join(60)


@pytest.fixture
def walk(tmp_path: Path) -> walks.Walk:
    return walks.write_lines(tmp_path / "walk", LINES, Draw.UNIFORM)


@pytest.fixture(params=[Bundled(), Wrk()], ids=["bundled", "wrk"])
def generator(request: pytest.FixtureRequest) -> Generator:
    found: Generator = request.param
    if found.name == "wrk" and shutil.which("wrk") is None:
        pytest.skip("WRK IS NOT TRIED: it is not installed (apt-get install wrk)")
    return found


def test_a_uniform_walk_has_everybody_once(walk: walks.Walk) -> None:
    assert Counter(walk.once()) == Counter(walks.request(line) for line in LINES)
    assert (walk.width, walk.length) == (len(LINES[0]), len(LINES))


def test_a_walk_goes_round(walk: walks.Walk) -> None:
    requests = walk.requests(0)
    first = [next(requests) for _ in LINES]
    assert [next(requests) for _ in LINES] == first
    assert next(walk.requests(7)) == first[7] == next(walk.requests(7 + len(LINES)))


def test_a_zipf_walk_has_the_first_most_often(tmp_path: Path) -> None:
    walk = walks.write_lines(tmp_path / "walk", LINES, Draw.ZIPF)
    text = walk.path.read_bytes()
    counted = Counter(text[at : at + walk.width] for at in range(0, len(text), walk.width))
    assert walk.length == 1_000_000
    for rank in (2, 10, 50):
        assert counted[LINES[0]] / counted[LINES[rank - 1]] == pytest.approx(rank**1.1, rel=0.1)


def test_a_generator_asks_as_the_walk_says(generator: Generator, walk: walks.Walk) -> None:
    with peer() as answering:
        asked = generator.ask(answering.port, walk, 1, 0, 32)
    known = {walks.request(line) for line in LINES}
    assert set(answering.asked) == known
    assert 0 < asked.requests <= len(answering.asked)
    if isinstance(generator, Bundled):
        assert asked.requests == len(answering.asked), "it waits for the last answers; wrk leaves them"
    assert asked.rate == pytest.approx(asked.requests / asked.duration_us * 1e6)


def test_a_refusal_is_no_figure(generator: Generator, walk: walks.Walk) -> None:
    with peer(REFUSED) as answering, pytest.raises(LoadTestError, match="not every answer was 200"):
        generator.ask(answering.port, walk, 1, 0, 32)


def test_each_credential_is_asked_for_once(walk: walks.Walk) -> None:
    with peer() as answering:
        assert generators.ask_each(answering.port, walk) == len(LINES)
    assert Counter(answering.asked) == Counter(walks.request(line) for line in LINES)


def test_wrk_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/wrk")
    assert isinstance(generators.find(None), Wrk)
    assert isinstance(generators.find("bundled"), Bundled)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert isinstance(generators.find(None), Bundled)
    with pytest.raises(LoadTestError, match="apt-get install wrk"):
        generators.find("wrk")


def test_a_pace_is_kept_while_nobody_answers(walk: walks.Walk) -> None:
    """Nothing is answered before the twentieth request has come, so who waits for answers would never get there."""
    with peer(held=20) as answering:
        times = paced.ask(answering.port, walk.requests(0), rate=100, seconds=0.3)
    assert len(times.sorted_us) == 30
    assert times.sorted_us[-1] >= 190_000, "the first was due nineteen hundredths of a second before the twentieth"


def test_a_wait_for_a_connection_counts(walk: walks.Walk) -> None:
    held = paced.CONNECTIONS
    with peer(held=held) as answering:
        times = paced.ask(answering.port, walk.requests(0), rate=1_000, seconds=(held + 10) / 1_000)
    assert len(times.sorted_us) == held + 10
    assert times.sorted_us[-1] >= (held - 1) * 1_000


def test_a_connection_that_the_server_ends_is_replaced(walk: walks.Walk) -> None:
    closing = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    with peer(closing) as answering:
        times = paced.ask(answering.port, walk.requests(0), rate=2_000, seconds=0.1)
    assert len(times.sorted_us) == 200


def test_a_refusal_at_a_constant_rate_is_no_figure(walk: walks.Walk) -> None:
    with peer(REFUSED) as answering, pytest.raises(LoadTestError, match="429"):
        paced.ask(answering.port, walk.requests(0), rate=100, seconds=0.1)


def test_a_percentile_is_a_time_that_was_measured() -> None:
    times = paced.Times([float(number) for number in range(1, 101)], 1e6)
    assert times.percentile_us(99) == 100
    assert times.percentile_us(50) == 51
    assert times.rate == 100
    assert paced.Times([7.0], 1e6).percentile_us(99) == 7
