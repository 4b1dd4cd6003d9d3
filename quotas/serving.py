"""`quotas serve` as processes: one listening socket, one worker or several, and what ends them."""

import gc
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from quotas import slots
from quotas.app import Worker, check_secrets, check_tracing, set_up_logging
from quotas.configuration import ConfigFile
from quotas.errors import ConfigError, Fault
from quotas.hot_road import HotRoad
from quotas.plans import Config
from quotas.settings import Settings

KEEP_ALIVE_S = 80
"""Longer than a gateway keeps an idle connection (75 s), so that it never sends into one that we just closed."""

SILENCE_S = 20
"""How long a worker may be silent before it is ended and replaced. On a busy machine one takes seconds to start, and
uvicorn counts from then on: its own five would end workers for being slow, again and again."""

YOUNG = 10_000
"""Objects that come, beyond those that go, before a worker's garbage collector looks at them: 1 or 2 ms of work."""

GRACE_S = 10
"""How long a stopping worker waits for checks under way."""


def serve(  # noqa: PLR0913 # One parameter for each option of the command.
    settings: Settings,
    file: ConfigFile,
    *,
    host: str,
    port: int,
    workers: int,
    announce: Callable[[str, Config], None],
) -> None:
    """Serve until SIGINT or SIGTERM. `settings` names the store; port 0 takes any free one.

    `announce` is called with the base URL before the first worker starts: connections already queue then.
    Raises ConfigError when the file cannot be used or the address cannot be listened on.
    """
    set_up_logging(settings)
    check_tracing(settings)
    known = file.fingerprint()
    config = file.read()
    check_secrets(config)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(host, port))
        listeners = [listener]
        if settings.admin_token and settings.admin_port is not None:
            listeners.append(stack.enter_context(_listen(host, settings.admin_port)))
        folder = None
        if workers > 1:
            folder = stack.enter_context(slots.folder())
        worker = Worker(settings, file, known, config, folder, os.getpid() if workers > 1 else None)
        signal.signal(signal.SIGTERM, _leave)
        announce(_base_url(listener), config)
        server = _server_config(worker, workers)
        if workers > 1:
            Supervisor(server, sockets=listeners).run()
        else:
            uvicorn.Server(server).run(sockets=listeners)


@dataclass(frozen=True, slots=True)
class Settled:
    """Makes a worker's application, in a process that serves and does nothing else."""

    worker: Worker

    def __call__(self) -> Starlette:
        """The application. What is there by now is never looked through for garbage again: it stays.

        A look through all of it took 40 ms now and then, in which no check was answered: nearly the whole time that a
        check may wait for the store by default. For the same reason it looks seldom at the rest: what a worker comes to
        remember and forgets is freed without it, but would have it look at all that is remembered.
        """
        made = self.worker()
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
        return made


class Supervisor(Multiprocess):
    """Runs the workers; SIGHUP goes on to them, and they read the configuration again without a pause."""

    def handle_hup(self) -> None:
        """Pass SIGHUP on."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def _server_config(worker: Worker, workers: int) -> uvicorn.Config:
    """Access logs are off: they would hold query strings, and a query string can hold a credential."""
    return uvicorn.Config(
        Settled(worker),
        factory=True,
        workers=workers,
        loop="uvloop",
        http=HotRoad if worker.settings.hot_road else "httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        timeout_worker_healthcheck=SILENCE_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        fault = Fault("--host, --port", f"cannot listen on {host} port {port}: {error}")
        raise ConfigError("command line", [fault]) from error
    listener.set_inheritable(True)
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _leave(_: int, __: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that the private Valkey is stopped and its files are put in order."""
    raise SystemExit(0)
