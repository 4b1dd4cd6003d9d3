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
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from quotas import valkey
from quotas.errors import EmbeddedStoreError
from quotas.valkey import Place

LOCK_SECONDS = 5.0  # How long `serve` waits for a command, or for a service that is closing.
JOIN_SECONDS = valkey.START_SECONDS + LOCK_SECONDS  # How long a command waits for a service that is just starting.
USERS_SECONDS = 5.0  # How long an owner waits for the commands that use its Valkey.
SOCKET_BYTES = 103  # Of a unix socket's path on macOS, without its NUL; Linux allows 107.


class _State(Enum):
    """What the owner is doing, as the lock file says it."""

    SERVE = "serve"
    BORROW = "borrow"
    CLOSING = "closing"


@contextmanager
def hold(data_dir: Path) -> Iterator[str]:
    """Run the Valkey of `data_dir` for the service; yields its URL.

    Call it from the main thread: on Linux Valkey ends with the *thread* that started it. Raises
    EmbeddedStoreError at once when another service owns the directory, and after `LOCK_SECONDS` when
    a command does, or when Valkey cannot be started.
    """
    place = _place(data_dir)
    with valkey.opened(place, "lock") as lock, valkey.opened(place, "users") as users:
        _own(place, lock)
        with _running(place, lock, users, _State.SERVE) as url:
            yield url


@contextmanager
def borrow(data_dir: Path, *, patience_s: float = JOIN_SECONDS) -> Iterator[str]:
    """Use the Valkey of `data_dir` for one command; yields its URL.

    That of a running service is used and left running; where there is none, one runs for the duration. The
    thread and the errors are those of `hold`; a service that is just starting is waited for, `patience_s` at most.
    """
    place = _place(data_dir)
    with valkey.opened(place, "lock") as lock, valkey.opened(place, "users") as users:
        if _own_or_join(place, lock, users, patience_s):
            with _running(place, lock, users, _State.BORROW) as url:
                yield url
        else:
            yield place.url


def _place(data_dir: Path) -> Place:
    with valkey.or_advice("set QUOTAS_DATA_DIR to a directory that this user may make and write"):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = data_dir.resolve(strict=True)
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) > SOCKET_BYTES:
        path = _short_folder(directory) / "valkey.sock"
    return Place(directory, path)


def _short_folder(directory: Path) -> Path:
    """Where the socket goes when its path under `directory` would be too long; the same for every command."""
    name = "quotas-" + hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / name
    advice = "remove it, or set QUOTAS_DATA_DIR to a shorter path, which needs no such place for its socket"
    if len(os.fsencode(folder / "valkey.sock")) > SOCKET_BYTES:
        raise EmbeddedStoreError(f"{folder} is too long for a socket; set TMPDIR or QUOTAS_DATA_DIR to a shorter path")
    with valkey.or_advice(advice):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    # The name can be guessed, and anybody may write to /tmp: a stranger could be listening in there.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise EmbeddedStoreError(f"{folder}: not a private directory of this user; {advice}")
    return folder


def _locked(file: int, kind: int) -> bool:
    """Whether the lock was to be had; never waits."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(lock: int, state: _State) -> None:
    line = f"{state.value} {os.getpid()}\n".encode()
    # Written before it is cut, so that a reader finds a whole first line, the old or the new, and never none.
    os.pwrite(lock, line, 0)
    os.ftruncate(lock, len(line))


def _owner(place: Place) -> tuple[_State, int] | None:
    """Who signed the lock last, and its process id; it means something only while the lock is held."""
    line = re.match(rb"(serve|borrow|closing) (\d+)\n", place.lock.read_bytes())
    return (_State(line[1].decode()), int(line[2])) if line else None


def _own(place: Place, lock: int) -> None:
    def owned() -> bool:
        if _locked(lock, fcntl.LOCK_EX):
            return True
        match _owner(place):
            case (_State.SERVE, pid) if valkey.exists(pid):  # Else it is the line of a killed service, about to go.
                raise EmbeddedStoreError(
                    f"the data directory {place.directory} belongs to another `quotas serve`, process {pid};"
                    " stop that one first, or give this one its own QUOTAS_DATA_DIR or QUOTAS_REDIS_URL"
                )
        return False

    if not valkey.until(owned, LOCK_SECONDS):
        raise _still_in_use(place, LOCK_SECONDS)


def _own_or_join(place: Place, lock: int, users: int, patience_s: float) -> bool:
    """Whether this command owns; else it shares the Valkey of an owner, until it closes `users`."""
    owned = False

    def settled() -> bool:
        nonlocal owned
        owned = _locked(lock, fcntl.LOCK_EX)
        return owned or _joined(place, users)

    if not valkey.until(settled, patience_s):
        raise _still_in_use(place, patience_s)
    return owned


def _joined(place: Place, users: int) -> bool:
    owner = _owner(place)
    # Without a look at `closing`, a stream of commands that overlap could keep an owner from ever ending.
    if owner is None or owner[0] is _State.CLOSING or not _locked(users, fcntl.LOCK_SH):
        return False
    if valkey.answers(place):
        return True
    fcntl.flock(users, fcntl.LOCK_UN)
    return False


def _still_in_use(place: Place, seconds: float) -> EmbeddedStoreError:
    owner = _owner(place)
    who = f"process {owner[1]} (`{owner[0].value}`)" if owner else "another process"
    return EmbeddedStoreError(
        f"the data directory {place.directory} is still in use by {who} after {seconds:.0f} s;"
        " wait for that process to finish, or stop it, and try again"
    )


@contextmanager
def _running(place: Place, lock: int, users: int, state: _State) -> Iterator[str]:
    """A Valkey of our own; the caller has the lock."""
    _sign(lock, state)
    # Only users of a Valkey whose owner was killed can be in the way. They lose it sooner or later.
    valkey.until(lambda: _locked(users, fcntl.LOCK_EX), USERS_SECONDS)
    valkey.end_leftover(place)
    process = valkey.spawn(place)
    try:
        valkey.await_ready(place, process)
        fcntl.flock(users, fcntl.LOCK_UN)
        yield place.url
    finally:
        try:
            _sign(lock, _State.CLOSING)
            valkey.until(lambda: process.poll() is not None or _locked(users, fcntl.LOCK_EX), USERS_SECONDS)
        finally:
            valkey.stop(place, process)
