"""The composition root: settings and a plan file become running workers."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from quotas import assembly, log_lines, web
from quotas.admin_operations import Admin
from quotas.audit import Audit, Told
from quotas.checks import Checks
from quotas.clients import Clients
from quotas.configuration import ConfigFile, Fingerprint
from quotas.directory import Directory
from quotas.errors import ConfigError, Fault, StoreUnavailableError
from quotas.heads import Head
from quotas.jwks import KeySets, read_decryption_keys
from quotas.last_use import LastUse
from quotas.metrics import Metrics
from quotas.news import Listener, Teller
from quotas.operations import keep_file_clients
from quotas.planbook import Planbook
from quotas.plans import Config
from quotas.refunds import Refunds
from quotas.refusal_memory import RefusalMemory
from quotas.refusals import Refusals
from quotas.registry import Registry
from quotas.reloading import Reloader
from quotas.revocations import Revocations
from quotas.revoking import Revoking
from quotas.scraping import Scraper
from quotas.scripts import TAKE
from quotas.self_service import SelfService
from quotas.settings import SOURCE, Settings, secrets
from quotas.store import Store, deadline
from quotas.upkeep import Upkeep
from quotas.web import Services
from quotas.witness import Witness

if TYPE_CHECKING:
    from quotas.tracing import Tracer

WARM_UP_TIMEOUT_S = 1.0
"""How long a starting worker waits for its store."""

UPKEEP_S = 1.0
"""How often a worker does its chores: looks for foreign keys, writes which keys it has seen and what it has refused."""


def check_secrets(config: Config) -> None:
    """Raises ConfigError when a key that the configuration names is not there or is none."""
    KeySets(config.issuers.values(), secrets=secrets(), folder=Path.cwd())
    read_decryption_keys(config.decryption_keys, secrets(), Path.cwd())


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker is made from: picklable, because workers are processes of their own.

    `config` is what the file said when the service started, `known` its fingerprint from just before; `parent` is
    the supervisor, None for a worker alone.
    """

    settings: Settings
    file: ConfigFile
    known: Fingerprint | None
    config: Config
    metrics_folder: Path | None
    parent: int | None

    def __call__(self) -> Starlette:
        """The worker's application."""
        settings = self.settings
        set_up_logging(settings)
        return web.create(
            self._open, parent=self.parent, admin_tokens=settings.admin_token, admin_port=settings.admin_port
        )

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Services]:
        settings = self.settings
        assert settings.redis_url is not None, "a worker is told where its store is"
        metrics = Metrics(self.metrics_folder)
        metrics.use(self.config, first=True)
        planbook = Planbook(self.config)
        # What operators ask stands in a line of its own: a long listing must not hold up checks.
        async with (
            Store(settings.redis_url, patience_s=settings.store_timeout_ms / 1000) as store,
            Store(settings.redis_url) as operators,
            Store(settings.redis_url) as waiting,
            Teller(operators) as teller,
            assembly.key_sets(metrics.jwks_refresh) as key_sets,
            _tracer(settings) as tracer,
        ):
            registry = Registry(store)
            subjects = assembly.subjects(registry, Revocations(store, registry), key_sets)
            subjects.use(self.config)
            identities = assembly.identities(settings, registry, subjects)

            memory = RefusalMemory(assembly.timer_us)

            def use(config: Config) -> None:
                subjects.use(config)
                planbook.use(config)
                metrics.use(config)
                identities.forget_all()
                memory.clear()

            def hear(notice: str | None) -> None:
                identities.hear(notice)
                memory.hear(notice)

            def refunded(client_id: str) -> None:
                memory.changed(client_id)
                teller.tell(client_id)

            last_use = LastUse(Registry(operators))
            refusals = Refusals(operators, metrics.refusals_lost)
            checks = Checks(
                store=store,
                identities=identities,
                planbook=planbook,
                metrics=metrics,
                last_use=last_use,
                refusals=refusals,
                memory=memory,
                timeout_s=settings.store_timeout_ms / 1000,
                clock=assembly.clock,
                timer=time.perf_counter,
                heads=None if tracer else Head.of,
            )
            await warm_up(store)
            refunds = Refunds(store=store, registry=registry, planbook=planbook, clock=assembly.clock, told=refunded)
            reloader = Reloader(
                file=self.file,
                known=self.known,
                planbook=planbook,
                use=use,
                metrics=metrics,
                adopt=partial(keep_file_clients, settings),
                shelf=self.metrics_folder and self.metrics_folder / "newest.yaml",
            )

            async def learn() -> None:
                identities.foreign = identities.foreign or await Registry(operators).has_foreign_keys()

            upkeep = Upkeep([learn, last_use.write, refusals.write], every_s=UPKEEP_S)
            async with Listener(store, waiting, hear) as listener, reloader, upkeep:
                identities.listen(listener)
                if settings.refusal_memory:
                    memory.listen(listener)
                admin = _admin(settings, operators, planbook)
                scraper = Scraper(store=operators, planbook=planbook, metrics=metrics)
                witness = Witness(lines_per_s=settings.log_refusals, timer=time.perf_counter)
                own = SelfService(checks, admin.clients, admin.audit, planbook, admin.reports, witness)
                yield Services(store, checks, refunds, planbook, scraper, admin, own, witness, tracer)


@asynccontextmanager
async def _tracer(settings: Settings) -> AsyncIterator["Tracer | None"]:
    if settings.traces is None:
        yield None
        return
    from quotas import tracing  # noqa: PLC0415 # An extra: who does not trace need not have it.

    async with tracing.started(settings.traces, time.perf_counter) as tracer:
        yield tracer


def check_tracing(settings: Settings) -> None:
    """Raises ConfigError when checks are to be traced, and what that needs is not there or cannot be set up."""
    if settings.traces is None:
        return
    try:
        from quotas import tracing  # noqa: PLC0415 # An extra: who does not trace need not have it.
    except ModuleNotFoundError as error:
        fault = Fault("QUOTAS_TRACES", f"needs {error.name}: install the extra, pip install 'quotas[otel]'")
        raise ConfigError(SOURCE, [fault]) from error
    tracing.check(settings.traces, secrets())


def _admin(settings: Settings, store: Store, planbook: Planbook) -> Admin:
    registry = Registry(store)

    def clients(heard: Told) -> Clients:
        return assembly.clients(settings, registry, planbook.config, heard)

    def revoking(heard: Told) -> Revoking:
        return Revoking(
            Revocations(store, registry), issuers=planbook.config.issuers, clock=assembly.clock, heard=heard
        )

    return Admin(clients, revoking, Directory(store, registry), Audit(store), assembly.reports(store, planbook))


async def warm_up(store: Store) -> None:
    """Connect and have the script there before the first check comes; without a store, serve all the same."""
    with suppress(StoreUnavailableError):
        async with deadline(WARM_UP_TIMEOUT_S):
            await store.load(TAKE)


def set_up_logging(settings: Settings) -> None:
    """Have this process log as the settings say."""
    log_lines.set_up(level=settings.log_level, form=settings.log_format, brand=settings.key_brand)
