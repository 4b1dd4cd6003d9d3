"""Whether this machine and this process can serve: libraries, ports, cores, file descriptors, shared memory.

Nothing is left behind: a port is bound for a moment, a file has no name.
"""

import contextlib
import errno
import http.client
import json
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from quotas.findings import Finding, ok, problem, warning

ASK_S = 3.0
"""How long who holds a port may take to answer, twice; a worker that just starts takes a second or two."""

SPARE_DESCRIPTORS = 64
"""What a worker opens beside its connections: store, log, issuers, shared memory, and room."""

SHARED_BYTES = 64 << 20
"""Room that counters of several workers should find in the temporary folder; they take a part of it."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(.*)")
_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def libraries(installed: Callable[[str], str] = version) -> list[Finding]:
    """Python, and each library that is missing or of a version that was not asked for."""
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        needed = [text for text in requires("quotas") or () if "extra ==" not in text]
        own = version("quotas")
    except PackageNotFoundError:
        advice = "install it with pip, which looks after the versions of its libraries"
        return [warning("libraries", f"Python {python}; quotas itself is not installed", advice)]
    found, versions = [], []
    for text in needed:
        asked, _, marker = text.partition(";")
        match = _REQUIREMENT.match(asked.strip())
        if match is None or ("win32" in marker and sys.platform == "win32"):
            continue
        name, bounds = match.groups()
        try:
            have = installed(name)
        except PackageNotFoundError:
            found.append(problem("libraries", f"{name} is not installed", f"pip install '{asked.strip()}'"))
            continue
        versions.append(f"{name} {have}")
        if not all(_within(have, sign, bound) for sign, bound in _BOUND.findall(bounds)):
            told = f"{name} is {have}, and {bounds} is asked for"
            found.append(problem("libraries", told, f"pip install '{asked.strip()}'"))
    told = f"quotas {own}, Python {python}"
    shown = [each for each in versions if each.split()[0] in {"redis", "hiredis", "starlette", "uvicorn", "uvloop"}]
    return found or [ok("libraries", ", ".join([told, *shown]))]


def _within(have: str, sign: str, bound: str) -> bool:
    at, edge = (tuple(int(part) for part in re.findall(r"[0-9]+", text)[:4]) for text in (have, bound))
    return at >= edge if sign == ">=" else at < edge


def port(subject: str, host: str, number: int) -> Finding:
    """Whether the service can listen there, or does already. Port 0 is any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, number), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(subject, host, number)
        told = f"cannot listen on {host} port {number}: {error.strerror or error}"
        advice = "choose a --host that is an address of this machine"
        if error.errno in {errno.EACCES, errno.EPERM}:
            advice = "choose a port from 1024 on, or give the process the right to this one (CAP_NET_BIND_SERVICE)"
        return problem(subject, told, advice)
    return ok(subject, f"{host} port {number} is free")


def _taken(subject: str, host: str, number: int) -> Finding:
    """Who holds a port: this service, then how it is, or another program."""
    at = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 # Not bound here: asked on loopback.
    _, health = _ask(at, number, "/healthz")
    if "version" not in health:
        told = f"{host} port {number} is taken by another program"
        return problem(subject, told, "end that program, or choose another --port (or QUOTAS_ADMIN_PORT)")
    running = str(health["version"])
    status, ready = _ask(at, number, "/readyz")
    if status != http.HTTPStatus.OK:
        why = f"its store is {ready['store']}" if "store" in ready else "it does not answer in time"
        told = f"quotas {running} runs on {host} port {number} and is not ready: {why}"
        return problem(subject, told, "mend its store; see what is said of the store here, and the service's log")
    if running != version("quotas"):
        told = f"quotas {running} runs on {host} port {number}, and this is {version('quotas')}"
        return warning(subject, told, "restart the service to have it run what is installed")
    return ok(subject, f"quotas {running} runs on {host} port {number} and is ready")


def _ask(host: str, number: int, path: str) -> tuple[int, Mapping[str, object]]:
    """A JSON object that is answered over HTTP, with its status; an empty one for anything else."""
    connection = http.client.HTTPConnection(host, number, timeout=ASK_S)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            told = json.loads(response.read(4096))
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
    return response.status, told if isinstance(told, dict) else {}


def workers(number: int, cores: float) -> Finding:
    """Whether there are as many cores as workers want."""
    told = f"{number} {'worker' if number == 1 else 'workers'}, {cores:g} {'core' if cores == 1 else 'cores'}"
    if number <= cores or number == 1:
        return ok("workers", told)
    return warning("workers", told, "start at most as many --workers as there are cores: more only take turns")


def cores() -> float:
    """Cores that this process may use: those that it may run on, or what its container may have of them."""
    here = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        return min(here, container_cores(_CPU_MAX.read_text("ascii")))
    except (OSError, ValueError):
        return here


def container_cores(text: str) -> float:
    """Cores by `cpu.max` of Linux control groups: microseconds of CPU time in so many, or `max`.

    Raises ValueError for anything else.
    """
    most, period = text.split()
    return float("inf") if most == "max" else int(most) / int(period)


def descriptors(connections: int, limit: int | None = None) -> Finding:
    """Whether each worker may open as many connections as gateways keep; `limit` None is this process's own."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if most == resource.RLIM_INFINITY:
        return ok("file descriptors", "without a limit")
    told = f"{most} for each worker, {connections} connections of gateways expected (--connections)"
    if most >= connections + SPARE_DESCRIPTORS:
        return ok("file descriptors", told)
    advice = f"raise it to {connections + SPARE_DESCRIPTORS} or more: `ulimit -n`, LimitNOFILE= of systemd"
    return problem("file descriptors", f"{told}: further ones wait until others are closed", advice)


def shared_memory(number: int) -> Finding | None:
    """Whether several workers can count together; None for one, which needs no folder."""
    if number == 1:
        return None
    advice = "set TMPDIR to a folder that this user may write to, on a disk with room"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return problem("shared memory", f"the workers have no folder to count in: {error.strerror}", advice)
    told = f"{folder} has {free >> 20} MiB free"
    return ok("shared memory", told) if free >= SHARED_BYTES else warning("shared memory", told, advice)


def disk(folder: Path) -> Finding | None:
    """Whether a private Valkey finds room for its files; None when nobody can tell."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if there is None:
        return None
    free = shutil.disk_usage(there).free
    told = f"{there} has {free >> 20} MiB free"
    if free >= SHARED_BYTES:
        return ok("data directory", told)
    return warning("data directory", told, "make room: when the disk is full Valkey refuses writes, and checks fail")
