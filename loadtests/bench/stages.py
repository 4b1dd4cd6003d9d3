"""`make bench PROFILE=1`: which part of the service a check's CPU goes to, on the hot road.

How it is measured: py-spy looks at the stack of a worker under load, native frames included, some thousand times. A
look belongs to the innermost frame that is in a file of a stage, or to the kernel where that is reading or writing; one
that finds the worker waiting for work is left out. What a check costs in all comes from the process accounts, of rounds
in which nobody looked, because looking halts the worker; so the shares are py-spy's, and the microseconds are shares of
the account.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import cases, rounds, servers
from loadtests.bench.rounds import Load, Measured
from loadtests.processes import LoadTestError

RATE = 500
"""Looks a second."""

SECONDS = 8
_PATIENCE_S = 60.0
_SPARE_S = 4
"""How much longer the load lasts than the looking: py-spy takes its time to begin."""

KERNEL, LOOP, GARBAGE, REST = "kernel: reading and writing", "event loop", "garbage collection", "rest"
_WAITING = {"epoll_wait", "epoll_pwait"}
_SYSTEM = {"read", "write", "writev", "recv", "send", "recvmsg", "sendmsg", "__libc_recv", "__libc_send"}
_COLLECTING = {"gc_collect_main"}
STAGES = {
    "HTTP": ("uvicorn/", "httptools", "llhttp", "quotas/hot_road", "quotas/faces", "quotas/web"),
    "request and identity": (
        *("quotas/requests", "quotas/plain_requests", "quotas/places", "quotas/addresses", "quotas/identities"),
        *(
            "quotas/keys",
            "quotas/caches",
            "quotas/packed_identities",
            "quotas/registry",
            "quotas/holders",
            "quotas/news",
        ),
    ),
    "check: plan, decision, answer": (
        *("quotas/checks", "quotas/plain_takes", "quotas/takings", "quotas/costs", "quotas/planbook", "quotas/plans"),
        *("quotas/decisions", "quotas/answers", "quotas/paths", "quotas/assembly"),
        *("quotas/refusals", "quotas/refusal_memory"),
    ),
    "pipe to Redis: packing, sending, parsing": (
        *("quotas/pipe", "quotas/store", "quotas/scripts", "quotas/links", "quotas/commands", "quotas/servers"),
        *("quotas/clusters", "hiredis"),
    ),
    "rendering": ("quotas/rendering", "quotas/heads", "quotas/witness"),
    "metrics and last use": (
        *("quotas/metrics", "quotas/rows", "quotas/series", "quotas/slots", "quotas/busiest", "quotas/last_use"),
    ),
    LOOP: ("uvloop/", "libuv", "asyncio/"),
}
_FRAME = re.compile(r"(.+) \((.+?)(?::\d+)?\)$")


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of each stage, 0 to 1, over so many looks; and what a check costs by the accounts, see `rounds`."""

    shares: Mapping[str, float]
    looks: int
    measured: Measured

    def lines(self) -> Iterator[str]:
        """The table."""
        each = self.measured
        server_us, store_us = each.median(lambda round_: round_.server_us), each.median(lambda round_: round_.store_us)
        yield f"{each.rate:.0f} checks/s of one worker; microseconds of CPU for each, by stage"
        for stage, share in sorted(self.shares.items(), key=lambda item: -item[1]):
            yield f"  {stage:44} {_us(None if server_us is None else share * server_us)} {share:6.1%}"
        yield f"  {'service, by its process account':44} {_us(server_us)} {1:6.1%}"
        yield f"  {'Redis, by its process account':44} {_us(store_us)}"
        yield f"stages: {self.looks} looks of py-spy at a worker under load, with native frames, none while it waited;"
        yield "shares of the process account, which is of rounds in which nobody looked"


def _us(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>7}"


def measure(load: Load) -> Profile:
    """Profile the main case. Raises LoadTestError."""
    spy = _spy()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-bench-")))
        serving, walk = stack.enter_context(servers.started(cases.OURS, folder / "service"))
        measured = Measured(cases.OURS)
        for number in range(load.rounds):
            measured.rounds.append(rounds.one(serving, walk, load, number, cases.CONNECTIONS))
        what = (serving.port, walk, SECONDS + _SPARE_S, 0, cases.CONNECTIONS)
        asking = threading.Thread(target=load.generator.ask, args=what)
        asking.start()
        try:
            stacks = _looks(spy, serving.pid, folder / "stacks")
        finally:
            asking.join()
    counted = counts(stacks)
    looks = sum(counted.values())
    if not looks:
        raise LoadTestError("py-spy has never seen the worker at work")
    return Profile({stage: count / looks for stage, count in counted.items()}, looks, measured)


def _spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise LoadTestError("the profile needs py-spy, which is in the dependency group `load`")
    return found


def _looks(spy: str, pid: int, file: Path) -> str:
    """What py-spy has seen of a process: a line for each stack, outermost frame first, and how often it was seen."""
    command = [spy, "record", "--pid", str(pid), "--native", "--rate", str(RATE), "--duration", str(SECONDS)]
    command += ["--format", "raw", "--output", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + _PATIENCE_S, check=False)
    if ran.returncode:
        raise LoadTestError(f"py-spy cannot look at the service, which takes the right to ptrace: {ran.stderr.strip()}")
    return file.read_text("utf-8")


def counts(stacks: str) -> Counter[str]:
    """How many looks belong to each stage, of stacks as py-spy writes them."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        stage = _stage(stack.split(";"))
        if stage is not None:
            found[stage] += int(count)
    return found


def _stage(stack: list[str]) -> str | None:
    """Where a look belongs; None where the worker was waiting."""
    frames = [match.groups() for match in map(_FRAME.match, reversed(stack)) if match]
    if not frames:
        return REST
    innermost = frames[0][0]
    if innermost in _WAITING:
        return None
    if innermost in _SYSTEM:
        return KERNEL
    for name, file in frames:
        if name in _COLLECTING:
            return GARBAGE
        for stage, files in STAGES.items():
            if any(part in file for part in files):
                return stage
    return REST
