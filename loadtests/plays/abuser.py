"""`abuser`: a thousand polite clients, in turns with and without one that never pauses."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests import processes
from loadtests.processes import Running
from loadtests.stage import Options, Stage, stage
from loadtests.verdicts import abuser
from loadtests.verdicts.abuser import Abuse, Phase
from loadtests.verdicts.counts import permitted
from loadtests.verdicts.verdict import Check, Verdict
from quotas.limits import Limit

PLANS = "plans: {free: {limits: {per-second: {rate: 5/second, burst: 10}}}}"
POLITE = 1_000
CONNECTIONS = 4
WARM_UP_S = 7
"""By then every polite client has asked once, so that its key is known to the worker."""

PHASES = 3
PHASE_S = 6.0
SETTLE_S = 0.5
"""How long the abuser has been there, or gone, before a phase begins."""

SECONDS = WARM_UP_S + 2 * PHASES * (PHASE_S + SETTLE_S) + 5
"""The load, with room for the starts and ends of the abuser."""


def play(options: Options) -> Verdict:
    """Play it."""
    names = [f"polite-{number:04}" for number in range(1, POLITE + 1)]
    with stage(PLANS, options.workers or 1) as on:
        keys = {name: issued.secret for name, issued in on.enrol(dict.fromkeys(["abuser", *names], "free")).items()}
        key = on.folder / "abuser.key"
        key.touch(0o600)
        key.write_text(keys.pop("abuser"), "ascii")
        phases: list[tuple[int, int, Mapping[str, Any] | None]] = []

        def meanwhile(_: Running) -> None:
            time.sleep(WARM_UP_S)
            for _turn in range(PHASES):
                time.sleep(SETTLE_S)
                phases.append((*_span(), None))
                phases.append(_abused(on, len(phases)))

        told = {"keys": keys}
        seconds = round(SECONDS)
        left = on.load("abuser", told=told, users=POLITE, seconds=seconds, options=options, meanwhile=meanwhile)
        limits = on.config.plans["free"].limits
    looks = [(at_us, cpu_us) for at_us, cpu_us in left["looks"]]
    judged = [Phase(begun, ended, _busy(looks, begun, ended), _abuse(got, limits)) for begun, ended, got in phases]
    return abuser.judge([Check(*row) for row in left["checks"]], judged)


def _span() -> tuple[int, int]:
    """A phase: when it began and ended, in microseconds of the monotonic clock."""
    begun_us = time.monotonic_ns() // 1000
    time.sleep(PHASE_S)
    return begun_us, time.monotonic_ns() // 1000


def _abused(on: Stage, number: int) -> tuple[int, int, Mapping[str, Any]]:
    """A phase with the abuser, and what it counted."""
    counts = on.folder / f"abuser-{number}.json"
    command = [sys.executable, "-m", "loadtests.asking", on.service.host, str(on.service.port), str(CONNECTIONS)]
    environment = {**on.environment, "PYTHONPATH": str(processes.ROOT)}
    words = [*command, str(on.folder / "abuser.key"), str(counts)]
    with processes.running(f"abuser-{number}", words, on.folder, environment) as started:
        started.until(counts.exists, processes.START_S, "connected")
        time.sleep(SETTLE_S)
        span = _span()
    if started.process.returncode != 0:
        raise started.failed(f"ended with status {started.process.returncode}")
    got: Mapping[str, Any] = json.loads(counts.read_text("utf-8"))
    return (*span, got)


def _abuse(got: Mapping[str, Any] | None, limits: Sequence[Limit]) -> Abuse | None:
    if got is None:
        return None
    statuses = {int(status): count for status, count in got["statuses"].items()}
    allowed, refused = statuses.pop(200, 0), statuses.pop(429, 0)
    return Abuse(allowed, refused, sum(statuses.values()), permitted(limits, got["elapsed_us"]))


def _busy(looks: Sequence[tuple[int, int]], begun_us: int, ended_us: int) -> float:
    """The share of a time in which the sender used a CPU, from what it noted of itself; 1 when it noted nothing."""
    within = [look for look in looks if begun_us <= look[0] <= ended_us]
    if len(within) < 2:  # noqa: PLR2004 # A share needs two of them.
        return 1.0
    return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])
