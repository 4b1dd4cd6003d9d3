"""`make bench`: what a check costs, as ratios against baselines of the same run on the same machine.

A check is put against a bare ASGI app on the same server under the same load, in turns, and `lua/take.lua` against the
least script that does TIME, GET and SET. Figures are medians of the rounds; absolute numbers are this machine's alone.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import uvloop

from loadtests import processes
from quotas import app, embedded, plan_files
from quotas.plans import Plan
from quotas.scripts import TAKE, PackedPlan, Take, record_key, state_key, take_words, used_key
from quotas.settings import Settings
from quotas.store import Script, Store

ROOT = Path(__file__).parents[1]
BARE, HOT, ASGI = "bare ASGI app", "quotas, hot road", "quotas, ASGI"
CONNECTIONS = 32
CLIENTS = 200
BATCH = 300
BATCHES = 20
KEEP_S = 404 * 86_400
"""How long a history is kept by default."""

PLANS = """
plans:
  bench:
    limits:
      per-second: {rate: 1000000/second, burst: 1000000}
      per-minute: {rate: 50000000/minute}
      monthly: {quota: 900000000000/month}
"""
LEAST = Script(
    "least",
    "local t = redis.call('TIME') redis.call('GET', KEYS[1]) "
    "redis.call('SET', KEYS[1], ARGV[4] .. t[2], 'PX', 60000) return {1, 2, 3}",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One round: requests a second, and microseconds of the server's CPU for each; None where no account tells."""

    rate: float
    cpu_us: float | None


class _Asker(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer. Every answer of these servers is bodiless."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self.answered = 0
        self.wrong = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but for isinstance.
        self._transport.write(self._requests[0])

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None, "data comes on a connection"
        if not data.startswith(b"HTTP/1.1 200"):
            self.wrong += 1
        self.answered += 1
        self._transport.write(self._requests[self.answered % len(self._requests)])


async def _ask_each(host: str, port: int, requests: Sequence[bytes]) -> None:
    """Ask each request once, one after the other."""
    reader, writer = await asyncio.open_connection(host, port)
    for request in requests:
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _load(host: str, port: int, requests: Sequence[bytes], seconds: float) -> tuple[int, int]:
    loop = asyncio.get_running_loop()
    made = []
    for start in range(CONNECTIONS):
        turned = [*requests[start:], *requests[:start]]
        made.append(await loop.create_connection(lambda turned=turned: _Asker(turned), host, port))  # type: ignore[misc] # Bound now.
    await asyncio.sleep(seconds)
    for transport, _ in made:
        transport.close()
    return sum(asker.answered for _, asker in made), sum(asker.wrong for _, asker in made)


def _cpu_s(pid: int) -> float | None:
    """CPU seconds of a process so far, from its account; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _round(place: tuple[str, int, int], requests: Sequence[bytes], seconds: float) -> Figure:
    host, port, pid = place
    before, begun = _cpu_s(pid), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answered, wrong = runner.run(_load(host, port, requests, seconds))
    took, after = time.monotonic() - begun, _cpu_s(pid)
    if wrong or not answered:
        raise processes.LoadTestError(f"{wrong} of {answered} answers were not 200")
    spent = None if before is None or after is None else (after - before) / answered * 1e6
    return Figure(answered / took, spent)


@contextmanager
def _bare(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "loadtests.bare:app", "--app-dir", str(ROOT), "--port", str(port)]
    options = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
    with processes.running("bare", [*command, *options], folder, environment) as started:
        started.until(lambda: _listens(port), processes.START_S, "become ready")
        yield "127.0.0.1", port, started.process.pid


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _keys(url: str, settings: Settings) -> list[str]:
    config = plan_files.parse(PLANS, "bench")
    async with app.open_operations(settings, url, config, actor="bench") as services:
        made = []
        for number in range(CLIENTS):
            await services.clients.create(f"bench-{number}", "bench")
            made.append((await services.clients.issue_key(f"bench-{number}")).secret)
        return made


def http_figures(rounds: int, seconds: float) -> dict[str, list[Figure]]:
    """Rounds of the bare app and of the service over both of its roads, in turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-bench-")))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAS_")}
        environment["QUOTAS_STORE_TIMEOUT_MS"] = "10000"  # What a check costs is asked, also where cores are few.
        bare = stack.enter_context(_bare(folder, environment))
        asked = {BARE: (bare, [b"GET /check HTTP/1.1\r\nHost: bench\r\n\r\n"])}
        for name, switch in ((HOT, "1"), (ASGI, "0")):
            home = folder / switch
            home.mkdir()
            (home / "quotas.yaml").write_text(PLANS)
            settings = Settings(data_dir=home / "data")
            with embedded.hold(settings.data_dir) as url:
                secrets = asyncio.run(_keys(url, replace(settings, redis_url=url)))
            told = {**environment, "QUOTAS_DATA_DIR": str(settings.data_dir), "QUOTAS_HOT_ROAD": switch}
            service = stack.enter_context(processes.service(home, told, 1))
            keyed = [f"GET /check HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\n\r\n".encode() for key in secrets]
            asyncio.run(_ask_each(service.host, service.port, keyed))  # Every key is known from here on.
            asked[name] = ((service.host, service.port, service.program.process.pid), keyed)
        figures: dict[str, list[Figure]] = {name: [] for name in asked}
        for _ in range(rounds):
            for name, (place, requests) in asked.items():
                figures[name].append(_round(place, requests, seconds))
        return figures


async def _script_us(url: str, rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """Redis CPU of each script in microseconds a call, and the bytes of a client's state and of days of its history."""
    (plan,) = plan_files.parse(PLANS, "bench").plans.values()
    eight = replace(plan, limits=tuple(replace(plan.limits[0], name=f"limit-{number}") for number in range(8)))
    found: dict[str, list[float]] = {}
    async with Store(url) as store:
        await store.call("CONFIG", "SET", "appendonly", "no")
        for script in (LEAST, TAKE):
            await store.load(script)
        for _ in range(rounds):
            for name, script, asked, keep_s in (
                ("least", LEAST, plan, KEEP_S),
                ("take", TAKE, plan, KEEP_S),
                ("take, no history", TAKE, plan, 0),
                ("take, 8 limits", TAKE, eight, KEEP_S),
            ):
                found.setdefault(name, []).append(await _calls_us(store, name, script, asked, keep_s))
        sizes = {"state": int(await store.call("MEMORY", "USAGE", state_key("take-0")))}
        for quarters in (1, 10, 96):
            sizes[f"{quarters} quarters"] = await _day_bytes(store, quarters)
    return {name: statistics.median(values) for name, values in found.items()}, sizes


async def _day_bytes(store: Store, quarters: int) -> int:
    """The bytes of a day of a client's history in which so many quarters of an hour have thousands of units each."""
    key = used_key("day", quarters)
    await store.call("HSET", key, *(word for quarter in range(quarters) for word in (quarter, 12_345)))
    return int(await store.call("MEMORY", "USAGE", key))


async def _calls_us(store: Store, name: str, script: Script, plan: Plan, keep_s: int) -> float:
    packed, now_us = PackedPlan(plan.limits), app.clock()
    names = [f"{name}-{number}" for number in range(CLIENTS)]
    for each in names:
        await store.call("HSET", record_key(each), "generation", 1)
    await store.call("CONFIG", "RESETSTAT")
    for _ in range(BATCHES):
        takes = [
            Take(client_id=names[i % CLIENTS], generation=1, key_id="k", cost=1, now_us=now_us, keep_s=keep_s)
            for i in range(BATCH)
        ]
        await store.run_all(script, [take_words(packed, take, now_us) for take in takes])
    stats = (await store.call("INFO", "commandstats")).decode()
    return float(stats.split("cmdstat_evalsha:")[1].split("usec_per_call=")[1].split(",")[0])


def script_figures(rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """See `_script_us`, on a store of its own."""
    with tempfile.TemporaryDirectory(prefix="quotas-bench-") as folder, embedded.hold(Path(folder)) as url:
        return asyncio.run(_script_us(url, rounds))


def main() -> int:
    """Measure, print the table, and write it as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each; the median counts")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    http, (scripts, sizes) = http_figures(options.rounds, options.seconds), script_figures(options.rounds)
    rows = [
        ("checks/s of one worker, against the bare app", _ratio(http, HOT, lambda figure: figure.rate)),
        ("CPU of the service per check, against the bare app", _ratio(http, HOT, lambda figure: figure.cpu_us)),
        ("the same with QUOTAS_HOT_ROAD=0: checks/s", _ratio(http, ASGI, lambda figure: figure.rate)),
        ("the same with QUOTAS_HOT_ROAD=0: CPU", _ratio(http, ASGI, lambda figure: figure.cpu_us)),
        ("Redis CPU of a take (2 buckets, 1 quota), against the least script", scripts["take"] / scripts["least"]),
        (
            "Redis CPU of the same without a history, against the least script",
            scripts["take, no history"] / scripts["least"],
        ),
        ("Redis CPU of a take over 8 limits, against the least script", scripts["take, 8 limits"] / scripts["least"]),
    ]
    for title, ratio in rows:
        print(f"{title:70} {'unknown' if ratio is None else f'{ratio:6.2f}'}")
    print(f"{'bytes in Redis of a client with 2 buckets and 1 quota':70} {sizes['state']:6}")
    for quarters in (1, 10, 96):
        title = f"bytes in Redis of a day of its history, used in {quarters} quarters of an hour"
        print(f"{title:70} {sizes[f'{quarters} quarters']:6}")
    if options.json:
        figures = {name: [[each.rate, each.cpu_us] for each in rounds] for name, rounds in http.items()}
        options.json.write_text(
            json.dumps({"ratios": dict(rows), "http": figures, "script_us": scripts, "bytes": sizes})
        )
    return 0


def _ratio(figures: Mapping[str, Sequence[Figure]], name: str, of: Callable[[Figure], float | None]) -> float | None:
    """The median of ours over the median of the bare app's."""
    medians = []
    for each in (name, BARE):
        values = [value for value in map(of, figures[each]) if value is not None]
        if not values:
            return None
        medians.append(statistics.median(values))
    return medians[0] / medians[1]


if __name__ == "__main__":
    sys.exit(main())
