"""Notices to all workers at once, such as that a token was revoked; who gives one knows when everybody has heard it.

Theory of operation. A worker may decide on what it remembers only while it holds a *lease*, and it renews its lease by
reading the notices. So whoever gives a notice has only to wait until every worker has read it, or until no lease
from before can be in force any more: then no check that starts later is decided on what the notice made untrue. A
worker without a lease reads the notices before it decides.

    q1:{news}             stream   notices, the newest 1,000 or a few more
    q1:{news}:listeners   hash     worker id -> the last notice it has heard, and a count of its beats

1. A *beat* of a worker writes its entry and then reads the notices behind the last one it heard, in this order. When
   the answer comes it does what they say, and then holds a lease that is counted from before the beat was sent.
2. A notice is added first and the entries are read afterwards. A lease in force at that time came from a beat whose
   entry is therefore among them; a later beat reads the notice.
3. The giver waits until each entry says that the notice was heard, for as long as a lease lasts and a margin. A worker
   that has not even beaten in that time is gone, and is taken off the list (`lua/swap.lua`).

Leases are measured by each side's own clock for lengths, never compared between machines; the margin is for clocks
that run at different speeds. A worker that was stopped and goes on finds its lease over.

A worker waits for notices in a blocking read, so that they come at once, on a connection that nothing else waits
for. It begins to listen with the first thing that it remembers. Who has missed notices, because the stream was cut
or lost, is told to forget everything.

A notice that somebody was given units back is waited for by nobody: a `Teller` gives those of some milliseconds in one.

Worked example: a token is revoked at 0 ms; the notice is in the stream at 1 ms; four workers have read it at 2 ms
and their entries say so at 3 ms. Were one of them stopped, the call would return after 1.75 s.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

from quotas import keys
from quotas.errors import StoreUnavailableError
from quotas.scripts import SWAP
from quotas.store import Store, deadline

STREAM = "q1:{news}"
LISTENERS = "q1:{news}:listeners"
MAX_NOTICES = 1000
"""Notices that are kept, and that a worker takes at once; who is further behind forgets everything instead."""

LEASE_S = 1.5
"""How long a worker decides on what it remembers without having asked."""

MARGIN_S = 0.25
BEAT_MS = 300
"""How long a worker waits for a notice before it beats again."""

BEAT_TIMEOUT_S = 1.0
CLIENTS = "clients"
"""The notice that clients were changed, or given units back, is this and their ids; alone it is about all clients."""

MAX_NAMED = 50
"""Clients that one notice names; one about more is about all."""

TELL_PAUSE_S = 0.02
"""Least time between two notices of a `Teller`."""

_PAUSE_S = 0.05
_POLL_S = 0.002
_LONGEST_POLL_S = 0.05
_NONE = "0-0"


def length_clock() -> float:
    """Seconds that never go back and that go on while the machine sleeps, where it can say so."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Listener:
    """A worker's ear. `heard` is given each notice, or None when any number of them was missed.

    `store` is where it asks when it must know now; `own` is a connection that may be kept waiting. Enter it, so that
    it ends with the worker. `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        store: Store,
        own: Store,
        heard: Callable[[str | None], None],
        *,
        clock: Callable[[], float] = length_clock,
    ) -> None:
        self._store = store
        self._own = own
        self._heard = heard
        self._clock = clock
        self._id = keys.new_id("w")
        self._beats = 0
        self._last: str | None = None
        self._lease_until_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._listening, self._asking):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, StoreUnavailableError):
                    await task
        if self._listening is not None:
            with suppress(StoreUnavailableError):
                async with deadline(BEAT_TIMEOUT_S):
                    await self._store.call("HDEL", LISTENERS, self._id)

    def is_current(self) -> bool:
        """Whether what is remembered may be decided on without asking."""
        return self._clock() < self._lease_until_s

    def begin(self) -> None:
        """Listen from now on, for as long as this worker lives; a lease comes with the first beat."""
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen(), name="quotas-news")

    async def catch_up(self) -> None:
        """Hear what there is, unless that was done a moment ago. Raises StoreUnavailableError."""
        if self.is_current():
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._beat(self._store), name="quotas-news-ask")
            self._asking.add_done_callback(_seen)
        await asyncio.shield(self._asking)
        self.begin()

    async def _listen(self) -> None:
        while True:
            try:
                async with deadline(BEAT_TIMEOUT_S):
                    last = self._last
                    await self._beat(self._own)
                    if self._last != last:
                        continue  # Say at once what was heard.
                    await self._own.call("XREAD", "COUNT", 1, "BLOCK", BEAT_MS, "STREAMS", STREAM, self._last or _NONE)
            except StoreUnavailableError:
                await asyncio.sleep(_PAUSE_S)

    async def _beat(self, store: Store) -> None:
        sent_at_s, asked = self._clock(), self._last
        self._beats += 1
        after = asked or _NONE
        # First, and not in one go: in a cluster the two keys can be on different nodes while their slot moves, and who
        # had read before it was listed could miss a notice that was given in between.
        await store.call("HSET", LISTENERS, self._id, f"{after} {self._beats}")
        found, newest = await asyncio.gather(
            store.call("XRANGE", STREAM, f"({after}", "+", "COUNT", MAX_NOTICES),
            store.call("XREVRANGE", STREAM, "+", "-", "COUNT", 1),
        )
        notices = [(entry_id.decode(), words[1].decode()) for entry_id, words in found]
        end = newest[0][0].decode() if newest else _NONE
        is_lost = _number(end) < _number(after)
        if asked is None or is_lost or len(notices) == MAX_NOTICES:
            self._heard(None)
            self._last = end if self._last is None or is_lost else max(self._last, end, key=_number)
        for entry_id, notice in notices:
            if _number(entry_id) > _number(self._last or _NONE):
                self._heard(notice)
                self._last = entry_id
        self._lease_until_s = max(self._lease_until_s, sent_at_s + LEASE_S)


async def announce(store: Store, notice: str, *, clock: Callable[[], float] = length_clock) -> None:
    """Give a notice; when this returns, no check that starts afterwards is decided without it.

    Raises StoreUnavailableError; the notice may have been given.
    """
    given = await _add(store, notice)
    # Whoever comes later reads the notice before it holds a lease.
    behind = {worker: entry for worker, entry in (await _listeners(store)).items() if _heard_of(entry) < given}
    until_s = clock() + LEASE_S + MARGIN_S
    pause_s = _POLL_S
    while behind and clock() < until_s:
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_POLL_S, 2 * pause_s)
        now = await _listeners(store)
        behind = {worker: entry for worker, entry in behind.items() if worker in now and _heard_of(now[worker]) < given}
    for worker, entry in behind.items():
        await store.run(SWAP, (LISTENERS,), (worker, entry, ""))


class Teller:
    """Gives notices about clients that nobody waits for. Enter it: what is left is given when it is left.

    The first goes out at once, and all that come within `TELL_PAUSE_S` of one go in the next, so that no number of
    them keeps workers busy. One that the store does not take is lost.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._untold: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        self._ends = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.set()
        if self._telling is not None:
            await self._telling

    def tell(self, client_id: str) -> None:
        """Have all workers know that a client was changed, or given units back."""
        self._untold.add(client_id)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell(), name="quotas-news-tell")

    async def _tell(self) -> None:
        while self._untold:
            notice, self._untold = about_clients(self._untold), set()
            with suppress(StoreUnavailableError):
                async with deadline(BEAT_TIMEOUT_S):
                    await _add(self._store, notice)
            with suppress(TimeoutError):
                async with asyncio.timeout(TELL_PAUSE_S):
                    await self._ends.wait()


def about_clients(client_ids: Iterable[str]) -> str:
    """The notice that these clients were changed, or given units back; `clients_in` reads it. Ids have no spaces."""
    named = sorted(client_ids)
    return CLIENTS if len(named) > MAX_NAMED else " ".join((CLIENTS, *named))


def clients_in(notice: str) -> list[str] | None:
    """Whom a notice about clients names, nobody when it is about all of them; None when it is about something else."""
    kind, *named = notice.split(" ")
    return named if kind == CLIENTS else None


async def _add(store: Store, notice: str) -> tuple[int, int]:
    """Put a notice into the stream; returns its number."""
    added = await store.call("XADD", STREAM, "MAXLEN", "~", MAX_NOTICES, "*", "notice", notice)
    return _number(added.decode())


async def _listeners(store: Store) -> dict[str, str]:
    words = [word.decode() for word in await store.call("HGETALL", LISTENERS)]
    return dict(zip(words[::2], words[1::2], strict=True))


def _heard_of(entry: str) -> tuple[int, int]:
    """The last notice that a worker had heard when it wrote this."""
    return _number(entry.partition(" ")[0])


def _seen(task: asyncio.Task[None]) -> None:
    """Look at how a beat ended, in case nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


def _number(entry_id: str) -> tuple[int, int]:
    """An entry's id as numbers that can be compared."""
    milliseconds, _, count = entry_id.partition("-")
    return int(milliseconds), int(count)
