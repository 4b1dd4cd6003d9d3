"""`abuser`: a thousand polite clients, in turns with and without one that never pauses."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from loadtests import processes
from loadtests.processes import Running
from loadtests.stage import PATIENT, Options, Stage, stage
from loadtests.verdicts import abuser
from loadtests.verdicts.abuser import Abuse, Phase
from loadtests.verdicts.counts import permitted
from loadtests.verdicts.verdict import Check, Verdict

PLANS = "plans: {free: {limits: {per-second: {rate: 5/second, burst: 10}}}}"
POLITE = 1_000
CONNECTIONS = 2
WARM_UP_S = 7.0
"""By then every polite client has asked once, so that its key is known to the worker."""

TURNS = 8
"""Phases without the abuser, and as many with it: many short ones, so that what else the machine does meets both."""

PHASE_S = 2.0
SETTLE_S = 0.4
"""How long the abuser has been there, or gone, before a phase begins."""

SECONDS = round(WARM_UP_S + 2 * TURNS * (PHASE_S + SETTLE_S) + 3)
"""The load, with room for the start of the abuser."""


def play(options: Options) -> Verdict:
    """Play it."""
    names = [f"polite-{number:04}" for number in range(1, POLITE + 1)]
    with stage(PLANS, options, more=PATIENT) as on:
        keys = {name: issued.secret for name, issued in on.enrol(dict.fromkeys(["abuser", *names], "free")).items()}
        key = keys.pop("abuser")
        spans: list[tuple[int, int]] = []

        def meanwhile(_: Running) -> None:
            time.sleep(WARM_UP_S)
            with _abuser(on, key) as pid:
                for _turn in range(TURNS):
                    spans.append(_span())
                    os.kill(pid, signal.SIGCONT)
                    spans.append(_span())
                    os.kill(pid, signal.SIGSTOP)

        told = {"keys": keys}
        left = on.load("abuser", told=told, users=POLITE, seconds=SECONDS, options=options, meanwhile=meanwhile)
        got: Mapping[str, Any] = json.loads((on.folder / "abuser.json").read_text("utf-8"))
        statuses = {int(status): count for status, count in got["statuses"].items()}
        most = permitted(on.config.plans["free"].limits, got["elapsed_us"])
        abuse = Abuse(statuses.pop(200, 0), statuses.pop(429, 0), sum(statuses.values()), most)
    looks = [(at_us, cpu_us) for at_us, cpu_us in left["looks"]]
    phases = [Phase(*span, _busy(looks, *span), abused=number % 2 == 1) for number, span in enumerate(spans)]
    return abuser.judge([Check(*row) for row in left["checks"]], phases, abuse)


def _span() -> tuple[int, int]:
    """A phase: when it began and ended, in microseconds of the monotonic clock."""
    time.sleep(SETTLE_S)
    begun_us = time.monotonic_ns() // 1000
    time.sleep(PHASE_S)
    return begun_us, time.monotonic_ns() // 1000


@contextmanager
def _abuser(on: Stage, key: str) -> Iterator[int]:
    """The process of the abuser, connected and stopped; at the end it goes on, and leaves what it counted."""
    file, counts = on.folder / "abuser.key", on.folder / "abuser.json"
    file.touch(0o600)
    file.write_text(key, "ascii")
    place = [on.service.host, str(on.service.port), str(CONNECTIONS)]
    command = [sys.executable, "-m", "loadtests.asking", *place, str(file), str(counts)]
    with processes.running("abuser", command, on.folder, on.environment) as started:
        started.until(counts.exists, processes.START_S, "connected")
        try:
            os.kill(started.process.pid, signal.SIGSTOP)
            yield started.process.pid
        finally:
            os.kill(started.process.pid, signal.SIGCONT)
    if started.process.returncode != 0:
        raise started.failed(f"ended with status {started.process.returncode}")


def _busy(looks: Sequence[tuple[int, int]], begun_us: int, ended_us: int) -> float:
    """The share of a time in which the sender used a CPU, from what it noted of itself; 1 when it noted nothing."""
    within = [look for look in looks if begun_us <= look[0] <= ended_us]
    if len(within) < 2:  # noqa: PLR2004 # A share needs two of them.
        return 1.0
    return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])
