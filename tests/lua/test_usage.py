"""The history of what was used, as take.lua and refund.lua keep it: exact to the unit, and nothing for a refusal."""

import asyncio
from dataclasses import dataclass
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from takes import Taker, history, opened, with_store

from quotas.decisions import take_once
from quotas.limits import EXACT, Bucket, Limit, Mode, Per, Quota, Window
from quotas.scripts import (
    CLOSE,
    OPEN,
    REFUND,
    TAKE,
    WINDOWS,
    Once,
    OpenQuarter,
    PackedPlan,
    Refund,
    Refunded,
    Take,
    decode_state,
    numbers_of,
    refund,
    state_key,
    take,
    take_words,
    used_key,
)
from quotas.store import Store
from quotas.tallies import DAY_US

MIDNIGHT_US = 20_522 * DAY_US
NOW_US = MIDNIGHT_US + DAY_US // 2
SECOND_US = 1_000_000
QUARTER_US = 900 * SECOND_US
DAY_S = 86_400
KEEP_S = 400 * DAY_S
OPEN_S = KEEP_S + 900
"""How long a state is kept that has opened a quarter at its beginning."""

FIVE = Limit("five", Bucket(count=1, period_us=SECOND_US, burst=5))
SLOW = Limit("slow", Bucket(count=5, period_us=DAY_S * SECOND_US, burst=5))
YEAR = Limit("year", Quota(units=10_000, window=Window.YEAR))
DAY = Limit("day", Quota(units=10_000, window=Window.DAY))


async def bytes_of(store: Store) -> tuple[dict[bytes, tuple[bytes, int]], OpenQuarter | None]:
    keys = sorted(await store.call("KEYS", "q1:{cl_test}:used:*"))
    hashes = {key: (await store.call("DUMP", key), await store.call("PEXPIRETIME", key)) for key in keys}
    return hashes, await opened(store)


async def close(store: Store, day: int = 20_522, *, now_us: int = NOW_US) -> int:
    keys = (state_key("cl_test"), used_key("cl_test", day))
    moved: int = await store.run(CLOSE, keys, (pack("<dd", day * DAY_US, KEEP_S), f"{now_us}"))
    return moved


async def give(  # noqa: PLR0913 # Each is a fact of its own.
    store: Store, plan: PackedPlan, units: int, *, now_us: int = NOW_US, taken_us: int | None = None, name: str = "a"
) -> Refunded:
    asked = Refund(
        client_id="cl_test",
        key_id="key_test",
        idempotency_key=name,
        units=units,
        now_us=now_us,
        taken_us=taken_us,
        own_clock=True,
        keep_s=KEEP_S,
    )
    refunded = await refund(store, plan, asked)
    assert refunded is not None
    return refunded


@dataclass(frozen=True)
class Step:
    """A take, perhaps under an id, or a refund of what was taken `ago_us` before."""

    after_us: int
    cost: int
    digest: str | None
    skipped: frozenset[str]
    ago_us: int | None
    refund: bool


steps = st.builds(
    Step,
    after_us=st.integers(0, 4 * SECOND_US) | st.integers(-7_200 * SECOND_US, 40 * 3_600 * SECOND_US),
    cost=st.integers(0, 7),
    digest=st.none() | st.sampled_from("ab"),
    skipped=st.frozensets(st.sampled_from(["five", "shadow"]), max_size=2),
    ago_us=st.none() | st.integers(0, 30 * 3_600 * SECOND_US),
    refund=st.sampled_from([False, False, False, True]),
)
SHADOW = Limit("shadow", Bucket(count=0, period_us=1, burst=3), Mode.SHADOW)
LIMITS = [FIVE, SHADOW, YEAR, DAY]


@settings(max_examples=150)
@given(st.lists(steps, min_size=1, max_size=40))
def test_it_is_the_sum_of_what_was_allowed_and_the_quota_s_counter(server_url: str, sequence: list[Step]) -> None:
    async def compare(store: Store) -> None:
        await store.call("FLUSHALL")
        taker = Taker(store)
        await taker.register()
        plan, now_us, units = PackedPlan(LIMITS), NOW_US, 0
        for number, step in enumerate(sequence):
            now_us += step.after_us
            before, kept = await history(store), await bytes_of(store)
            if step.refund and step.cost:
                taken_us = None if step.ago_us is None else now_us - step.ago_us
                refunded = await give(store, plan, step.cost, now_us=now_us, taken_us=taken_us, name=f"{number}")
                change, at_us = -refunded.units["year"], now_us if taken_us is None else taken_us
            else:
                parts = (
                    str(step.digest).encode(),
                    b"%d" % step.cost,
                    *(each.encode() for each in sorted(step.skipped)),
                )
                decision = await taker.take(
                    plan,
                    now_us=now_us,
                    cost=step.cost,
                    skipped=step.skipped,
                    once=None if step.digest is None else Once.of(5 * SECOND_US, *parts),
                    keep_s=KEEP_S,
                )
                change, at_us = step.cost if decision.allowed and not decision.repeated else 0, now_us
            before[at_us // QUARTER_US] = before.get(at_us // QUARTER_US, 0) + change
            units += change
            assert await history(store) == {quarter: each for quarter, each in before.items() if each}
            if not change:
                assert await bytes_of(store) == kept
        data, _ = await taker.state()
        counted = decode_state(data).memory.counts["year"][1] if data else 0
        assert units == counted == sum((await history(store)).values())

    with_store(server_url, compare)


def test_all_or_nothing_also_with_limits_per_key(redis_url: str) -> None:
    plan = PackedPlan([FIVE, Limit("each", Bucket(count=0, period_us=1, burst=2), per=Per.KEY), YEAR])

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        allowed = [(await taker.take(plan, now_us=NOW_US, key_id="k1", keep_s=KEEP_S)).allowed for _ in range(4)]
        assert allowed == [True, True, False, False]
        assert (await taker.take(plan, now_us=NOW_US, key_id="k2", keep_s=KEEP_S)).allowed
        assert await history(store) == {NOW_US // QUARTER_US: 3}
        assert (await give(store, plan, 2)).units == {"five": 2, "year": 2, "each": 0}
        assert await history(store) == {NOW_US // QUARTER_US: 1}

    with_store(redis_url, work)


def test_no_history_is_kept_where_none_is_asked_for(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        assert (await taker.take([FIVE], now_us=NOW_US)).allowed
        assert await history(store) == {}

    with_store(redis_url, work)


def test_no_history_of_an_older_generation_or_a_client_that_is_gone(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        asked = Take(client_id="cl_test", generation=2, key_id="k", cost=1, now_us=NOW_US, keep_s=KEEP_S)
        assert await take(store, PackedPlan([YEAR]), asked) is None
        await store.call("FLUSHALL")
        assert await take(store, PackedPlan([YEAR]), asked) is None
        assert await store.call("DBSIZE") == 0

    with_store(redis_url, work)


def test_the_hash_is_small_and_lives_as_long_as_asked_from_its_first_quarter_on(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        key = used_key("cl_test", 20_522)
        assert key == "q1:{cl_test}:used:20522"
        for quarter in range(96):
            assert await store.call("HLEN", key) == max(0, quarter - 1)
            at_us, keep_s = MIDNIGHT_US + quarter * QUARTER_US, KEEP_S + max(0, quarter - 1)
            await taker.take([YEAR], now_us=at_us, cost=100, keep_s=keep_s)
        assert await close(store) == 1
        assert await store.call("HLEN", key) == 96
        assert await store.call("OBJECT", "ENCODING", key) == b"listpack"
        assert KEEP_S - 60 < await store.call("TTL", key) <= KEEP_S
        assert await store.call("MEMORY", "USAGE", key) < 1_000

    with_store(redis_url, work)


@pytest.mark.parametrize("skew_us", [-3_600 * SECOND_US, -1, 0, 3_600 * SECOND_US - 1])
def test_a_worker_up_to_an_hour_off_at_midnight_asks_once_and_the_quarter_is_the_server_s(
    redis_url: str, skew_us: int
) -> None:
    """The worker's day begins where the server's time is `skew_us` after it."""

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        asked = Take(client_id="cl_test", generation=1, key_id="k", cost=3, now_us=MIDNIGHT_US, keep_s=KEEP_S)
        keys, words = take_words(PackedPlan([YEAR]), asked, MIDNIGHT_US if skew_us < 0 else MIDNIGHT_US - 1)
        carried = f"{MIDNIGHT_US + skew_us}"
        assert numbers_of(await store.run(TAKE, keys, (*words[:2], carried, *words[3:])))[0] == 1
        assert await history(store) == {(MIDNIGHT_US + skew_us) // QUARTER_US: 3}

    with_store(redis_url, work)


@pytest.mark.parametrize("skew_us", [-3_600 * SECOND_US - 1, DAY_US + 3_600 * SECOND_US])
def test_a_worker_farther_off_is_told_the_time(redis_url: str, skew_us: int) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        asked = Take(client_id="cl_test", generation=1, key_id="k", cost=3, now_us=MIDNIGHT_US, keep_s=KEEP_S)
        keys, words = take_words(PackedPlan([FIVE]), asked, MIDNIGHT_US)
        server_us = MIDNIGHT_US + skew_us
        reply = await store.run(TAKE, keys, (*words[:2], f"{server_us}", *words[3:]))
        assert numbers_of(reply) == (WINDOWS, server_us)
        assert await history(store) == {}
        assert await taker.state() == (None, -2)
        given = (1, f"{server_us}", 0, 1_000, words[3], *words[4:])
        keys = (keys[0], keys[1], "q1:{cl_test}:refund:x", keys[2], "q1:{cl_test}:used:1", "q1:{cl_test}:used:2")
        assert await store.run(REFUND, keys, given) == [WINDOWS, server_us]
        assert await store.call("DBSIZE") == 1

    with_store(redis_url, work)


def test_a_worker_days_off_counts_by_the_server_s_day(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await Taker(store).register()
        seconds, _ = await store.call("TIME")
        for skew_us in (-3 * DAY_US, 3 * DAY_US):
            now_us = int(seconds) * SECOND_US + skew_us
            asked = Take(client_id="cl_test", generation=1, key_id="k", cost=2, now_us=now_us, keep_s=KEEP_S)
            assert await take(store, PackedPlan([FIVE]), asked)
        found = await history(store)
        assert sum(found.values()) == 4
        assert set(found) <= {int(seconds) // 900, int(seconds) // 900 + 1}

    with_store(redis_url, work)


def test_more_than_the_largest_exact_number_is_not_counted(redis_url: str) -> None:
    billed = Limit("billed", Quota(units=10, window=Window.YEAR), Mode.OVERAGE)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        for cost in (EXACT - 3, 1, 1, 1, EXACT - 1):
            await taker.take([billed], now_us=NOW_US, cost=cost, keep_s=KEEP_S)
        assert await history(store) == {NOW_US // QUARTER_US: EXACT - 1}

    with_store(redis_url, work)


def test_an_allowed_cost_that_no_limit_took_is_repeated_for_nothing(redis_url: str) -> None:
    """It is counted, so it must count once: a limit in shadow mode without room, or no limit at all."""
    once = Once("x", 5 * SECOND_US)

    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        for limits, skipped in (([SHADOW], frozenset[str]()), ([FIVE], frozenset({"five"}))):
            await store.call("DEL", f"q1:{{cl_test}}:once:{once.digest}")
            before = sum((await history(store)).values())
            plan = PackedPlan(limits)
            for repeated in (False, True):
                decision = await taker.take(plan, now_us=NOW_US, cost=4, skipped=skipped, once=once, keep_s=KEEP_S)
                assert (decision.allowed, decision.repeated) == (True, repeated)
            assert sum((await history(store)).values()) == before + 4
        _, first, _ = take_once([SHADOW], None, None, within_us=1, now_us=NOW_US, cost=4)
        assert first is not None

    with_store(redis_url, work)


class TestOpenQuarter:
    """The units of one quarter, which the state has until a take of another comes."""

    def test_takes_of_one_quarter_touch_the_state_alone(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            for _ in range(3):
                assert (await taker.take([FIVE], now_us=NOW_US, keep_s=KEEP_S)).allowed
            kept = await taker.state()
            assert not (await taker.take([FIVE], now_us=NOW_US, cost=3, keep_s=KEEP_S)).allowed
            assert (await taker.take([FIVE], now_us=NOW_US, cost=0, keep_s=KEEP_S)).allowed
            assert await taker.state() == kept
            assert await opened(store) == (NOW_US // QUARTER_US, 3)
            assert await bytes_of(store) == ({}, (NOW_US // QUARTER_US, 3))
            assert OPEN_S - 60 < await store.call("TTL", state_key("cl_test")) <= OPEN_S

        with_store(redis_url, work)

    def test_its_units_are_the_last_sixteen_bytes(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([YEAR], now_us=NOW_US, cost=7)
            plain, _ = await taker.state()
            await taker.take([YEAR], now_us=NOW_US, cost=5, keep_s=KEEP_S)
            data, _ = await taker.state()
            assert plain is not None
            assert data is not None
            assert data[-16:] == pack("<dd", NOW_US // QUARTER_US, 5)
            assert len(data) == len(plain) + 16
            assert decode_state(data).memory.counts["year"][1] == 12

        with_store(redis_url, work)

    def test_it_outlives_what_the_limits_remember(self, redis_url: str) -> None:
        """A bucket that is full again counts as absent; its client's usage does not."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            for after_us, left in ((0, 2), (60 * SECOND_US, 2), (61 * SECOND_US, 0)):
                decision = await taker.take([FIVE], now_us=NOW_US + after_us, cost=3, keep_s=KEEP_S)
                assert (decision.allowed, decision.standings[0].remaining) == (True, 2 if left else 0)
                if not left:
                    break
            assert await opened(store) == (NOW_US // QUARTER_US, 9)

        with_store(redis_url, work)

    @pytest.mark.parametrize(("quarters", "hash_of"), [(-144, 0), (-1, 0), (1, 0), (47, 0), (48, 1), (143, 1)])
    def test_the_next_quarter_moves_it_to_the_hash_at_hand(self, redis_url: str, quarters: int, hash_of: int) -> None:
        """NOW_US is the 48th quarter of its day; `quarters` later is in that day or in one next to it."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            quarter = NOW_US // QUARTER_US
            for at, cost in ((quarter, 4), (quarter + quarters, 1)):
                await taker.take([YEAR], now_us=at * QUARTER_US, cost=cost, keep_s=KEEP_S)
            day = 20_522 + hash_of - (quarters < -48)
            field = quarter - 96 * day
            assert await store.call("HGETALL", used_key("cl_test", day)) == [b"%d" % field, b"4"]
            assert await opened(store) == (quarter + quarters, 1)
            assert await history(store) == {quarter: 4, quarter + quarters: 1}

        with_store(redis_url, work)

    @pytest.mark.parametrize("quarters", [-145, 144, 96 * 30])
    def test_of_a_day_farther_off_it_is_closed_first(self, redis_url: str, quarters: int) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            quarter = NOW_US // QUARTER_US
            await taker.take([YEAR], now_us=NOW_US, cost=4, keep_s=KEEP_S)
            kept, later_us = await taker.state(), NOW_US + quarters * QUARTER_US
            asked = Take(
                client_id="cl_test",
                generation=1,
                key_id="k",
                cost=2,
                now_us=later_us,
                own_clock=True,
                keep_s=KEEP_S,
            )
            words = take_words(PackedPlan([YEAR]), asked, later_us)
            assert numbers_of(await store.run(TAKE, *words)) == (OPEN, quarter)
            assert await taker.state() == kept
            assert await take(store, PackedPlan([YEAR]), asked)
            assert await store.call("HGETALL", used_key("cl_test", 20_522)) == [b"48", b"4"]
            assert await history(store) == {quarter: 4, quarter + quarters: 2}

        with_store(redis_url, work)

    @pytest.mark.parametrize(("keep_s", "limits"), [(KEEP_S, [YEAR]), (KEEP_S, [FIVE]), (60, [YEAR]), (60, [SLOW])])
    def test_the_state_lives_as_long_as_both_are_kept(self, redis_url: str, keep_s: int, limits: list[Limit]) -> None:
        """Until so long after the quarter, and until the limits have nothing to remember, on the server's own clock."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            for _ in range(3):
                seconds, micros = await store.call("TIME")
                now_us = int(seconds) * SECOND_US + int(micros)
                asked = Take(client_id="cl_test", generation=1, key_id="k", cost=1, now_us=now_us, keep_s=keep_s)
                assert await take(store, PackedPlan(limits), asked)
                data = await store.call("GET", state_key("cl_test"))
                state = decode_state(data)
                assert state.open_quarter is not None
                kept_ms = ((state.open_quarter.quarter + 1) * 900 + keep_s) * 1000
                ends_ms = await store.call("PEXPIRETIME", state_key("cl_test"))
                most_ms = max(kept_ms, -(-state.memory.until_us // 1000))
                assert most_ms <= ends_ms <= most_ms + 1

        with_store(redis_url, work)

    @pytest.mark.parametrize(("age_s", "left_s"), [(-DAY_S, KEEP_S), (KEEP_S - 100, 100), (KEEP_S, None)])
    def test_who_comes_back_late_has_it_kept_no_longer_than_others(
        self, redis_url: str, age_s: int, left_s: int | None
    ) -> None:
        """The state lives on for a quota of the year, or the client comes back just before it goes."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([YEAR], now_us=MIDNIGHT_US, cost=4, keep_s=KEEP_S)
            assert await close(store, now_us=MIDNIGHT_US + age_s * SECOND_US) == 1
            left = await store.call("TTL", used_key("cl_test", 20_522))
            assert left == -2 if left_s is None else left_s - 60 < left <= left_s
            assert await history(store) == ({} if left_s is None else {MIDNIGHT_US // QUARTER_US: 4})
            assert await opened(store) is None

        with_store(redis_url, work)

    def test_what_takes_nothing_keeps_it_no_longer(self, redis_url: str) -> None:
        """A look after the clock has stepped back writes the state, and so does a refusal under another plan."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([FIVE], now_us=NOW_US, keep_s=KEEP_S)
            await store.call("EXPIRE", state_key("cl_test"), DAY_S)
            for limits, cost in (([FIVE], 0), ([YEAR, FIVE], 6)):
                written = await taker.state()
                await taker.take(limits, now_us=NOW_US - 1 - cost, cost=cost, keep_s=KEEP_S)
                assert (await taker.state())[0] != written[0]
                assert await opened(store) == (NOW_US // QUARTER_US, 1)
                assert DAY_S - 60 < await store.call("TTL", state_key("cl_test")) <= DAY_S

        with_store(redis_url, work)

    def test_it_is_closed_once_and_for_its_own_day_alone(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            assert await close(store) == 0
            await taker.take([FIVE], now_us=NOW_US, cost=4)
            assert await close(store) == 0
            await taker.take([FIVE], now_us=NOW_US, keep_s=KEEP_S)
            kept = await taker.state()
            for day in (20_521, 20_523):
                assert await close(store, day) == 0
                assert await taker.state() == kept
            assert await close(store) == 1
            data, expires = await taker.state()
            assert (data, expires) == (kept[0] and kept[0][:-16], kept[1])
            assert await store.call("HGETALL", used_key("cl_test", 20_522)) == [b"48", b"1"]
            assert KEEP_S - 60 < await store.call("TTL", used_key("cl_test", 20_522)) <= KEEP_S
            assert await close(store) == 0
            assert await history(store) == {NOW_US // QUARTER_US: 1}

        with_store(redis_url, work)

    def test_it_stays_through_takes_without_a_history_another_plan_and_a_refund(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([FIVE], now_us=NOW_US, cost=2, keep_s=KEEP_S)
            for limits in ([FIVE], [YEAR], [FIVE, DAY], [YEAR]):
                assert (await taker.take(limits, now_us=NOW_US, cost=1)).allowed
                assert (await taker.take(limits, now_us=NOW_US - 1, cost=0)).allowed
                assert await opened(store) == (NOW_US // QUARTER_US, 2)
                assert OPEN_S - 60 < await store.call("TTL", state_key("cl_test")) <= OPEN_S
            assert (await give(store, PackedPlan([YEAR]), 1)).units == {"year": 1}
            assert await opened(store) == (NOW_US // QUARTER_US, 2)
            assert OPEN_S - 60 < await store.call("TTL", state_key("cl_test")) <= OPEN_S
            assert await history(store) == {NOW_US // QUARTER_US: 1}

        with_store(redis_url, work)


class TestRefunds:
    def test_units_go_back_where_they_were_taken(self, redis_url: str) -> None:
        """Of a window that has ended too: the year's counter has them, so the history of then gives them back."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            plan = PackedPlan([YEAR, DAY])
            for at_us in (NOW_US - DAY_US, NOW_US):
                await taker.take(plan, now_us=at_us, cost=5, keep_s=KEEP_S)
            assert (await give(store, plan, 3, taken_us=NOW_US - DAY_US)).units == {"year": 3, "day": 0}
            quarter = NOW_US // QUARTER_US
            assert await history(store) == {quarter - 96: 2, quarter: 5}
            assert (await give(store, plan, 3, taken_us=NOW_US - DAY_US)).repeated
            assert await history(store) == {quarter - 96: 2, quarter: 5}
            assert (await give(store, plan, 99, name="b")).units == {"year": 7, "day": 5}
            assert await history(store) == {quarter - 96: 2, quarter: -2}

        with_store(redis_url, work)

    @pytest.mark.parametrize(
        ("limits", "used", "change"),
        [
            ([DAY, YEAR], {"year": 2}, 2),
            ([Limit("shadow", YEAR.rule, Mode.SHADOW), DAY], {"day": 3}, 3),
            ([Limit("shadow", YEAR.rule, Mode.SHADOW)], {}, 5),
            ([Limit("each", YEAR.rule, per=Per.KEY), DAY], {"day": 3}, 3),
            ([Limit("each", YEAR.rule, per=Per.KEY), FIVE], {"each": 1}, 1),
            ([Limit("month", Quota(units=9, window=Window.MONTH)), Limit("other", YEAR.rule), DAY], {"other": 2}, 2),
        ],
    )
    def test_it_follows_the_quota_whose_window_began_first(
        self, redis_url: str, limits: list[Limit], used: dict[str, int], change: int
    ) -> None:
        """5 units go back; what a quota has counted is less than that where it is in `used`."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take(PackedPlan([YEAR]), now_us=NOW_US, cost=9, keep_s=KEEP_S)
            assert await close(store) == 1
            await store.call("DEL", state_key("cl_test"))
            for limit in limits:
                others = frozenset(each.name for each in limits if each is not limit)
                cost = used.get(limit.name, 5)
                await taker.take(PackedPlan(limits), now_us=NOW_US, cost=cost, skipped=others)
            assert (await give(store, PackedPlan(limits), 5)).units[limits[0].name] >= 0
            assert await history(store) == {NOW_US // QUARTER_US: 9 - change}

        with_store(redis_url, work)

    def test_without_a_quota_the_day_gives_what_it_has(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            plan = PackedPlan([FIVE])
            assert (await give(store, plan, 3)).units == {"five": 0}
            assert await history(store) == {}
            await taker.take(plan, now_us=NOW_US - QUARTER_US, cost=5, keep_s=KEEP_S)
            await taker.take(plan, now_us=NOW_US, cost=2, keep_s=KEEP_S)
            assert (await give(store, plan, 3, name="b")).units == {"five": 2}
            assert sum((await history(store)).values()) == 4
            await give(store, plan, 99, name="c")
            assert await history(store) == {NOW_US // QUARTER_US - 1: 5, NOW_US // QUARTER_US: -5}

        with_store(redis_url, work)

    @pytest.mark.parametrize("times", [2, 3])
    def test_the_day_has_what_is_open_and_what_the_days_beside_it_hold(self, redis_url: str, times: int) -> None:
        """Units of a day's last quarter are found in the state, and then in the hash of the day after it."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            plan, last = PackedPlan([FIVE]), MIDNIGHT_US // QUARTER_US - 1
            for at_us in (MIDNIGHT_US - DAY_US, MIDNIGHT_US - 1, MIDNIGHT_US)[:times]:
                await taker.take(plan, now_us=at_us, cost=4, keep_s=KEEP_S)
            await give(store, plan, 99, now_us=MIDNIGHT_US, taken_us=MIDNIGHT_US - 1)
            assert (await history(store))[last] == 4 - 8
            await give(store, plan, 99, now_us=MIDNIGHT_US, name="b")
            assert (await history(store)).get(last + 1, 0) == 0
            assert sum((await history(store)).values()) == 0

        with_store(redis_url, work)

    def test_an_instant_to_come_counts_as_now(self, redis_url: str) -> None:
        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([YEAR], now_us=NOW_US, cost=5, keep_s=KEEP_S)
            assert (await give(store, PackedPlan([YEAR]), 3, taken_us=NOW_US + 3 * DAY_US)).units == {"year": 3}
            assert await history(store) == {NOW_US // QUARTER_US: 2}

        with_store(redis_url, work)

    def test_what_is_no_longer_kept_is_not_begun_anew(self, redis_url: str) -> None:
        forever = Limit("forever", Bucket(count=0, period_us=1, burst=9))

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            plan = PackedPlan([YEAR, forever])
            await taker.take(plan, now_us=NOW_US, cost=5, keep_s=KEEP_S)
            later_us = NOW_US + KEEP_S * SECOND_US
            assert (await give(store, plan, 3, now_us=later_us, taken_us=NOW_US)).units == {"year": 0, "forever": 3}
            assert await history(store) == {NOW_US // QUARTER_US: 5}

        with_store(redis_url, work)

    def test_what_it_begins_has_an_end(self, redis_url: str) -> None:
        """A refund can be about a quarter, and a day, that has nothing: the hash goes like any other."""

        async def work(store: Store) -> None:
            taker = Taker(store)
            await taker.register()
            await taker.take([YEAR], now_us=NOW_US - DAY_US, cost=5, keep_s=KEEP_S)
            await give(store, PackedPlan([YEAR]), 3)
            key = used_key("cl_test", NOW_US // DAY_US)
            assert await store.call("HGETALL", key) == [b"48", b"-3"]
            assert KEEP_S - 60 < await store.call("TTL", key) <= KEEP_S

        with_store(redis_url, work)


def test_fifty_at_once_are_exact(redis_url: str) -> None:
    async def work(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        limits = [Limit("some", Quota(units=33, window=Window.YEAR))]
        decisions = await asyncio.gather(*(taker.take(limits, now_us=NOW_US, keep_s=KEEP_S) for _ in range(50)))
        assert sum(decision.allowed for decision in decisions) == 33
        assert await history(store) == {NOW_US // QUARTER_US: 33}

    with_store(redis_url, work)


def test_the_history_is_packed_as_its_header_says() -> None:
    asked = Take(client_id="cl_1", generation=1, key_id="k", cost=1, now_us=NOW_US, keep_s=KEEP_S)
    keys, words = take_words(PackedPlan([FIVE]), asked, NOW_US)
    assert words[3] == pack("<dd", MIDNIGHT_US, KEEP_S)
    assert keys[-1] == used_key("cl_1", 20_522)
