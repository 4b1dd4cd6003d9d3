"""What the command line works with, and where the store is that it works on."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from quotas import assembly, embedded
from quotas.audit import Audit, Change
from quotas.clients import Clients
from quotas.explaining import Explainer
from quotas.importing import Importer
from quotas.news import Teller
from quotas.planbook import Planbook
from quotas.plans import Config
from quotas.refunds import Refunds
from quotas.registry import Registry
from quotas.reports import Reports
from quotas.revocations import Revocations
from quotas.revoking import Revoking
from quotas.settings import Settings
from quotas.store import Store, deadline

FILE_ACTOR = "file:"
"""Who changes what the configuration file keeps, in the audit log. No admin token's name has a colon."""

KEEP_TIMEOUT_S = 30.0
"""How long the clients of the configuration file may take to be created."""


@contextmanager
def store_for_service(settings: Settings) -> Iterator[Settings]:
    """The settings with the URL of a store to serve from; a private Valkey lives as long as this context."""
    if settings.redis_url is not None:
        Store(settings.redis_url)  # It says what is wrong with the URL before a worker has to.
        yield settings
        return
    with embedded.hold(settings.data_dir) as url:
        yield replace(settings, redis_url=url)


@contextmanager
def store_for_command(settings: Settings) -> Iterator[str]:
    """The URL of the store that a running service uses, or of a private Valkey started for this command."""
    if settings.redis_url is not None:
        yield settings.redis_url
        return
    with embedded.borrow(settings.data_dir) as url:
        yield url


@dataclass(frozen=True, slots=True)
class Operations:
    """What the command line works with."""

    clients: Clients
    revoking: Revoking
    refunds: Refunds
    explainer: Explainer
    audit: Audit
    importer: Importer
    reports: Reports


@asynccontextmanager
async def open_operations(settings: Settings, url: str, config: Config, *, actor: str) -> AsyncIterator[Operations]:
    """The operator's view of clients, keys and what they have spent, on the store at `url`.

    What is changed is audited at the end, as done by `actor`.
    """
    issuers = config.issuers if config.plans else None
    async with Store(url) as store, Teller(store) as teller, AsyncExitStack() as stack:
        key_sets = assembly.key_sets()
        stack.push_async_exit(key_sets)  # Not entered: issuers are asked when a token is explained, and only then.
        registry = Registry(store)
        planbook = Planbook(config)
        revocations = Revocations(store, registry)
        subjects = assembly.subjects(registry, revocations, key_sets)
        subjects.use(config)
        identities = assembly.identities(settings, registry, subjects)
        identities.foreign = True  # One look-up more is no matter here.
        changes: list[Change] = []
        audit = Audit(store)
        try:
            yield Operations(
                assembly.clients(settings, registry, config, changes.append),
                Revoking(revocations, issuers=issuers, clock=assembly.clock, heard=changes.append),
                Refunds(store=store, registry=registry, planbook=planbook, clock=assembly.clock, told=teller.tell),
                Explainer(store=store, identities=identities, planbook=planbook, clock=assembly.clock),
                audit,
                Importer(registry, clock=assembly.clock, heard=changes.append),
                assembly.reports(store, planbook),
            )
        finally:
            await audit.record_all(actor, changes)


async def keep_file_clients(settings: Settings, config: Config) -> None:
    """Have the clients that the configuration file keeps. Raises StoreUnavailableError."""
    assert settings.redis_url is not None, "a service is told where its store is"
    if config.clients:
        url = settings.redis_url
        async with deadline(KEEP_TIMEOUT_S), open_operations(settings, url, config, actor=FILE_ACTOR) as operations:
            await operations.clients.keep()
