"""The programs of a load test, the service, locust and others: started, waited for, and stopped by their own pid.

Each has a session of its own, so that Ctrl-C reaches only us and we stop them in order.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 30.0
"""How long the service may take until it is ready."""

STOP_S = 20.0
"""How long a program may take to stop: longer than the service waits for checks under way, and for its Valkey."""

ANSWER_S = 10.0
"""How long the service may take for a page that is no check."""

POLL_S = 0.05
ROOT = Path(__file__).parents[1]
QUOTAS = str(Path(sys.executable).with_name("quotas"))
"""The command that belongs to this Python."""


class LoadTestError(Exception):
    """The test could not be made, so there is no verdict."""


@dataclass(frozen=True, slots=True)
class Running:
    """A program that runs, and where it writes what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def failed(self, what: str) -> LoadTestError:
        """An error that shows the end of what the program said."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-20:]
        return LoadTestError("\n    ".join([f"{self.name} {what}; it said last:", *lines]))

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until it has done something. Raises LoadTestError when it ends before or takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise self.failed(f"ended with status {self.process.returncode} before it {what}")
            if time.monotonic() > deadline:
                raise self.failed(f"has not {what} within {seconds:.0f} s")
            time.sleep(POLL_S)


@contextmanager
def running(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """A program that works in `folder` and is stopped with this context.

    Raises LoadTestError when it had to be killed, for then it did not tidy up.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    program = Running(name, process, log)
    try:
        yield program
    finally:
        _stop(program)


def _stop(program: Running) -> None:
    program.process.terminate()
    try:
        program.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        program.process.kill()
        program.process.wait()
        raise program.failed(f"did not stop within {STOP_S:.0f} s and was killed") from None


@contextmanager
def standing_still(pids: Sequence[int]) -> Iterator[None]:
    """These processes are stopped, and go on whatever happens.

    Left to itself the system gives nearly all new connections to one worker as long as none is busy.
    """
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def service(folder: Path, environment: Mapping[str, str], workers: int) -> Iterator["Service"]:
    """`quotas serve` on a free port of the loopback address, once it is ready."""
    command = [QUOTAS, "serve", "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)]
    with running("quotas", command, folder, environment) as started:
        started.until(lambda: _address(started) is not None, START_S, "said where it serves")
        address = _address(started)
        assert address is not None, "it has just been found"
        serving = Service(started, *address)
        started.until(serving.is_ready, START_S, "become ready")
        yield serving


def _address(started: Running) -> tuple[str, int] | None:
    """Host and port, from the line with the base URL."""
    line = re.search(r" on http://([0-9.]+):([0-9]+)\n", started.log.read_text("utf-8", "replace"))
    return None if line is None else (line[1], int(line[2]))


@dataclass(frozen=True, slots=True)
class Service:
    """The service, ready at an address."""

    program: Running
    host: str
    port: int

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Whether checks can be decided."""
        try:
            return self._get("/readyz")[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def metrics(self) -> str:
        """What the service has counted, in the Prometheus text format. Raises LoadTestError."""
        try:
            status, text = self._get("/metrics")
        except (OSError, http.client.HTTPException):
            raise self.program.failed("did not answer /metrics") from None
        if status != http.client.OK:
            raise self.program.failed(f"answered /metrics with {status}")
        return text

    def usage(self, key: str) -> dict[str, dict[str, Any]]:
        """What the state has of each limit of a key's client, by the limit's name. Raises LoadTestError."""
        try:
            status, text = self._get("/v1/usage", {"X-API-Key": key})
        except (OSError, http.client.HTTPException):
            raise self.program.failed("did not answer /v1/usage") from None
        if status != http.client.OK:
            raise self.program.failed(f"answered /v1/usage with {status}")
        return {limit["name"]: limit for limit in json.loads(text)["limits"]}

    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_S)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How locust is to run: the file of the scenario and what it is told, by how many users, and for how long.

    `told` may hold keys: it goes into a private file. `web_port` is where locust's web UI is, None for none.
    """

    scenario: Path
    told: Mapping[str, object]
    users: int
    seconds: int
    web_port: int | None = None


def locust(
    folder: Path,
    environment: Mapping[str, str],
    url: str,
    load: Load,
    meanwhile: Callable[[Running], object] = lambda _: None,
) -> Any:
    """Put the load on what serves at `url`, and return what the scenario left.

    `meanwhile` is called once all users are there. What the scenario was told and has left is gone afterwards. With the
    web UI the load runs once by itself, and the result is there when the user presses Ctrl-C. Raises LoadTestError.
    """
    told, left, begun = (folder / f"{name}.json" for name in ("told", "left", "begun"))
    files = {"LOADTEST_TOLD": str(told), "LOADTEST_LEFT": str(left), "LOADTEST_BEGUN": str(begun)}
    told.touch(0o600, exist_ok=False)
    try:
        told.write_text(json.dumps(load.told), "utf-8")
        with running("locust", _locust(url, load), folder, {**environment, **files}) as started:
            started.until(begun.exists, START_S, "had all users")
            meanwhile(started)
            _await_end(started, load)
        if not left.exists():
            raise started.failed("left no counts")
        return json.loads(left.read_text("utf-8"))
    finally:
        for file in (told, left, begun):
            file.unlink(missing_ok=True)


def _locust(url: str, load: Load) -> list[str]:
    """Users are given time to receive their last answer, or they and the service would count differently."""
    users = str(load.users)
    command = [sys.executable, "-m", "locust", "-f", str(load.scenario), "--host", url, "-u", users, "-r", users]
    command += ["--run-time", f"{load.seconds}s", "--stop-timeout", "10s", "--exit-code-on-error", "0"]
    if load.web_port is None:
        return [*command, "--headless", "--only-summary"]
    return [*command, "--autostart", "--web-host", "127.0.0.1", "--web-port", str(load.web_port)]


def _await_end(started: Running, load: Load) -> None:
    try:
        status = started.process.wait(None if load.web_port else load.seconds + START_S + STOP_S)
    except subprocess.TimeoutExpired:
        raise started.failed(f"did not end after its {load.seconds} s") from None
    except KeyboardInterrupt:
        if load.web_port is None:
            raise
        return
    if status != 0:
        raise started.failed(f"ended with status {status}")
