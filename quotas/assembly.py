"""What workers and commands are both made of, from the settings."""

import time
from collections.abc import Callable
from pathlib import Path

from quotas.audit import Told
from quotas.clients import Clients
from quotas.directory import Directory
from quotas.identities import Identities
from quotas.jwks import KeySets
from quotas.planbook import Planbook
from quotas.plans import Config
from quotas.registry import Registry
from quotas.reports import Reports
from quotas.revocations import Revocations
from quotas.settings import Settings, secrets
from quotas.store import Store
from quotas.subjects import Subjects
from quotas.usage import Usage


def clock() -> int:
    """Now, in microseconds since the epoch."""
    return time.time_ns() // 1000


def timer_us() -> int:
    """Microseconds that never go back, by the same clock as the timer of checks."""
    return time.perf_counter_ns() // 1000


def key_sets(told: Callable[[str, str], None] = lambda _issuer, _result: None) -> KeySets:
    """The key sets of no issuer yet; `told` hears what became of asking an issuer, as `Metrics.jwks_refresh` does."""
    return KeySets((), secrets=secrets(), folder=Path.cwd(), told=told)


def subjects(registry: Registry, revocations: Revocations, key_sets: KeySets) -> Subjects:
    """Who knows the clients of tokens, for the issuers of no configuration yet."""
    return Subjects(registry, revocations, key_sets, secrets=secrets(), folder=Path.cwd())


def identities(settings: Settings, registry: Registry, subjects: Subjects) -> Identities:
    """Who knows whose a credential is."""
    return Identities(
        registry,
        brand=settings.key_brand,
        pepper=settings.key_pepper,
        previous_peppers=settings.key_pepper_previous,
        subjects=subjects,
        remembered=settings.remembered,
    )


def clients(settings: Settings, registry: Registry, config: Config, heard: Told) -> Clients:
    """Clients and their keys, for operators; `heard` is given each change, for the audit log."""
    return Clients(
        registry, config=config, brand=settings.key_brand, pepper=settings.key_pepper, clock=clock, heard=heard
    )


def reports(store: Store, planbook: Planbook) -> Reports:
    """What clients have used, for whoever asks."""
    registry = Registry(store)
    return Reports(
        usage=Usage(store), registry=registry, directory=Directory(store, registry), planbook=planbook, clock=clock
    )
