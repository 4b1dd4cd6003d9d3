"""What processes have used, from the kernel's accounts below /proc; None where there is no /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


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
