"""What a take costs Redis alone: calls of one script at a time, by the server's own account of each command.

The least script does TIME, GET and SET with an expiry: what nothing that remembers on the server's clock can go below.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import cases, population
from quotas import assembly, embedded, plan_files
from quotas.plans import Plan
from quotas.scripts import TAKE, PackedPlan, Take, record_key, state_key, take_words, used_key
from quotas.store import Script, Store

LEAST, FULL, WITHOUT_HISTORY = "the least script", "a take", "a take without a history"
CLIENTS = 200
BATCH = 300
BATCHES = 20
SETTLED = 1 << 14
"""Clients of which the memory is asked."""

LOOKED_AT = 64
"""How many of them are looked at one by one, for the median."""

KEEP_S = 404 * 86_400
"""How long a history is kept by default."""

_LEAST = Script(
    "least",
    "local t = redis.call('TIME') redis.call('GET', KEYS[1]) "
    "redis.call('SET', KEYS[1], ARGV[4] .. t[2], 'PX', 60000) return {1, 2, 3}",
)


@dataclass(frozen=True, slots=True)
class Takes:
    """Microseconds of Redis CPU a call, by script and by number of limits, and bytes in Redis by what they hold."""

    script_us: Mapping[str, float]
    limits_us: Mapping[int, float]
    bytes: Mapping[str, int]

    @property
    def further_limit_us(self) -> float:
        """What one limit more costs: the slope of the straight line that is nearest to all of them."""
        return statistics.linear_regression(list(self.limits_us), list(self.limits_us.values())).slope


def measure(rounds: int) -> Takes:
    """Medians of so many rounds, on a store of its own."""
    with tempfile.TemporaryDirectory(prefix="quotas-bench-") as folder, embedded.hold(Path(folder)) as url:
        return asyncio.run(_measure(url, rounds))


async def _measure(url: str, rounds: int) -> Takes:
    plans = plan_files.parse(cases.plan_file(), "bench").plans
    main = plans[cases.MAIN]
    asked: dict[str | int, tuple[Script, Plan, int]] = {
        LEAST: (_LEAST, main, KEEP_S),
        FULL: (TAKE, main, KEEP_S),
        WITHOUT_HISTORY: (TAKE, main, 0),
        **{number: (TAKE, plans[f"limits-{number}"], KEEP_S) for number in cases.LIMITS},
    }
    found: dict[str | int, list[float]] = {name: [] for name in asked}
    async with Store(url) as store:
        await store.call("CONFIG", "SET", "appendonly", "no")
        for script in (_LEAST, TAKE):
            await store.load(script)
        for _ in range(rounds):
            for name, (script, plan, keep_s) in asked.items():
                found[name].append(await _call_us(store, str(name), script, plan, keep_s))
        sizes = await _sizes(store, url, main)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Takes(
        {name: value for name, value in medians.items() if isinstance(name, str)},
        {name: value for name, value in medians.items() if isinstance(name, int)},
        sizes,
    )


async def _call_us(store: Store, name: str, script: Script, plan: Plan, keep_s: int) -> float:
    packed, now_us = PackedPlan(plan.limits), assembly.clock()
    names = [f"{name}-{number}" for number in range(CLIENTS)]
    for each in names:
        await store.call("HSET", record_key(each), "generation", 1)
    await store.call("CONFIG", "RESETSTAT")
    for _ in range(BATCHES):
        takes = [_take(names[index % CLIENTS], now_us, keep_s) for index in range(BATCH)]
        await store.run_all(script, [take_words(packed, take, now_us) for take in takes])
    stats = (await store.call("INFO", "commandstats")).decode()
    return float(stats.split("cmdstat_evalsha:")[1].split("usec_per_call=")[1].split(",")[0])


def _take(client_id: str, now_us: int, keep_s: int) -> Take:
    return Take(client_id=client_id, generation=1, key_id="k", cost=1, now_us=now_us, keep_s=keep_s)


async def _sizes(store: Store, url: str, plan: Plan) -> dict[str, int]:
    """What clients with a key each take, before they ask and then, by what Redis says of all its memory.

    Tables that all share are doubled now and then: it is asked of so many clients that this is in it, on average.
    """
    before = await _used(store)
    await asyncio.to_thread(population.settle, url, cases.MAIN, SETTLED, assembly.clock())
    settled = await _used(store)
    packed, now_us = PackedPlan(plan.limits), assembly.clock()
    for first in range(0, SETTLED, BATCH):
        numbers = range(first, min(first + BATCH, SETTLED))
        ids = [population.client(number, cases.MAIN, 0).id for number in numbers]
        await store.run_all(TAKE, [take_words(packed, _take(each, now_us, KEEP_S), now_us) for each in ids])
    active = await _used(store)
    states, keys = [], []
    for number in range(0, SETTLED, SETTLED // LOOKED_AT):
        one = population.client(number, cases.MAIN, 0).id
        states.append(await _usage(store, state_key(one)))
        keys.append(
            await _usage(store, f"q1:key:{population.digest(number)}") + await _usage(store, f"q1:{{{one}}}:keys")
        )
    shared = int(await store.call("MEMORY", "USAGE", "q1:keys", "SAMPLES", 0)) // SETTLED
    return {
        "state": round(statistics.median(states)),
        "key": round(statistics.median(keys)) + shared,
        "client and key, before it asks": (settled - before) // SETTLED,
        "state and history, once it has asked": (active - settled) // SETTLED,
        **{f"day of {quarters} quarters": await _day_bytes(store, quarters) for quarters in (1, 10, 96)},
    }


async def _usage(store: Store, key: str) -> int:
    """The bytes of a key. The C library may give one 16 more than another that holds as much."""
    return int(await store.call("MEMORY", "USAGE", key))


async def _used(store: Store) -> int:
    return int((await store.call("INFO", "memory")).decode().split("used_memory:")[1].split("\r")[0])


async def _day_bytes(store: Store, quarters: int) -> int:
    """The bytes of a day of a client's history in which so many quarters of an hour have thousands of units each."""
    key = used_key("day", quarters)
    await store.call("HSET", key, *(word for quarter in range(quarters) for word in (quarter, 12_345)))
    return await _usage(store, key)
