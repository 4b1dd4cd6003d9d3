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

A check of a newcomer is noted, no more. Newcomers are *weighed* when `BATCH` checks are noted, and at the first check
of any newcomer that comes `EVICTION_S` after the last time: what was noted is added to the estimates in one go, and
only then may the busiest newcomer take a row. So the busiest of them has its row about a second after it became clearly
busier, whether checks are few or many. One that was deleted in that second may get a row too, until the next scrape
finds that it is gone. A weighing takes some tenths of a millisecond. At most once in `EVICTION_S` a worker compares the
heat of all rows as well: for four workers that takes half a millisecond with 1,000 rows, and three with 10,000.

Nearly all checks of newcomers end there because two cells of the table say so: while neither the changes nor the limit
are others than when the rows were full, no row is free and nobody new has one.

Worked example. Row 7 is acme's at version 4 and beta takes it: version 5, the new entry, version 6. A worker
that remembers acme's row at 4 sees 6 in the table and looks for acme anew. Slot 0 has 900 checks at version 4
in row 7, which are nobody's now; a scrape shows beta with 0.
"""

import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from operator import add

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

BATCH = 1024
"""Checks that are noted at most before newcomers are weighed."""

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

Key = tuple[str, str, str]
"""Whose a row is: id, name and plan of a client."""

_NOT_FULL = -1.0


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
        return self.client_id, self.name, self.plan


class Rows:
    """The rows of a service, as one worker sees them.

    `at` is where they begin in the table, in bytes, and `cell` where in a slot. `clock` counts seconds, is the same for
    all workers and never goes back.

    `mine` has rows that this worker has counted in, by the ids of their clients, and `versions` the versions in force,
    by the numbers of rows. Both are for reading, and stay the same objects. A row of `mine` is the one to count in when
    its version is in force and its plan the one asked for; else `look` says which is.
    """

    def __init__(self, slots: Slots, *, at: int, cell: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._at = at
        self._table = slots.table[at : at + HEAD_BYTES].cast("d")
        self.versions = self._table[_VERSIONS:]
        self._own = slots.own
        self._cell = cell
        self._heat = cell + MAX_ROWS * ROW_CELLS
        self._clock = clock
        self._seen = 0
        self._agings = 0.0
        self._entries: list[Row | None] = [None] * MAX_ROWS
        self.mine: dict[str, Row] = {}
        self._of: dict[Key, Row] = {}
        self._named: dict[tuple[str, str], Row] = {}
        self._full_at = _NOT_FULL
        self._full_limit = 0.0
        self._asked: list[Key] = []
        self._newcomers = Busiest(CANDIDATES)
        self._bar = MARGIN
        self._weigh_at = 0.0
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
        row = self.mine.get(client_id)
        if row is not None and self.versions[row.number] == row.version and row.plan == plan:
            return row
        return self.look((client_id, name, plan), asks=asks)

    def look(self, key: Key, *, asks: bool = True) -> Row | None:
        """The same for one that `mine` has no row for: by the table's news, a free row, or one of who asks less."""
        table = self._table
        if table[_CHANGES] != self._full_at or table[_LIMIT] != self._full_limit or key in self._of:
            try:
                row = self._current(key) or self._free(key)
            except BusyError:
                return None
            if row is not None:
                return self._prepared(row)
        if not asks:
            return None
        asked = self._asked
        asked.append(key)
        if len(asked) < BATCH and self._clock() < self._weigh_at:
            return None
        self._weigh()
        row = self._current(key)
        return None if row is None else self._prepared(row)

    def admit(self, clients: Iterable[tuple[str, str, str]]) -> None:
        """Give rows to clients, each as (id, name, plan), that have none, as far as there is room. Raises BusyError."""
        with self._slots.lock():
            self._catch_up()
            for client_id, name, plan in clients:
                if (client_id, name, plan) not in self._of:
                    self._assign((client_id, name, plan))

    def release(self, gone: Iterable[Row]) -> None:
        """Take rows from clients that are no more, unless they are others' by now. Raises BusyError."""
        with self._slots.lock():
            self._catch_up()
            for row in gone:
                if self.versions[row.number] == row.version:
                    self._release(row)

    def refresh(self) -> None:
        """Know what others have changed, and let the past fade. Nobody takes a row by this. Raises BusyError."""
        with self._slots.lock():
            self._catch_up()
            for row in tuple(self._of.values()):
                self._read(row.number)  # A worker may have been killed before it noted a change.
            self._add_up()  # Before the fading: it is the past that is noted.
            self._age()
            self._fade()

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
        return total if self.versions[row.number] == row.version else None

    def _current(self, key: Key) -> Row | None:
        """The row of a client as it is known, unless it is another's or nobody's by now."""
        row = self._of.get(key)
        if row is not None and self.versions[row.number] != row.version:
            self._forget(row)
            return None
        return row

    def _free(self, key: Key) -> Row | None:
        """A row for a client that has none as far as is known; None when none is free. Raises BusyError."""
        row = None
        limit = self._table[_LIMIT]
        if self._table[_CHANGES] != self._seen or len(self._of) < limit - 1:
            with self._slots.lock():
                self._catch_up()
                limit = self._table[_LIMIT]
                row = self._current(key) or self._assign(key)
        if row is None and len(self._of) >= limit - 1:
            self._full_at, self._full_limit = float(self._seen), limit
        return row

    def _prepared(self, row: Row) -> Row:
        """The same row, with counts of its version in this worker's slot; the next look for it is short.

        A client has one at a time in `mine`: few check on two plans, and a look for the other is not much longer.
        """
        if self._own[row.first - 1] != row.version:
            self._own[row.first - 1] = 0.0
            for cell in range(row.first, row.first + COUNTS):
                self._own[cell] = 0.0
            self._own[row.first - 1] = row.version
        self.mine[row.client_id] = row
        return row

    def _weigh(self) -> None:
        """Add up what was noted; the busiest newcomer gets the row of the coolest client if it is clearly busier."""
        self._add_up()
        now_s = self._clock()
        self._weigh_at = now_s + EVICTION_S
        if self._newcomers.highest < self._bar or now_s < self._look_at or not self._of:
            return
        self._look_at = now_s + EVICTION_S
        with suppress(BusyError), self._slots.lock():
            self._catch_up()
            self._age()
            self._fade()
            self._contend(now_s)

    def _add_up(self) -> None:
        """Have the estimates count what was noted, as if all of that was before heat last faded: rather too little."""
        self._newcomers.add(self._asked)
        self._asked.clear()
        self._fade()

    def _fade(self) -> None:
        """Have the estimates fade as often as heat has."""
        times = int(self._table[_AGINGS] - self._agings)
        if times:
            self._agings += times
            self._newcomers.halve(min(times, _FORGOTTEN))
            self._bar = MARGIN

    def _contend(self, now_s: float) -> None:
        """Give the coolest row to the busiest newcomer, if it may have it. To be called under the lock."""
        self._newcomers.forget(self._of)
        busiest = self._newcomers.most()
        if busiest is None or not self._of:
            return
        key, count = busiest
        heats = self._heats()
        coolest = self._entries[min(compress(range(len(heats)), self._entries), key=heats.__getitem__)]
        assert coolest is not None, "empty entries were left out"
        self._bar = max(MARGIN, MARGIN + 2 * int(heats[coolest.number]))
        if count < self._bar or now_s < self._table[_EVICTED_AT] + EVICTION_S:
            return
        self._table[_EVICTED_AT] = now_s
        self._table[_EVICTIONS] += 1
        self._newcomers.forget({key})
        self._release(coolest)
        row = self._assign(key)
        if row is not None:
            self._own[row.heat] = count

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
        version, old = self.versions[number], self._entries[number]
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
        self._full_at = _NOT_FULL
        if self._of.get(row.key) is row:
            del self._of[row.key]
        if self.mine.get(row.client_id) is row:
            del self.mine[row.client_id]
        if self._named.get((row.name, row.plan)) is row:
            del self._named[row.name, row.plan]

    def _assign(self, key: Key) -> Row | None:
        """Give a row to a client that has none; None when none is free. To be called under the lock.

        A client that bears the name of one with a row is the one after it: labels must not stand twice.
        """
        client_id, name, plan = key
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
        if not self.versions[number] % 2:
            self.versions[number] += 1
        self._slots.table[at : at + len(text)] = text
        self._table[_USED] = max(self._table[_USED], number + 1)
        for cells in self._slots.all():
            cells[self._heat + number] = 0.0
        self._change(number)
        return self._entries[number]

    def _release(self, row: Row) -> None:
        """Have a row be nobody's. To be called under the lock."""
        if self.versions[row.number] == row.version:
            self._change(row.number)
        else:
            self._forget(row)  # A worker was killed while it was giving the row away.

    def _change(self, number: int) -> None:
        """Raise a version, and note that."""
        self.versions[number] += 1
        self._table[_HEAD + int(self._table[_CHANGES]) % _RING] = number
        self._table[_CHANGES] += 1
        self._catch_up()

    def _heats(self) -> list[float]:
        """The heat of all rows in use, over all slots. It is an estimate: nobody waits while it is added up."""
        begin, end = self._heat, self._heat + int(self._table[_USED])
        own, *others = self._slots.all()
        heats = list(own[begin:end])
        for cells in others:
            heats = list(map(add, heats, cells[begin:end]))
        return heats

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
