"""Refusals for the usage history: counted in the worker, and added to the store's every second.

A refusal writes nothing, so that a flood of them costs one script that reads. What a worker has counted leaves as
numbered calls of `lua/tally.lua`, which stay until the store has said that it has them: a call whose reply was lost is
sent again with its number, and the script knows it. So refusals are counted once, through an outage too, unless the
mark that knows the number has gone meanwhile (an hour), or the worker dies first: then up to a second of them is lost.

An outage can be longer than memory: a worker keeps so many cells (client, quarter of an hour, outcome), and what finds
no cell is lost. A metric counts that, and the log says it once when it begins and once when it is over.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from quotas import keys
from quotas.holders import Client
from quotas.scripts import TALLY, record_key, refused_key, tallied_key
from quotas.store import Store, Word
from quotas.tallies import DAY_QUARTERS, QUARTER_US

MAX_CELLS = 100_000
"""Cells that a worker keeps, those under way included: some 30 MB."""

BATCH = 100
"""Calls that are sent at a time: the store serves checks between two batches."""

MARK_S = 3600
"""How long the store knows that it has a call's refusals."""

_ROUNDS = 2

log = logging.getLogger("quotas.usage")


class _Cell(NamedTuple):
    """A client, as long as it is the one that was made then; a quarter since the epoch; the outcome."""

    client_id: str
    created_at_us: int
    quarter: int
    outcome: str


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the script, and how many cells it has."""

    keys: tuple[str, ...]
    words: tuple[Word, ...]
    cells: int


class Refusals:
    """What one worker has counted and the store has not confirmed. `lost` is told how many refusals found no room."""

    def __init__(self, store: Store, lost: Callable[[int], None]) -> None:
        self._store = store
        self._lost = lost
        self._worker = keys.new_id("w")
        self._number = 0
        self._cells: dict[_Cell, int] = {}
        self._calls: list[_Call] = []
        self._under_way = 0
        self._keep_s = 0
        self._missed = 0

    def note(self, client: Client, outcome: str, at_us: int, keep_s: int) -> None:
        """A client was refused at an instant of the store's clock, and it is to be kept for `keep_s`. Asks nobody."""
        self._keep_s = keep_s
        cell = _Cell(client.id, client.created_at_us, at_us // QUARTER_US, outcome)
        known = self._cells.get(cell)
        if known is not None:
            self._cells[cell] = known + 1
        elif len(self._cells) + self._under_way < MAX_CELLS:
            self._cells[cell] = 1
        else:
            self._lost(1)
            if not self._missed:
                log.warning("%d counts of refusals wait for the store; further ones are in no usage history", MAX_CELLS)
            self._missed += 1

    async def write(self) -> None:
        """Add to the histories what was counted. Raises StoreUnavailableError; what is left goes the next time."""
        for _ in range(_ROUNDS):  # What was under way when the store went, and then what came since.
            if not self._calls:
                self._calls = self._packed()
                self._under_way, self._cells = len(self._cells), {}
            if self._calls:
                await self._store.load(TALLY)
            while self._calls:
                batch = self._calls[:BATCH]
                await self._store.run_all(TALLY, [(call.keys, call.words) for call in batch])
                del self._calls[:BATCH]
                self._under_way -= sum(call.cells for call in batch)
        if self._missed:
            log.warning("%d refusals are in no usage history: the store could not take them in time", self._missed)
            self._missed = 0

    def _packed(self) -> list[_Call]:
        """Calls for all cells, one for each client and day."""
        days: dict[tuple[str, int, int], list[Word]] = {}
        for cell, refusals in self._cells.items():
            day, quarter = divmod(cell.quarter, DAY_QUARTERS)
            pairs = days.setdefault((cell.client_id, cell.created_at_us, day), [])
            pairs += (f"{quarter}:{cell.outcome}", refusals)
        calls = []
        for (client_id, created_at_us, day), pairs in days.items():
            self._number += 1
            named = (record_key(client_id), refused_key(client_id, day), tallied_key(client_id, self._worker))
            words = (created_at_us, self._number, self._keep_s, MARK_S, *pairs)
            calls.append(_Call(named, words, len(pairs) // 2))
        return calls
