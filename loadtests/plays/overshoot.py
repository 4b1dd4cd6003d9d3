"""`overshoot`: very many takes from many connections over several workers, by a client that is faster than locust.

What is asked is exactness, not speed: the store's deadline is long, so that a busy machine makes no check unanswered.
"""

import asyncio
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import uvloop

from loadtests.asking import Counts, ask, request_of
from loadtests.processes import standing_still
from loadtests.stage import Options, Stage, stage
from loadtests.verdicts import overshoot
from loadtests.verdicts.counts import counted, permitted
from loadtests.verdicts.overshoot import Taken
from loadtests.verdicts.verdict import Verdict
from quotas.limits import Bucket, Limit
from quotas.operations import Operations
from quotas.reports import Asked, By

TAKES = 1_000_000
WORKERS = 4
CONNECTIONS = 16
"""Connections of each client."""


def play(options: Options) -> Verdict:
    """Play it."""
    takes, workers = options.takes or TAKES, options.workers or WORKERS
    plans = _plans(max(1, takes // 20), _calm_zone(datetime.now(UTC)))
    with stage(plans, options, workers=workers, more={"QUOTAS_STORE_TIMEOUT_MS": "30000"}) as on:
        keys = {name: issued.secret for name, issued in on.enrol({name: name for name in on.config.plans}).items()}
        counts = {name: Counts(name) for name in keys}
        each = [(request_of(keys[name]), counts[name]) for _ in range(CONNECTIONS) for name in keys]
        pids = _workers(on.service.program.process.pid)
        left = takes

        def more() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        def place(number: int) -> AbstractContextManager[None]:
            chosen = pids[number % len(pids)]
            return standing_still([pid for pid in pids if pid != chosen])

        begun = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ask(on.service.host, on.service.port, each, more, place=place))
        seconds = time.monotonic() - begun
        taken = _taken(on, counts, keys)
    return overshoot.judge(taken, takes=takes, workers=workers, served=len(pids), seconds=seconds)


def _taken(on: Stage, counts: Mapping[str, Counts], keys: Mapping[str, str]) -> list[Taken]:
    """What each client got, beside what the metrics, the histories and the states say."""

    async def histories(operations: Operations) -> dict[str, int]:
        found = {}
        for name in keys:
            client = await operations.clients.get(name)
            found[name] = (await operations.reports.of(client, Asked(by=By.MONTH))).total.units
        return found

    totals, used = counted(on.service.metrics()), on.operate(histories)
    taken = []
    for name, plan in on.config.plans.items():
        statuses, quota = dict(counts[name].statuses), on.service.usage(keys[name]).get("yearly")
        most, least = (_most(plan.limits, elapsed_us) for elapsed_us in (counts[name].elapsed_us, 0))
        taken.append(
            Taken(
                client=name,
                allowed=statuses.pop(200, 0),
                refused=statuses.pop(429, 0),
                errors={str(status): number for status, number in statuses.items()},
                most=most,
                exact=most == least,
                counted=totals[name],
                used=used[name],
                units=None if quota is None else quota["limit"],
                left=None if quota is None else quota["remaining"],
            )
        )
    return taken


def _most(limits: Sequence[Limit], elapsed_us: int) -> int:
    """What limits permit in this time, in one window of a quota: no window ends meanwhile, see `_calm_zone`."""
    return min(
        permitted([limit], elapsed_us) if isinstance(limit.rule, Bucket) else limit.rule.units for limit in limits
    )


def _plans(units: int, zone: str) -> str:
    """A plan for each client, with whose name it goes: what a quota, a burst and a rate permit, alone and together."""
    yearly = f"yearly: {{quota: {units}/year, timezone: {zone}}}"
    more = f"yearly: {{quota: {100 * units}/year, timezone: {zone}}}"
    return f"""
plans:
  quota:  {{limits: {{{yearly}}}}}
  burst:  {{limits: {{once: {{rate: 1/hour, burst: {units}}}}}}}
  both:   {{limits: {{{yearly}, once: {{rate: 1/hour, burst: {2 * units}}}}}}}
  bucket: {{limits: {{fast: {{rate: 97/second, burst: 100}}}}}}
  mixed:  {{limits: {{fast: {{rate: 7 per 3 seconds, burst: 5}}, {more}}}}}
"""


def _calm_zone(now: datetime) -> str:
    """A time zone in which no year ends within the next hours."""
    soon = now + timedelta(hours=3)
    return "UTC" if now.year == soon.year else "Pacific/Honolulu"


def _workers(pid: int) -> list[int]:
    """The workers of a service: of its children those that Python's multiprocessing has made, but its tracker."""
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return [int(child) for child, parent, words in rows if int(parent) == pid and "spawn_main" in words]
