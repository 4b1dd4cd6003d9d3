"""The servers under load: started with a real Valkey each, stopped by their own process id.

All of them that are Python run on uvicorn with uvloop and httptools and with the options that `quotas serve` has. Each
gets its own private Valkey, as `quotas serve` starts it, so that its process account is of this server alone.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from redis import Redis

from loadtests import processes
from loadtests.bench import cases, generators, node, population, walks
from loadtests.bench.cases import Case, Credential, Server
from loadtests.bench.walks import Walk
from loadtests.processes import LoadTestError
from quotas import embedded, valkey

ROOT = Path(__file__).parents[2]
PATIENCE_MS = "10000"
"""How long a check may wait for the store: what a check costs is asked, also where cores are few."""

PER_HOUR = "1000000000"
"""What a caller of a baseline may ask: never too little."""

_LOG_S = 300.0

_APPS = {
    Server.BARE: "loadtests.bench.apps.bare:app",
    Server.LIMITS: "loadtests.bench.apps.with_limits:app",
    Server.LIMITS_TELLING: "loadtests.bench.apps.with_limits:telling",
    Server.THROTTLED: "loadtests.bench.apps.with_throttled:app",
}


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers: its port, its first process, and its store's URL and process id; None has none."""

    port: int
    pid: int
    store_url: str | None = None
    store_pid: int | None = None


@contextmanager
def started(case: Case, folder: Path) -> Iterator[tuple[Serving, Walk]]:
    """The server of a case, with its clients settled and known to it, and the walk over them. Raises LoadTestError."""
    folder.mkdir()
    walk = walks.write(folder, case)
    with _store(case, folder) as url:
        if case.server is Server.QUOTAS and case.credential is Credential.KEY:
            population.settle(url, case.plan, case.clients, time.time_ns() // 1000)
        with _server(case, folder, url) as serving:
            if case.server is not Server.BARE:
                for _ in range(1 if case.workers == 1 else 4):  # Any worker may be asked for any of them.
                    generators.ask_each(serving.port, walk)
            yield serving, walk


@contextmanager
def _store(case: Case, folder: Path) -> Iterator[str]:
    """The URL of a Valkey; empty for what has no use for one."""
    if case.server is Server.BARE:
        yield ""
    else:
        with embedded.hold(folder / "data") as url:
            yield url


def rewrite_log(url: str) -> None:
    """Have a Valkey write its log anew, and wait until it has: what made the clients is no work of the rounds.

    It does so by itself whenever the log is twice as long as it was. Raises LoadTestError.
    """
    with Redis.from_url(url) as store:
        _until_written(store)  # While one is under way, another is refused.
        store.bgrewriteaof()
        _until_written(store)


def _until_written(store: Redis) -> None:
    if not valkey.until(lambda: not _is_rewriting(store), _LOG_S):
        raise LoadTestError(f"Valkey has not written its log anew within {_LOG_S:.0f} s")


def _is_rewriting(store: Redis) -> bool:
    found = store.info("persistence")
    assert isinstance(found, dict), "this client is not asyncio's"
    return bool(found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])


@contextmanager
def _server(case: Case, folder: Path, url: str) -> Iterator[Serving]:
    store_pid = None
    if url:
        with Redis.from_url(url) as store:
            store_pid = int(store.info("server")["process_id"])
    if case.server is Server.QUOTAS:
        (folder / "quotas.yaml").write_text(cases.plan_file(walks.ISSUER if _has_tokens(case) else ""), "utf-8")
        with processes.service(folder, _told(case, url), case.workers) as service:
            yield Serving(service.port, service.program.process.pid, url, store_pid)
        return
    environment = {**os.environ, "BENCH_REDIS": unquote(urlsplit(url).path), "BENCH_PER_HOUR": PER_HOUR}
    with baseline(case.server, folder, environment, workers=case.workers) as (port, pid):
        yield Serving(port, pid, url or None, store_pid)


@contextmanager
def baseline(
    server: Server, folder: Path, environment: Mapping[str, str], *, workers: int = 1
) -> Iterator[tuple[int, int]]:
    """A server that is not ours, on its port, with its process id. The variables are those of `apps`."""
    port = free_port()
    command, more = node.command(port) if server is Server.FASTIFY else (_uvicorn(_APPS[server], port, workers), {})
    with processes.running("baseline", command, folder, {**environment, **more}) as program:
        program.until(lambda: listens(port), processes.START_S, "become ready")
        yield port, program.process.pid


def _uvicorn(app: str, port: int, workers: int) -> Sequence[str]:
    options = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
    options += ["--no-proxy-headers", "--no-server-header", "--timeout-keep-alive", "80", "--workers", str(workers)]
    return [sys.executable, "-m", "uvicorn", app, "--app-dir", str(ROOT), "--port", str(port), *options]


def _told(case: Case, url: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAS_")}
    environment |= {"QUOTAS_REDIS_URL": url, "QUOTAS_STORE_TIMEOUT_MS": PATIENCE_MS}
    return {**environment, "QUOTAS_HOT_ROAD": "1" if case.hot_road else "0"}


def _has_tokens(case: Case) -> bool:
    return case.credential is Credential.TOKEN


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
