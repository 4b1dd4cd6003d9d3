"""`quotas doctor`: everything that `quotas serve` needs is looked at, and what is wrong is said with what to do.

It changes nothing and takes nothing, and it ends in bounded time whatever does not answer. What can be looked at is
looked at, whatever else is wrong: a setting that cannot be read counts as unset from there on. No finding has a value
of a setting in it, but where the store is.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quotas import config_health, configuration, embedded, findings, host_health, issuer_health, settings, store_health
from quotas.errors import ConfigError, EmbeddedStoreError, StoreUnavailableError
from quotas.findings import Finding, Verdict, few, ok, problem, some
from quotas.plans import Config
from quotas.registry import Registry
from quotas.settings import Settings
from quotas.store import Store, deadline

STORE_S = 10.0
"""How long all questions to the store may take."""

JOIN_S = 5.0
"""How long the private Valkey of a running service is waited for; one that serves answers at once."""

CLIENTS_S = 3.0
MOST_CLIENTS = 2_000
"""How many clients are looked at, at most, and for how long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What `quotas serve` is to be started with; `connections` is how many gateways keep open to one worker."""

    host: str
    port: int
    workers: int
    connections: int


def examine(
    environment: Mapping[str, str],
    asked: Asked,
    *,
    clock: Callable[[], int],
    timer: Callable[[], float],
) -> list[Finding]:
    """Everything that there is to say. `clock` tells microseconds since the epoch, `timer` counts seconds.

    Call it from the main thread, without an event loop: see `embedded.borrow`.
    """
    found, told = config_health.read_settings(environment)
    file = configuration.find(found.config)
    config, faults = config_health.read_plans(file)
    return [
        *host_health.libraries(),
        *told,
        *config_health.unknown_names(environment, config),
        *faults,
        *([] if config is None else config_health.trust(config, asked.host)),
        *config_health.about_keys(found),
        *config_health.admin(found, host=asked.host, port=asked.port),
        *config_health.road(found),
        *_host(found, asked),
        *(_store(found, config, asked, clock, timer) if _names_store(environment, found) else ()),
        *([] if config is None else _issuers(config, clock)),
    ]


def _names_store(environment: Mapping[str, str], found: Settings) -> bool:
    """Whether it is known which store is meant: a URL that cannot be read does not mean a private Valkey."""
    return found.redis_url is not None or not environment.get("QUOTAS_REDIS_URL", "").strip()


def _host(found: Settings, asked: Asked) -> list[Finding]:
    has_admin_port = found.admin_token and found.admin_port not in {None, asked.port}
    looked = (
        host_health.port("port", asked.host, asked.port),
        host_health.port("admin port", asked.host, found.admin_port or 0) if has_admin_port else None,
        host_health.workers(asked.workers, host_health.cores()),
        host_health.descriptors(asked.connections),
        host_health.shared_memory(asked.workers),
        host_health.disk(found.data_dir.absolute()) if found.redis_url is None else None,
    )
    return [each for each in looked if each is not None]


def _store(
    found: Settings, config: Config | None, asked: Asked, clock: Callable[[], int], timer: Callable[[], float]
) -> list[Finding]:
    told: list[Finding] = []
    try:
        if found.redis_url is not None:
            Store(found.redis_url)  # It says what is wrong with the URL.
        with _store_to_ask(found, told) as url:
            looks = store_health.examine(
                lambda: Store(url),
                url,
                timeout_ms=found.store_timeout_ms,
                workers=asked.workers,
                clock=clock,
                timer=timer,
            )
            asyncio.run(_ask_store(looks, url, config, told))
    except ConfigError as error:
        told += findings.of_faults("store", error, "mend the variable")
    except EmbeddedStoreError as error:
        told.append(problem("store", str(error), "do as it says there"))
    return told


@contextmanager
def _store_to_ask(found: Settings, told: list[Finding]) -> Iterator[str]:
    """The URL of the store; a data directory that is not there is not made, and Valkey is tried elsewhere."""
    if found.redis_url is not None:
        yield found.redis_url
        return
    folder = found.data_dir.absolute()
    if folder.exists():
        with embedded.borrow(folder, patience_s=JOIN_S) as url:
            yield url
        return
    parent = next(each for each in folder.parents if each.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        told.append(ok("store", f"{folder} will be made at the first start; Valkey is tried in a folder of its own"))
    else:
        advice = "set QUOTAS_DATA_DIR to a folder that this user may make and write to, or set QUOTAS_REDIS_URL"
        told.append(problem("store", f"{folder} cannot be made by this user", advice))
    with tempfile.TemporaryDirectory() as elsewhere, embedded.hold(Path(elsewhere)) as url:
        yield url


async def _ask_store(looks: AsyncIterator[Finding], url: str, config: Config | None, told: list[Finding]) -> None:
    try:
        async with deadline(STORE_S), aclosing(looks) as each_look:  # type: ignore[type-var] # It is a generator.
            async for finding in each_look:
                told.append(finding)  # noqa: PERF401 # What was found so far stays when the time is up.
    except StoreUnavailableError as error:
        told.append(problem("store", f"not all was looked at: {error}", "see what else the store does, and try again"))
    if config is not None and not any(each.subject == "store" and each.verdict is Verdict.PROBLEM for each in told):
        async with Store(url) as store:
            told.append(await clients(store, config))


async def clients(store: Store, config: Config) -> Finding:
    """Whether clients are on plans that exist; not all of many are looked at."""
    seen, lost, plans = 0, list[str](), dict[str, None]()
    is_all = True
    try:
        async with deadline(CLIENTS_S):
            async for client in Registry(store).clients():
                if seen == MOST_CLIENTS:
                    is_all = False
                    break
                seen += 1
                if client.plan not in config.plans:
                    lost.append(client.name)
                    plans[client.plan] = None
    except StoreUnavailableError as error:
        if error.kind != "timeout":
            advice = "see what is said of the store here"
            return problem("clients", f"{seen} looked at, and then: {error}", advice)
        is_all = False
    if not seen and is_all:
        return ok("clients", "there are none")
    told = f"{'all' if is_all else 'the first'} {seen} looked at"
    if not lost:
        return ok("clients", f"{told}, each on a plan that exists")
    told += f"; on plans that do not exist ({few(list(plans))}): {some('client', lost)}, refused with `no_plan`"
    return problem("clients", told, "put the plan into the file again, or `quotas clients set-plan`")


def _issuers(config: Config, clock: Callable[[], int]) -> list[Finding]:
    if not config.issuers:
        return []
    look = issuer_health.examine(config.issuers.values(), secrets=settings.secrets(), folder=Path.cwd(), clock=clock)
    return asyncio.run(look)
