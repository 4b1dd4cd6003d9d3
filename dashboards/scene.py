"""A service of several workers with clients, an issuer that answers and one that does not, and a Prometheus beside it.

Everything is on loopback, in a folder of the caller's, and ended with the context.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
from joserfc.jwk import ECKey

from dashboards.prometheus import Prometheus, program, prometheus
from dashboards.traffic import CALLERS, PLANS, Event, Tally, send
from loadtests.processes import Service, service
from quotas import configuration, settings
from quotas.operations import open_operations, store_for_command

JOB = "quotas"
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """What plays: the service, who scrapes it, the callers' keys, and what they were answered so far."""

    service: Service
    prometheus: Prometheus
    keys: Mapping[str, str]
    data: Path
    tally: Tally = field(default_factory=Tally)

    def play(self, seconds: float, events: Sequence[Event] = ()) -> None:
        """Let all callers ask for so long."""
        asyncio.run(send(self.service.url, self.keys, seconds, self.tally, events))

    def stall_store(self) -> None:
        """Have the private Valkey stand still."""
        os.kill(self._store_pid(), signal.SIGSTOP)

    def resume_store(self) -> None:
        """Have it go on, if it is there."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(self._store_pid(), signal.SIGCONT)

    def _store_pid(self) -> int:
        return int((self.data / "valkey.pid").read_text("ascii"))


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """The service with its clients, scraped each second; nothing is asked yet.

    Raises LoadTestError when a program does not start, and FileNotFoundError without Prometheus.
    """
    program()  # Before anything is started: without it there is nothing to see.
    data = folder / "data"
    with ExitStack() as stack:
        keys_url = stack.enter_context(_key_server())
        plans = folder / "quotas.yaml"
        plans.write_text(PLANS.replace("KEYS", keys_url), "utf-8")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAS_")}
        environment = {**inherited, "QUOTAS_DATA_DIR": str(data), "QUOTAS_CONFIG": str(plans), "TMPDIR": str(folder)}
        serving = stack.enter_context(service(folder, environment, WORKERS))
        keys = asyncio.run(_create_clients(environment, plans))
        scraping = stack.enter_context(prometheus(folder, JOB, f"{serving.host}:{serving.port}"))
        playing = Scene(serving, scraping, keys, data)
        # Whatever happens: a store that stands still could not be stopped in order.
        stack.callback(playing.resume_store)
        yield playing


async def _create_clients(environment: Mapping[str, str], plans: Path) -> dict[str, str]:
    """The key of each caller; a caller without a plan has one that nobody knows."""
    own = settings.load(environment)
    keys = {}
    with store_for_command(own) as url:
        config = configuration.ConfigFile(plans).read()
        async with open_operations(own, url, config, actor="scene") as operations:
            for caller in CALLERS:
                name = "stranger" if caller.plan is None else caller.name
                await operations.clients.create(name, caller.plan or "free")
                issued = await operations.clients.issue_key(name)
                keys[caller.name] = issued.secret
                if caller.plan is None:
                    await operations.clients.delete(name)
                elif caller.suspended:
                    await operations.clients.suspend(name)
    return keys


@contextmanager
def _key_server() -> Iterator[str]:
    """Serves a key set at /jwks and 404 elsewhere; its base URL."""
    key = ECKey.generate_key("P-256", {"kid": "one"})
    body = orjson.dumps({"keys": [key.as_dict(private=False)]})

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # As http.server calls it.
            """Answer."""
            found = self.path == "/jwks"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # The parameter's name in http.server.
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
