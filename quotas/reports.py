"""Reports of what clients have used: one client by hour, day or month, or all clients by their month.

Hours and days are those of the client's time zone: of the first quota of its plan, or UTC. So the month of a report is
the month that a quota of that plan counts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from operator import add

from quotas.directory import Directory
from quotas.holders import Client, Identity
from quotas.limits import Quota, Window
from quotas.planbook import Planbook
from quotas.registry import Registry
from quotas.tallies import QUARTER_US, Calendar, Span, Tally, spans
from quotas.usage import Usage

_AT_ONCE = 20
"""Clients that are read at a time."""

_SURPLUS = 1000
"""Clients beyond those asked for that are kept before the rest is dropped."""


class By(Enum):
    """What a history is told by."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a history is asked for.

    `month` is (year, month), the one that begins then. None is the current one or, by month, as many `months` up to it;
    None of these is all that are kept. `timezone` None is the client's own. Months begin on `anchor_day`, clamped to
    each month's last day.
    """

    by: By = By.DAY
    month: tuple[int, int] | None = None
    months: int | None = None
    timezone: str | None = None
    anchor_day: int = 1

    def of_all(self) -> "Asked":
        """The same of all clients: one month of each, the current one if none is named."""
        return replace(self, by=By.MONTH, months=1)


@dataclass(frozen=True, slots=True)
class History:
    """What one client has used from `begin_us` to `end_us`; spans that have not begun yet are left out."""

    client: str
    timezone: str
    by: By
    begin_us: int
    end_us: int
    spans: tuple[Span, ...]

    @property
    def total(self) -> Tally:
        """All of it."""
        return reduce(add, (span.tally for span in self.spans), Tally())


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Histories of clients by name. `after` is where the next page begins; None when this is the last."""

    histories: list[History]
    after: str | None


class Reports:
    """Tells what was used. `clock` gives epoch microseconds. Every method can raise StoreUnavailableError."""

    def __init__(
        self, *, usage: Usage, registry: Registry, directory: Directory, planbook: Planbook, clock: Callable[[], int]
    ) -> None:
        self._usage = usage
        self._registry = registry
        self._directory = directory
        self._planbook = planbook
        self._clock = clock

    async def of(self, client: Client, asked: Asked) -> History:
        """One client's history. Raises ValueError for a month or a zone that there is not."""
        now_us = self._clock()
        calendar = Calendar(asked.timezone or self._timezone(client, now_us), asked.anchor_day)
        if asked.month is not None:
            begin_us, end_us = calendar.month(*asked.month)
        else:
            kept = max(1, self._planbook.config.keep_months)
            months = 1 if asked.by is not By.MONTH else asked.months or kept
            begin_us, end_us = calendar.months_until(now_us, months)
        quarters = await self._usage.between(client.id, begin_us, end_us)
        # What the store's clock has counted already has begun, whatever this one says.
        begun_us = min(end_us, max(now_us, max(quarters, default=0) * QUARTER_US) + 1)
        told = tuple(spans(quarters, calendar, Window(asked.by.value), begin_us, begun_us))
        return History(client.name, calendar.timezone, asked.by, begin_us, end_us, told)

    async def own(self, identity: Identity, asked: Asked) -> History | None:
        """The history that a holder's checks are counted in; None where none is kept.

        The client is read anew: on a test plan, the identity of an answer has that plan and not the client's own.
        """
        client = await self._registry.client_of_id(identity.client.id)
        in_force = None if client is None else self._planbook.of(client, self._clock(), identity.environment)
        if client is None or in_force is None or not self._planbook.kept_s(client, in_force):
            return None
        return await self.of(client, asked)

    async def page(self, after: str, limit: int, asked: Asked) -> HistoryPage:
        """Up to `limit` clients whose names come behind `after`, in the order of code points."""
        page = await self._directory.page(after, limit)
        histories = [history async for history in self._each(page.clients, asked)]
        return HistoryPage(histories, page.after)

    async def most(self, number: int | None, asked: Asked) -> tuple[list[History], Tally]:
        """The clients that have used most, then by name, and the sum of all; None is all clients."""
        found: list[History] = []
        total = Tally()
        batch: list[Client] = []

        async def read() -> Tally:
            added = Tally()
            async for history in self._each(batch, asked):
                added += history.total
                found.append(history)
            batch.clear()
            if number is not None and len(found) > number + _SURPLUS:
                found[:] = _most(found, number)
            return added

        async for client in self._registry.clients():
            batch.append(client)
            if len(batch) == _AT_ONCE:
                total += await read()
        total += await read()
        return _most(found, number), total

    async def _each(self, clients: list[Client], asked: Asked) -> AsyncIterator[History]:
        for start in range(0, len(clients), _AT_ONCE):
            for history in await asyncio.gather(*(self.of(each, asked) for each in clients[start : start + _AT_ONCE])):
                yield history

    def _timezone(self, client: Client, now_us: int) -> str:
        in_force = self._planbook.of(client, now_us)
        rules = () if in_force is None else (limit.rule for limit in in_force.plan.limits)
        return next((rule.timezone for rule in rules if isinstance(rule, Quota)), "UTC")


def _most(histories: list[History], number: int | None) -> list[History]:
    ordered = sorted(histories, key=lambda history: (-history.total.units, history.client))
    return ordered[:number]
