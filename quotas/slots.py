"""Memory that the workers of a service share: one table, and a slot of counters for each of them.

Theory of operation. Both are memory-mapped files in a folder of the service. A worker adds to cells of its own slot
only, without a lock; a sum over all slots is what the service has counted. What is written is in the kernel's hands at
once, so a worker that is killed takes nothing with it. The worker that replaces it finds its slot unlocked and goes on
with it: no slot is ever dropped or emptied, so no sum goes back, and there are never more slots than there were workers
at one time. The table says what the cells mean; it is changed under a lock.

A cell is a double, written whole: counts are exact below 2^53. Nobody else writes it, so `+= 1` loses nothing.

A worker alone has memory of its own in place of files. The folder belongs to whoever holds its lock, which ends with
the process: what a killed service left behind is removed by the next one that starts.
"""

import errno
import fcntl
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from quotas.errors import ConfigError, Fault

Cells: TypeAlias = "memoryview[float]"
"""A slot: doubles, each with a meaning that the table gives."""

PREFIX = "quotas-metrics-"
LOCK_S = 0.1
"""How long the table's lock is waited for. It is held for microseconds, unless its holder was stopped just then."""

START_S = 5.0
"""The same for a worker that starts."""

IMPATIENT_S = 1.0
"""How long nobody waits after the lock was waited for in vain: checks must not stand in line for it."""

_POLL_S = 0.0005
_CELL = 8
_TABLE = "table"
_SLOT = "slot-"


class BusyError(Exception):
    """The table's lock could not be had in time."""


class Slots:
    """One worker's view of the shared memory. `folder` None is memory of its own.

    `table` is bytes, `own` the cells of this worker's slot. Raises OSError when the folder has no room.
    """

    def __init__(self, folder: Path | None, *, table_bytes: int, cells: int) -> None:
        self._folder = folder
        self._slot_bytes = cells * _CELL
        self._others: dict[str, Cells] = {}
        self._patient_from_s = 0.0
        if folder is None:
            self.table = memoryview(mmap.mmap(-1, table_bytes))
            self.own = memoryview(mmap.mmap(-1, self._slot_bytes)).cast("d")
            return
        self._table_file = os.open(folder / _TABLE, os.O_RDWR | os.O_CREAT, 0o600)
        with self.lock(START_S):
            if os.fstat(self._table_file).st_size < table_bytes:
                os.truncate(self._table_file, table_bytes)
            self.table = memoryview(mmap.mmap(self._table_file, table_bytes))
            self._name, self._slot_file = self._claim(folder)
            _reserve(self._slot_file, 0, self._slot_bytes)
        self.own = memoryview(mmap.mmap(self._slot_file, self._slot_bytes)).cast("d")

    def _claim(self, folder: Path) -> tuple[str, int]:
        """The lowest slot that no living worker holds; it is held by a lock that ends with the process."""
        number = 0
        while True:
            name = f"{_SLOT}{number}"
            file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
            if _locks(file):
                return name, file
            os.close(file)
            number += 1

    def all(self) -> list[Cells]:
        """The cells of all slots, this worker's first."""
        if self._folder is None:
            return [self.own]
        with suppress(OSError):  # The folder goes before the last of its workers does.
            for path in sorted(self._folder.glob(f"{_SLOT}*")):
                if path.name != self._name and path.name not in self._others:
                    self._map(path)
        return [self.own, *self._others.values()]

    def living(self) -> list[Cells]:
        """The cells of the slots that a worker holds now, this worker's first. To be called under the lock.

        All who try a slot's lock do so under the table's, so that nobody mistakes a trial for a holder.
        """
        found = [self.own]
        self.all()
        for name, cells in self._others.items():
            assert self._folder is not None, "there are others in a folder only"
            with suppress(OSError):
                file = os.open(self._folder / name, os.O_RDWR)
                try:
                    if not _locks(file):
                        found.append(cells)
                finally:
                    os.close(file)
        return found

    def _map(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR)
        try:
            # The slot of a worker that is just starting may have no room yet, and nothing in it.
            if os.fstat(file).st_size >= self._slot_bytes:
                self._others[path.name] = memoryview(mmap.mmap(file, self._slot_bytes)).cast("d")
        finally:
            os.close(file)

    @contextmanager
    def lock(self, patience_s: float = LOCK_S) -> Iterator[None]:
        """Hold the table. Raises BusyError when that takes too long; for a while after that, at once."""
        if self._folder is None:
            yield
            return
        begun_s = time.monotonic()
        while not _locks(self._table_file):
            now_s = time.monotonic()
            if now_s < self._patient_from_s:
                raise BusyError
            if now_s - begun_s >= patience_s:
                self._patient_from_s = now_s + IMPATIENT_S
                raise BusyError
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(self._table_file, fcntl.LOCK_UN)

    def reserve(self, begin: int, length: int) -> None:
        """Have room on the disk for a part of the table; writing without it would end the process. Raises OSError."""
        if self._folder is not None:
            _reserve(self._table_file, begin, length)

    def close(self) -> None:
        """Give the slot back; for tests, because a process's end does the same."""
        if self._folder is not None:
            fcntl.flock(self._slot_file, fcntl.LOCK_UN)  # The memory still holds the file.
            os.close(self._slot_file)
            os.close(self._table_file)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the slots of one service, which owns it. Those whose owners are gone are removed first.

    Raises ConfigError when there is no place for it.
    """
    try:
        for left in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
            _remove_left(left)
        made, lock = _owned()
    except OSError as error:
        told = (
            f"names no folder where the workers can count together: {error.strerror}; set it to one, or use one worker"
        )
        raise ConfigError("environment", [Fault("TMPDIR", told)]) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _owned() -> tuple[Path, int]:
    while True:
        made = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(made, os.O_RDONLY)
            # Another service may have taken it for one that was left behind, before the lock was on it.
            if _locks(lock) and made.exists():
                return made, lock
            os.close(lock)


def _remove_left(left: Path) -> None:
    """Remove a folder of this user's that neither a service nor one of its workers holds."""
    with suppress(OSError):  # Somebody else's, or gone already.
        lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.getuid() and _locks(lock) and not any(map(_is_held, left.iterdir())):
                shutil.rmtree(left)
        finally:
            os.close(lock)


def _is_held(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return not _locks(file)
    finally:
        os.close(file)


def _locks(file: int) -> bool:
    """Whether the lock on an open file can be had at once; then it is."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reserve(file: int, begin: int, length: int) -> None:
    """Have room for a part of a file; where a system or a file system cannot promise it, at least the length."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, begin, length)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
    if os.fstat(file).st_size < begin + length:
        os.truncate(file, begin + length)
