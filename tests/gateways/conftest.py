"""One service, one upstream, and each gateway once per variant, for all tests of this folder."""

import asyncio
import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from e2e.processes import PATIENCE_S, Home, Serving

from quotas.gateway import Gateway

from .client import Reply, ask
from .programs import CLOSED, OPEN, RUN, Running, running
from .road import Road, road, roads
from .upstream import TRACE, Received, Upstream, upstream

PLANS = """
headers: both
preflight: pass
dedupe: {header: X-Request-ID, within: 60 s}
credentials: {header: X-Acme-Key, cookie: acme_session}
plans:
  three:   {limits: {hourly: {rate: 1/hour, burst: 3}}}
  tenth:   {limits: {hourly: {rate: 1/hour, burst: 100}}}
  half:    {limits: {hourly: {rate: 1/hour, burst: 500}}}
  wide:    {limits: {hourly: {rate: 1/hour, burst: 1000000}}}
  lenient: {limits: {hourly: {rate: 1/hour, burst: 1000000}}, on_store_error: allow}
  paced:   {limits: {per-second: {rate: 1/second, burst: 1}}}
  scoped:  {limits: {hourly: {rate: 1/hour, burst: 1}}, required_scopes: [admin]}
  held:    {limits: {held: {rate: 1/hour, burst: 1, match: {path: /held/it}}}}
"""
STORE_TIMEOUT_MS = "2000"
"""Long enough for a busy machine, short enough to wait for when the store is stopped."""
TOKEN = "a-token-for-the-admin-api-of-these-tests"

_numbers = itertools.count()


@dataclass(slots=True)
class Service:
    """A running `quotas serve`, and its operator."""

    home: Home
    serving: Serving
    admin: httpx.Client
    secrets: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        port = urlsplit(self.serving.url).port
        assert port is not None
        return port

    def client(self, plan: str) -> tuple[str, str]:
        """A new client on this plan: its name and its key."""
        name = f"client-{next(_numbers)}"
        self.admin.post("/admin/v1/clients", json={"name": name, "plan": plan}).raise_for_status()
        made = self.admin.post("/admin/v1/keys", json={"client": name, "name": "tests"}).raise_for_status()
        self.secrets.append(made.json()["key"])
        return name, self.secrets[-1]

    def suspend(self, name: str) -> None:
        self.admin.patch(f"/admin/v1/clients/{name}", json={"status": "suspended"}).raise_for_status()

    @contextmanager
    def stalled_store(self) -> Iterator[None]:
        """Its Valkey is there and does nothing."""
        pid = self.home.valkey_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Stand:
    """A gateway, the way from it to the service, and the upstream behind it."""

    running: Running
    road: Road
    upstream: Upstream

    def ask(self, target: str = "/", *headers: tuple[str, str], **more: object) -> tuple[Reply, Received | None]:
        """The reply to a request, and what the upstream got of it."""
        trace = str(next(_numbers))
        reply = ask(self.running.port, target, [(TRACE, trace), *headers], **more)  # type: ignore[arg-type] # As `ask`.
        return reply, self.upstream.received.get(trace)


@dataclass(slots=True)
class Stands:
    """Every gateway in every variant, started when it is first asked for."""

    stack: ExitStack
    service: Service
    upstream: Upstream
    loop: asyncio.AbstractEventLoop
    folder: Path
    made: dict[tuple[Gateway, tuple[str, ...]], Stand] = field(default_factory=dict)

    def get(self, gateway: Gateway, variant: tuple[str, ...] = CLOSED) -> Stand:
        if (gateway, variant) not in self.made:
            way = self.stack.enter_context(road(self.loop, self.service.port))
            started = running(gateway, self.new_folder(), *variant, upstream=self.upstream.port, check=way.port)
            self.made[gateway, variant] = Stand(self.stack.enter_context(started), way, self.upstream)
        return self.made[gateway, variant]

    def new_folder(self) -> Path:
        folder = self.folder / str(next(_numbers))
        folder.mkdir()
        return folder


@contextmanager
def serving(plans: str) -> Iterator[Service]:
    """A service with these plans, on a Valkey of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.plans(plans)
        home.environment |= {"QUOTAS_STORE_TIMEOUT_MS": STORE_TIMEOUT_MS, "QUOTAS_ADMIN_TOKEN": f"tests:{TOKEN}"}
        with home.serving() as made:
            headers = {"authorization": f"Bearer {TOKEN}"}
            with httpx.Client(base_url=made.url, headers=headers, timeout=PATIENCE_S, trust_env=False) as admin:
                yield Service(home, made, admin)


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with serving(PLANS) as made:
        yield made


@pytest.fixture(scope="session")
def stands(service: Service) -> Iterator[Stands]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # nginx started as root serves as nobody.
        loop = stack.enter_context(roads())
        yield Stands(stack, service, stack.enter_context(upstream()), loop, folder)


@pytest.fixture(params=RUN, ids=lambda gateway: gateway.value)
def gateway(request: pytest.FixtureRequest) -> Gateway:
    found: Gateway = request.param
    return found


@pytest.fixture
def stand(gateway: Gateway, stands: Stands) -> Stand:
    return stands.get(gateway)


@pytest.fixture
def open_stand(gateway: Gateway, stands: Stands) -> Stand:
    """The gateway with --fail-open and --hide-credentials."""
    return stands.get(gateway, OPEN)
