"""The application in this process with a clock of the test's own, and checks as a gateway carries them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
from starlette.types import Receive, Scope, Send

from quotas import app, assembly, plan_files, refunds
from quotas.checks import Checks
from quotas.clients import Clients
from quotas.configuration import ConfigFile
from quotas.registry import Registry
from quotas.scraping import Scraper
from quotas.scripts import Refund
from quotas.settings import Settings
from quotas.store import Store
from quotas.web import Services

from .serving import NO_UPKEEP_S, PATIENCE_MS, samples
from .wire import transport

SECOND_US = 1_000_000
STRANGER = "203.0.113.9"
"""An address that no configuration here trusts."""

Field = tuple[str, bytes | str]


def us(instant: str) -> int:
    """An RFC 3339 instant in microseconds since the epoch."""
    return (datetime.fromisoformat(instant) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@dataclass(slots=True)
class Clock:
    """What the time is: whatever the test says."""

    now_us: int

    def __call__(self) -> int:
        return self.now_us

    def set(self, instant: str) -> None:
        self.now_us = us(instant)

    def go_on(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND_US)


def noon() -> Clock:
    """A clock for tests that time does not matter to."""
    return Clock(us("2026-06-10T12:00:00Z"))


@dataclass(frozen=True, slots=True)
class Timed:
    """One worker, what its operator uses beside it, and what it is made of."""

    http: httpx.AsyncClient
    stranger: httpx.AsyncClient
    clients: Clients
    store: Store
    services: Services

    def use(self, plan_yaml: str) -> None:
        """Have these plans in force, as a reload does."""
        self.services.planbook.use(plan_files.parse(plan_yaml, "test plans"))

    async def key(self, name: str = "acme", plan: str = "plan") -> str:
        """The secret of a new client's only key."""
        await self.clients.create(name, plan)
        return (await self.clients.issue_key(name)).secret

    async def check(  # noqa: PLR0913 # Each is a header of its own, or not sent.
        self,
        secret: str,
        method: str | None = None,
        uri: str | None = None,
        *,
        cost: int | None = None,
        extra: Sequence[Field] = (),
        trusted: bool = True,
    ) -> httpx.Response:
        """A check with what a gateway carries; None is not carried."""
        carried = {"x-forwarded-method": method, "x-forwarded-uri": uri, "x-quotas-cost": cost}
        fields: list[Field] = [("x-api-key", secret)]
        fields += [(name, str(value)) for name, value in carried.items() if value is not None]
        sent = [
            (name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in (*fields, *extra)
        ]
        return await (self.http if trusted else self.stranger).get("/check", headers=sent)

    async def spend(self, secret: str, units: int, *, at_once: int | None = None) -> None:
        """Take units, `at_once` a check, and all of them pass."""
        response = await self.check(secret, cost=units if at_once is None else at_once)
        assert response.status_code == 200
        if at_once is not None and units > at_once:
            await self.spend(secret, units - at_once, at_once=at_once)

    async def counted(self, name: str) -> dict[str, float]:
        """The values of one metric, by the text of their labels."""
        return samples((await self.http.get("/metrics")).text, name)


@asynccontextmanager
async def timed(
    redis_url: str, plan_yaml: str, clock: Callable[[], int], *, clock_decides: bool = True, **more: Any
) -> AsyncIterator[Timed]:
    """A worker with these plans whose clock is this one, and decides limits and refunds unless the store's is to.

    `more` settings go by their names.
    """
    settings = Settings(redis_url=redis_url, store_timeout_ms=PATIENCE_MS, **more)
    config = plan_files.parse(plan_yaml, "test plans")
    application = app.Worker(settings, ConfigFile(None), None, config, None, None)()
    async with AsyncExitStack() as stack:
        stack.enter_context(patch.object(refunds, "Refund", partial(Refund, own_clock=clock_decides)))
        with (
            patch.object(assembly, "clock", clock),
            patch.object(app, "UPKEEP_S", NO_UPKEEP_S),
            patch.object(assembly, "timer_us", clock if clock_decides else assembly.timer_us),
            patch.object(app, "Checks", partial(Checks, clock_decides=clock_decides)),
            patch.object(app, "Scraper", partial(Scraper, clock=clock if clock_decides else None)),
        ):
            state = await stack.enter_async_context(application.router.lifespan_context(application))
        assert state is not None

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            """As a server does it: each request sees a copy of the lifespan's state."""
            await application({**scope, "state": dict(state)}, receive, send)

        async def client(peer: str) -> httpx.AsyncClient:
            way = transport(application, with_state, dict(state), peer=peer)
            return await stack.enter_async_context(httpx.AsyncClient(transport=way, base_url="http://quotas"))

        store = await stack.enter_async_context(Store(redis_url))
        clients = Clients(Registry(store), config=config, brand=settings.key_brand, pepper=None, clock=clock)
        yield Timed(await client("127.0.0.1"), await client(STRANGER), clients, store, state["services"])


def left(response: httpx.Response) -> dict[str, int]:
    """What each limit has left, as `RateLimit` says it."""
    return {name: numbers["r"] for name, numbers in items(response, "ratelimit").items()}


def items(response: httpx.Response, name: str) -> dict[str, dict[str, int]]:
    """The parameters of each item of a header field's list, by its name."""
    found = {}
    for item in response.headers[name].split(", "):
        quoted, *parameters = item.split(";")
        pairs = (parameter.split("=") for parameter in parameters)
        found[quoted.strip('"')] = {key: int(value) for key, value in pairs}
    return found


def verdict(response: httpx.Response) -> tuple[int, int | None]:
    """The status, and what `Retry-After` says."""
    after = response.headers.get("retry-after")
    return response.status_code, None if after is None else int(after)
