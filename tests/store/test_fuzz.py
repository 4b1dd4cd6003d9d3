"""Whatever happens to callers and to the connection: no reply goes astray, and nothing is done twice.

Each call counts in a key of its own and returns a word of its own. Callers wait by future or by callback, go away at
any moment or run out of time; the proxy holds replies, cuts before and after, loses, and makes up errors.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from soak import EXAMPLES

from quotas import links
from quotas.errors import StoreUnavailableError
from quotas.store import Script, Store

from .proxy import PATIENCE_S, Command, Fate, Proxy, proxy

COUNT = Script("count", "redis.call('INCR', KEYS[1]) return ARGV[1]")
TAKES = max(3_000, EXAMPLES)
SEEDS = (1, 2)
AT_ONCE = 50
TROUBLE: tuple[Fate | bytes, ...] = (
    *(Fate.CUT, Fate.CUT_BEFORE, Fate.CUT, Fate.CUT_BEFORE, Fate.LOSE),
    *(b"-NOSCRIPT made up\r\n", b"-ERR made up\r\n", b"-READONLY made up\r\n"),
)


class Callers:
    """Who asks, and what became of it: each told once, with its own word or with an error."""

    def __init__(self, store: Store, random: Random) -> None:
        self.store = store
        self.random = random
        self.ends: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.asked = 0

    async def ask(self) -> None:
        """One caller from its call to its end."""
        word = f"word-{self.asked}"
        self.asked += 1
        try:
            if self.random.random() < 0.5:
                reply = await self._by_callback(word)
            else:
                reply = await self._by_future(word)
        except StoreUnavailableError as error:
            self.ends[error.kind] += 1
        except asyncio.CancelledError:
            self.ends["cancelled"] += 1
        else:
            assert reply == word.encode(), "a reply has gone astray"
            self.answered.add(word)
            self.ends["answered"] += 1

    async def _by_callback(self, word: str) -> object:
        told: list[object] = []
        event = asyncio.Event()

        def done(reply: object) -> None:
            told.append(reply)
            event.set()

        self.store.run_then(COUNT, COUNT.packed((word,), (word,)), done)
        async with asyncio.timeout(PATIENCE_S):
            await event.wait()
        await asyncio.sleep(0)
        assert len(told) == 1, "each caller is told once"
        if isinstance(told[0], StoreUnavailableError):
            raise told[0]
        return told[0]

    async def _by_future(self, word: str) -> object:
        task = asyncio.create_task(self.store.run(COUNT, (word,), (word,)))
        if self.random.random() < 0.3:
            for _ in range(self.random.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(PATIENCE_S):
            return await task


def trouble(random: Random) -> "list[Fate | bytes]":
    """What becomes of the next commands: now and then a piece of trouble, mostly nothing."""
    return [random.choice(TROUBLE) if random.random() < 0.03 else Fate.PASS for _ in range(100)]


async def delay(passing: Proxy, random: Random) -> None:
    """Hold replies back now and then, for less than anybody's patience and for more."""
    while True:
        await asyncio.sleep(random.uniform(0, 0.02))
        passing.gate.clear()
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.03]))
        passing.gate.set()


async def fuzz(redis_url: str, folder: Path, seed: int) -> Counter[str]:
    random = Random(seed)
    fates: list[Fate | bytes] = []

    def fate(_: Command) -> Fate | bytes:
        if not fates:
            fates.extend(trouble(random))
        return fates.pop()

    async with proxy(redis_url, folder) as passing, Store(passing.url, patience_s=0.02) as store:
        await store.load(COUNT)
        passing.fate = fate
        callers = Callers(store, random)
        delays = asyncio.create_task(delay(passing, random))
        while callers.asked < TAKES // len(SEEDS):
            await asyncio.gather(*(callers.ask() for _ in range(random.randrange(1, AT_ONCE))))
            passing.commands.clear()
        delays.cancel()
        with suppress(asyncio.CancelledError):
            await delays
    async with Store(redis_url) as store:
        words = [f"word-{number}" for number in range(callers.asked)]
        counts = [0 if count is None else int(count) for count in await store.call("MGET", *words)]
    assert max(counts) == 1, "something was done twice"
    assert all(count == 1 for word, count in zip(words, counts, strict=True) if word in callers.answered)
    assert sum(counts) >= len(callers.answered)
    return callers.ends


@pytest.mark.parametrize("seed", SEEDS)
def test_no_reply_goes_astray_and_nothing_is_done_twice(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(links, "STALL_S", 0.2)
    ends = asyncio.run(fuzz(redis_url, tmp_path, seed))
    print(seed, dict(ends))  # noqa: T201 # What a failure, or a soak, is told with.
    assert ends["answered"] > ends.total() // 4
    assert min(ends[kind] for kind in ("cancelled", "timeout", "lost", "reply")) > 0
