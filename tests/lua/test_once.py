"""A take that is asked twice: the script against the model, and what it leaves in the server."""

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from struct import unpack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from takes import Taker, with_store

from quotas.decisions import Decision, Memory, Outcome, take_once
from quotas.errors import StoreUnavailableError
from quotas.limits import Bucket, Limit, Mode, Per, Quota, Window
from quotas.scripts import TAKE, Once, PackedPlan, Take, decode_state, once_key, record_key, take
from quotas.store import Store

NOW_US = 1_773_144_000_000_000
SECOND_US = 1_000_000
WITHIN_US = 5 * SECOND_US
FIVE = Limit("five", Bucket(count=1, period_us=SECOND_US, burst=5))
LIMITS = [
    FIVE,
    Limit("shadow", Bucket(count=1, period_us=60 * SECOND_US, burst=2), Mode.SHADOW),
    Limit("over", Quota(units=3, window=Window.HOUR), Mode.OVERAGE),
    Limit("day", Quota(units=30, window=Window.DAY)),
]


@dataclass(frozen=True)
class Step:
    """A take under one of a few ids."""

    after_us: int
    digest: str
    cost: int
    skipped: frozenset[str]


steps = st.builds(
    Step,
    after_us=st.integers(0, 2 * SECOND_US)
    | st.sampled_from([WITHIN_US - 1, WITHIN_US, WITHIN_US + 1, -1, -3 * SECOND_US, -7_200 * SECOND_US]),
    digest=st.sampled_from("abc"),
    cost=st.integers(0, 7),
    skipped=st.frozensets(st.sampled_from([limit.name for limit in LIMITS]), max_size=4),
)


@settings(max_examples=200)
@given(st.lists(steps, min_size=1, max_size=40))
def test_the_script_is_the_model(server_url: str, sequence: list[Step]) -> None:
    async def compare(store: Store) -> None:
        await store.call("FLUSHALL")
        taker = Taker(store)
        await taker.register()
        memory: Memory | None = None
        firsts: dict[tuple[object, ...], Decision | None] = {}
        now_us = NOW_US
        for step in sequence:
            now_us += step.after_us
            # As a check does it: cost and matching limits are part of what makes two the same.
            same = (step.digest, step.cost, step.skipped)
            memory, firsts[same], expected = take_once(
                LIMITS,
                memory,
                firsts.get(same),
                within_us=WITHIN_US,
                now_us=now_us,
                cost=step.cost,
                skipped=step.skipped,
            )
            parts = (step.digest.encode(), b"%d" % step.cost, *(name.encode() for name in sorted(step.skipped)))
            decision = await taker.take(
                LIMITS, now_us=now_us, cost=step.cost, skipped=step.skipped, once=Once.of(WITHIN_US, *parts)
            )
            assert decision == expected
            data, _ = await taker.state()
            assert (data and decode_state(data).memory) == memory
        kept = [first for first in firsts.values() if first is not None]
        assert len(await store.call("KEYS", "q1:{cl_test}:once:*")) == len(kept)

    with_store(server_url, compare)


def test_a_repetition_leaves_bytes_and_expiries_as_they_were(redis_url: str) -> None:
    once = Once("x", WITHIN_US)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()

        async def seen() -> list[object]:
            key = once_key(taker.client_id, once.digest)
            return [*(await taker.state()), await store.call("GET", key), await store.call("PEXPIRETIME", key)]

        first = await taker.take([FIVE], now_us=NOW_US, cost=2, once=once)
        before = await seen()
        again = await taker.take([FIVE], now_us=NOW_US + WITHIN_US - 1, cost=2, once=once)
        assert (first.repeated, again.repeated) == (False, True)
        assert (again.at_us, again.outcome, again.standings) == (first.at_us, first.outcome, first.standings)
        assert await seen() == before
        after = await taker.take([FIVE], now_us=NOW_US + WITHIN_US, cost=2, once=once)
        assert (after.repeated, after.at_us) == (False, NOW_US + WITHIN_US)

    with_store(redis_url, work)


def test_the_key_holds_the_reply_for_as_long_as_it_may_be_repeated(redis_url: str) -> None:
    once = Once("x", WITHIN_US)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        decision = await taker.take([FIVE], now_us=0, cost=2, once=once)
        key = once_key(taker.client_id, once.digest)
        assert key == "q1:{cl_test}:once:x"
        assert unpack("<4d", await store.call("GET", key)) == (decision.at_us, 3, 2 * SECOND_US, 0)
        assert 4_000 < await store.call("PTTL", key) <= 5_001

    with_store(redis_url, work)


def test_a_repetition_in_time_of_the_server_is_forgotten(redis_url: str) -> None:
    once = Once("x", 20_000)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        lifetime = [Limit("lifetime", Bucket(count=0, period_us=SECOND_US, burst=1))]
        assert (await taker.take(lifetime, now_us=0, once=once)).allowed
        async with asyncio.timeout(10):
            while (await taker.take(lifetime, now_us=0, once=once)).allowed:
                await asyncio.sleep(0.005)
            while await store.call("EXISTS", once_key(taker.client_id, once.digest)):
                await asyncio.sleep(0.005)

    with_store(redis_url, work)


def test_a_refusal_and_a_look_are_asked_again(redis_url: str) -> None:
    once = Once("x", WITHIN_US)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        assert (await taker.take([FIVE], now_us=NOW_US, cost=0, once=once)).allowed
        await taker.take([FIVE], now_us=NOW_US, cost=5)
        refused = await taker.take([FIVE], now_us=NOW_US, cost=1, once=once)
        assert (refused.outcome, refused.repeated) == (Outcome.WAIT, False)
        assert await store.call("KEYS", "*once*") == []
        later = await taker.take([FIVE], now_us=NOW_US + SECOND_US, cost=1, once=once)
        assert (later.outcome, later.repeated) == (Outcome.TAKEN, False)

    with_store(redis_url, work)


def test_nothing_is_repeated_to_an_older_generation(redis_url: str) -> None:
    """Or a key that was revoked would pass for as long as its last check is remembered."""

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        asked = Take(client_id="cl_test", generation=1, key_id="k", cost=1, now_us=1, once=Once("x", WITHIN_US))
        plan = PackedPlan([FIVE])
        first = await take(store, plan, asked)
        again = await take(store, plan, asked)
        assert first
        assert again
        assert again.repeated
        await store.call("HSET", record_key("cl_test"), "generation", 2)
        await store.call("DEL", "q1:{cl_test}:state")
        assert await take(store, plan, asked) is None

    with_store(redis_url, work)


def test_limits_per_key_are_repeated_with_the_client_s(redis_url: str) -> None:
    plan = PackedPlan([FIVE, Limit("each", FIVE.rule, per=Per.KEY)])
    once = Once("x", WITHIN_US)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        decisions = [await taker.take(plan, now_us=NOW_US, cost=2, once=once) for _ in range(2)]
        assert [each.repeated for each in decisions] == [False, True]
        for decision in (*decisions, await taker.take(plan, now_us=NOW_US, cost=0)):
            assert [standing.remaining for standing in decision.standings] == [3, 3]

    with_store(redis_url, work)


def test_parts_cannot_run_into_one_another() -> None:
    assert Once.of(1_000, b"ab", b"c") != Once.of(1_000, b"a", b"bc")
    assert Once.of(1_000, b"a", b"") != Once.of(1_000, b"a")
    assert Once.of(1_000, b"a").digest == sha256(b"1:a").hexdigest()[:32]


def test_other_limits_have_another_fingerprint() -> None:
    plans = [
        [FIVE],
        [Limit("other", FIVE.rule)],
        [Limit("five", FIVE.rule, Mode.SHADOW)],
        [Limit("five", FIVE.rule, per=Per.KEY)],
        [Limit("five", Bucket(count=1, period_us=SECOND_US, burst=6))],
        [Limit("five", Quota(units=5, window=Window.HOUR))],
        [Limit("five", Quota(units=5, window=Window.DAY))],
        [Limit("five", Quota(units=5, window=Window.DAY, timezone="America/New_York"))],
    ]
    assert len({PackedPlan(limits).fingerprint for limits in plans}) == len(plans)
    assert PackedPlan([FIVE]).fingerprint == PackedPlan([FIVE]).fingerprint


@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        (("a", "b"), (1, 1, 0, b"", b"", b"", 1_000)),
        (("a", "b", "c"), (1, 1, 0, b"", b"", b"")),
        (("a", "b", "c"), (1, 1, 0, b"", b"", b"", 0)),
        (("a", "b", "c"), (1, 1, 0, b"", b"", b"", 1_001)),
        (("a", "b", "c"), (1, 1, 0, b"", b"", b"", "x")),
        (("a", "b", "c"), (1, 1, 0, bytes(16), b"", b"", 1_000)),
        (("a", "b", "c", "d"), (1, 1, 0, bytes(15), b"", b"", 1_000)),
        (("a", "b", "c"), (1, 1, 0, b"", b"", b"", b"", b"", 1_000)),
    ],
)
def test_wrong_arguments_are_refused(
    redis_url: str, keys: tuple[str, ...], arguments: tuple[bytes | int | str, ...]
) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(StoreUnavailableError, match="take:"):
            await store.run(TAKE, keys, arguments)

    with_store(redis_url, work)
