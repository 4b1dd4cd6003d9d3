"""`stall`: the service's own Valkey stands still for two seconds under load."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from loadtests.processes import Running
from loadtests.stage import Options, stage
from loadtests.verdicts import stall
from loadtests.verdicts.verdict import Check, Verdict

PLANS = """
plans:
  deny:  {on_store_error: deny,  limits: {yearly: {quota: 1000000/year}}}
  allow: {on_store_error: allow, limits: {yearly: {quota: 1000000/year}}}
"""
UNITS = 1_000_000
SECONDS = 10
USERS = 40
STEADY_S = 3.0
"""How long the load is on before the store stands still."""

STALL_S = 2.0
PULSE_S = 0.005
DEADLINE_MS = 50
"""The service's default, said so that the verdict goes by the same."""


def play(options: Options) -> Verdict:
    """Play it."""
    with stage(PLANS, options, more={"QUOTAS_STORE_TIMEOUT_MS": str(DEADLINE_MS)}) as on:
        keys = {name: issued.secret for name, issued in on.enrol({"deny": "deny", "allow": "allow"}).items()}
        instants: list[int] = []

        def meanwhile(_: Running) -> None:
            time.sleep(STEADY_S)
            with _stopped(on.store_pid):
                instants.append(time.monotonic_ns() // 1000)
                time.sleep(STALL_S)
                instants.append(time.monotonic_ns() // 1000)

        told = {"keys": keys, "users": USERS}
        with _pulse() as late_us:
            left = on.load("stall", told=told, users=USERS, seconds=SECONDS, options=options, meanwhile=meanwhile)
        charged = {name: UNITS - on.service.usage(key)["yearly"]["remaining"] for name, key in keys.items()}
    stopped_us, continued_us = instants
    return stall.judge(
        [Check(*row) for row in left],
        stopped_us=stopped_us,
        continued_us=continued_us,
        deadline_us=DEADLINE_MS * 1000,
        charged=charged,
        late_us=max(late_us),
    )


@contextmanager
def _pulse() -> Iterator[list[int]]:
    """How late a thread is that does nothing but sleep, again and again, in microseconds."""
    late_us, ended = [0], Event()

    def beat() -> None:
        while not ended.is_set():
            begun = time.monotonic()
            time.sleep(PULSE_S)
            late_us.append(round((time.monotonic() - begun - PULSE_S) * 1e6))

    thread = Thread(target=beat)
    thread.start()
    try:
        yield late_us
    finally:
        ended.set()
        thread.join()


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """The process stands still. Whatever happens it goes on: it could not be stopped in order otherwise."""
    try:
        os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
