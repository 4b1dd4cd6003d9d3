"""The application in this process, as a worker makes it, on the real store."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from quotas import app, assembly, plan_files
from quotas.clients import Clients
from quotas.configuration import ConfigFile
from quotas.registry import Registry
from quotas.settings import Settings
from quotas.store import Store

from .wire import transport

PATIENCE_MS = 30_000
"""The store's deadline where no test is about it: a bound, never an expectation."""

NO_UPKEEP_S = 3600.0
"""So that nobody but the test asks the store, where no test is about that."""

PLANS = """
plans:
  free:
    limits:
      per-second: {rate: 5/second, burst: 10}
  slow:
    limits:
      hourly: {rate: 1/hour, burst: 100}
  once:
    limits:
      lifetime: {rate: 0/second, burst: 10}
  lenient:
    limits:
      hourly: {rate: 1/hour, burst: 100}
    on_store_error: allow
"""


@dataclass(frozen=True, slots=True)
class Service:
    """One worker: HTTP into it, and what its operator uses beside it, on a connection of their own.

    `asgi` takes what no HTTP client would send.
    """

    http: httpx.AsyncClient
    clients: Clients
    store: Store
    asgi: ASGIApp

    async def key(self, name: str = "acme", plan: str = "slow") -> str:
        """The secret of a new client's only key."""
        await self.clients.create(name, plan)
        return (await self.clients.issue_key(name)).secret

    async def check(self, secret: str, path: str = "/check") -> httpx.Response:
        return await self.http.get(path, headers={"x-api-key": secret})


@asynccontextmanager
async def service(  # noqa: PLR0913 # One parameter for each thing that a test may be about.
    redis_url: str,
    plan_yaml: str = PLANS,
    *,
    clock: Callable[[], int] = assembly.clock,
    timeout_ms: int = PATIENCE_MS,
    pepper: bytes | None = None,
    admin: str | None = None,
    upkeep_s: float = NO_UPKEEP_S,
    **settings: Any,
) -> AsyncIterator[Service]:
    """A worker with these plans. `clock` gives its epoch microseconds; the store has its own.

    `admin` is the token of the operator `ops`; without it there is no admin API. More `settings` go by their names.
    """
    admin_token = {} if admin is None else {"ops": admin}
    made = Settings(
        redis_url=redis_url, store_timeout_ms=timeout_ms, key_pepper=pepper, admin_token=admin_token, **settings
    )
    config = plan_files.parse(plan_yaml, "test plans")
    application = app.Worker(made, ConfigFile(None), None, config, None, None)()
    async with AsyncExitStack() as stack:
        with patch.object(assembly, "clock", clock), patch.object(app, "UPKEEP_S", upkeep_s):
            state = await stack.enter_async_context(application.router.lifespan_context(application))

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            """As a server does it: each request sees a copy of the lifespan's state."""
            await application({**scope, "state": dict(state or {})}, receive, send)

        way = transport(application, with_state, dict(state or {}), peer="127.0.0.1")
        http = await stack.enter_async_context(httpx.AsyncClient(transport=way, base_url="http://quotas"))
        store = await stack.enter_async_context(Store(redis_url))
        clients = Clients(Registry(store), config=config, brand=made.key_brand, pepper=pepper, clock=clock)
        yield Service(http, clients, store, with_state)


def samples(exposition: str, name: str) -> dict[str, float]:
    """The values of one metric that are not 0, by the text of their labels: what was counted, not what could be."""
    lines = (line.rpartition(" ") for line in exposition.splitlines() if line.startswith(name + "{"))
    return {sample.removeprefix(name): float(value) for sample, _, value in lines if float(value)}
