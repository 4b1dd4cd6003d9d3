"""What processes have used, from the kernel's accounts below /proc; None where there is no /proc."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_LOOK_S = 0.5


def tree(pid: int) -> list[int]:
    """A process and all that descend from it: a supervisor and its workers."""
    parents: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None:
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def cpu_us(pids: Iterable[int]) -> float | None:
    """Microseconds of CPU that these processes have used so far, all their threads together."""
    spent = [_cpu_us(pid) for pid in pids]
    known = [each for each in spent if each is not None]
    return sum(known) if known and len(known) == len(spent) else None


def peak_bytes(pids: Iterable[int]) -> int | None:
    """The most memory that each of these had resident at any time, added up; what they share counts for each."""
    found = []
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "status").read_text().splitlines()
        except OSError:
            return None
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return sum(found) or None


def busy() -> float | None:
    """The share of all cores, 0 to 1, that was at work in the next half second."""
    before = _machine()
    time.sleep(_LOOK_S)
    after = _machine()
    if before is None or after is None:
        return None
    work, idle = (end - begin for begin, end in zip(before, after, strict=True))
    return work / max(1, work + idle)


def _machine() -> tuple[int, int] | None:
    """Clock ticks that all cores together have worked, and that they have not."""
    try:
        ticks = [int(field) for field in (_PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    idle = sum(ticks[3:5])
    return sum(ticks) - idle, idle


def _cpu_us(pid: int) -> float | None:
    """To the nanosecond from the threads that live, where the kernel tells it; else to the clock tick."""
    try:
        threads = [int(file.read_text().split()[0]) for file in (_PROC / str(pid)).glob("task/*/schedstat")]
    except OSError:
        threads = []
    if any(threads):
        return sum(threads) / 1000
    fields = _stat(pid)
    return None if fields is None else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's account from its state on: the name before them can hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
