"""Takes on the real script with a clock of the test's own, and raw looks at what they leave in the server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from quotas.decisions import Decision
from quotas.limits import Limit
from quotas.news import STREAM
from quotas.scripts import Once, OpenQuarter, PackedPlan, Take, decode_state, record_key, state_key, take
from quotas.store import Store
from quotas.tallies import DAY_QUARTERS

T = TypeVar("T")


def with_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Store(url) as store:
            return await work(store)

    return asyncio.run(run())


async def keys_left(store: Store) -> list[bytes]:
    """Every key of the server but the notices to workers."""
    return [key for key in sorted(await store.call("KEYS", "*")) if key != STREAM.encode()]


async def opened(store: Store, client_id: str = "cl_test") -> OpenQuarter | None:
    """The quarter whose units a client's state counts."""
    state = await store.call("GET", state_key(client_id))
    return None if state is None else decode_state(state).open_quarter


async def history(store: Store, client_id: str = "cl_test") -> dict[int, int]:
    """All units of a client by quarter since the epoch, those of 0 left out."""
    found: dict[int, int] = {}
    for key in await store.call("KEYS", f"q1:{{{client_id}}}:used:*"):
        first = DAY_QUARTERS * int(key.rpartition(b":")[2])
        words = await store.call("HGETALL", key)
        for quarter, units in zip(words[::2], words[1::2], strict=True):
            found[first + int(quarter)] = found.get(first + int(quarter), 0) + int(units)
    open_quarter = await opened(store, client_id)
    if open_quarter is not None:
        found[open_quarter.quarter] = found.get(open_quarter.quarter, 0) + open_quarter.units
    return {quarter: units for quarter, units in found.items() if units}


class Taker:
    """One client on the real script."""

    def __init__(self, store: Store, client_id: str = "cl_test", *, generation: int = 1) -> None:
        self.store = store
        self.client_id = client_id
        self.generation = generation

    async def register(self) -> None:
        await self.store.call("HSET", record_key(self.client_id), "generation", self.generation)

    async def take(  # noqa: PLR0913 # Each is a part of what is asked, or left out.
        self,
        limits: Sequence[Limit] | PackedPlan,
        *,
        now_us: int,
        cost: int = 1,
        skipped: frozenset[str] = frozenset(),
        key_id: str = "key_test",
        once: Once | None = None,
        keep_s: int = 0,
    ) -> Decision:
        """A take at the test's own time; 0 is the server's time."""
        asked = Take(
            client_id=self.client_id,
            generation=self.generation,
            key_id=key_id,
            cost=cost,
            now_us=now_us,
            own_clock=now_us != 0,
            skipped=skipped,
            once=once,
            keep_s=keep_s,
        )
        plan = limits if isinstance(limits, PackedPlan) else PackedPlan(limits)
        decision = await take(self.store, plan, asked)
        assert decision is not None, "the generation is the client's"
        return decision

    async def state(self) -> tuple[bytes | None, int]:
        """The state's bytes, and the instant it expires at in epoch milliseconds (-2 when absent)."""
        key = state_key(self.client_id)
        return await self.store.call("GET", key), await self.store.call("PEXPIRETIME", key)
