"""The raw refund on the real server: what it asks, what it remembers, and what it leaves alone."""

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256

import pytest
from takes import Taker, with_store

from quotas import decisions
from quotas.errors import StoreUnavailableError
from quotas.limits import EXACT, Bucket, Limit, Mode, Per, Quota, Window
from quotas.scripts import (
    GIVEN,
    GONE,
    RECEIPT_MS,
    REFUND,
    REPEATED,
    WINDOWS,
    PackedPlan,
    Refund,
    Refunded,
    decode_state,
    key_state_key,
    record_key,
    refund,
    state_key,
)
from quotas.store import Store

NOW_US = 1_773_144_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US

ONCE = Limit("once", Bucket(count=0, period_us=SECOND_US, burst=10))
DAY = Limit("day", Quota(units=5, window=Window.DAY))
EACH = Limit("each", Bucket(count=0, period_us=SECOND_US, burst=10), per=Per.KEY)
PLAN = PackedPlan([ONCE, DAY])

Snapshot = dict[bytes, tuple[bytes, int]]


async def snapshot(store: Store) -> Snapshot:
    """Every text key with its bytes and the instant it expires at."""
    found: Snapshot = {}
    for key in await store.call("KEYS", "*"):
        if await store.call("TYPE", key) == b"string":
            found[key] = (await store.call("GET", key), await store.call("PEXPIRETIME", key))
    return found


async def give(  # noqa: PLR0913 # Each is a fact of its own.
    taker: Taker,
    units: int,
    *,
    plan: PackedPlan = PLAN,
    idempotency_key: str = "a",
    now_us: int = NOW_US,
    taken_us: int | None = None,
    key_id: str = "key_test",
    skipped: frozenset[str] = frozenset(),
) -> Refunded | None:
    asked = Refund(
        client_id=taker.client_id,
        key_id=key_id,
        idempotency_key=idempotency_key,
        units=units,
        now_us=now_us,
        taken_us=taken_us,
        own_clock=True,
        skipped=skipped,
    )
    return await refund(taker.store, plan, asked)


def first(units: Mapping[str, int]) -> Refunded:
    return Refunded(units, repeated=False)


def words(plan: PackedPlan, *head: int, now_us: int = NOW_US) -> tuple[bytes | int, ...]:
    return (*head, b"", *plan.packed(now_us, frozenset()))


KEYS = (state_key("cl_test"), record_key("cl_test"), "q1:{cl_test}:refund:x")


class TestAsserts:
    @pytest.mark.parametrize(
        ("keys", "arguments"),
        [
            (3, ()),
            (3, (1, 0, 0, 1)),
            (3, (1, 0, 0, 1, b"", b"")),
            (3, (1, 0, 0, 1, b"", b"", b"", b"")),
            (3, (1, 0, 0, 1, b"", b"", b"", b"", b"")),
            (4, (1, 0, 0, 1, b"", b"", b"")),
            (2, (1, 0, 0, 1, b"", b"", b"")),
            (3, (1, 0, 0, 1, bytes(16), b"", b"")),
            (4, (1, 0, 0, 1, bytes(15), b"", b"")),
            (3, (0, 0, 0, 1, b"", b"", b"")),
            (3, (-1, 0, 0, 1, b"", b"", b"")),
            (3, ("x", 0, 0, 1, b"", b"", b"")),
            (3, (1, "now", 0, 1, b"", b"", b"")),
            (3, (1, 0, "then", 1, b"", b"", b"")),
            (3, ("1.5", 0, 0, 1, b"", b"", b"")),
        ],
    )
    def test_wrong_arguments_are_refused(
        self, redis_url: str, keys: int, arguments: Sequence[bytes | int | str]
    ) -> None:
        async def work(store: Store) -> None:
            await Taker(store).register()
            with pytest.raises(StoreUnavailableError, match="refund:"):
                await store.run(REFUND, (*KEYS, "q1:{cl_test}:key:k")[:keys], tuple(arguments))
            assert await snapshot(store) == {}

        with_store(redis_url, work)


class TestReplies:
    def test_names_and_units_in_order(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            arguments = words(PLAN, 3, NOW_US, 0, RECEIPT_MS)
            assert await store.run(REFUND, KEYS, arguments) == [GIVEN, NOW_US, b"once", 3, b"day", 3]
            later = words(PLAN, 2, NOW_US + 5, 0, RECEIPT_MS)
            assert await store.run(REFUND, KEYS, later) == [REPEATED, NOW_US + 5, b"once", 3, b"day", 3]

        with_store(redis_url, work)

    def test_a_client_that_is_not_there_is_gone_and_leaves_no_receipt(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            assert await store.run(REFUND, KEYS, words(PLAN, 3, NOW_US, 0, RECEIPT_MS)) == [GONE]
            assert await give(Taker(store), 3) is None
            assert await store.call("DBSIZE") == 0

        with_store(redis_url, work)

    def test_other_boundaries_are_asked_for_and_nothing_is_written(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            before = await snapshot(store)
            for off_us in (-3 * 24 * HOUR_US, 3 * 24 * HOUR_US):
                arguments = words(PLAN, 3, NOW_US, 0, RECEIPT_MS, now_us=NOW_US + off_us)
                assert await store.run(REFUND, KEYS, arguments) == [WINDOWS, NOW_US]
            assert await snapshot(store) == before

        with_store(redis_url, work)

    def test_a_worker_whose_clock_is_days_off_gives_by_the_server_s(self, redis_url: str) -> None:
        plan = PackedPlan([Limit("day", Quota(units=9, window=Window.YEAR)), ONCE])

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            seconds, micros = await store.call("TIME")
            server_us = int(seconds) * SECOND_US + int(micros)
            await taker.take(plan, now_us=0, cost=4)
            for number, skew_us in enumerate((0, 3 * 365 * 24 * HOUR_US, -3 * 365 * 24 * HOUR_US)):
                asked = Refund(
                    client_id="cl_test",
                    key_id="k",
                    idempotency_key=f"{number}",
                    units=1,
                    now_us=server_us + skew_us,
                )
                assert await refund(store, plan, asked) == first({"day": 1, "once": 1})

        with_store(redis_url, work)


class TestReceipt:
    def test_it_is_named_by_digest_and_lives_as_long_as_asked(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            for text in ("a", "job 1", "é\n}", "x" * 256):
                assert await give(taker, 3, idempotency_key=text) == first({"once": 0, "day": 0})
                name = f"q1:{{cl_test}}:refund:{sha256(text.encode()).hexdigest()}"
                assert RECEIPT_MS - 10_000 < await store.call("PTTL", name) <= RECEIPT_MS
                assert await store.call("GET", name) == b"once\n0\nday\n0"

        with_store(redis_url, work)

    def test_a_repetition_does_not_make_it_live_longer(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await give(taker, 3)
            before = await snapshot(store)
            assert (await give(taker, 3, now_us=NOW_US + HOUR_US)) == Refunded({"once": 0, "day": 0}, repeated=True)
            assert await snapshot(store) == before

        with_store(redis_url, work)

    def test_it_tells_what_was_given_then_whatever_the_plan_is_now(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            assert await give(taker, 3) == first({"once": 3, "day": 3})
            for plan in (PackedPlan([ONCE]), PackedPlan([EACH, DAY]), PackedPlan([Limit("new", DAY.rule)])):
                assert await give(taker, 3, plan=plan) == Refunded({"once": 3, "day": 3}, repeated=True)

        with_store(redis_url, work)

    @pytest.mark.parametrize("name", ["10", "a b", "1\\n2", "x" * 64, "%d", "a,b", "~"])
    def test_any_name_of_a_limit_is_read_back(self, redis_url: str, name: str) -> None:
        plan = PackedPlan([Limit(name, ONCE.rule), Limit("7", DAY.rule), Limit("0 ", EACH.rule, per=Per.KEY)])

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(plan, now_us=NOW_US, cost=4)
            units = {name: 2, "7": 2, "0 ": 2}
            assert await give(taker, 2, plan=plan) == first(units)
            assert await give(taker, 2, plan=plan) == Refunded(units, repeated=True)

        with_store(redis_url, work)

    def test_a_refund_that_is_about_no_limit_is_remembered_too(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            before = await taker.state()
            assert await give(taker, 3, skipped=frozenset({"once", "day"})) == first({})
            assert await give(taker, 3) == Refunded({}, repeated=True)
            assert await taker.state() == before

        with_store(redis_url, work)


class TestState:
    def test_nothing_given_is_nothing_written(self, redis_url: str) -> None:
        """Units of a window before, for a quota; and a bucket that is full."""
        full = PackedPlan([Limit("fast", Bucket(count=1, period_us=1, burst=10)), DAY])

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(full, now_us=NOW_US, cost=4)
            before = await taker.state()
            given = await give(taker, 3, plan=full, now_us=NOW_US + SECOND_US, taken_us=NOW_US - 13 * HOUR_US)
            assert given == first({"fast": 0, "day": 0})
            assert await taker.state() == before

        with_store(redis_url, work)

    def test_a_fresh_client_has_no_state_afterwards(self, redis_url: str) -> None:
        plan = PackedPlan([ONCE, DAY, EACH])

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            assert await give(taker, 3, plan=plan) == first({"once": 0, "day": 0, "each": 0})
            assert [name for name in await snapshot(store) if b":refund:" not in name] == []

        with_store(redis_url, work)

    def test_the_state_goes_when_there_is_nothing_left_to_remember(self, redis_url: str) -> None:
        """It stays as long as what it was written for would: a window's end is remembered for an hour more."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            assert await give(taker, 4) == first({"once": 4, "day": 4})
            data, _ = await taker.state()
            assert data is not None
            memory = decode_state(data).memory
            assert memory.levels["once"][1] == ONCE.rule.capacity if isinstance(ONCE.rule, Bucket) else False
            assert memory.counts["day"][1] == 0

        with_store(redis_url, work)

    def test_the_generation_is_copied(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            taker.generation = 7
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            await give(taker, 1)
            data, _ = await taker.state()
            assert data is not None
            assert decode_state(data).generation == 7

        with_store(redis_url, work)

    def test_a_key_s_own_limits_are_in_its_own_state(self, redis_url: str) -> None:
        plan = PackedPlan([ONCE, EACH])

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            for key_id in ("k1", "k2"):
                await taker.take(plan, now_us=NOW_US, cost=4, key_id=key_id)
            untouched = (await snapshot(store))[key_state_key("cl_test", "k2").encode()]
            assert await give(taker, 3, plan=plan, key_id="k1") == first({"once": 3, "each": 3})
            after = await snapshot(store)
            assert after[key_state_key("cl_test", "k2").encode()] == untouched
            assert key_state_key("cl_test", "key_test").encode() not in after
            look = await taker.take(plan, now_us=NOW_US, cost=0, key_id="k1")
            assert [each.remaining for each in look.standings] == [5, 9]

        with_store(redis_url, work)


class TestHuge:
    @pytest.mark.parametrize("units", [10, 11, 2**31, 2**32 + 1, EXACT - 1])
    def test_more_than_was_taken_fills_and_no_more(self, redis_url: str, units: int) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PLAN, now_us=NOW_US, cost=4)
            assert await give(taker, units) == first({"once": 4, "day": 4})
            look = await taker.take(PLAN, now_us=NOW_US, cost=0)
            assert [each.remaining for each in look.standings] == [10, 5]

        with_store(redis_url, work)

    @pytest.mark.parametrize("taken", [1, 2**52, EXACT - 1])
    def test_numbers_up_to_the_largest_exact_one_stay_exact(self, redis_url: str, taken: int) -> None:
        plan = PackedPlan(
            [
                Limit("all", Quota(units=EXACT - 1, window=Window.YEAR)),
                Limit("burst", Bucket(count=0, period_us=1, burst=EXACT - 1)),
            ]
        )

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(plan, now_us=NOW_US, cost=taken)
            assert await give(taker, 1, plan=plan) == first({"all": 1, "burst": 1})
            look = await taker.take(plan, now_us=NOW_US, cost=0)
            assert [each.remaining for each in look.standings] == [EXACT - taken] * 2
            rest = {"all": taken - 1, "burst": taken - 1}
            assert await give(taker, EXACT - 1, plan=plan, idempotency_key="b") == first(rest)
            assert await give(taker, EXACT - 1, plan=plan, idempotency_key="b") == Refunded(rest, repeated=True)
            look = await taker.take(plan, now_us=NOW_US, cost=0)
            assert [each.remaining for each in look.standings] == [EXACT - 1] * 2

        with_store(redis_url, work)

    def test_overage_is_the_model_however_far_it_goes(self, redis_url: str) -> None:
        """Costs are below 2^53, and so must be what a quota in overage has counted: beyond, doubles lose units."""
        plan = [Limit("billed", Quota(units=10, window=Window.YEAR), Mode.OVERAGE)]

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            memory: decisions.Memory | None = None
            for cost in (EXACT - 1, EXACT - 1, 1, 1, 0):
                memory, expected = decisions.take(plan, memory, now_us=NOW_US, cost=cost)
                assert await taker.take(plan, now_us=NOW_US, cost=cost) == expected

        with_store(redis_url, work)


def test_fifty_at_once_are_one(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take(PLAN, now_us=NOW_US, cost=5)
        answers = await asyncio.gather(*(give(taker, 2) for _ in range(50)))
        assert answers.count(first({"once": 2, "day": 2})) == 1
        assert answers.count(Refunded({"once": 2, "day": 2}, repeated=True)) == 49
        look = await taker.take(PLAN, now_us=NOW_US, cost=0)
        assert [each.remaining for each in look.standings] == [7, 2]

    with_store(redis_url, work)


@pytest.mark.parametrize(
    ("taken_us", "given"),
    [
        (NOW_US, 3),
        (NOW_US - 12 * HOUR_US, 3),
        (NOW_US - 12 * HOUR_US - 1, 0),
        (NOW_US + HOUR_US, 3),
        (1, 0),
        (0, 0),
        (-1, 0),
        (None, 3),
    ],
)
def test_nothing_goes_into_a_window_that_began_later(redis_url: str, taken_us: int | None, given: int) -> None:
    """The day began at midnight, twelve hours before; nobody says None by saying 1970."""

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        await taker.take(PLAN, now_us=NOW_US, cost=4)
        assert await give(taker, 3, taken_us=taken_us) == first({"once": 3, "day": given})

    with_store(redis_url, work)
