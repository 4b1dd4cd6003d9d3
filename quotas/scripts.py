"""The Lua scripts as calls: their files, what they are given, and what their replies mean.

The layouts packed here are described in the header of `lua/take.lua`; the two change together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from struct import pack

from quotas import windows
from quotas.decisions import Decision, Standing
from quotas.errors import StoreUnavailableError
from quotas.limits import Bucket, Limit, Mode, Per, Quota
from quotas.store import Script, Store

TAKEN, REFUSED, STALE, WINDOWS = 1, 0, -1, -2
_BUCKET, _QUOTA = 0, 1
_MODES = {Mode.ENFORCE: 0, Mode.SHADOW: 1, Mode.OVERAGE: 2}
_MAX_CACHED_RULES = 256
"""Sets of matching limits whose packed rules a plan keeps; a plan rarely has more than a few."""


def load(name: str) -> Script:
    """The script `lua/<name>.lua`: from the package when installed, from the repository in development."""
    packaged = files("quotas") / "lua" / f"{name}.lua"
    if packaged.is_file():
        return Script(name, packaged.read_text("utf-8"))
    return Script(name, (Path(__file__).parent.parent / "lua" / f"{name}.lua").read_text("utf-8"))


TAKE = load("take")
AMEND = load("amend")


def state_key(client_id: str) -> str:
    """Where a client's limits remember what they have given. The id is generated, so no brace can break the tag."""
    return f"q1:{{{client_id}}}:state"


def key_state_key(client_id: str, key_id: str) -> str:
    """The same, for the limits that count per key."""
    return f"q1:{{{client_id}}}:key:{key_id}"


def record_key(client_id: str) -> str:
    """Where a client's registry record is: in the same slot as its state, because the scripts read both."""
    return f"q1:{{{client_id}}}:client"


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
            parts.append(pack("<BB", limit.name not in skipped, _MODES[limit.mode]))
            if isinstance(limit.rule, Quota):
                edges = windows.boundaries(limit.rule, now_us)
                begin_us, end_us = max(begin_us, edges[1]), min(end_us, edges[2])
                parts.append(pack("<ddddd", limit.rule.units, *edges))
        packed = b"".join(parts)
        if len(self._rules) >= _MAX_CACHED_RULES:
            self._rules.clear()
        self._rules[skipped] = (begin_us, end_us, packed)
        return packed


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """What one take asks. `now_us` picks the calendar windows; the server's clock decides unless `own_clock`."""

    client_id: str
    generation: int
    key_id: str
    cost: int
    now_us: int
    own_clock: bool = False
    skipped: frozenset[str] = frozenset()


async def take(store: Store, plan: PackedPlan, asked: Take) -> Decision | None:
    """The decision of `lua/take.lua`; None when the client has changed and must be loaded anew.

    One round trip, or two when this worker's clock is a whole window away from the server's.
    Raises StoreUnavailableError.
    """
    now_us = asked.now_us
    for _ in range(2):
        reply = await store.run(TAKE, *_words(plan, asked, now_us))
        if reply[0] == STALE:
            return None
        if reply[0] != WINDOWS:
            return _decision(plan, asked, reply)
        now_us = reply[1]
    raise StoreUnavailableError("reply", "the server's clock moves faster than windows can be computed")


def _words(plan: PackedPlan, asked: Take, now_us: int) -> tuple[tuple[str, ...], tuple[bytes | int, ...]]:
    keys: tuple[str, ...] = (state_key(asked.client_id), record_key(asked.client_id))
    clock_us = asked.now_us if asked.own_clock else 0
    per_client = (plan.per_client.layout, plan.per_client.rules(now_us, asked.skipped))
    if not plan.per_key.limits:
        return keys, (asked.generation, asked.cost, clock_us, *per_client)
    per_key = (plan.per_key.layout, plan.per_key.rules(now_us, asked.skipped))
    keys += (key_state_key(asked.client_id, asked.key_id),)
    return keys, (asked.generation, asked.cost, clock_us, *per_client, *per_key)


def _decision(plan: PackedPlan, asked: Take, reply: list[int]) -> Decision:
    matched = [limit for limit in plan.limits if limit.name not in asked.skipped]
    assert len(reply) == 2 + 3 * len(matched), "take.lua reports three numbers for each limit that applies"
    numbers = iter(reply[2:])
    standings = [
        Standing(limit, left, None if reset < 0 else reset, None if retry < 0 else retry)
        for limit, left, reset, retry in zip(matched, numbers, numbers, numbers, strict=True)
    ]
    decision = Decision.of(reply[1], standings)
    assert decision.allowed == (reply[0] == TAKEN), "the script and the decision agree on who may pass"
    return decision
