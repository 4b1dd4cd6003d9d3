"""Rows that come and go: what is counted by client and plan, for a bounded number of them, the busiest.

Theory of operation. The table says whose each row is, by an entry of client and plan with a *version*; a slot has the
counts of each row beside the version that they are for. Whoever changes an entry raises its version, under the lock;
nobody touches the counts. Counts of another version count as zero, and their owner empties them when it counts in
that row again. So a row is given to another client in one step, however many workers count in it.

A version is even while the entry is somebody's, and odd while it is nobody's or is being written: a worker that is
killed in between leaves an empty row. Each change is noted in a ring of row numbers, so that a worker catches up with
what others have done by looking at those rows only.

While there is room every client gets a row at once. When there is none, newcomers have none, and each worker estimates
how often they ask (`busiest`). Beside its counts each row has a *heat*: its checks, halved every `AGE_S`, as the
estimates are. A newcomer that one worker has counted clearly more often than all workers together counted in the
coolest row takes it over, at most one in `EVICTION_S`. The comparison errs towards leaving rows where they are.

Worked example. Row 7 is acme's at version 4 and beta takes it: version 5, the new entry, version 6. A worker
that remembers acme's row at 4 sees 6 in the table and looks for acme anew. Slot 0 has 900 checks at version 4
in row 7, which are nobody's now; a scrape shows beta with 0.
"""

import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from quotas.busiest import Busiest
from quotas.plans import MOST_CLIENTS
from quotas.slots import BusyError, Cells, Slots

MAX_ROWS = MOST_CLIENTS
COUNTS = 8
"""Cells of a row beside its version."""

ROW_CELLS = COUNTS + 1
SLOT_CELLS = MAX_ROWS * (ROW_CELLS + 1)
"""Cells that the rows and their heat have in a slot."""

AGE_S = 30.0
EVICTION_S = 0.5
MARGIN = 16
"""Checks that a newcomer must have made at least, beyond twice those of the row that it takes."""

CANDIDATES = 1024
"""Newcomers whose checks a worker estimates."""

_FORGOTTEN = 60
"""Halvings after which no count is left."""

_RECORD = 1024
_RING = 1024
_CHANGES, _LIMIT, _USED, _AGED_AT, _AGINGS, _EVICTED_AT, _EVICTIONS, _HEAD = range(8)
_CELL = 8
_VERSIONS = _HEAD + _RING
HEAD_BYTES = (_VERSIONS + MAX_ROWS) * _CELL
"""Bytes of the table that there must be from the start; the rest is reserved as it is needed."""

TABLE_BYTES = HEAD_BYTES + MAX_ROWS * _RECORD
"""Bytes that the entries have in the table."""

Key = tuple[str, str]


@dataclass(eq=False, slots=True)
class Row:
    """An entry as of a version. `first` is its first count, `heat` its heat, as cells of every slot."""

    number: int
    version: float
    client_id: str
    name: str
    plan: str
    first: int
    heat: int

    @property
    def key(self) -> Key:
        """What finds it."""
        return self.client_id, self.plan


class Rows:
    """The rows of a service, as one worker sees them.

    `at` is where they begin in the table, in bytes, and `cell` where in a slot. `clock` counts seconds, is the same for
    all workers and never goes back.
    """

    def __init__(self, slots: Slots, *, at: int, cell: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._at = at
        self._table = slots.table[at : at + HEAD_BYTES].cast("d")
        self._versions = self._table[_VERSIONS:]
        self._own = slots.own
        self._cell = cell
        self._heat = cell + MAX_ROWS * ROW_CELLS
        self._clock = clock
        self._seen = 0
        self._agings = 0.0
        self._entries: list[Row | None] = [None] * MAX_ROWS
        self._of: dict[Key, Row] = {}
        self._named: dict[Key, Row] = {}
        self._mine: dict[Key, Row] = {}
        self._newcomers = Busiest(CANDIDATES)
        self._bar = MARGIN
        self._look_at = 0.0
        self._none_free_below = 0

    @property
    def limit(self) -> int:
        """Rows that may be somebody's."""
        return max(0, int(self._table[_LIMIT]) - 1)

    @property
    def is_limited(self) -> bool:
        """Whether any worker has said how many."""
        return self._table[_LIMIT] > 0

    @property
    def evictions(self) -> float:
        """How often a client has lost its row to a busier one."""
        return self._table[_EVICTIONS]

    def limit_to(self, limit: int) -> None:
        """Have at most so many rows; when there are more, the coolest go. Raises BusyError."""
        assert 0 <= limit <= MAX_ROWS, "the configuration was checked"
        with self._slots.lock():
            self._table[_LIMIT] = limit + 1
            self._catch_up()
            excess = len(self._of) - limit
            if excess > 0:
                heats = self._heats()
                for row in sorted(self._of.values(), key=lambda row: heats[row.number])[:excess]:
                    self._release(row)

    def find(self, client_id: str, name: str, plan: str, *, asks: bool = True) -> Row | None:
        """The row to count a client in, in this worker's slot; None when it has none.

        `asks` is said once for each check: by how often a newcomer asks it is found to be busier than others.
        """
        row = self._mine.get((client_id, plan))
        if row is not None and self._versions[row.number] == row.version:
            return row
        return self._look((client_id, plan), name, asks=asks)

    def admit(self, clients: Iterable[tuple[str, str, str]]) -> None:
        """Give rows to clients, each as (id, name, plan), that have none, as far as there is room. Raises BusyError."""
        with self._slots.lock():
            self._catch_up()
            for client_id, name, plan in clients:
                if (client_id, plan) not in self._of:
                    self._assign((client_id, plan), name)

    def release(self, gone: Iterable[Row]) -> None:
        """Take rows from clients that are no more, unless they are others' by now. Raises BusyError."""
        with self._slots.lock():
            self._catch_up()
            for row in gone:
                if self._versions[row.number] == row.version:
                    self._release(row)

    def refresh(self) -> None:
        """Know what others have changed, and let the past fade. Raises BusyError."""
        with self._slots.lock():
            self._catch_up()
            for row in tuple(self._of.values()):
                self._read(row.number)  # A worker may have been killed before it noted a change.
            self._age()

    def all(self) -> list[Row]:
        """Every row that is somebody's, by its number, as of the last change that is known."""
        return [row for row in self._entries if row is not None]

    def counts(self, row: Row, slots: Iterable[Cells]) -> list[float] | None:
        """What all slots have counted in a row; None when it is another's by now."""
        begin, end = row.first - 1, row.first + COUNTS
        total = [0.0] * COUNTS
        for cells in slots:
            version, *counts = cells[begin:end].tolist()
            if version == row.version:
                total = [a + b for a, b in zip(total, counts, strict=True)]
        return total if self._versions[row.number] == row.version else None

    def _look(self, key: Key, name: str, *, asks: bool) -> Row | None:
        """The long way to a row: the table's news, a free row, or one of somebody who asks less."""
        try:
            row = self._current(key)
            if row is None and (self._table[_CHANGES] != self._seen or len(self._of) < self.limit):
                with self._slots.lock():
                    self._catch_up()
                    row = self._current(key) or self._assign(key, name)
            if row is None and asks:
                row = self._contend(key, name)
        except BusyError:
            return None
        if row is None:
            return None
        if self._own[row.first - 1] != row.version:
            self._own[row.first - 1] = 0.0
            for cell in range(row.first, row.first + COUNTS):
                self._own[cell] = 0.0
            self._own[row.first - 1] = row.version
        self._mine[key] = row
        return row

    def _current(self, key: Key) -> Row | None:
        """The row of a client as it is known, unless it is another's or nobody's by now."""
        row = self._of.get(key)
        if row is not None and self._versions[row.number] != row.version:
            self._forget(row)
            return None
        return row

    def _contend(self, key: Key, name: str) -> Row | None:
        """A row of the coolest client when this newcomer is clearly busier."""
        times = int(self._table[_AGINGS] - self._agings)
        if times:
            self._agings += times
            self._newcomers.halve(min(times, _FORGOTTEN))
            self._bar = MARGIN
        count = self._newcomers.add(key)
        now_s = self._clock()
        if count < self._bar or now_s < self._look_at or not self._of:
            return None
        self._look_at = now_s + EVICTION_S
        with self._slots.lock():
            self._catch_up()
            self._age()
            if key in self._of or not self._of or self._table[_AGINGS] != self._agings:
                return self._current(key)
            heats = self._heats()
            coolest = min(self._of.values(), key=lambda row: heats[row.number])
            self._bar = max(MARGIN, MARGIN + 2 * int(heats[coolest.number]))
            if count < self._bar or now_s < self._table[_EVICTED_AT] + EVICTION_S:
                return None
            self._table[_EVICTED_AT] = now_s
            self._table[_EVICTIONS] += 1
            self._newcomers.forget(key)
            self._release(coolest)
            row = self._assign(key, name)
            if row is not None:
                self._own[row.heat] = count
            return row

    def _catch_up(self) -> None:
        """Look at every row that has changed. To be called under the lock."""
        changes = int(self._table[_CHANGES])
        if changes - self._seen > _RING:
            changed: Iterable[int] = range(int(self._table[_USED]))
        else:
            changed = [int(self._table[_HEAD + change % _RING]) for change in range(self._seen, changes)]
        for number in changed:
            self._read(number)
        self._seen = changes

    def _read(self, number: int) -> None:
        version, old = self._versions[number], self._entries[number]
        if old is not None and old.version == version:
            return
        if old is not None:
            self._forget(old)
        if version and not version % 2:
            at = self._at + HEAD_BYTES + number * _RECORD
            text = bytes(self._slots.table[at : at + _RECORD])
            client_id, name, plan = orjson.loads(text[: text.index(b"\n")])
            first = self._cell + number * ROW_CELLS + 1
            row = Row(number, version, client_id, name, plan, first, self._heat + number)
            self._entries[number] = self._of[row.key] = self._named[name, plan] = row

    def _forget(self, row: Row) -> None:
        """Know a row no more that is another's or nobody's."""
        self._entries[row.number] = None
        self._none_free_below = min(self._none_free_below, row.number)
        for known, key in ((self._of, row.key), (self._mine, row.key), (self._named, (row.name, row.plan))):
            if known.get(key) is row:
                del known[key]

    def _assign(self, key: Key, name: str) -> Row | None:
        """Give a row to a client that has none; None when none is free. To be called under the lock.

        A client that bears the name of one with a row is the one after it: labels must not stand twice.
        """
        client_id, plan = key
        namesake = self._named.get((name, plan))
        if namesake is not None:
            self._release(namesake)
        if len(self._of) >= self.limit:
            return None
        number = next(number for number in range(self._none_free_below, MAX_ROWS) if self._entries[number] is None)
        self._none_free_below = number
        text = orjson.dumps([client_id, name, plan]) + b"\n"
        assert len(text) <= _RECORD, "ids and names are bounded"
        at = self._at + HEAD_BYTES + number * _RECORD
        try:
            self._slots.reserve(at, _RECORD)
        except OSError:
            return None
        if not self._versions[number] % 2:
            self._versions[number] += 1
        self._slots.table[at : at + len(text)] = text
        self._table[_USED] = max(self._table[_USED], number + 1)
        for cells in self._slots.all():
            cells[self._heat + number] = 0.0
        self._change(number)
        return self._entries[number]

    def _release(self, row: Row) -> None:
        """Have a row be nobody's. To be called under the lock."""
        if self._versions[row.number] == row.version:
            self._change(row.number)
        else:
            self._forget(row)  # A worker was killed while it was giving the row away.

    def _change(self, number: int) -> None:
        """Raise a version, and note that."""
        self._versions[number] += 1
        self._table[_HEAD + int(self._table[_CHANGES]) % _RING] = number
        self._table[_CHANGES] += 1
        self._catch_up()

    def _heats(self) -> list[float]:
        """The heat of all rows in use, over all slots. It is an estimate: nobody waits while it is added up."""
        used = int(self._table[_USED])
        columns = [cells[self._heat : self._heat + used].tolist() for cells in self._slots.all()]
        return [sum(heats) for heats in zip(*columns, strict=True)]

    def _age(self) -> None:
        """Halve all heat when it is time. To be called under the lock; a check counted meanwhile may be lost."""
        now_s, aged_at_s = self._clock(), self._table[_AGED_AT]
        if aged_at_s == 0.0:
            self._table[_AGED_AT] = now_s
            return
        times = int((now_s - aged_at_s) // AGE_S)
        if times <= 0:
            return
        begin, end = self._heat, self._heat + int(self._table[_USED])
        factor = 0.5**times
        for cells in self._slots.all():
            cells[begin:end] = memoryview(array("d", [heat * factor for heat in cells[begin:end].tolist()]))
        self._table[_AGED_AT] = aged_at_s + times * AGE_S
        self._table[_AGINGS] += times
