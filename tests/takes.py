"""Takes on the real script with a clock of the test's own, and raw looks at what they leave in the server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from quotas.decisions import Decision
from quotas.limits import Limit
from quotas.news import STREAM
from quotas.scripts import Once, PackedPlan, Take, record_key, state_key, take
from quotas.store import Store

T = TypeVar("T")


def with_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Store(url) as store:
            return await work(store)

    return asyncio.run(run())


async def keys_left(store: Store) -> list[bytes]:
    """Every key of the server but the notices to workers."""
    return [key for key in sorted(await store.call("KEYS", "*")) if key != STREAM.encode()]


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
