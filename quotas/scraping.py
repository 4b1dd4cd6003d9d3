"""A scrape: what was counted, brought in line with the registry, and how much of their limits the clients have used.

Only the store knows which clients there are and what is left of their limits, so it is asked at each scrape and not on
the way of a check: a client that is gone loses its series, one that is new has its series from 0 on before its first
check is counted, and a gauge is right for a client that does not ask. A store that does not answer costs the gauge and
nothing else: what was counted is in this machine's memory.

A scrape lets go of the event loop between small pieces of work, so that checks go on. A worker makes one at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from quotas.decisions import take
from quotas.errors import StoreUnavailableError
from quotas.exposition import Format
from quotas.holders import Client
from quotas.limits import Bucket, Limit
from quotas.metrics import Metrics
from quotas.planbook import Planbook, PlanInForce
from quotas.registry import Registry
from quotas.scripts import decode_state, state_key
from quotas.slots import BusyError
from quotas.store import Store, deadline

STORE_TIMEOUT_S = 1.0
"""How long the store may take for the answers to one batch."""

LONGEST_S = 5.0
"""How long all batches may take: half of what Prometheus waits for a scrape, unless it is told otherwise."""

_AT_ONCE = 25
"""Clients between two pauses: about a millisecond."""


class Scraper:
    """Makes scrapes. `clock` is the time in epoch microseconds that limits go by; None is the store's own."""

    def __init__(
        self,
        *,
        store: Store,
        planbook: Planbook,
        metrics: Metrics,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._store = store
        self._registry = Registry(store)
        self._planbook = planbook
        self._metrics = metrics
        self._clock = clock
        self._turn = asyncio.Lock()

    async def scrape(self, form: Format) -> str:
        """Everything that the service tells Prometheus. It fails for no trouble of the store's."""
        async with self._turn:
            used = await self._used()
            parts = []
            for part in self._metrics.parts(form, used):
                parts.append(part)
                await asyncio.sleep(0)
            return "".join(parts)

    async def _used(self) -> Mapping[tuple[str, str], float] | None:
        """The used part of each limit by (client, limit), in names, once the rows are those of the clients there are.

        None when the store does not tell.
        """
        used: dict[tuple[str, str], float] = {}
        try:
            async with asyncio.timeout(LONGEST_S):
                ids = await self._living()
                now_us = await self._now_us()
                for begin in range(0, len(ids), _AT_ONCE):
                    some = ids[begin : begin + _AT_ONCE]
                    async with deadline(STORE_TIMEOUT_S):
                        clients, states = await asyncio.gather(self._clients(some), self._states(some))
                    used |= self._look_at(clients, states, now_us)
        except (StoreUnavailableError, BusyError, TimeoutError):
            return None
        return used

    async def _living(self) -> list[str]:
        """The ids of the clients to be told of: all of them, or those with rows. Rows of clients that are gone go."""
        rows = self._metrics.rows
        rows.refresh()
        known = rows.all()  # Before the registry is asked: who gets a row meanwhile is not gone.
        async with deadline(STORE_TIMEOUT_S):
            ids = await self._registry.ids({row.name for row in known}, all_up_to=rows.limit)
        rows.release(row for row in known if ids.get(row.name) != row.client_id)
        return list(ids.values())

    async def _now_us(self) -> int:
        if self._clock is not None:
            return self._clock()
        async with deadline(STORE_TIMEOUT_S):
            seconds, microseconds = await self._store.call("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    async def _clients(self, ids: Iterable[str]) -> list[Client | None]:
        return await asyncio.gather(*map(self._registry.client_of_id, ids))

    async def _states(self, ids: Iterable[str]) -> list[bytes | None]:
        return list(await asyncio.gather(*(self._store.call("GET", state_key(client_id)) for client_id in ids)))

    def _look_at(
        self, clients: list[Client | None], states: list[bytes | None], now_us: int
    ) -> dict[tuple[str, str], float]:
        """What some clients have used; those that have no row yet get one if there is room."""
        found: dict[tuple[str, str], float] = {}
        new = []
        for client, state in zip(clients, states, strict=True):
            if client is None:
                continue  # It was deleted a moment ago.
            in_force = self._planbook.of(client, now_us)
            new.append((client.id, client.name, client.plan if in_force is None else in_force.plan.name))
            if in_force is not None:
                found |= {(client.name, limit): ratio for limit, ratio in _ratios(in_force, state, now_us)}
        self._metrics.rows.admit(new)
        return found


def _ratios(in_force: PlanInForce, state: bytes | None, now_us: int) -> Iterable[tuple[str, float]]:
    """The used part of each limit of a plan that counts per client, by live keys.

    A limit that counts per key has no single value, and what test keys take on a plan of their own is nobody's usage.
    """
    memory = None if state is None else decode_state(state).memory
    _, look = take(in_force.packed.per_client.limits, memory, now_us=now_us, cost=0)
    return ((standing.limit.name, used_ratio(standing.limit, standing.remaining)) for standing in look.standings)


def used_ratio(limit: Limit, remaining: int) -> float:
    """The part of a limit that is used: 0 nothing, 1 all of it, above 1 in overage. What holds nothing is used up."""
    whole = limit.rule.burst if isinstance(limit.rule, Bucket) else limit.rule.units
    return (whole - remaining) / whole if whole else 1.0
