"""Foreign keys brought in: a file is read twice, so that nothing is kept of one that has a fault.

The first reading looks for every fault, in the file and against the registry; the second writes, some hundred keys at
a time. What is in memory is one such batch, and of the rest the digests and the clients, to see whether they agree.
Asking again writes what is missing, whatever an earlier import had come to.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

from quotas import keys
from quotas.audit import Change, Told
from quotas.errors import ConfigError, Fault, StoreUnavailableError
from quotas.foreign import ForeignKey, place, read
from quotas.holders import Client, Key
from quotas.registry import Registry

BATCH = 500
"""Keys that are looked up, and written, at a time."""

MAX_FAULTS = 1_000
"""Faults that are told at once; reading ends where there are more."""


@dataclass(slots=True)
class Imported:
    """How many keys of a file are new, how many were there already, and how many have expired and are left out."""

    new: int = 0
    present: int = 0
    expired: int = 0


class Importer:
    """Brings foreign keys in. `clock` gives epoch microseconds; `heard` is told once, of the whole file."""

    def __init__(self, registry: Registry, *, clock: Callable[[], int], heard: Told = lambda _: None) -> None:
        self._registry = registry
        self._clock = clock
        self._heard = heard

    async def run(self, lines: TextIO, source: str, *, dry_run: bool = False) -> Imported:
        """Import what `lines` say, which must be seekable; with `dry_run`, only count what would be done.

        Raises ConfigError with every fault, and then nothing is kept; StoreUnavailableError, and then what was
        written stays: the same call goes on from there.
        """
        now_us = self._clock()
        look = _Look(self._registry, now_us)
        for rows in _batches(lines):
            await look.at(rows)
            if len(look.faults) >= MAX_FAULTS:
                look.faults.append(Fault("(file)", "was read no further; mend these first"))
                break
        if look.faults:
            raise ConfigError(source, look.faults)
        if dry_run:
            return look.found
        lines.seek(0)
        written = Imported(expired=look.found.expired)
        try:
            for rows in _batches(lines):
                await self._write(_good(rows, source), look, written)
        except StoreUnavailableError as error:
            told = f"{written.new} keys have been imported, and the same command imports the rest"
            raise StoreUnavailableError(error.kind, f"{str(error).removeprefix(error.kind + ': ')}; {told}") from error
        finally:
            if written.new:
                self._heard(Change("key.import", source, {"new": written.new, "present": written.present}))
        return written

    async def _write(self, rows: list[ForeignKey], look: "_Look", written: Imported) -> None:
        made = [look.key(row) for row in rows if not look.is_expired(row)]
        new = await self._registry.import_keys(made)
        written.new += new
        written.present += len(made) - new


class _Look:
    """The first reading: what is wrong with the rows, and what would be done."""

    def __init__(self, registry: Registry, now_us: int) -> None:
        self._registry = registry
        self._now_us = now_us
        self._clients: dict[str, Client | None] = {}
        self._above: dict[bytes, tuple[int, str]] = {}
        self.faults: list[Fault] = []
        self.found = Imported()

    async def at(self, read_rows: list[ForeignKey | list[Fault]]) -> None:
        """Look at the next rows."""
        rows = [row for row in read_rows if isinstance(row, ForeignKey)]
        names = list({row.client for row in rows} - self._clients.keys())
        clients = await asyncio.gather(*(self._registry.client(name) for name in names))
        self._clients.update(zip(names, clients, strict=True))
        owners = iter(await self._registry.owners([row.digest for row in rows]))
        for row in read_rows:
            self.faults += self._told(row, next(owners)) if isinstance(row, ForeignKey) else row

    def _told(self, row: ForeignKey, owner: str | None) -> list[Fault]:
        """What is wrong with a row whose digest is of a key of the client `owner`; counts it when nothing is."""
        client = self._clients[row.client]
        if client is None:
            return [Fault(place(row.row, "client"), f"there is no client {row.client!r}; create it first")]
        begin, above = self._above.setdefault(bytes.fromhex(row.digest), (row.row, client.id))
        if above != client.id:
            return [Fault(place(row.row, "sha256"), f"stands on line {begin}, for another client")]
        if owner not in {None, client.id}:
            return [Fault(place(row.row, "sha256"), "is of a key that another client has already")]
        if self.is_expired(row):
            self.found.expired += 1
        elif owner is None and begin == row.row:
            self.found.new += 1
        else:
            self.found.present += 1
        return []

    def is_expired(self, row: ForeignKey) -> bool:
        """Whether the key would be of no use."""
        return row.expires_at_us is not None and row.expires_at_us <= self._now_us

    def key(self, row: ForeignKey) -> tuple[Key, str]:
        """The key that a row makes, and its digest."""
        client = self._clients.get(row.client)
        if client is None:
            raise ConfigError("import", [Fault(place(row.row), "has changed while the file was read")])
        key = Key(
            keys.new_id(keys.KEY_KIND),
            client.id,
            row.name,
            row.shown,
            row.environment,
            self._now_us,
            row.expires_at_us,
            row.scopes,
            imported=True,
        )
        return key, row.digest


def _batches(lines: TextIO) -> Iterator[list[ForeignKey | list[Fault]]]:
    rows = read(lines)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _good(rows: list[ForeignKey | list[Fault]], source: str) -> list[ForeignKey]:
    """The rows of a second reading, in which there was no fault the first time."""
    faults = [fault for row in rows if not isinstance(row, ForeignKey) for fault in row]
    if faults:
        raise ConfigError(source, faults)
    return [row for row in rows if isinstance(row, ForeignKey)]
