"""Rounds of load: the cases of a group in turns, and for each case the medians of its rounds."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from redis import Redis

from loadtests.bench import accounts, servers, walks
from loadtests.bench.cases import Case, Draw, Group
from loadtests.bench.generators import Asked, Generator
from loadtests.bench.servers import Serving
from loadtests.bench.walks import Walk

LOOKUPS = ("hmget", "hgetall")
"""Commands by which a worker finds out whose a key is. The take itself has neither; scripts' commands count as well."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one case. None is what is not there to be measured.

    `rate` is requests a second, `server_us` and `store_us` microseconds of CPU for each request; `scripts` and
    `lookups` are script calls, and look-ups of who asks, that the store had for each request.
    """

    rate: float
    server_us: float | None = None
    store_us: float | None = None
    scripts: float | None = None
    lookups: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """All rounds of a case, and the most memory that its processes and its store had resident, in bytes."""

    case: Case
    rounds: list[Round] = field(default_factory=list)
    server_bytes: int | None = None
    store_bytes: int | None = None

    def median(self, of: Callable[[Round], float | None]) -> float | None:
        """The median of a figure over the rounds; None where it was not measured."""
        values = [value for value in map(of, self.rounds) if value is not None]
        return statistics.median(values) if values else None

    @property
    def rate(self) -> float:
        """Requests a second."""
        return statistics.median(each.rate for each in self.rounds)


@dataclass(frozen=True, slots=True)
class Load:
    """How a group is measured: by which generator, how many rounds, how many whole seconds each."""

    generator: Generator
    rounds: int
    seconds: int


def measure(group: Group, load: Load, say: Callable[[str], None]) -> list[Measured]:
    """Start every case of the group, measure them in turns, and stop them. Raises LoadTestError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-bench-")))
        running = []
        started: dict[Case, tuple[Serving, Walk]] = {}
        for case in group.cases:
            alike = replace(case, name="", draw=Draw.UNIFORM)  # Who asks how often makes no other server.
            if alike not in started:
                say(f"{group.name}: starting {case.name}")
                started[alike] = stack.enter_context(servers.started(case, folder / str(len(started))))
                warm(*started[alike], load, case.connections)
            serving, walk = started[alike]
            running.append((case, serving, walks.drawn(walk, case.draw)))
        found: dict[str, list[Round]] = {case.name: [] for case in group.cases}
        for number in range(load.rounds):
            say(f"{group.name}: round {number + 1} of {load.rounds}")
            for case, serving, walk in running:
                found[case.name].append(one(serving, walk, load, number, case.connections))
        return [
            Measured(
                case,
                found[case.name],
                accounts.peak_bytes(accounts.tree(serving.pid)),
                None if serving.store_pid is None else accounts.peak_bytes([serving.store_pid]),
            )
            for case, serving, _ in running
        ]


def warm(serving: Serving, walk: Walk, load: Load, connections: int) -> None:
    """Load that does not count, until all who walk have asked with it; then nothing is left to do of what is done once.

    Who comes back is what rounds are about: a first return makes a worker note that somebody does, and a client of
    another quarter of an hour has its usage closed. Raises LoadTestError.
    """
    asked = 0
    while asked < walk.length:
        asked += load.generator.ask(serving.port, walk, load.seconds, asked % walk.length, connections).requests
    if serving.store_url is not None:
        servers.rewrite_log(serving.store_url)


def one(serving: Serving, walk: Walk, load: Load, number: int, connections: int) -> Round:
    """One round over so many connections.

    It begins elsewhere in the walk each time, so that no round meets only the clients of another.
    """
    pids, stores = accounts.tree(serving.pid), [] if serving.store_pid is None else [serving.store_pid]
    calls, server_us, store_us = _calls(serving.store_url), accounts.cpu_us(pids), accounts.cpu_us(stores)
    start = number * walk.length // load.rounds
    asked = load.generator.ask(serving.port, walk, load.seconds, start, connections)
    made = {name: count - calls.get(name, 0) for name, count in _calls(serving.store_url).items()}
    return Round(
        asked.rate,
        _each(server_us, accounts.cpu_us(pids), asked),
        _each(store_us, accounts.cpu_us(stores), asked),
        made.get("evalsha", 0) / asked.requests if made else None,
        sum(made.get(name, 0) for name in LOOKUPS) / asked.requests if made else None,
    )


def _each(before: float | None, after: float | None, asked: Asked) -> float | None:
    return None if before is None or after is None else (after - before) / asked.requests


def _calls(url: str | None) -> Mapping[str, int]:
    """How often each command was called so far."""
    if url is None:
        return {}
    with Redis.from_url(url) as store:
        stats = store.info("commandstats")
    assert isinstance(stats, dict), "this client is not asyncio's"
    return {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats.items()}


def ratio(measured: Sequence[Measured], of: Callable[[Round], float | None]) -> list[float | None]:
    """A figure of each case over that of the group's first; None where one of both was not measured."""
    first = measured[0].median(of)
    medians = [each.median(of) for each in measured]
    return [None if value is None or not first else value / first for value in medians]
