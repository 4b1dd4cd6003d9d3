"""Fastify with rate-limiter-flexible: only where Node is, with packages in a cache folder and never by themselves."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtests.processes import LoadTestError

PACKAGES = {"fastify": "5.12.8", "ioredis": "5.11.1", "rate-limiter-flexible": "11.4.0"}
_APP = Path(__file__).parent / "apps" / "fastify.cjs"
_INSTALL_S = 300.0


def folder() -> Path:
    """Where the packages are."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "quotas-bench" / "node"


def missing() -> str | None:
    """What is needed before Fastify can run, as advice; None is nothing."""
    if shutil.which("node") is None:
        return "Node is not installed (apt-get install nodejs npm, then --node)"
    if not all(_version(name) == version for name, version in PACKAGES.items()):
        return "its npm packages are not there; --node installs them into " + str(folder())
    return None


def install() -> None:
    """Have npm put the packages into the cache folder; their scripts are not run. Raises LoadTestError."""
    if shutil.which("npm") is None:
        raise LoadTestError("--node needs npm (apt-get install nodejs npm)")
    folder().mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = ["npm", "install", "--prefix", str(folder()), "--ignore-scripts", "--no-audit", "--no-fund", *wanted]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    if ran.returncode:
        raise LoadTestError(f"npm could not install the packages: {ran.stderr.strip()}")


def command(port: int) -> tuple[Sequence[str], Mapping[str, str]]:
    """The server on this port as a command, and variables that it needs beside those of every baseline."""
    return ["node", str(_APP)], {"NODE_PATH": str(folder() / "node_modules"), "BENCH_PORT": str(port)}


def _version(name: str) -> str | None:
    """The version of a package that is installed, None where it is not."""
    try:
        about = json.loads((folder() / "node_modules" / name / "package.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(about["version"])
