"""What one service counts, for Prometheus. Labels are bounded, and no label is ever a credential.

With several workers each of them counts in a *slot*: a set of memory-mapped files that its replacement goes on
with, so that a scrape of any worker is the sum of all of them and no counter goes back when one dies.
"""

import fcntl
import os
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CLIENTS = 1000
"""Client names that become labels in one worker; further ones count as `other`."""

UNKNOWN = "unknown"
OTHER = "other"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_CHECK_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class Metrics:
    """The counters of one worker. `folder` is where the slots of all workers are; None for a worker alone.

    In a process that has a folder, `PROMETHEUS_MULTIPROC_DIR` must name it before this module is imported.
    """

    def __init__(self, folder: Path | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # As it ships; so are the other two here.
        self._registry = CollectorRegistry()
        self._folder = folder
        self._lock: IO[str] | None = None
        if folder is not None:
            slot, self._lock = _claim_slot(folder)
            values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call] # As it ships.
        registry = self._registry
        self._checks = Counter("quotas_checks", "Checks answered.", ["client", "plan", "outcome"], registry=registry)
        self._units = Counter("quotas_units", "Units taken by allowed checks.", ["client", "plan"], registry=registry)
        self._check_seconds = Histogram(
            "quotas_check_duration_seconds",
            "Time from a check's headers to its answer.",
            buckets=_CHECK_BUCKETS,
            registry=registry,
        )
        self._store_seconds = Histogram(
            "quotas_store_duration_seconds",
            "Time from a script call to its reply, waiting in line included.",
            ["script"],
            buckets=_CHECK_BUCKETS,
            registry=registry,
        )
        self._store_errors = Counter(
            "quotas_store_errors", "Checks that the store did not answer.", ["kind"], registry=registry
        )
        self._degraded = Counter(
            "quotas_degraded",
            "Checks answered by the plan's policy for a store that fails.",
            ["mode"],
            registry=registry,
        )
        self._shadow_refused = Counter(
            "quotas_shadow_refused",
            "Checks that a limit in shadow mode would have refused.",
            ["plan", "limit"],
            registry=registry,
        )
        self._overage = Counter(
            "quotas_overage_units", "Units taken past a quota in overage mode.", ["plan", "limit"], registry=registry
        )
        self._jwks = Counter(
            "quotas_jwks_refresh", "Key sets asked of issuers.", ["issuer", "result"], registry=registry
        )
        self._reload = Gauge(
            "quotas_config_last_reload_successful",
            "1 when the plan file in force is the newest, 0 when the newest cannot be used.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._reload.set(1)
        build = Gauge(
            "quotas_build_info",
            "The running version.",
            ["version"],
            multiprocess_mode="max",
            registry=registry,
        )
        build.labels(version("quotas")).set(1)
        self._clients: set[str] = set()
        # Finding a series by its labels costs more than counting in it.
        self._children: dict[tuple[str, str, str], Callable[[], None]] = {}
        self._adders: dict[tuple[str, str], Callable[[float], None]] = {}
        self._observers: dict[str, Callable[[float], None]] = {}

    def check(self, client: str | None, plan: str, outcome: str, seconds: float) -> None:
        """Count one answer; `client` is a name from the registry, None when it is not known."""
        name = self._label(client)
        increment = self._children.get((name, plan, outcome))
        if increment is None:
            increment = self._checks.labels(name, plan, outcome).inc
            self._children[name, plan, outcome] = increment
        increment()
        self._check_seconds.observe(seconds)

    def units(self, client: str | None, plan: str, cost: int) -> None:
        """Count the units of an allowed check."""
        key = (self._label(client), plan)
        add = self._adders.get(key)
        if add is None:
            add = self._adders[key] = self._units.labels(*key).inc
        add(cost)

    def store_seconds(self, script: str, seconds: float) -> None:
        """Observe one script call."""
        observe = self._observers.get(script)
        if observe is None:
            observe = self._observers[script] = self._store_seconds.labels(script).observe
        observe(seconds)

    def store_error(self, kind: str) -> None:
        """Count a check that the store did not answer."""
        self._store_errors.labels(kind).inc()

    def degraded(self, mode: str) -> None:
        """Count a check that was answered without the store."""
        self._degraded.labels(mode).inc()

    def shadow_refused(self, plan: str, limit: str) -> None:
        """Count a check that a shadow limit would have refused."""
        self._shadow_refused.labels(plan, limit).inc()

    def overage(self, plan: str, limit: str, units: int) -> None:
        """Count units past a quota."""
        self._overage.labels(plan, limit).inc(units)

    def jwks_refresh(self, issuer: str, result: str) -> None:
        """Count what became of asking an issuer for its keys."""
        self._jwks.labels(issuer, result).inc()

    def reloaded(self, *, successful: bool) -> None:
        """Say whether the newest plan file is in force."""
        self._reload.set(int(successful))

    def exposition(self) -> bytes:
        """Everything counted so far, by all workers, in the Prometheus text format."""
        if self._folder is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call] # As it ships.
        return generate_latest(registry)

    def _label(self, client: str | None) -> str:
        if client is None:
            return UNKNOWN
        if client not in self._clients:
            if len(self._clients) >= MAX_CLIENTS:
                return OTHER
            self._clients.add(client)
        # A client may be called like one of the two: it gets a sign before its name, and so does who is called that.
        return f"={client}" if client.lstrip("=") in {UNKNOWN, OTHER} else client


def _claim_slot(folder: Path) -> tuple[int, IO[str]]:
    """The lowest slot that no living worker holds; it is held by a lock that ends with the process."""
    for slot in count():
        file = (folder / f"slot-{slot}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        file.write(str(os.getpid()))
        file.flush()
        return slot, file
    raise AssertionError("slots do not run out")
