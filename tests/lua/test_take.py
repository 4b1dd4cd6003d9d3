"""The raw script on the real server: what it writes, when it refuses to decide, and that it is the model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import pack, unpack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from takes import Taker, with_store

from quotas.decisions import Memory, Outcome, refund, take
from quotas.errors import StoreUnavailableError
from quotas.limits import EXACT, Bucket, Limit, Mode, Per, Quota, Window
from quotas.scripts import (
    AMEND,
    TAKE,
    PackedPlan,
    Refund,
    Refunded,
    Take,
    decode_state,
    key_state_key,
    record_key,
    state_key,
)
from quotas.scripts import refund as refund_by_script
from quotas.scripts import take as take_by_script
from quotas.store import Store

NOW_US = 1_773_144_000_000_000
SECOND_US = 1_000_000


def bucket(name: str, count: int, period_us: int, burst: int, per: Per = Per.CLIENT) -> Limit:
    return Limit(name, Bucket(count=count, period_us=period_us, burst=burst), per=per)


FIVE = bucket("per-second", 5, SECOND_US, 10)
DAY = Limit("day", Quota(units=5, window=Window.DAY))


@st.composite
def buckets(draw: st.DrawFn) -> Bucket:
    period_us = draw(st.sampled_from([1, 7, 1_000, SECOND_US, 7 * SECOND_US, 3_600 * SECOND_US, 86_400 * SECOND_US]))
    return Bucket(
        count=draw(st.integers(0, 100_000)), period_us=period_us, burst=draw(st.integers(1, 60) | st.just(9_999))
    )


quotas = st.builds(
    Quota,
    units=st.integers(0, 40),
    window=st.sampled_from(Window),
    timezone=st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe"]),
)


@st.composite
def plans(draw: st.DrawFn) -> list[Limit]:
    names = draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1, max_size=4))
    limits = []
    for name in names:
        rule = draw(buckets() | quotas)
        modes = list(Mode) if isinstance(rule, Quota) else [Mode.ENFORCE, Mode.SHADOW]
        limits.append(Limit(name, rule, draw(st.sampled_from([Mode.ENFORCE, *modes]))))
    return limits


@dataclass(frozen=True)
class Step:
    """A take, or a refund of what was taken `taken_ago_us` before."""

    after_us: int
    cost: int
    plan: int
    skipped: frozenset[str]
    refund: bool
    taken_ago_us: int | None


steps = st.builds(
    Step,
    after_us=st.integers(0, 3 * SECOND_US)
    | st.integers(-5 * SECOND_US, 0)
    | st.integers(-7_200 * SECOND_US, 400 * 86_400 * SECOND_US),
    cost=st.integers(0, 12),
    plan=st.integers(0, 2),
    skipped=st.frozensets(st.sampled_from("abcde"), max_size=2),
    refund=st.sampled_from([False, False, True]),
    taken_ago_us=st.none() | st.integers(0, 40 * 86_400 * SECOND_US),
)


def _as_written(memory: Memory) -> Memory:
    """The memory with its buckets as a state can tell them: by refill and grains, in lowest terms."""
    levels = {
        name: (Bucket(count=rule.refill, period_us=rule.grains, burst=rule.burst), level)
        for name, (rule, level) in memory.levels.items()
    }
    return replace(memory, levels=levels)


@settings(max_examples=400)
@given(
    choice=st.lists(plans(), min_size=3, max_size=3),
    sequence=st.lists(steps, min_size=1, max_size=40),
    generation=st.sampled_from([1, 1, 1, 0]),
)
def test_the_script_is_the_model(
    server_url: str, choice: list[list[Limit]], sequence: list[Step], generation: int
) -> None:
    """Also for generation 0, a state without a record, to which nothing can be given back."""

    async def compare(store: Store) -> None:
        await store.call("FLUSHALL")
        taker = Taker(store, generation=generation)
        if generation:
            await taker.register()
        packed = [PackedPlan(plan) for plan in choice]
        memory: Memory | None = None
        now_us = NOW_US
        for number, step in enumerate(sequence):
            now_us += step.after_us
            plan = choice[step.plan]
            if step.refund and step.cost:
                taken_us = None if step.taken_ago_us is None else now_us - step.taken_ago_us
                expected_memory, given = refund(
                    plan, memory, now_us=now_us, units=step.cost, taken_us=taken_us, skipped=step.skipped
                )
                memory = expected_memory if generation else memory
                asked = Refund(
                    client_id=taker.client_id,
                    key_id="key_test",
                    idempotency_key=f"{number}",
                    units=step.cost,
                    now_us=now_us,
                    taken_us=taken_us,
                    own_clock=True,
                    skipped=step.skipped,
                )
                refunded = await refund_by_script(store, packed[step.plan], asked)
                assert refunded == (Refunded(given, repeated=False) if generation else None)
            else:
                memory, expected = take(plan, memory, now_us=now_us, cost=step.cost, skipped=step.skipped)
                decision = await taker.take(packed[step.plan], now_us=now_us, cost=step.cost, skipped=step.skipped)
                assert decision == expected
            data, _ = await taker.state()
            assert (data and decode_state(data)) == (memory and (generation, _as_written(memory), None))

    with_store(server_url, compare)


def test_a_refusal_and_a_look_leave_bytes_and_expiry_as_they_were(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take([FIVE, DAY], now_us=0, cost=4)
        before = await taker.state()
        assert (await taker.take([FIVE, DAY], now_us=0, cost=3)).outcome is Outcome.WAIT
        assert (await taker.take([FIVE, DAY], now_us=0, cost=11)).outcome is Outcome.NEVER
        assert (await taker.take([FIVE, DAY], now_us=0, cost=0)).allowed
        assert await taker.state() == before

    with_store(redis_url, work)


@pytest.mark.parametrize("cost", [30, 2**52, EXACT - 1])
def test_a_refusal_of_whatever_cost_says_what_is_left_to_the_unit(redis_url: str, cost: int) -> None:
    """A cost times its grains, and a cost on top of what is used, can be more than any exact number."""
    limits = [bucket("odd", 13, 7 * SECOND_US, 29), Limit("all", Quota(units=EXACT - 1, window=Window.YEAR)), FIVE]

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take(limits, now_us=NOW_US, cost=7)
        later_us = NOW_US + 1_000_001
        look = await taker.take(limits, now_us=later_us, cost=0)
        refused = await taker.take(limits, now_us=later_us, cost=cost)
        assert refused.outcome is Outcome.NEVER
        for before, after in zip(look.standings, refused.standings, strict=True):
            assert (after.remaining, after.reset_after_us) == (before.remaining, before.reset_after_us)
            assert after.retry_after_us in {None, 0, after.reset_after_us}

    with_store(redis_url, work)


def test_a_refusal_of_a_fresh_client_writes_nothing(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        assert not (await taker.take([FIVE], now_us=0, cost=11)).allowed
        assert (await taker.take([FIVE], now_us=0, cost=0)).allowed
        assert await taker.state() == (None, -2)

    with_store(redis_url, work)


def test_the_state_is_as_its_header_says(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take([FIVE, DAY], now_us=NOW_US, cost=3)
        data, _ = await taker.state()
        assert data is not None
        layout = pack("<BdddB", 0, 200_000, 1, 10, 10) + b"per-second" + b"\1\3day"
        until_us = NOW_US + (43_200 + 3_600) * SECOND_US
        assert unpack("<dddH", data[:26]) == (1, NOW_US, until_us, len(layout))
        assert data[26 : 26 + len(layout)] == layout
        assert unpack("<ddd", data[26 + len(layout) :]) == (1_400_000, NOW_US + 43_200 * SECOND_US, 3)

    with_store(redis_url, work)


def test_keys_are_these_and_their_client_is_the_hash_tag() -> None:
    assert state_key("cl_1") == "q1:{cl_1}:state"
    assert key_state_key("cl_1", "key_2") == "q1:{cl_1}:key:key_2"
    assert record_key("cl_1") == "q1:{cl_1}:client"


def test_a_state_lives_until_its_bucket_is_full(redis_url: str) -> None:
    slow = bucket("slow", 1, 15 * SECOND_US, 3)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take([slow], now_us=0, cost=3)
        lives_ms = await store.call("PTTL", state_key(taker.client_id))
        assert 44_000 < lives_ms <= 45_001

    with_store(redis_url, work)


def test_it_never_goes_before_that_on_the_clock_of_the_server(redis_url: str) -> None:
    """A life counts from the millisecond that has begun: one that ends early would hand out what is not refilled."""

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        for number in range(50):
            limits = [bucket(f"odd-{number}", 999_983, 3_600 * SECOND_US, 100)]
            asked = Take("cl_test", 1, "k", 1 + number, NOW_US)
            await store.call("DEL", state_key("cl_test"))
            assert await take_by_script(store, PackedPlan(limits), asked)
            data, expires_ms = await taker.state()
            assert data
            assert 0 <= expires_ms * 1000 - decode_state(data).memory.until_us < 1000

    with_store(redis_url, work)


def test_a_fast_bucket_is_remembered_and_then_forgotten(redis_url: str) -> None:
    """Case C15: a time to live of whole seconds would switch a limit of 3/second, burst 1, off."""
    fast = bucket("fast", 3, SECOND_US, 1)

    async def work(store: Store) -> list[bool]:
        taker = Taker(store)
        await taker.register()
        answers = await asyncio.gather(*(taker.take([fast], now_us=0) for _ in range(5)))
        assert (await taker.state())[0] is not None
        async with asyncio.timeout(5):
            while (await taker.state())[0] is not None:
                await asyncio.sleep(0.01)
        return [decision.allowed for decision in answers]

    assert with_store(redis_url, work) == [True, False, False, False, False]


def test_a_rate_of_zero_gives_its_burst_once(redis_url: str) -> None:
    once = bucket("once", 0, SECOND_US, 5)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        outcomes = [(await taker.take([once], now_us=0)).outcome for _ in range(6)]
        assert outcomes == [Outcome.TAKEN] * 5 + [Outcome.NEVER]
        assert await store.call("PTTL", state_key(taker.client_id)) > 90 * 365 * 86_400_000

    with_store(redis_url, work)


def test_a_lost_expiry_comes_back_with_the_next_take(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take([DAY], now_us=0)
        await store.call("PERSIST", state_key(taker.client_id))
        await taker.take([DAY], now_us=0)
        assert await store.call("PTTL", state_key(taker.client_id)) > 0

    with_store(redis_url, work)


def test_limits_per_key_count_apart_and_the_client_s_together(redis_url: str) -> None:
    plan = PackedPlan([bucket("all", 0, SECOND_US, 3), bucket("each", 0, SECOND_US, 2, Per.KEY)])

    async def work(store: Store) -> list[str | None]:
        taker = Taker(store)
        await taker.register()
        decisions = [await taker.take(plan, now_us=0, key_id=key) for key in ("k1", "k1", "k1", "k2", "k2")]
        bindings = [decision.binding for decision in decisions]
        return [None if binding is None else binding.name for binding in bindings]

    assert with_store(redis_url, work) == [None, None, "each", None, "all"]


class TestGeneration:
    plan = PackedPlan([FIVE])

    def ask(self, store: Store, generation: int, client_id: str = "cl_test") -> "asyncio.Future[object]":
        asked = Take(client_id=client_id, generation=generation, key_id="k", cost=1, now_us=1)
        return asyncio.ensure_future(take_by_script(store, self.plan, asked))

    async def amend(self, store: Store, *pairs: str) -> int:
        keys = (record_key("cl_test"), state_key("cl_test"))
        return int(await store.run(AMEND, keys, pairs))

    def test_an_older_generation_gets_no_decision_with_or_without_a_state(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            await Taker(store).register()
            assert await self.amend(store) == 2
            assert await self.ask(store, 1) is None
            assert await self.ask(store, 2) is not None
            assert await self.amend(store, "plan", "pro") == 3
            assert await store.call("HGET", record_key("cl_test"), "plan") == b"pro"
            assert await self.ask(store, 2) is None
            assert await self.ask(store, 3) is not None

        with_store(redis_url, work)

    def test_an_amendment_keeps_what_was_spent_and_its_expiry(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([DAY], now_us=0)
            before, expires_at_ms = await taker.state()
            await self.amend(store)
            after, still_ms = await taker.state()
            assert before is not None
            assert after is not None
            assert (after[8:], still_ms) == (before[8:], expires_at_ms)

        with_store(redis_url, work)

    def test_generation_0_is_compared_with_none_and_is_nobody_s(self, redis_url: str) -> None:
        """A state without a record: an address. A client's own generations begin with 1."""

        async def work(store: Store) -> None:
            plan = PackedPlan([bucket("all", 0, SECOND_US, 3), bucket("each", 0, SECOND_US, 2, Per.KEY)])
            taker = Taker(store, "ip_test", generation=0)
            allowed = [(await taker.take(plan, now_us=1)).allowed for _ in range(3)]
            assert allowed == [True, True, False]
            data, _ = await taker.state()
            assert data is not None
            assert decode_state(data).generation == 0
            assert await store.call("KEYS", record_key("ip_test")) == []
            # What a state says does not matter either.
            await store.call("SETRANGE", state_key("ip_test"), 0, pack("<d", 7))
            assert (await taker.take(plan, now_us=1, key_id="other")).allowed
            await Taker(store).register()
            assert await self.ask(store, 1) is not None
            assert await store.call("HGET", record_key("cl_test"), "generation") == b"1"

        with_store(redis_url, work)

    def test_a_client_that_is_not_there_gets_no_decision_and_no_keys(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            assert await self.amend(store) == 0
            assert await self.ask(store, 1) is None
            assert await store.call("DBSIZE") == 0

        with_store(redis_url, work)


class TestAsserts:
    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            (1, 1, 0, b"", b""),
            (1, -1, 0, b"", b"", b""),
            (1, "x", 0, b"", b"", b""),
            (1, 1, "x", b"", b"", b""),
            (1, 1, 0, bytes(16), b"", b""),
        ],
    )
    def test_wrong_arguments_are_refused(self, redis_url: str, arguments: Sequence[bytes | int | str]) -> None:
        async def work(store: Store) -> None:
            with pytest.raises(StoreUnavailableError, match="take:"):
                await store.run(TAKE, ("a", "b"), tuple(arguments))

        with_store(redis_url, work)
