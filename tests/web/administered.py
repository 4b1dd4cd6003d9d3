"""The admin API as an application of its own, on the real store, as a second port would serve it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.applications import Starlette

from quotas import admin, assembly, plan_files
from quotas.admin_operations import Admin
from quotas.audit import Audit, Told
from quotas.clients import Clients
from quotas.directory import Directory
from quotas.planbook import Planbook
from quotas.registry import Registry
from quotas.reports import Reports
from quotas.revocations import Revocations
from quotas.revoking import Revoking
from quotas.store import Store
from quotas.usage import Usage

from .serving import PLANS

TOKENS = {"ci": "ci-token-0123456789abcdef", "ops": "ops-token-0123456789abcdef"}


@dataclass(frozen=True, slots=True)
class Office:
    """Where an operator asks: `http` shows the token of `ops`; every answer and its request's path is in `answers`."""

    http: httpx.AsyncClient
    store: Store
    answers: list[httpx.Response]

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """One call; `path` is below `/admin/v1`, percent-encoded, and header names have `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.http.request(method, admin.PREFIX + path, json=body, headers=sent)
        self.answers.append(response)
        return response

    async def done(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """What a call that must succeed answers."""
        response = await self.ask(method, path, body, **headers)
        assert response.is_success, response.text
        return response.json() if response.content else None

    async def audited(self) -> list[tuple[str, str, str]]:
        """Who did what to whom, oldest first."""
        entries = (await self.done("GET", "/audit?limit=500"))["entries"]
        return [(entry["actor"], entry["action"], entry["target"]) for entry in reversed(entries)]


@asynccontextmanager
async def office(
    redis_url: str, *, clock: Callable[[], int] = assembly.clock, port: int | None = None
) -> AsyncIterator[Office]:
    config = plan_files.parse(PLANS, "test plans")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(redis_url))
        registry = Registry(store)

        def clients(heard: Told) -> Clients:
            return Clients(registry, config=config, brand="quotas", pepper=None, clock=clock, heard=heard)

        def revoking(heard: Told) -> Revoking:
            revocations = Revocations(store, registry)
            return Revoking(revocations, issuers=config.issuers, clock=clock, heard=heard)

        directory = Directory(store, registry)
        reports = Reports(
            usage=Usage(store), registry=registry, directory=directory, planbook=Planbook(config), clock=clock
        )
        services = Admin(clients, revoking, directory, Audit(store), reports)
        application = Starlette(routes=admin.routes(lambda _: services, TOKENS, port=port))
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(application),
            base_url="http://quotas:9000",
            headers={"authorization": f"Bearer {TOKENS['ops']}"},
        )
        yield Office(await stack.enter_async_context(http), store, [])
