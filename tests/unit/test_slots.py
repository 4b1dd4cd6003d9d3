"""Shared memory: who has which slot, what stays when a worker ends, and that no folder is left lying about."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from quotas import slots
from quotas.errors import ConfigError
from quotas.slots import BusyError, Slots


def one(folder: Path | None) -> Slots:
    return Slots(folder, table_bytes=4096, cells=16)


def test_a_replacement_goes_on_with_the_slot_of_the_worker_that_died(tmp_path: Path) -> None:
    workers = [one(tmp_path) for _ in range(3)]
    for number, worker in enumerate(workers):
        worker.own[5] = 10 + number
    assert [cells[5] for cells in workers[2].all()] == [12, 10, 11]
    workers[1].close()
    with workers[0].lock():
        assert len(workers[0].living()) == 2
    successor = one(tmp_path)
    assert successor.own[5] == 11
    successor.own[5] += 1
    assert sum(cells[5] for cells in workers[0].all()) == 34
    with workers[0].lock():
        assert len(workers[0].living()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slot-0", "slot-1", "slot-2", "table"]


def test_a_worker_alone_has_memory_of_its_own() -> None:
    first, second = one(None), one(None)
    first.own[0] = 1
    first.table[0] = 1
    assert (second.own[0], second.table[0]) == (0, 0)
    assert [cells[0] for cells in first.all()] == [1]
    with first.lock():
        assert len(first.living()) == 1


def test_a_lock_that_is_not_to_be_had_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, other = one(tmp_path), one(tmp_path)
    monkeypatch.setattr(slots, "IMPATIENT_S", 1_000)
    with other.lock():
        for _ in range(2):
            with pytest.raises(BusyError), worker.lock(0.001):
                pytest.fail("it is the other's")
    with worker.lock():
        pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_of_a_service_goes_with_it(place: Path) -> None:
    with slots.folder() as folder:
        assert folder.parent == place
        one(folder)
    assert list(place.iterdir()) == []


def test_what_a_killed_service_left_is_removed_by_the_next(place: Path) -> None:
    left = place / f"{slots.PREFIX}left"
    left.mkdir()
    one(left).close()
    (left / "newest.yaml").write_text("plans: {}")
    (place / f"{slots.PREFIX}empty").mkdir()
    others = [place / "quotas-other", place / f"{slots.PREFIX}file"]
    others[0].mkdir()
    others[1].write_text("no folder")
    (place / f"{slots.PREFIX}link").symlink_to(others[0])
    with slots.folder() as folder:
        assert sorted(place.iterdir()) == sorted([folder, *others, place / f"{slots.PREFIX}link"])


def test_what_a_service_or_a_worker_still_has_is_left_alone(place: Path) -> None:
    with slots.folder() as first, slots.folder() as second:
        assert first.exists()
        assert second.exists()
    orphaned = place / f"{slots.PREFIX}orphaned"
    orphaned.mkdir()
    worker = one(orphaned)
    with slots.folder():
        assert orphaned.exists()
    worker.close()
    with slots.folder():
        assert not orphaned.exists()


def test_a_lock_is_on_the_folder_that_is_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may remove a new folder before it is locked."""
    locks = slots._locks  # noqa: SLF001 # The moment in between.
    removed: list[Path] = []

    def unlucky(file: int) -> bool:
        if not removed:
            (made,) = place.iterdir()
            made.rmdir()
            removed.append(made)
        return locks(file)

    monkeypatch.setattr(slots, "_locks", unlucky)
    with slots.folder() as folder:
        assert folder.exists()
        assert folder not in removed
        held = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)


def test_a_place_that_is_none_is_a_fault_that_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "none"))
    with pytest.raises(ConfigError, match="TMPDIR"), slots.folder():
        pytest.fail("there is no such place")


def failing(number: int) -> Callable[[int, int, int], None]:
    def fail(_: int, __: int, ___: int) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_system_that_promises_no_room_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP))
    first, second = one(tmp_path), one(tmp_path)
    second.own[15] = 3
    assert sum(cells[15] for cells in first.all()) == 3


def test_a_full_disk_is_an_error_at_the_start_and_not_the_end_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = one(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        one(tmp_path)
    with pytest.raises(OSError, match="No space"):
        worker.reserve(0, 1)
