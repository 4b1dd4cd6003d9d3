"""The real command in a process of its own, on a data directory of the test's own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from redis import Redis

from loadtests import operating
from loadtests.processes import standing_still
from quotas import configuration, settings
from quotas.operations import Operations

PATIENCE_S = 60
"""A bound for what should take a moment, never an expectation."""
POLL_S = 0.01
T = TypeVar("T")
COMMAND = [sys.executable, "-m", "quotas"]
_URL = re.compile(r" on (http://\S+)$", re.MULTILINE)
_CURL = re.compile(r"^ +curl -i -H 'X-API-Key: (\S+)' (\S+)$", re.MULTILINE)


def until(condition: Callable[[], bool]) -> None:
    """Wait for the condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(POLL_S)


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in {"", "Z"}


def children(pid: int) -> list[int]:
    """The living children of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid and runs(int(child))]


class Home:
    """A working directory with its data, and the commands that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAS_")}
        # Patience for a busy machine: what the store's deadline does is tested elsewhere.
        self.environment |= {"QUOTAS_DATA_DIR": str(self.data), "QUOTAS_STORE_TIMEOUT_MS": "30000"}

    def plans(self, text: str) -> None:
        (self.folder / "quotas.yaml").write_text(text, "utf-8")

    def valkey_pid(self) -> int:
        return int((self.data / "valkey.pid").read_text())

    def settle(self) -> None:
        """Wait until what the store was told so far is on disk: it may write a moment after it has answered."""
        with Redis(unix_socket_path=str(self.data / "valkey.sock")) as store:
            store.set("settled", 1)
            assert store.waitaof(1, 0, PATIENCE_S * 1_000)[0] == 1

    def command(self, *words: str, patience_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end."""
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
        )

    def good(self, *words: str) -> str:
        """Run one command, which succeeds; what it printed."""
        done = self.command(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def operate(self, work: Callable[[Operations], Awaitable[T]]) -> T:
        """Do what a command does, in this process, by the plan file that one would read."""
        own = settings.load(self.environment)
        here = self.folder / configuration.LOCAL_FILE
        config = configuration.ConfigFile(own.config or (here if here.exists() else None)).read()
        return operating.operate(own, config, work, actor="test")

    def create(self, client: str, plan: str = "free") -> None:
        """Make a client."""
        self.operate(lambda operations: operations.clients.create(client, plan))

    def key(self, client: str) -> str:
        """A new key of a client."""
        return self.operate(lambda operations: operations.clients.issue_key(client)).secret

    @contextmanager
    def serving(self, *words: str) -> Iterator["Serving"]:
        """A service that has said where it is; it is ended with the context, however that ends."""
        name = f"serve-{time.monotonic_ns()}"
        files = [self.folder / f"{name}.{kind}" for kind in ("out", "err")]
        with ExitStack() as stack:
            out, err = (stack.enter_context(file.open("w")) for file in files)
            process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", *words],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            serving = Serving(process, *files)
            try:
                until(lambda: serving.has_spoken() or process.poll() is not None)
                assert process.poll() is None, serving.err()
                yield serving
            finally:
                serving.discard()


@dataclass(frozen=True, slots=True)
class Serving:
    """A running `quotas serve`."""

    process: "subprocess.Popen[bytes]"
    out_file: Path
    err_file: Path

    def out(self) -> str:
        return self.out_file.read_text("utf-8")

    def err(self) -> str:
        return self.err_file.read_text("utf-8")

    def has_spoken(self) -> bool:
        return _URL.search(self.out()) is not None

    @property
    def url(self) -> str:
        found = _URL.search(self.out())
        assert found
        return found[1]

    @property
    def curl(self) -> tuple[str, str]:
        """The key and the URL of the printed command."""
        until(lambda: _CURL.search(self.out()) is not None)
        found = _CURL.search(self.out())
        assert found
        return found[1], found[2]

    def workers(self) -> list[int]:
        """The processes that serve, when there are several: those that multiprocessing made, but its tracker."""
        found = []
        for pid in children(self.process.pid):
            listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False)
            if b"spawn_main" in listed.stdout:
                found.append(pid)
        return found

    def on_each_worker(self, ask: Callable[[], T], workers: Sequence[int] | None = None) -> list[T]:
        """What each worker answers on a new connection while all others stand still, a starting one once it serves.

        `workers` None is those that there are now.
        """
        if workers is None:
            workers = self.workers()
        found = []
        for asked in workers:
            with standing_still([pid for pid in workers if pid != asked]):
                found.append(ask())
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def discard(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
