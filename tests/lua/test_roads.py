"""Both roads of a take, side by side: the same reply, the same bytes, and a time to live that is long enough on both.

The short road leaves it as it is where a take of the same quarter of an hour has set it: on the server's own clock that
is the same instant, and where a time is carried it is later by what went by.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from takes import with_store

from quotas.limits import EXACT, Bucket, Limit, Mode, Quota, Window
from quotas.scripts import (
    CLOSE,
    LONG_TAKE,
    OPEN,
    TAKE,
    PackedPlan,
    Take,
    numbers_of,
    record_key,
    state_key,
    take_words,
    used_key,
)
from quotas.store import Script, Store
from quotas.tallies import DAY_US

NOW_US = int(datetime(2026, 3, 25, 11, tzinfo=UTC).timestamp()) * 1_000_000
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
NEAR_MS, QUARTER_MS = 2_000, 900_000
MODES = st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW, Mode.OVERAGE])
BUCKETS = st.sampled_from(
    [
        Bucket(count=5, period_us=SECOND_US, burst=10),
        Bucket(count=7, period_us=HOUR_US, burst=3),
        Bucket(count=999_983, period_us=HOUR_US, burst=20),
        Bucket(count=0, period_us=1, burst=4),
        Bucket(count=1, period_us=SECOND_US, burst=EXACT // SECOND_US - 2),
        Bucket(count=1, period_us=1, burst=EXACT - 2),
    ]
)
QUOTAS = st.builds(
    Quota,
    units=st.sampled_from([0, 1, 9, 500, EXACT - 1]),
    window=st.sampled_from([Window.HOUR, Window.DAY, Window.MONTH]),
)


def _limits(names: list[str], rules: list[Bucket | Quota], modes: list[Mode]) -> tuple[Limit, ...]:
    return tuple(
        Limit(name, rule, Mode.SHADOW if mode is Mode.OVERAGE and isinstance(rule, Bucket) else mode)
        for name, rule, mode in zip(names, rules, modes, strict=False)
    )


PLANS = st.builds(
    _limits, st.permutations("abcd"), st.lists(BUCKETS | QUOTAS, max_size=4), st.lists(MODES, min_size=4, max_size=4)
)


@dataclass(frozen=True)
class Step:
    """A take of one of the plans, after some time, with a history or without."""

    after_us: int
    cost: int
    plan: int
    skipped: frozenset[str]
    counted: bool


STEPS = st.builds(
    Step,
    after_us=st.integers(0, 3 * SECOND_US)
    | st.integers(-2 * HOUR_US, 2 * HOUR_US)
    | st.sampled_from(
        [-40 * DAY_US, -2 * DAY_US, DAY_US, 2 * DAY_US, 3 * DAY_US, 40 * DAY_US, -1, 15 * 60 * SECOND_US]
    ),
    cost=st.integers(0, 12) | st.sampled_from([EXACT - 1, EXACT - 2, EXACT // 2]) | st.integers(0, EXACT - 1),
    plan=st.sampled_from([0, 0, 0, 1]),
    skipped=st.just(frozenset[str]()) | st.frozensets(st.sampled_from("abcd"), max_size=3),
    counted=st.sampled_from([False, True, True, True]),
)


async def told(store: Store, script: Script, plan: PackedPlan, asked: Take) -> list[object]:
    """The replies to a take, and all that is there after it."""
    reply = numbers_of(await store.run(script, *take_words(plan, asked, asked.now_us)))
    replies: list[object] = [reply]
    if reply[0] == OPEN:
        keys, words = take_words(plan, asked, reply[1] * 900 * SECOND_US)
        day = reply[1] // 96
        closed = await store.run(CLOSE, (keys[0], used_key(asked.client_id, day)), (words[3], words[2]))
        replies += [closed, await store.run(script, *take_words(plan, asked, asked.now_us))]
    replies.append(await store.call("GET", state_key(asked.client_id)))
    for key in sorted(await store.call("KEYS", f"q1:{{{asked.client_id}}}:used:*")):
        words = await store.call("HGETALL", key)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        replies.append((key.rpartition(b":")[2], fields, await store.call("TTL", key)))
    return replies


def near(left: object, right: object) -> bool:
    """Whether they are the same but for the milliseconds that went by between."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(near, left, right))
    if type(left) is int and type(right) is int and left > 0:
        return abs(left - right) <= NEAR_MS
    return left == right


@settings(max_examples=200)
@given(
    st.lists(PLANS, min_size=2, max_size=2),
    st.lists(STEPS, min_size=1, max_size=14),
    st.sampled_from([3_600, 400 * 86_400]),
)
def test_they_leave_the_same(server_url: str, limits: list[tuple[Limit, ...]], steps: list[Step], keep_s: int) -> None:
    async def compare(store: Store) -> None:
        await store.call("FLUSHALL")
        for client in ("cl_1", "cl_2"):
            await store.call("HSET", record_key(client), "generation", 1)
        plans, now_us = [PackedPlan(each) for each in limits], NOW_US
        for step in steps:
            now_us += step.after_us
            kept_s = keep_s if step.counted else 0
            asked = Take("cl_1", 1, "k", step.cost, now_us, own_clock=True, skipped=step.skipped, keep_s=kept_s)
            short = await told(store, TAKE, plans[step.plan], asked)
            long = await told(store, LONG_TAKE, plans[step.plan], asked._replace(client_id="cl_2"))
            assert short[0] == long[0]
            assert near(short, long)
            ends = [await store.call("PEXPIRETIME", state_key(client)) for client in ("cl_1", "cl_2")]
            assert -NEAR_MS <= ends[0] - ends[1] <= QUARTER_MS + NEAR_MS

    with_store(server_url, compare)
