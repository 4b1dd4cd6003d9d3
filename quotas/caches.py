"""Something remembered by digest, bounded in entries and in bytes, and made for millions of them.

Theory of operation. What is asked for often is *at hand*, as the object that it is: one look in one table. All the rest
is *packed*, as bytes, which take a third of the memory and which the garbage collector does not look at: it would stop
a worker for a quarter of a second to look at a million objects, again and again while they become more. While there
is room, whatever is found comes to be at hand; then every `SAMPLE`-th value that is found packed does, so that who asks
often is there soon and who does not costs nothing, and the first that came there goes.

Who can do with the bytes has them as they are (`look`): a plain check does, and to make the object costs a tenth of it.

Packed values lie in `DRAWERS` tables, by the first byte of their digest, each in the order they came. A table that
grows is written anew while the worker waits, and a small one is in less than a millisecond; for the same reason a
cleared cache lets go of its tables bit by bit. Which value goes when there are too many, is "first in, first out, with
a second chance": each has a mark that is set when it is found, and the first of a drawer goes to its end when it has
the mark, which it loses, else away. So to find a value moves nothing. No more than `SPARED` are spared at once: then
one goes that has the mark. While there is room, each that comes has the first `SWEPT` of its drawer looked at, which go
when their time is up, so that short-lived ones do not heap up.

    {a, b, c}: b is found, d comes       {b, c, d}: a had no mark
    e comes                              {d, b, e}: b had one, c not
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

DRAWERS = 256
SAMPLE = 256
SPARED = 32
SWEPT = 2
FREED = 8
"""Entries of a cleared cache that are let go with each that is kept."""

MAX_AT_HAND = 20_000
"""Values that are not packed, of about 1 kB, and what is made of them."""

ENTRY_BYTES = 190
"""What an entry takes beside its packed bytes: its digest (80), its place in a table (37 to 64), and the object."""

_MARKED, _UNMARKED = b"\1", b"\0"
"""How packed bytes end. To set a mark makes them anew, which is seldom; to find them is to look at one object."""


class Remembered(Protocol):
    """What can be remembered."""

    def is_expired(self, now_us: int) -> bool:
        """Whether it is of no use any more."""


V = TypeVar("V", bound=Remembered)


class Cache(Generic[V]):
    """What is remembered, by digests of one length.

    `pack` gives its bytes, and `unpack` the value of them, followed by one that means nothing. `stays` says that this
    very object will be found again, so that what is made of it can be kept with it. No value is `bytes` itself.
    """

    def __init__(
        self, max_entries: int, max_bytes: int, pack: Callable[[V], bytes], unpack: Callable[[bytes, bool], V]
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._pack = pack
        self._unpack = unpack
        self._at_hand: OrderedDict[bytes, V] = OrderedDict()
        self._leaving: list[dict[bytes, bytes]] = []
        self._found = 0
        self._begin()

    def _begin(self) -> None:
        self._drawers: list[dict[bytes, bytes]] = [{} for _ in range(DRAWERS)]
        self._hand = 0
        self._entries = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._entries

    def get(self, digest: bytes) -> V | None:
        """What is remembered under this digest, or None."""
        found = self.look(digest)
        return self._unpack(found, False) if isinstance(found, bytes) else found  # noqa: FBT003 # As below.

    def look(self, digest: bytes) -> V | bytes | None:
        """The same as an object where it is at hand, else as packed bytes, followed by one that means nothing."""
        value = self._at_hand.get(digest)
        if value is not None:
            return value
        drawer = self._drawers[digest[0]]
        packed = drawer.get(digest)
        if packed is None:
            return None
        if not packed[-1]:
            packed = drawer[digest] = packed[:-1] + _MARKED
        self._found += 1
        if self._found % SAMPLE and len(self._at_hand) >= MAX_AT_HAND:
            return packed
        value = self._at_hand[digest] = self._unpack(packed, True)  # noqa: FBT003 # A keyword would be felt in a check.
        if len(self._at_hand) > MAX_AT_HAND:
            self._at_hand.popitem(last=False)
        return value

    def keep(self, digest: bytes, value: V, now_us: int) -> None:
        """Remember a value in place of any other of this digest."""
        self.forget(digest)
        drawer = self._drawers[digest[0]]
        packed = self._pack(value) + _UNMARKED
        size = ENTRY_BYTES + len(packed)
        if self._has_room(size):
            self._sweep(drawer, now_us)
        else:
            while self._entries and not self._has_room(size):
                self._let_one_go(drawer)
        if self._has_room(size):
            drawer[digest] = packed
            self._entries += 1
            self._bytes += size
        self._free()

    def change(self, digest: bytes, change: Callable[[V], V]) -> None:
        """Change what is remembered under this digest, if that is anything."""
        drawer = self._drawers[digest[0]]
        old = drawer.get(digest)
        if old is None:
            return
        packed = drawer[digest] = self._pack(change(self._unpack(old, False))) + old[-1:]  # noqa: FBT003 # As above.
        self._bytes += len(packed) - len(old)
        self._at_hand.pop(digest, None)

    def forget(self, digest: bytes) -> None:
        """Remember nothing under this digest."""
        self._at_hand.pop(digest, None)
        packed = self._drawers[digest[0]].pop(digest, None)
        if packed is not None:
            self._entries -= 1
            self._bytes -= ENTRY_BYTES + len(packed)

    def clear(self) -> None:
        """Remember nothing."""
        self._at_hand.clear()
        self._leaving += [drawer for drawer in self._drawers if drawer]
        self._begin()

    def _has_room(self, size: int) -> bool:
        return self._entries < self._max_entries and self._bytes + size <= self._max_bytes

    def _let_one_go(self, drawer: dict[bytes, bytes]) -> None:
        """Forget the first without a mark: in the drawer that one comes to, or in another where that is empty.

        In the same, or chance would fill some drawers and empty others.
        """
        while not drawer:
            self._hand = (self._hand + 1) % DRAWERS
            drawer = self._drawers[self._hand]
        for _ in range(min(SPARED, len(drawer))):
            digest = next(iter(drawer))
            packed = drawer[digest]
            if not packed[-1] and digest not in self._at_hand:
                break
            del drawer[digest]
            drawer[digest] = packed[:-1] + _UNMARKED
        self.forget(next(iter(drawer)))

    def _sweep(self, drawer: dict[bytes, bytes], now_us: int) -> None:
        """Look at the first of a drawer: they go away when they have expired, else to its end."""
        for _ in range(min(SWEPT, len(drawer))):
            digest = next(iter(drawer))
            packed = drawer[digest]
            if self._unpack(packed, False).is_expired(now_us):  # noqa: FBT003 # As above.
                self.forget(digest)
            else:
                del drawer[digest]
                drawer[digest] = packed

    def _free(self) -> None:
        """Let go of some of what was cleared."""
        if self._leaving:
            drawer = self._leaving[-1]
            for _ in range(min(FREED, len(drawer))):
                drawer.popitem()
            if not drawer:
                self._leaving.pop()
