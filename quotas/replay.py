"""A request log run through the real scripts on a virtual clock: what a plan would have done.

The store is one of its own, started for the run; the live state is not touched, and is not needed. Requests are
decided in the order of the log, each at its own instant. Memory is bounded by the clients of the log, not by its
lines: requests travel in batches, one being decided while the next is read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from quotas import paths
from quotas.decisions import Decision
from quotas.errors import ConfigError, Fault
from quotas.logged_requests import LogError, LoggedRequest
from quotas.plans import Config, Plan
from quotas.scripts import TAKE, PackedPlan, Take, decision_of, numbers_of, record_key, take_words
from quotas.store import Store

BATCH = 250
"""Requests in one batch."""

_GENERATION = 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """One request of the log and what became of it."""

    request: LoggedRequest
    decision: Decision

    def as_line(self) -> dict[str, object]:
        """The line that `quotas replay` prints for it."""
        decision = self.decision
        return {
            "at_us": self.request.at_us,
            "client": self.request.client,
            "allowed": decision.allowed,
            "outcome": decision.outcome.value,
            "limit": None if decision.binding is None else decision.binding.name,
            "retry_after_us": decision.retry_after_us,
            "limits": {
                standing.limit.name: {
                    "remaining": max(0, standing.remaining),
                    "reset_after_us": standing.reset_after_us,
                }
                for standing in decision.standings
            },
        }


class Replay:
    """Decides logged requests under one configuration, on a store that is its own.

    The plan of a request is the one that its line names, else the client's of the configuration, else
    `default_plan`, else the only plan there is.
    """

    def __init__(self, store: Store, config: Config, default_plan: str | None = None) -> None:
        if default_plan is not None and default_plan not in config.plans:
            raise ConfigError(config.source, [Fault("--plan", _no_plan(default_plan, config))])
        self._store = store
        self._config = config
        self._default = next(iter(config.plans)) if len(config.plans) == 1 else default_plan
        self._plans = {
            name: (plan, PackedPlan(plan.limits), lru_cache(10_000)(_asker(plan)))
            for name, plan in config.plans.items()
        }
        self._ids: dict[str, str] = {}

    async def run(self, requests: Iterable[LoggedRequest]) -> AsyncIterator[list[Replayed]]:
        """Batches of decided requests, in the order of the log.

        A LogError of `requests` is raised when everything before it has been decided. Raises StoreUnavailableError.
        """
        await self._store.load(TAKE)
        under_way: asyncio.Task[list[Replayed]] | None = None
        try:
            for batch in _batches(requests):
                await self._register(batch)
                following = asyncio.create_task(self._decide(batch))
                await asyncio.sleep(0)  # It is sent now, and decided while the one before it is looked at.
                if under_way is not None:
                    yield await under_way
                under_way = following
        except LogError:
            if under_way is not None:
                yield await under_way
            raise
        if under_way is not None:
            yield await under_way

    async def _decide(self, batch: list[LoggedRequest]) -> list[Replayed]:
        asked = [self._asked(request) for request in batch]
        replies = await self._store.run_all(TAKE, [take_words(plan, take, take.now_us) for plan, take in asked])
        return [
            Replayed(request, decision_of(plan, take, numbers_of(reply)))
            for request, (plan, take), reply in zip(batch, asked, replies, strict=True)
        ]

    async def _register(self, batch: list[LoggedRequest]) -> None:
        """Give clients that are new in this batch the record that the script wants to see."""
        fresh = {request.client for request in batch} - self._ids.keys()
        for name in fresh:
            self._ids[name] = f"cl_{len(self._ids)}"
        calls = [self._store.call("HSET", record_key(self._ids[name]), "generation", _GENERATION) for name in fresh]
        await asyncio.gather(*calls)

    def _asked(self, request: LoggedRequest) -> tuple[PackedPlan, Take]:
        plan, packed, ask = self._plans[self.plan_of(request)]
        skipped, cost = ask(request.method, request.path) if plan.asks_for_paths else (frozenset(), 1)
        take = Take(
            client_id=self._ids[request.client],
            generation=_GENERATION,
            key_id="replay",
            cost=cost if request.cost is None else request.cost,
            now_us=request.at_us,
            own_clock=True,
            skipped=skipped,
        )
        return packed, take

    def plan_of(self, request: LoggedRequest) -> str:
        """The name of a request's plan. Raises LogError, which does not quote the request, when there is none."""
        name = request.plan or self._config.clients.get(request.client) or self._default
        if name is None:
            raise LogError("no plan is known for its client: name one in the line as `plan`, or with --plan")
        if name not in self._plans:
            raise LogError(f"its plan is not in {self._config.source}, which has {', '.join(self._plans)}")
        return name


def _no_plan(name: str, config: Config) -> str:
    return f"there is no plan {name!r} in {config.source}; it has {', '.join(config.plans)}"


_Ask = Callable[[str, str], tuple[frozenset[str], int]]


def _asker(plan: Plan) -> _Ask:
    def ask(method: str, path: str) -> tuple[frozenset[str], int]:
        readings = paths.readings(path.encode())
        return plan.skipped(method, readings), plan.cost(method, readings)

    return ask


def _batches(requests: Iterable[LoggedRequest]) -> Iterator[list[LoggedRequest]]:
    """Full batches, and what there is before the end or before an error, which is raised after it."""
    batch: list[LoggedRequest] = []
    try:
        for request in requests:
            batch.append(request)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except LogError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


@dataclass(slots=True)
class LimitSummary:
    """What one limit would have refused one client; `first_at_us` is when it first hurt."""

    refused: int = 0
    first_at_us: int | None = None


@dataclass(slots=True)
class ClientSummary:
    """One client's part of a log: requests, what limits refused, and its busiest second.

    `busiest` is (requests, the second since 1970); the log is taken to be in order of time.
    """

    requests: int = 0
    allowed: int = 0
    limits: dict[str, LimitSummary] = field(default_factory=dict)
    busiest: tuple[int, int] = (0, 0)
    second: tuple[int, int] = (0, 0)


class Summary:
    """Per client and limit, what a plan would have refused. Memory grows with clients, not with requests."""

    def __init__(self) -> None:
        self.clients: dict[str, ClientSummary] = {}

    def add(self, replayed: Replayed) -> None:
        """Count one decided request. A limit in shadow mode counts too: it shows what it would have refused."""
        request, decision = replayed.request, replayed.decision
        client = self.clients.get(request.client)
        if client is None:
            client = self.clients[request.client] = ClientSummary()
        client.requests += 1
        client.allowed += decision.allowed
        at_s = request.at_us // 1_000_000
        client.second = (client.second[0] + 1 if client.second[1] == at_s else 1, at_s)
        if client.second[0] > client.busiest[0]:
            client.busiest = client.second
        for standing in decision.standings:
            if standing.retry_after_us != 0:
                limit = client.limits.setdefault(standing.limit.name, LimitSummary())
                limit.refused += 1
                if limit.first_at_us is None:
                    limit.first_at_us = request.at_us

    def worst_first(self) -> Mapping[str, ClientSummary]:
        """Clients by refused requests, most first, then by name."""
        ordered = sorted(self.clients.items(), key=lambda pair: (pair[1].allowed - pair[1].requests, pair[0]))
        return dict(ordered)
