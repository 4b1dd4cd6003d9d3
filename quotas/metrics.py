"""What one service counts, for Prometheus. Labels are bounded, and no label is ever a credential.

Theory of operation. Everything is counted in cells of memory that the workers share (`slots`): a row of cells for each
client and plan (`rows`), and cells that stay for whatever else is counted (`series`). Counting adds to a cell of this
worker's slot; a scrape of any worker adds up all slots. Gauges of workers are in the slots as well, and there only
those of living workers count.

What a client has counted goes with its row: when it is deleted, or when a busier client takes the row. It is not
added to `other` then, where it would look like traffic of that moment.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Protocol

from quotas import exposition
from quotas.exposition import Family, Format, Kind
from quotas.limits import Mode
from quotas.plans import Config, StoreErrorPolicy
from quotas.rows import COUNTS, HEAD_BYTES, SLOT_CELLS, TABLE_BYTES, Key, Rows
from quotas.series import OTHER, Series, SeriesList
from quotas.slots import BusyError, Cells, Slots

UNKNOWN = "unknown"
"""Label of callers without a client."""

OUTCOMES = ("allowed", "rate_limited", "quota_exceeded", "never", "unauthenticated", "forbidden", "error")
BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
ROWS_AT_ONCE = 50
"""Rows that are added up and written between two pauses of an exposition: about a millisecond."""

_SERIES_CELLS = 16_384
_SERIES_BYTES = 262_136
_SERIES_AT = 8
_ROWS_AT = _SERIES_AT + _SERIES_BYTES
_WIDTH = len(BOUNDS_S) + 2
_SUM = _WIDTH - 1
_BELOW_S = (-math.inf, *BOUNDS_S)
"""What a time must be above to be counted at the bound of the same place, or past the last."""

_UNITS = len(OUTCOMES)
_NUMBER = {outcome: number for number, outcome in enumerate(OUTCOMES)}
_STORE_ERRORS = ("connect", "lost", "timeout", "reply", "overload")
assert COUNTS == _UNITS + 1, "a row has a cell for each outcome and one for units"

_CHECKS = Family("quotas_checks_total", Kind.COUNTER, "Checks answered.", ("client", "outcome", "plan"))
_UNITS_TAKEN = Family("quotas_units_total", Kind.COUNTER, "Units taken by allowed checks.", ("client", "plan"))
_USED = Family(
    "quotas_limit_used_ratio",
    Kind.GAUGE,
    "How much of a client's limit is used: 0 nothing, 1 all of it, above 1 in overage.",
    ("client", "limit"),
)
_EVICTED = Family("quotas_clients_evicted_total", Kind.COUNTER, "Clients whose series a busier client has taken over.")
_CHECK_SECONDS = Family(
    "quotas_check_duration_seconds", Kind.HISTOGRAM, "Time from a check's headers to its answer, in seconds."
)
_STORE_SECONDS = Family(
    "quotas_store_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a script call to its reply, waiting in line included, in seconds.",
    ("script",),
)
_ERRORS = Family("quotas_store_errors_total", Kind.COUNTER, "Checks that the store did not answer.", ("kind",))
_DEGRADED = Family(
    "quotas_degraded_total",
    Kind.COUNTER,
    "Checks answered by the plan's policy for a store that fails.",
    ("mode",),
)
_SHADOW = Family(
    "quotas_shadow_refused_total",
    Kind.COUNTER,
    "Checks that a limit in shadow mode would have refused.",
    ("limit", "plan"),
)
_OVERAGE = Family(
    "quotas_overage_units_total", Kind.COUNTER, "Units taken past a quota in overage mode.", ("limit", "plan")
)
_REMEMBERED = Family(
    "quotas_refusals_remembered_total", Kind.COUNTER, "Checks refused from a worker's memory, without asking the store."
)
_REFUSALS_LOST = Family(
    "quotas_refusals_lost_total", Kind.COUNTER, "Refusals that usage histories lack, for want of room."
)
_JWKS = Family("quotas_jwks_refresh_total", Kind.COUNTER, "Key sets asked of issuers.", ("issuer", "result"))
_RELOADED = Family(
    "quotas_config_last_reload_successful",
    Kind.GAUGE,
    "1 when the plan file in force is the newest, 0 when the newest cannot be used.",
)
_RELOADED_AT = Family(
    "quotas_config_last_reload_success_timestamp_seconds",
    Kind.GAUGE,
    "When a plan file was last put in force, in seconds since the epoch.",
)
_WORKERS = Family("quotas_workers", Kind.GAUGE, "Workers that are alive.")
_BUILD = Family("quotas_build_info", Kind.GAUGE, "The running version.", ("version",))
_STAYING = (_CHECK_SECONDS, _STORE_SECONDS, _ERRORS, _DEGRADED, _SHADOW, _OVERAGE, _REMEMBERED, _REFUSALS_LOST, _JWKS)
_NOBODY = "nobody"


class Client(Protocol):
    """Whom a check is counted for: by its id, under its name. An empty name is nobody's."""

    @property
    def id(self) -> str:
        """What tells it from one of the same name before."""

    @property
    def name(self) -> str:
        """Its label, but for a sign that tells it from `other` and `unknown`."""

    @property
    def plan(self) -> str:
        """Its other label."""


class Metrics:
    """The counters of one worker. `folder` is where the slots of all workers are; None for a worker alone.

    `clock` counts seconds and never goes back; `now` is the time in seconds since the epoch. Raises OSError when the
    folder has no room.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._slots = Slots(folder, table_bytes=_ROWS_AT + TABLE_BYTES, cells=_SERIES_CELLS + SLOT_CELLS)
        self._slots.reserve(0, _ROWS_AT + HEAD_BYTES)
        self._cells = self._slots.own
        table = self._slots.table
        self._series = SeriesList(self._slots, table[:_SERIES_AT].cast("d"), table[_SERIES_AT:_ROWS_AT], _SERIES_CELLS)
        self.rows = Rows(self._slots, at=_ROWS_AT, cell=_SERIES_CELLS, clock=clock)
        self._row_of = self.rows.mine.get
        self._versions = self.rows.versions
        self._others: dict[str, int] = {}
        with self._slots.lock():
            self._make_series()
        self.reloaded(successful=True)

    def _make_series(self) -> None:
        make = self._series.make_at_start
        self._reloaded = make(_RELOADED.name, ())
        self._reloaded_at = make(_RELOADED_AT.name, ())
        self._check_seconds = self._histogram(make(_CHECK_SECONDS.name, (), _WIDTH))
        self._refusals_lost = make(_REFUSALS_LOST.name, ())
        self._remembered = make(_REMEMBERED.name, ())
        make(_NOBODY, (UNKNOWN, ""), COUNTS)
        self._no_room = make(_NOBODY, (OTHER, OTHER), COUNTS)
        for name, width in ((_SHADOW.name, 1), (_OVERAGE.name, 1), (_JWKS.name, 1)):
            make(name, (OTHER, OTHER), width)
        for kind in (*_STORE_ERRORS, OTHER):
            make(_ERRORS.name, (kind,))
        for mode in (*(policy.value for policy in StoreErrorPolicy), OTHER):
            make(_DEGRADED.name, (mode,))
        self._take_seconds = self._histogram(make(_STORE_SECONDS.name, ("take",), _WIDTH))
        make(_STORE_SECONDS.name, (OTHER,), _WIDTH)

    def use(self, config: Config, *, first: bool = False) -> None:
        """Count by this configuration: so many clients, and from 0 on whatever it may make count.

        The `first` one of a worker may be older than what the others go by: how many clients they count, stays.
        """
        with suppress(BusyError):
            if not first or not self.rows.is_limited:
                self.rows.limit_to(config.max_clients)
        if config.anonymous is not None:
            self._nobody(UNKNOWN, config.anonymous)
        for plan in config.plans.values():
            self._nobody(OTHER, plan.name)
            for limit in plan.limits:
                if limit.mode is not Mode.ENFORCE:
                    family = _SHADOW if limit.mode is Mode.SHADOW else _OVERAGE
                    self._series.find(family.name, (limit.name, plan.name))
        for issuer in config.issuers:
            self._series.find(_JWKS.name, (issuer, "loaded"))

    def check(self, client: Client | None, outcome: str, seconds: float) -> None:
        """Count one answer; None is a caller who is not known."""
        cells = self._cells
        if client is None or not client.name:
            first = self._nobody(UNKNOWN, "" if client is None else client.plan)
        elif (row := self.rows.find(client.id, client.name, client.plan)) is None:
            first = self._other(client.plan)
        else:
            first = row.first
            cells[row.heat] += 1.0
        cells[first + _NUMBER[outcome]] += 1.0
        _observe(self._check_seconds, seconds)

    def units(self, client: Client, cost: int) -> None:
        """Count the units of an allowed check."""
        row = self.rows.find(client.id, client.name, client.plan, asks=False) if client.name else None
        if row is not None:
            first = row.first
        else:
            first = self._other(client.plan) if client.name else self._nobody(UNKNOWN, client.plan)
        self._cells[first + _UNITS] += cost

    def taken(self, client: Key, cost: int, seconds: float, store_seconds: float) -> None:
        """Count an allowed check, its units and its one script call: `check`, `units` and `store_seconds` at once.

        The client is said by its id, name and plan; an empty name is nobody's, and its id as well.
        `cost` is in units, and both times in seconds. It is `rows.find` and `_observe` written out: nothing is called
        that need not be. The script call is a part of the check: a bound that holds for both is looked for once.
        """
        cells = self._cells
        row = self._row_of(client[0])
        if row is None or self._versions[row.number] != row.version or row.plan != client[2]:
            row = self.rows.look(client) if client[1] else None
        if row is not None:
            first = row.first
            cells[row.heat] += 1.0
        else:
            _, name, plan = client
            found = self._others.get(plan) if name else self._nobody(UNKNOWN, plan)
            first = self._other(plan) if found is None else found
        cells[first] += 1.0  # Allowed is the first outcome.
        cells[first + _UNITS] += cost
        cells = self._check_seconds
        bound = bisect_left(BOUNDS_S, seconds)
        cells[bound] += 1.0
        cells[_SUM] += seconds
        if store_seconds <= _BELOW_S[bound] or store_seconds > seconds:
            bound = bisect_left(BOUNDS_S, store_seconds)
        cells = self._take_seconds
        cells[bound] += 1.0
        cells[_SUM] += store_seconds

    def store_seconds(self, script: str, seconds: float) -> None:
        """Observe one script call."""
        if script == "take":
            cells = self._take_seconds
        else:
            cells = self._histogram(self._series.find(_STORE_SECONDS.name, (script,), _WIDTH))
        _observe(cells, seconds)

    def store_error(self, kind: str) -> None:
        """Count a check that the store did not answer."""
        self._cells[self._series.find(_ERRORS.name, (kind,))] += 1

    def degraded(self, mode: str) -> None:
        """Count a check that was answered without the store."""
        self._cells[self._series.find(_DEGRADED.name, (mode,))] += 1

    def shadow_refused(self, plan: str, limit: str) -> None:
        """Count a check that a shadow limit would have refused."""
        self._cells[self._series.find(_SHADOW.name, (limit, plan))] += 1

    def overage(self, plan: str, limit: str, units: int) -> None:
        """Count units past a quota."""
        self._cells[self._series.find(_OVERAGE.name, (limit, plan))] += units

    def refusal_remembered(self) -> None:
        """Count a check that was refused without asking the store."""
        self._cells[self._remembered] += 1

    def refusals_lost(self, refusals: int) -> None:
        """Count refusals that are in no usage history."""
        self._cells[self._refusals_lost] += refusals

    def jwks_refresh(self, issuer: str, result: str) -> None:
        """Count what became of asking an issuer for its keys."""
        self._cells[self._series.find(_JWKS.name, (issuer, result))] += 1

    def reloaded(self, *, successful: bool) -> None:
        """Say whether the newest plan file is in force."""
        self._cells[self._reloaded] = int(successful)
        if successful:
            self._cells[self._reloaded_at] = self._now()

    def exposition(self, form: Format = Format.TEXT, used: Mapping[tuple[str, str], float] | None = None) -> str:
        """Everything counted so far, by all workers; see `parts`."""
        return "".join(self.parts(form, used))

    def parts(self, form: Format, used: Mapping[tuple[str, str], float] | None = None) -> Iterator[str]:
        """The same in parts, so that a worker can answer checks between two of them.

        `used` is the gauge of used limits by (client, limit), in names; None is not known.
        """
        with suppress(BusyError):
            self.rows.refresh()
        slots = self._slots.all()
        yield from self._of_clients(form, slots)
        if used is not None:
            yield _USED.head(form)
            for (client, limit), ratio in used.items():
                yield f"{_USED.labelled((_label(client), limit))} {ratio!r}\n"
        yield from self._staying(form, slots)
        yield from self._of_workers(form)
        yield exposition.END[form]

    def _of_clients(self, form: Format, slots: list[Cells]) -> Iterator[str]:
        """What is counted by client: first the checks of all, and then the units, as a family stands together."""
        units: list[str] = []
        lines: list[str] = [_CHECKS.head(form)]
        for number, (label, plan, counts) in enumerate(chain(self._counted_nobodies(slots), self._counted(slots)), 1):
            client, on = exposition.escaped(label), exposition.escaped(plan)
            for outcome, count in zip(OUTCOMES, counts, strict=False):
                lines.append(f'quotas_checks_total{{client="{client}",outcome="{outcome}",plan="{on}"}} {count!r}\n')
            units.append(f'quotas_units_total{{client="{client}",plan="{on}"}} {counts[_UNITS]!r}\n')
            if number % ROWS_AT_ONCE == 0:
                yield "".join(lines)
                lines.clear()
        yield "".join([*lines, _UNITS_TAKEN.head(form), *units])
        yield f"{_EVICTED.head(form)}{_EVICTED.name} {self.rows.evictions!r}\n"

    def _counted(self, slots: list[Cells]) -> Iterator[tuple[str, str, list[float]]]:
        for row in self.rows.all():
            counts = self.rows.counts(row, slots)
            if counts is not None:
                yield _label(row.name), row.plan, counts

    def _counted_nobodies(self, slots: list[Cells]) -> Iterator[tuple[str, str, list[float]]]:
        for series in self._series.all():
            if series.family == _NOBODY:
                counts = _sums(slots, series.first, COUNTS)
                if _is_told(series, counts):
                    label, plan = series.labels
                    yield label, plan, counts

    def _staying(self, form: Format, slots: list[Cells]) -> Iterator[str]:
        everything = self._series.all()
        for family in _STAYING:
            lines = [family.head(form)]
            for series in everything:
                if series.family == family.name:
                    sums = _sums(slots, series.first, series.width)
                    if not _is_told(series, sums):
                        continue
                    if family.kind is Kind.HISTOGRAM:
                        lines += exposition.histogram(family, series.labels, BOUNDS_S, sums)
                    else:
                        lines.append(f"{family.labelled(series.labels)} {sums[0]!r}\n")
            yield "".join(lines)

    def _of_workers(self, form: Format) -> Iterator[str]:
        try:
            with self._slots.lock():
                living = self._slots.living()
        except BusyError:
            living = [self._cells]
        gauges = (
            (_RELOADED, (), min(cells[self._reloaded] for cells in living)),
            (_RELOADED_AT, (), max(cells[self._reloaded_at] for cells in living)),
            (_WORKERS, (), float(len(living))),
            (_BUILD, (version("quotas"),), 1.0),
        )
        for family, labels, value in gauges:
            yield f"{family.head(form)}{family.labelled(labels)} {value!r}\n"

    def _nobody(self, label: str, plan: str) -> int:
        """The first cell of those who have no row: whose client is not known, or not among the busiest."""
        return self._series.find(_NOBODY, (label, plan), COUNTS)

    def _other(self, plan: str) -> int:
        """The first cell of the clients of a plan that are not among the busiest; found at once but for the first."""
        first = self._others.get(plan)
        if first is None:
            first = self._nobody(OTHER, plan)
            if first != self._no_room:
                self._others[plan] = first
        return first

    def _histogram(self, first: int) -> Cells:
        """The cells of a histogram, from its first on."""
        return self._cells[first : first + _WIDTH]

    def close(self) -> None:
        """Give the slot back; for tests, because a process's end does the same."""
        self._slots.close()


def _observe(histogram: Cells, seconds: float) -> None:
    """Count in the cell of the first bound that is not below, and add to the sum."""
    histogram[bisect_left(BOUNDS_S, seconds)] += 1.0
    histogram[_SUM] += seconds


def _sums(slots: Iterable[Cells], first: int, width: int) -> list[float]:
    columns = [cells[first : first + width].tolist() for cells in slots]
    return [sum(column) for column in zip(*columns, strict=True)]


def _is_told(series: Series, sums: Iterable[float]) -> bool:
    """Not the place for what has no room, as long as nothing is there."""
    return set(series.labels) != {OTHER} or any(sums)


def _label(name: str) -> str:
    """A client's label. One may be called like the label of nobody: it gets a sign, and so does who is called that."""
    return f"={name}" if name.lstrip("=") in {UNKNOWN, OTHER} else name
