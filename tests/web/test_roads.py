"""The hot road is taken when it can be, gives the same bytes as the long one, and ends as uvicorn's connections do."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from store.proxy import Proxy, proxy
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from quotas import caches
from quotas.hot_road import HotRoad

from .timed import Clock, Timed, noon, timed

PATIENCE_S = 30
PLANS = """
plans:
  plan:
    limits:
      hourly: {rate: 10/hour, burst: 10}
      monthly: {quota: 1000/month}
      tried: {quota: 5/day, mode: shadow}
  enforced:
    limits:
      hourly: {rate: 3/hour, burst: 4}
      monthly: {quota: 1000/month}
  pathly:
    limits:
      search: {quota: 5/day, match: {path: /search/*}}
    costs: [{path: /dear, cost: 4}]
anonymous: {plan: plan}
"""


LANES = """
plans:
  enforced: {limits: {a: {rate: 1/hour, burst: 2}, b: {quota: 9/month}}}
  scoped: {required_scopes: [read], limits: {a: {rate: 1/hour, burst: 2}}}
  limit-scoped: {limits: {a: {rate: 1/hour, burst: 2, match: {path: /, required_scopes: [read]}}}}
  pathly: {limits: {a: {quota: 2/day, match: {path: /}}}}
  per-key: {limits: {a: {quota: 2/day, per: key}}}
"""


class Connection:
    """One connection to a protocol, and how it is asked over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: Any) -> None:
        self.reader, self.writer, self.protocol = reader, writer, protocol

    def send(self, *lines: str, target: str = "/check", method: str = "GET") -> None:
        self.writer.write("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode())

    async def answer(self, *, head: bool = False) -> bytes:
        """The bytes of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            top = await self.reader.readuntil(b"\r\n\r\n")
            length = int(top.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return top + (b"" if head else await self.reader.readexactly(length))

    async def ended(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read() == b""


class NoAppError(Exception):
    """The application was asked."""


async def no_app(_scope: object, _receive: object, _send: object) -> None:
    raise NoAppError


@asynccontextmanager
async def connection(worker: Timed, protocol_class: Any = HotRoad, app: Any = no_app) -> AsyncIterator[Connection]:
    config = uvicorn.Config(
        app, http=protocol_class, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Wed, 10 Jun 2026 12:00:00 GMT")]
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # noqa: FBT003 # As it is called.
    _, protocol = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: protocol_class(config, state, {"services": worker.services}), theirs
    )
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield Connection(reader, writer, protocol)
    finally:
        writer.close()
        async with asyncio.timeout(PATIENCE_S):
            while state.connections:
                await asyncio.sleep(0)


def application(worker: Timed) -> Any:
    """The worker's application as uvicorn asks it."""
    way: Any = worker.http._transport  # noqa: SLF001 # httpx does not show it.
    return way.app


async def known(worker: Timed, plan: str = "plan") -> str:
    """The secret of a key that the worker knows, as a header line."""
    secret = await worker.key(plan, plan)
    await worker.check(secret, cost=0)
    return f"X-API-Key: {secret}"


ASKED: list[tuple[str, str, list[str]]] = [
    ("GET", "/check", []),
    ("HEAD", "/check/nginx", []),
    ("POST", "/check/envoy/a%2fb?c=d", ["Content-Length: 0"]),
    ("GET", "/check", ["X-Quotas-Cost: 11"]),
    ("GET", "/check", ["X-Quotas-Cost: x"]),
    ("GET", "/check", ["Authorization: Bearer other"]),
    ("HEAD", "/check", ["Authorization: Bearer other"]),
    ("GET", "/check/nginx", ["Authorization: Bearer other"]),
    ("GET", "/check", ["Connection: close"]),
]


@pytest.mark.parametrize("room", [caches.MAX_AT_HAND, 0], ids=["at hand", "packed"])
@pytest.mark.parametrize(("method", "target", "lines"), ASKED, ids=range(len(ASKED)))
def test_a_check_of_a_known_key_asks_no_application_and_reads_the_same_on_both_roads(  # noqa: PLR0913, PLR0917 # Cases.
    redis_url: str, monkeypatch: pytest.MonkeyPatch, method: str, target: str, lines: list[str], room: int
) -> None:
    monkeypatch.setattr(caches, "MAX_AT_HAND", room)

    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            key = await known(worker)
            answers = []
            for protocol_class, app in ((HotRoad, no_app), (HttpToolsProtocol, application(worker))):
                look = [] if any("Cost" in line for line in lines) else ["X-Quotas-Cost: 0"]
                async with connection(worker, protocol_class, app) as asked:
                    asked.protocol.client = ("127.0.0.1", 1)
                    asked.send(key, *look, *lines, target=target, method=method)
                    answers.append(await asked.answer(head=method == "HEAD"))
            assert answers[0] == answers[1]
            assert b"500" not in answers[0].splitlines()[0]

    asyncio.run(work())


def test_a_check_that_comes_in_two_parts_is_one_check(redis_url: str) -> None:
    """Wherever it is cut, also where a part of it is a whole request itself, or what comes before it is none."""

    async def work() -> None:
        plans = PLANS.replace("10/hour, burst: 10", "1000/hour, burst: 1000")
        async with timed(redis_url, plans, noon()) as worker, connection(worker) as asked:
            key = await known(worker)
            request = f"GET /check HTTP/1.1\r\n{key}\r\n\r\n".encode()
            for at in range(1, len(request)):
                asked.protocol.data_received(request[:at])
                asked.protocol.data_received(request[at:])
                assert (await asked.answer()).startswith(b"HTTP/1.1 200"), at
            asked.protocol.data_received(b"PO")
            asked.protocol.data_received(request)
            assert (await asked.answer()).startswith(b"HTTP/1.1 400"), "POGET is no method"

    asyncio.run(work())


@pytest.mark.parametrize("room", [caches.MAX_AT_HAND, 0], ids=["at hand", "packed"])
def test_the_heads_of_one_check_after_another_are_those_of_the_long_road(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """From the second on they are written straight from the reply."""
    monkeypatch.setattr(caches, "MAX_AT_HAND", room)

    async def asked_of(worker: Timed, clock: Clock, client: str, protocol_class: Any, app: Any) -> list[bytes]:
        secret = await worker.key(client, "enforced")
        await worker.check(secret, cost=0)
        (key,) = await worker.clients.keys_of(client)
        answers = []
        async with connection(worker, protocol_class, app) as asked:
            for seconds in (0, 1, 1300, 0, 0, 0, 1, 40 * 86_400):
                clock.go_on(seconds)
                asked.send(f"X-API-Key: {secret}")
                answer = await asked.answer()
                answers.append(answer.replace(client.encode(), b"CLIENT").replace(key.id.encode(), b"KEY"))
        return answers

    async def work() -> None:
        clock = noon()
        async with timed(redis_url, PLANS, clock) as worker:
            hot = await asked_of(worker, clock, "hot-road", HotRoad, no_app)
        clock = noon()
        async with timed(redis_url, PLANS, clock) as worker:
            long = await asked_of(worker, clock, "long-road", HttpToolsProtocol, application(worker))
        assert hot == long
        assert [answer.split(b" ")[1] for answer in hot] == [b"200"] * 5 + [b"429"] * 2 + [b"200"]

    asyncio.run(work())


@pytest.mark.parametrize("plan", ["plan", "pathly"])
def test_the_same_take_is_asked_again_as_long_as_it_is_the_same(redis_url: str, plan: str) -> None:
    """Of the path, of a cost that is said, of the hour, of a reload: whatever makes another take is seen."""

    async def work() -> None:
        clock = noon()
        async with timed(redis_url, PLANS, clock, clock_decides=False) as worker, connection(worker) as asked:
            key = await known(worker, plan)
            name = b"monthly" if plan == "plan" else b"search"
            before = 1000 if plan == "plan" else 5

            async def left(*lines: str) -> int:
                asked.send(key, *lines)
                answer = await asked.answer()
                assert answer.startswith(b"HTTP/1.1 200"), answer
                return int(answer.partition(b'"' + name + b'";r=')[2].partition(b";")[0])

            search = ["X-Forwarded-Uri: /search/x"]
            assert [await left(*search) for _ in range(3)] == [before - 1, before - 2, before - 3]
            if plan == "pathly":
                asked.send(key, "X-Forwarded-Uri: /other")
                assert b"ratelimit:" not in await asked.answer()
            clock.go_on(3600)
            assert await left(*search) == before - 4
            worker.use(PLANS.replace("1000/month", "2000/month").replace("5/day, match", "9/day, match"))
            assert await left(*search) == (2000 - 5 if plan == "plan" else 9 - 5)

    asyncio.run(work())


def test_what_is_packed_is_answered_as_what_is_at_hand(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One plain check after another, of everything in a plan or a key that can be told from others."""
    monkeypatch.setattr(caches, "MAX_AT_HAND", 0)

    async def work() -> None:
        async with timed(redis_url, LANES, noon(), clock_decides=False) as worker, connection(worker) as asked:
            for plan, at_last in (
                ("enforced", b"HTTP/1.1 429"),
                ("scoped", b"HTTP/1.1 403"),
                ("limit-scoped", b"HTTP/1.1 403"),
                ("pathly", b"HTTP/1.1 429"),
                ("per-key", b"HTTP/1.1 429"),
                ("Ärger & 100 %", b"HTTP/1.1 429"),
            ):
                secret = await worker.key(plan, plan if plan.isascii() else "enforced")
                for _ in range(2):
                    asked.send(f"X-API-Key: {secret}")
                    first = await asked.answer()
                    assert first.startswith(b"HTTP/1.1 403" if at_last.endswith(b"403") else b"HTTP/1.1 200"), plan
                asked.send(f"X-API-Key: {secret}")
                assert (await asked.answer()).startswith(at_last), plan
            secret = await worker.key("revoked", "enforced")
            asked.send(f"X-API-Key: {secret}")
            assert (await asked.answer()).startswith(b"HTTP/1.1 200")
            (found,) = await worker.clients.keys_of("revoked")
            await worker.clients.revoke_key(found.id)
            asked.send(f"X-API-Key: {secret}")
            assert (await asked.answer()).startswith(b"HTTP/1.1 401")

    asyncio.run(work())


def test_who_is_not_known_yet_is_answered_here_as_well(redis_url: str) -> None:
    """The application of this test fails whoever asks it."""

    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker, connection(worker) as asked:
            secret = await worker.key()
            for line, status in ((f"X-API-Key: {secret}", b"200"), ("X-API-Key: none", b"401")):
                asked.send(line)
                assert (await asked.answer()).split(b" ")[1] == status

    asyncio.run(work())


@pytest.mark.parametrize("ends", ["the client", "the server"])
def test_a_connection_that_ends_while_its_key_is_looked_up(redis_url: str, tmp_path: Path, ends: str) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, timed(passing.url, PLANS, noon()) as worker:
            secret = await worker.key()
            async with connection(worker) as asked:
                passing.gate.clear()
                asked.send(f"X-API-Key: {secret}")
                await passing.until(b"HMGET")
                if ends == "the server":
                    asked.protocol.shutdown()
                    passing.gate.set()
                    assert b"\r\nconnection: close\r\n" in await asked.answer()
                    assert await asked.ended()
            passing.gate.set()
            async with connection(worker) as other:
                other.send(f"X-API-Key: {secret}")
                assert (await other.answer()).startswith(b"HTTP/1.1 200")

    asyncio.run(work())


def test_a_burst_of_one_unknown_key_is_one_load_and_all_are_answered(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, timed(passing.url, PLANS, noon()) as worker:
            secret = await worker.key()
            before = passing.count(b"HMGET")
            async with AsyncExitStack() as stack:
                asked = [await stack.enter_async_context(connection(worker)) for _ in range(50)]
                passing.gate.clear()
                for each in asked:
                    each.send(f"X-API-Key: {secret}")
                await passing.until(b"HMGET", times=before + 1)
                passing.gate.set()
                answers = [await each.answer() for each in asked]
            assert sum(answer.startswith(b"HTTP/1.1 200") for answer in answers) == 10
            assert sum(answer.startswith(b"HTTP/1.1 429") for answer in answers) == 40
            assert passing.count(b"HMGET") == before + 1

    asyncio.run(work())


def test_a_key_that_was_revoked_is_found_out_by_the_take(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker, connection(worker) as asked:
            key = await known(worker)
            asked.send(key)
            assert (await asked.answer()).startswith(b"HTTP/1.1 200")
            (found,) = await worker.clients.keys_of("plan")
            await worker.clients.revoke_key(found.id)
            asked.send(key)
            assert (await asked.answer()).startswith(b"HTTP/1.1 401")

    asyncio.run(work())


def test_a_fault_in_here_is_an_answer_and_a_log_line(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker, connection(worker) as asked:
            key = await known(worker, "enforced")
            asked.send(key)
            assert (await asked.answer()).startswith(b"HTTP/1.1 200")
            for place, *more in (
                ("quotas.heads.Head.lines",),
                ("quotas.metrics.Metrics.taken",),
                ("quotas.plain_requests.Plain.read",),
                ("quotas.identities.Identities.known",),
                ("quotas.requests.plain_credential", "Accept:"),  # This one is for the parser.
            ):
                with monkeypatch.context() as patched:
                    patched.setattr(place, broken)
                    asked.send(key, *more)
                    assert (await asked.answer()).startswith(b"HTTP/1.1 500")
            asked.send(key)
            assert (await asked.answer()).startswith(b"HTTP/1.1 200")
            assert await worker.store.call("PING") == b"PONG"

    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        asyncio.run(work())
    assert [record.message for record in caplog.records] == ["Exception in a check"] * 5


class TestEnd:
    @pytest.mark.parametrize("stop", ["the client", "the server"])
    def test_with_a_check_under_way(self, redis_url: str, tmp_path: Path, stop: str) -> None:
        """A client that goes away gets nothing and harms nobody; a server that stops answers first."""

        async def work(passing: Proxy) -> None:
            async with timed(passing.url, PLANS, noon()) as worker, connection(worker) as other:
                key = await known(worker)
                async with connection(worker) as asked:
                    passing.gate.clear()
                    sent = passing.count(b"EVALSHA")
                    asked.send(key)
                    await passing.until(b"EVALSHA", times=sent + 1)
                    if stop == "the server":
                        asked.protocol.shutdown()
                        passing.gate.set()
                        assert b"\r\nconnection: close\r\n" in await asked.answer()
                        assert await asked.ended()
                passing.gate.set()
                other.send(key)
                assert b'"monthly";r=998' in await other.answer()
                other.protocol.shutdown()
                assert await other.ended()

        async def run() -> None:
            async with proxy(redis_url, tmp_path) as passing:
                await work(passing)

        asyncio.run(run())

    def test_with_more_requests_behind_the_one_under_way(self, redis_url: str, tmp_path: Path) -> None:
        """A connection is not read meanwhile, so that only the answer finds out that nobody is there."""

        async def work(passing: Proxy) -> None:
            failures: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
            async with timed(passing.url, PLANS, noon()) as worker, connection(worker) as other:
                key = await known(worker)
                async with connection(worker) as asked:
                    passing.gate.clear()
                    sent = passing.count(b"EVALSHA")
                    asked.send(key)
                    asked.send(key)
                    asked.send(key)
                    await passing.until(b"EVALSHA", times=sent + 1)
                    asked.writer.close()
                    passing.gate.set()
                other.send(key)
                assert (await other.answer()).startswith(b"HTTP/1.1 200")
            assert failures == []

        async def run() -> None:
            async with proxy(redis_url, tmp_path) as passing:
                await work(passing)

        asyncio.run(run())

    def test_nothing_is_asked_after_the_last_answer(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS.replace("anonymous: {plan: plan}", ""), noon()) as worker:
                key = await known(worker)
                async with connection(worker) as asked:
                    lines = ["GET /check HTTP/1.1", "Connection: close", "", "GET /check HTTP/1.1", key, "", ""]
                    asked.writer.write("\r\n".join(lines).encode())
                    assert (await asked.answer()).startswith(b"HTTP/1.1 401")
                    assert await asked.ended()
                async with connection(worker) as asked:
                    asked.send(key)
                    assert b'"monthly";r=999' in await asked.answer()

        asyncio.run(work())

    def test_an_idle_connection_is_closed_in_time_and_one_in_use_is_not(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker, connection(worker) as asked:
                key = await known(worker)
                asked.protocol.timeout_keep_alive = 0.1
                for _ in range(4):
                    await asyncio.sleep(0.05)
                    asked.send(key)
                    assert (await asked.answer()).startswith(b"HTTP/1.1 200")
                asked.writer.write(b"GET /check HTTP/1.1\r\n")  # A request has begun: it has all the time it wants.
                await asyncio.sleep(0.3)
                asked.writer.write(f"{key}\r\n\r\n".encode())
                assert (await asked.answer()).startswith(b"HTTP/1.1 200")
                assert await asked.ended()

        asyncio.run(work())


def test_a_store_that_does_not_answer_in_time_leaves_it_to_the_plan(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, timed(passing.url, PLANS, noon()) as worker:
            key = await known(worker)
            async with connection(worker) as asked:
                passing.cut()
                passing.fate = lambda _: b"-ERR broken\r\n"
                asked.send(key)
                answer = await asked.answer()
                assert answer.startswith(b"HTTP/1.1 503")
                assert b"x-quotas-reason: store_unavailable" in answer

    asyncio.run(work())
