"""The doctor and a real server: each trouble is made for real, and undone."""

import asyncio
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from typing import Any
from urllib.parse import quote

import pytest
from redis import Redis

from quotas import assembly, embedded, store_health
from quotas.findings import Finding, Verdict
from quotas.store import Store
from quotas.valkey import Place, answers, find_binary, until

from .proxy import Command, Fate, proxy

OK, WARNING, PROBLEM = Verdict
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A server of this module's own, which may be spoilt."""
    with tempfile.TemporaryDirectory() as name, embedded.hold(Path(name)):
        yield Path(name).resolve()


@pytest.fixture
def server(folder: Path) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(folder / "valkey.sock"), protocol=2) as connection:
        connection.flushall()
        yield connection


def url_of(folder: Path, credentials: str = "") -> str:
    return f"unix://{credentials}{quote(str(folder / 'valkey.sock'))}"


async def look(url: str, *, ahead_us: int = 0, timeout_ms: int = 30_000) -> list[Finding]:
    seconds = iter(range(1_000_000))
    found = store_health.examine(
        lambda: Store(url),
        url,
        timeout_ms=timeout_ms,
        workers=1,
        clock=lambda: assembly.clock() - ahead_us,
        timer=lambda: next(seconds) / 1000,
    )
    return [each async for each in found]


def findings(url: str, *, ahead_us: int = 0, timeout_ms: int = 30_000) -> dict[str, Finding]:
    found = asyncio.run(look(url, ahead_us=ahead_us, timeout_ms=timeout_ms))
    return {each.subject: each for each in found}


def told(found: dict[str, Finding], subject: str) -> tuple[Verdict, str]:
    return found[subject].verdict, found[subject].message


@contextmanager
def configured(server: Redis, **values: str) -> Iterator[None]:
    before: Any = {name: server.config_get(name)[name] for name in (each.replace("_", "-") for each in values)}
    for name, value in values.items():
        server.config_set(name.replace("_", "-"), value)
    try:
        yield
    finally:
        for name, value in before.items():
            server.config_set(name, value)


def test_nothing_is_wrong_and_nothing_is_left(folder: Path, server: Redis) -> None:
    server.set("q1:clients", "somebody's")
    found = findings(url_of(folder))
    assert {each.verdict for each in found.values()} == {OK}, found
    assert list(found) == [
        "store",
        "store encryption",
        "store version",
        "store role",
        "store eviction",
        "store memory",
        "store persistence",
        "store connections",
        "store clock",
        "store take",
        "store permissions",
    ]
    assert found["store version"].message.startswith("Valkey ")
    assert found["store take"].message.startswith("a PING takes 1.00 ms, a take 1.00 ms;")
    assert server.keys() == [b"q1:clients"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lfu", "volatile-ttl"])
def test_a_server_that_evicts(folder: Path, server: Redis, policy: str) -> None:
    with configured(server, maxmemory_policy=policy):
        verdict, message = told(findings(url_of(folder)), "store eviction")
    assert (verdict, policy in message) == (PROBLEM, True)
    assert ("clients" in message) == policy.startswith("allkeys")


def test_a_full_server(folder: Path, server: Redis) -> None:
    with configured(server, maxmemory="1mb"):
        found = findings(url_of(folder))
    assert told(found, "store memory")[0] is PROBLEM
    assert found["store take"].verdict is PROBLEM
    assert found["store take"].advice == "raise maxmemory of the server"


def test_a_server_that_keeps_nothing(folder: Path, server: Redis) -> None:
    with configured(server, appendonly="no", save=""):
        assert told(findings(url_of(folder)), "store persistence")[0] is PROBLEM
    with configured(server, appendonly="no", save="3600 1"):
        verdict, message = told(findings(url_of(folder)), "store persistence")
        assert (verdict, "save 3600 1" in message) == (WARNING, True)
    with configured(server, appendfsync="no"):
        assert told(findings(url_of(folder)), "store persistence")[0] is WARNING


def test_few_connections(folder: Path, server: Redis) -> None:
    with configured(server, maxclients="4"):
        assert told(findings(url_of(folder)), "store connections")[0] is WARNING


def test_a_replica(folder: Path, server: Redis) -> None:
    server.replicaof("127.0.0.1", 1)
    try:
        found = findings(url_of(folder))
    finally:
        server.replicaof("NO", "ONE")
    verdict, message = told(found, "store role")
    assert (verdict, "127.0.0.1:1" in message) == (PROBLEM, True)
    assert "store take" not in found


def test_too_few_replicas(folder: Path, server: Redis) -> None:
    with configured(server, min_replicas_to_write="1"):
        found = findings(url_of(folder))
    assert found["store take"].verdict is PROBLEM
    assert "min-replicas-to-write" in found["store take"].advice


@pytest.mark.parametrize(
    ("ahead_us", "verdict", "word"),
    [(0, OK, ""), (5_000_000, WARNING, "ahead of"), (-5_000_000, WARNING, "behind"), (90_000_000, PROBLEM, "ahead of")],
)
def test_clocks(folder: Path, server: Redis, ahead_us: int, verdict: Verdict, word: str) -> None:
    assert server.ping()
    found = findings(url_of(folder), ahead_us=ahead_us)
    assert found["store clock"].verdict is verdict
    assert word in found["store clock"].message


@pytest.mark.parametrize(("timeout_ms", "verdict"), [(5, OK), (4, WARNING), (1, PROBLEM)])
def test_a_take_of_a_millisecond_against_the_deadline(folder: Path, timeout_ms: int, verdict: Verdict) -> None:
    assert findings(url_of(folder), timeout_ms=timeout_ms)["store take"].verdict is verdict


class TestPermissions:
    @pytest.fixture
    def user(self, server: Redis) -> Iterator[Any]:
        def rules(*words: str) -> None:
            server.execute_command("ACL", "SETUSER", "doctor", "reset", "on", ">secret", *words)  # type: ignore[no-untyped-call] # As it ships.

        yield rules
        server.acl_deluser("doctor")

    def look(self, folder: Path) -> dict[str, Finding]:
        found = findings(url_of(folder, "doctor:secret@"))
        assert not any("secret" in each.message + each.advice for each in found.values())
        return found

    def test_what_is_advised_is_enough(self, folder: Path, user: Any) -> None:
        user("+@all", "-@admin", "~q1:*")
        found = self.look(folder)
        assert {each.verdict for each in found.values()} == {OK}, found
        assert "does not tell" in found["store persistence"].message

    @pytest.mark.parametrize("command", ["zmscore", "xread", "hgetall", "evalsha", "unlink", "script|load"])
    def test_a_command_is_missing(self, folder: Path, user: Any, command: str) -> None:
        user("+@all", f"-{command}", "~q1:*")
        verdict, message = told(self.look(folder), "store permissions")
        assert verdict is PROBLEM
        assert f"{command.partition('|')[0]} (NOPERM)" in message

    @pytest.mark.parametrize("command", ["set", "get", "evalsha"])
    def test_the_take_needs_it(self, folder: Path, user: Any, command: str) -> None:
        user("+@all", f"-{command}", "~q1:*")
        finding = self.look(folder)["store take"]
        assert finding.verdict is PROBLEM
        assert "permission" in finding.advice

    def test_other_keys_only(self, folder: Path, user: Any) -> None:
        user("+@all", "~other:*")
        verdict, message = told(self.look(folder), "store permissions")
        assert (verdict, "get (NOPERM)" in message, "ping" in message) == (PROBLEM, True, False)

    def test_nothing_may_be_asked_about_the_server(self, folder: Path, user: Any) -> None:
        user("+@all", "-info", "~q1:*")
        found = asyncio.run(look(url_of(folder, "doctor:secret@")))
        subjects = [each.subject for each in found]
        assert subjects.count("store permissions") == 2
        assert "store role" not in subjects
        assert found[2].verdict is WARNING
        assert {each.verdict for each in found[3:]} == {OK}

    def test_no_transactions(self, folder: Path, server: Redis, user: Any) -> None:
        user("+@all", "-multi", "~q1:*")
        assert told(self.look(folder), "store permissions") == (
            OK,
            "cannot be looked at: MULTI is not permitted; those of the take are there",
        )
        assert server.keys() == []

    def test_a_wrong_password(self, folder: Path, user: Any) -> None:
        user("+@all", "~q1:*")
        found = findings(url_of(folder, "doctor:terces@"))
        assert list(found) == ["store"]
        assert found["store"].verdict is PROBLEM
        assert "the user or the password in QUOTAS_REDIS_URL" in found["store"].advice
        assert "terces" not in found["store"].message


class TestUnreachable:
    def test_nobody_listens(self, tmp_path: Path) -> None:
        found = findings(url_of(tmp_path))
        assert list(found) == ["store"]
        assert found["store"].verdict is PROBLEM

    def test_a_server_that_is_stopped(self, folder: Path, server: Redis) -> None:
        assert server.ping()
        pid = int((folder / "valkey.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            found = findings(url_of(folder))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert list(found) == ["store"]
        assert found["store"].verdict is PROBLEM

    @pytest.mark.parametrize("command", [b"INFO", b"TIME", b"EVALSHA", b"MULTI", b"ZREM"])
    def test_the_connection_breaks_on_the_way(self, folder: Path, tmp_path: Path, command: bytes) -> None:
        async def work() -> list[Finding]:
            async with proxy(url_of(folder), tmp_path) as passing:
                passing.fate = lambda words: Fate.CUT if words[0] == command else Fate.PASS
                return await look(passing.url)

        found = {each.subject: each for each in asyncio.run(work())}
        assert found["store take" if command == b"EVALSHA" else "store"].verdict is PROBLEM

    def test_a_server_that_answers_something_else(self, folder: Path, tmp_path: Path) -> None:
        def fate(words: Command) -> Fate | bytes:
            nothing_taken = b"$40\r\n%b\r\n" % pack("<5q", 1, 1_000_000, 22, 0, 0)
            return nothing_taken if words[0] == b"EVALSHA" else Fate.PASS

        async def work() -> list[Finding]:
            async with proxy(url_of(folder), tmp_path) as passing:
                passing.fate = fate
                return await look(passing.url)

        found = {each.subject: each for each in asyncio.run(work())}
        assert told(found, "store take") == (PROBLEM, "the script does not answer what it should")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """A node of a cluster that has no slots yet."""
    socket = tmp_path / "valkey.sock"
    words = ["--port", "0", "--unixsocket", str(socket), "--cluster-enabled", "yes", "--dir", str(tmp_path)]
    process = subprocess.Popen([str(find_binary()), *words], stdout=subprocess.DEVNULL)
    try:
        assert until(lambda: process.poll() is not None or answers(Place(tmp_path, socket)), 30)
        yield "unix://" + quote(str(socket))
    finally:
        process.terminate()
        process.wait(30)


def test_a_node_of_a_cluster(node: str) -> None:
    found = findings(node)
    assert told(found, "store role")[0] is PROBLEM
    assert told(found, "store take")[0] is PROBLEM
    assert "CLUSTER INFO" in found["store take"].advice
    assert found["store permissions"].message.startswith("not looked at on a cluster")


NOT_OURS = {"CONFIG", "INFO", "MULTI", "DISCARD"}
"""Asked by the doctor, and of a private Valkey: a service needs none of them."""


def test_the_list_of_commands_is_whole() -> None:
    python = "\n".join(path.read_text("utf-8") for path in (ROOT / "quotas").glob("*.py"))
    lua = "\n".join(path.read_text("utf-8") for path in (ROOT / "lua").glob("*.lua"))
    asked = set(re.findall(r'\.call\(\s*\(?"([A-Z]+)"', python)) | {"EVALSHA"}
    asked |= set(re.findall(r"\bcall\('([A-Z]+)'", lua))
    assert len(asked) > 25
    assert {str(words[0]) for words in store_health.COMMANDS} == asked - NOT_OURS


def test_none_of_them_is_carried_out(folder: Path, server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a server holds under the names that are asked about stays as it is."""
    monkeypatch.setattr(store_health, "COMMANDS", (("SET", "q1:{doctor}:text", "changed"), *store_health.COMMANDS))
    server.set("q1:{doctor}:text", "kept")
    server.xadd("q1:{doctor}:stream", {"f": "1"})
    assert findings(url_of(folder))["store permissions"].verdict is OK
    assert server.get("q1:{doctor}:text") == b"kept"
    assert server.xlen("q1:{doctor}:stream") == 1


def test_it_ends_when_the_store_says_no_more(folder: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(url_of(folder), tmp_path) as passing:
            passing.fate = lambda words: Fate.LOSE if words[0] == b"TIME" else Fate.PASS
            found = await look(passing.url)
        assert found[-1].message.startswith("it stopped answering: lost")

    asyncio.run(work())
