"""The Lua scripts as calls: their files, what they are given, and what their replies mean.

The layouts packed here are described in the headers of `lua/limits.lua` and `lua/usage.lua`; the two change together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from struct import Struct, pack, unpack_from
from typing import NamedTuple

from quotas import windows
from quotas.decisions import Decision, Layout, Memory, Outcome, Standing, layout_of
from quotas.errors import StoreUnavailableError
from quotas.limits import MAX_LIMITS, Bucket, Limit, Mode, Per
from quotas.store import Script, Store
from quotas.tallies import DAY_QUARTERS, DAY_US

TAKEN, REFUSED, REPEATED_TAKE, STALE, WINDOWS, OPEN = 1, 0, 2, -1, -2, -3
GIVEN, REPEATED, GONE = 1, 0, -1
_BUCKET, _QUOTA = 0, 1
_MODES = {Mode.ENFORCE: 0, Mode.SHADOW: 1, Mode.OVERAGE: 2}
HEAD = 26
"""Bytes of a state before its layout."""

_DIGEST = 32
"""Hexadecimal digits of a digest that tells a client's checks apart for some seconds: 128 bits."""

RECEIPT_MS = 86_400_000
"""How long a refund is remembered by its idempotency key: a day."""

_TRIES = 3
_MAX_CACHED_RULES = 256
"""Sets of matching limits whose packed rules a plan keeps; a plan rarely has more than a few."""


def _text(name: str) -> str:
    """The text of `lua/<name>.lua`: from the package when installed, from the repository in development."""
    packaged = files("quotas") / "lua" / f"{name}.lua"
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parent.parent / "lua" / f"{name}.lua").read_text("utf-8")


_COMMON = _text("limits") + _text("usage")
LONG_TAKE = Script("take", _COMMON + _text("take"))
"""A take as its file says it, for tests; `TAKE` begins with the short road, which gives the same."""

TAKE = Script("take", _text("short") + LONG_TAKE.source)
REFUND = Script("refund", _COMMON + _text("refund"))
CLOSE = Script("close", _COMMON + _text("close"))
AMEND = Script("amend", _text("amend"))
ENROL = Script("enrol", _text("enrol"))
SWAP = Script("swap", _text("swap"))
SEEN = Script("seen", _text("seen"))
TALLY = Script("tally", _text("tally"))


def state_key(client_id: str, *, test: bool = False) -> str:
    """Where a client's limits remember what they have given. The id is generated, so no brace can break the tag.

    `test` is for its test keys, where its plan has a test plan.
    """
    return f"q1:{{{client_id}}}:{'test' if test else 'state'}"


def key_state_key(client_id: str, key_id: str) -> str:
    """The same, for the limits that count per key."""
    return f"q1:{{{client_id}}}:key:{key_id}"


def once_key(client_id: str, digest: str) -> str:
    """What one check was answered, for as long as it may be sent again."""
    return f"q1:{{{client_id}}}:once:{digest}"


def record_key(client_id: str) -> str:
    """Where a client's registry record is: in the same slot as its state, because the scripts read both."""
    return f"q1:{{{client_id}}}:client"


def used_key(client_id: str, day: int) -> str:
    """The units that a client has used on a day, counted from the epoch: a hash, see `lua/usage.lua`."""
    return f"q1:{{{client_id}}}:used:{day}"


def refused_key(client_id: str, day: int) -> str:
    """A client's refusals on a day, counted from the epoch: a hash, see `lua/tally.lua`."""
    return f"q1:{{{client_id}}}:refused:{day}"


def tallied_key(client_id: str, worker_id: str) -> str:
    """Which of a worker's counts of refusals a client's history has last."""
    return f"q1:{{{client_id}}}:tallied:{worker_id}"


class PackedLimits:
    """Limits that share one state, packed for the script: the layout once, the rules as long as they hold."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)
        self.layout = b"".join(_layout(limit) for limit in limits)
        self._rules: dict[frozenset[str], tuple[int, int, bytes]] = {}

    def rules(self, now_us: int, skipped: frozenset[str]) -> bytes:
        """The rules at `now_us`, without the limits that this check does not match."""
        known = self._rules.get(skipped)
        if known is not None and known[0] <= now_us < known[1]:
            return known[2]
        begin_us, end_us = 0, now_us + 10**15
        parts = []
        for limit in self.limits:
            head = (limit.name not in skipped, _MODES[limit.mode])
            rule = limit.rule
            if isinstance(rule, Bucket):
                parts.append(pack("<6d", _BUCKET, *head, rule.grains, rule.refill, rule.burst))
            else:
                edges = windows.boundaries(rule, now_us)
                begin_us, end_us = max(begin_us, edges[1]), min(end_us, edges[2])
                parts.append(pack("<8d", _QUOTA, *head, rule.units, *edges))
        packed = b"".join(parts)
        if len(self._rules) >= _MAX_CACHED_RULES:
            self._rules.clear()
        self._rules[skipped] = (begin_us, end_us, packed)
        return packed

    def until_us(self, now_us: int) -> int:
        """Until when the rules of a check that all of these limits are about stay as they are at `now_us`."""
        self.rules(now_us, frozenset())
        return self._rules[frozenset()][1]


def _layout(limit: Limit) -> bytes:
    name = limit.name.encode()
    rule = limit.rule
    if isinstance(rule, Bucket):
        return pack("<BdddB", _BUCKET, rule.grains, rule.refill, rule.burst, len(name)) + name
    return pack("<BB", _QUOTA, len(name)) + name


class PackedPlan:
    """All limits of a plan: those that count per client, and those that count per key."""

    def __init__(self, limits: Iterable[Limit]) -> None:
        limits = tuple(limits)
        self.per_client = PackedLimits([limit for limit in limits if limit.per is Per.CLIENT])
        self.per_key = PackedLimits([limit for limit in limits if limit.per is Per.KEY])
        self.limits = self.per_client.limits + self.per_key.limits
        self.only_enforces = all(limit.mode is Mode.ENFORCE for limit in limits)
        self._takes: dict[tuple[int, int, bool, int], PackedTakes] = {}

    @cached_property
    def fingerprint(self) -> bytes:
        """Another one for every other set of limits: an answer under these limits means nothing under others."""
        return sha256(repr(self.limits).encode()).digest()

    def packed(self, now_us: int, skipped: frozenset[str]) -> tuple[bytes, ...]:
        """Layout and rules as the scripts take them: of the client's limits, then of the key's if there are any."""
        words = (self.per_client.layout, self.per_client.rules(now_us, skipped))
        if not self.per_key.limits:
            return words
        return (*words, self.per_key.layout, self.per_key.rules(now_us, skipped))

    def until_us(self, now_us: int) -> int:
        """Until when the rules of a check that all limits are about stay as they are now."""
        return min(each.until_us(now_us) for each in (self.per_client, self.per_key))

    def takes(self, asked: "Take", now_us: int) -> "PackedTakes":
        """What a take that is about all limits has in common with those for others, now."""
        kind = (len(asked.client_id), len(asked.key_id), asked.test, asked.keep_s)
        takes = self._takes.get(kind)
        if takes is None or not takes.from_us <= now_us < takes.until_us:
            takes = self._takes[kind] = PackedTakes(self, asked, now_us)
        return takes


@dataclass(frozen=True, slots=True)
class Once:
    """That a take may be asked twice: for `within_us`, whole milliseconds, the same `digest` is the same take."""

    digest: str
    within_us: int

    @classmethod
    def of(cls, within_us: int, *parts: bytes) -> "Once":
        """Of everything that makes a take the same; the length before each part keeps two lists from meeting."""
        digest = sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()
        return cls(digest[:_DIGEST], within_us)


class Take(NamedTuple):  # A tuple: each check makes one, at a third of a dataclass's cost.
    """What one take asks. `now_us` picks the calendar windows; the server's clock decides unless `own_clock`.

    `generation` 0 is for a state that no client's record belongs to. `test` takes from the state of the client's test
    keys. `once` None is a take that is never the same as another. What an allowed one takes is in the usage history for
    `keep_s` seconds; 0 is no history.
    """

    client_id: str
    generation: int
    key_id: str
    cost: int
    now_us: int
    own_clock: bool = False
    test: bool = False
    skipped: frozenset[str] = frozenset()
    once: Once | None = None
    keep_s: int = 0


async def take(store: Store, plan: PackedPlan, asked: Take) -> Decision | None:
    """The decision of `lua/take.lua`; None when the client has changed and must be loaded anew.

    One round trip, or two when this worker's clock is a whole window away from the server's, and two more when the
    client has taken nothing for a day. Raises StoreUnavailableError.
    """
    now_us = asked.now_us
    for _ in range(_TRIES):
        reply = numbers_of(await store.run(TAKE, *take_words(plan, asked, now_us)))
        if reply[0] == STALE:
            return None
        if reply[0] == OPEN:
            await _close(store, asked, reply[1])
        elif reply[0] == WINDOWS:
            now_us = reply[1]
        else:
            return decision_of(plan, asked, reply)
    raise _too_fast()


async def _close(store: Store, asked: Take, quarter: int) -> None:
    """Have the history take the units of a client's open quarter; whoever does it first has done it."""
    day = quarter // DAY_QUARTERS
    keys = (state_key(asked.client_id, test=asked.test), used_key(asked.client_id, day))
    await store.run(CLOSE, keys, (_packed_history(day, asked.keep_s), _clock(asked)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """What one refund asks. `taken_us` None is not known; `own_clock`, `test` and `keep_s` as for a take."""

    client_id: str
    key_id: str
    idempotency_key: str
    units: int
    now_us: int
    taken_us: int | None = None
    own_clock: bool = False
    test: bool = False
    skipped: frozenset[str] = frozenset()
    keep_s: int = 0


@dataclass(frozen=True, slots=True)
class Refunded:
    """Whole units that each limit got back, by name; `repeated` says that an earlier call gave them."""

    units: Mapping[str, int]
    repeated: bool


async def refund(store: Store, plan: PackedPlan, asked: Refund) -> Refunded | None:
    """What `lua/refund.lua` gave back; None when there is no such client. Raises StoreUnavailableError."""
    now_us = asked.now_us
    digest = sha256(asked.idempotency_key.encode("utf-8", "surrogateescape")).hexdigest()
    keys: tuple[str, ...] = (
        state_key(asked.client_id, test=asked.test),
        record_key(asked.client_id),
        f"q1:{{{asked.client_id}}}:refund:{digest}",
    )
    if plan.per_key.limits:
        keys += (key_state_key(asked.client_id, asked.key_id),)
    for _ in range(_TRIES):
        taken_us = 0 if asked.taken_us is None else max(1, asked.taken_us)
        at_us = min(taken_us or now_us, now_us)
        history, used = _history(asked, at_us)
        beside = (used_key(asked.client_id, at_us // DAY_US + days) for days in (-1, 1)) if used else ()
        head = (asked.units, _clock(asked), taken_us, RECEIPT_MS, history)
        reply = await store.run(REFUND, (*keys, *used, *beside), (*head, *plan.packed(now_us, asked.skipped)))
        if reply[0] == GONE:
            return None
        if reply[0] != WINDOWS:
            pairs = zip(reply[2::2], reply[3::2], strict=True)
            return Refunded({name.decode(): units for name, units in pairs}, repeated=reply[0] == REPEATED)
        now_us = reply[1]
    raise _too_fast()


class OpenQuarter(NamedTuple):
    """The units that a state counts of one quarter of an hour since the epoch, see `lua/usage.lua`."""

    quarter: int
    units: int


class State(NamedTuple):
    """What the bytes of a state say. `generation` is a copy; without an open quarter it counts no usage."""

    generation: int
    memory: Memory
    open_quarter: OpenQuarter | None


def decode_state(data: bytes) -> State:
    """A state's bytes: the layout in the header of `lua/limits.lua`."""
    generation, at_us, until_us, length = unpack_from("<dddH", data)
    position, values = HEAD, HEAD + length
    levels: dict[str, tuple[Bucket, int]] = {}
    counts: dict[str, tuple[int, int]] = {}
    layout: list[Layout] = []
    while position < HEAD + length:
        kind = data[position]
        grains, refill, burst = unpack_from("<ddd", data, position + 1) if kind == _BUCKET else (0, 0, 0)
        position += 25 if kind == _BUCKET else 1
        name = data[position + 1 : position + 1 + data[position]].decode()
        position += 1 + data[position]
        if kind == _BUCKET:
            (level,) = unpack_from("<d", data, values)
            rule = Bucket(count=int(refill), period_us=int(grains), burst=int(burst))
            levels[name] = (rule, int(level))
            layout.append(layout_of(name, rule))
        else:
            end_us, used = unpack_from("<dd", data, values)
            counts[name] = (int(end_us), int(used))
            layout.append(layout_of(name, None))
        values += 8 if kind == _BUCKET else 16
    open_quarter = None
    if values < len(data):
        quarter, units = unpack_from("<dd", data, values)
        open_quarter = OpenQuarter(int(quarter), int(units))
    return State(int(generation), Memory(int(at_us), int(until_us), tuple(layout), levels, counts), open_quarter)


def take_words(plan: PackedPlan, asked: Take, now_us: int) -> tuple[tuple[str, ...], tuple[bytes | str | int, ...]]:
    """Keys and arguments of `lua/take.lua`; `now_us` picks the windows' boundaries."""
    keys: tuple[str, ...] = (state_key(asked.client_id, test=asked.test), record_key(asked.client_id))
    if plan.per_key.limits:
        keys += (key_state_key(asked.client_id, asked.key_id),)
    history, used = _history(asked, now_us)
    keys += used
    words: tuple[bytes | str | int, ...] = (
        asked.generation,
        asked.cost,
        _clock(asked),
        history,
        *plan.packed(now_us, asked.skipped),
    )
    if asked.once is None:
        return keys, words
    return (*keys, once_key(asked.client_id, asked.once.digest)), (*words, asked.once.within_us)


_USUAL_KEYS = 3
"""Of a take with a history, of a plan without limits that count per key: state, record and history."""


class PackedTakes:
    """The takes of one unit of a plan, as bytes but for whose they are: as `TAKE.packed` of `take_words` gives them.

    It is for ids of these lengths, and holds from `from_us` on and before `until_us`.
    """

    __slots__ = ("_format", "_ids", "_is_usual", "_takes_key", "from_us", "until_us")

    def __init__(self, plan: PackedPlan, asked: Take, now_us: int) -> None:
        keys, (_, *words) = take_words(plan, asked, now_us)
        assert asked.cost == 1, "no other is said, or told by a path"
        assert asked.once is None, "what makes a check the same is different for each"
        assert not asked.skipped, "no limit is about a path"
        self._takes_key = bool(plan.per_key.limits)
        self._ids = len(keys)
        self._is_usual = self._ids == _USUAL_KEYS and not self._takes_key
        head = b"".join(map(_bulk, (b"EVALSHA", TAKE.digest.encode(), b"%d" % len(keys))))
        places = b"".join(_bulk(key.encode()) for key in keys)
        rest = b"".join(_bulk(word if isinstance(word, bytes) else str(word).encode()) for word in words)
        places = places.replace(b"{%b}" % asked.client_id.encode(), b"{%b}")
        if self._takes_key:
            places = places.replace(b"}:key:%b" % asked.key_id.encode(), b"}:key:%b")
        count = 3 + len(keys) + 1 + len(words)
        self._format = b"*%d\r\n%b%b$%%d\r\n%%b\r\n%b" % (count, head, places, rest.replace(b"%", b"%%"))
        self.from_us = now_us
        self.until_us = min(plan.until_us(now_us), (now_us // DAY_US + 1) * DAY_US)  # A history is of one day.

    def packed(self, client_id: bytes, key_id: bytes, generation: bytes) -> bytes:
        """The command of one take, of ids and a generation as they stand in it."""
        if self._is_usual:  # To put the words together in steps would take as long again.
            return self._format % (client_id, client_id, client_id, len(generation), generation)
        ids: tuple[bytes | int, ...] = (client_id,) * self._ids
        if self._takes_key:
            ids = (*ids[:3], key_id, *ids[3:])
        return self._format % (*ids, len(generation), generation)


def _bulk(word: bytes) -> bytes:
    """One word of a command, as the protocol has it (RESP, bulk strings)."""
    return b"$%d\r\n%b\r\n" % (len(word), word)


def _history(asked: Take | Refund, at_us: int) -> tuple[bytes, tuple[str, ...]]:
    """The history as the scripts take it, and its key; nothing of both where none is kept."""
    if not asked.keep_s:
        return b"", ()
    day = at_us // DAY_US
    return _packed_history(day, asked.keep_s), (used_key(asked.client_id, day),)


@lru_cache(maxsize=64)
def _packed_history(day: int, keep_s: int) -> bytes:
    return pack("<dd", day * DAY_US, keep_s)


def _clock(asked: Take | Refund) -> str:
    """The instant as the scripts take it: 0 is the server's own, so the epoch is 00."""
    return f"{asked.now_us:02}" if asked.own_clock else "0"


def _too_fast() -> StoreUnavailableError:
    return StoreUnavailableError("reply", "the server's clock moves faster than windows can be computed")


_standing: Callable[[tuple[object, ...]], Standing] = partial(tuple.__new__, Standing)
"""A standing of its four values; the constructor of a named tuple is Python, and three of them are felt in a check."""


_READ_BY_SIZE = {8 * count: Struct(f"<{count}q").unpack for count in range(1, 3 + 3 * MAX_LIMITS)}


def numbers_of(reply: bytes) -> tuple[int, ...]:
    """The numbers of a reply of `lua/take.lua`."""
    return _READ_BY_SIZE[len(reply)](reply)


def decision_of(plan: PackedPlan, asked: Take, reply: Sequence[int]) -> Decision:
    """What a reply of `lua/take.lua` means, other than that it was not decided."""
    limits: Sequence[Limit] = plan.limits
    if asked.skipped:
        limits = [limit for limit in limits if limit.name not in asked.skipped]
    assert len(reply) == 2 + 3 * len(limits), "take.lua reports three numbers for each limit that applies"
    numbers = reply if -1 not in reply else [None if number < 0 else number for number in reply]
    standings = tuple(map(_standing, zip(limits, reply[2::3], numbers[3::3], numbers[4::3], strict=True)))
    if reply[0] == TAKEN and plan.only_enforces:
        return Decision(reply[1], Outcome.TAKEN, standings)  # None of them waits, or it had not been taken.
    decision = Decision.of(reply[1], standings)
    assert decision.allowed == (reply[0] != REFUSED), "the script and the decision agree on who may pass"
    return decision._replace(repeated=True) if reply[0] == REPEATED_TAKE else decision
