"""Which takes the short road answers. That both roads answer alike is in every other test here: each runs over both."""

from dataclasses import replace

import pytest
from takes import with_store

from quotas import scripts
from quotas.limits import EXACT, Bucket, Limit, Mode, Per, Quota, Window
from quotas.scripts import Once, PackedPlan, Take, record_key, take_words
from quotas.store import Script, Store

FELL_THROUGH: list[int] = []
SHORT = Script("short", scripts.TAKE.source.removesuffix(scripts.LONG_TAKE.source) + "return ''")
NOW_US = 1_773_144_000_000_000
HOUR_US = 3_600_000_000
BUCKET = Limit("bucket", Bucket(count=5, period_us=1_000_000, burst=10))
NEVER = Limit("never", Bucket(count=0, period_us=1, burst=10))
DAY = Limit("day", Quota(units=12, window=Window.DAY))
MONTH = Limit("month", Quota(units=5, window=Window.MONTH, timezone="America/New_York"), Mode.OVERAGE)
TRIED = Limit("tried", Bucket(count=1, period_us=HOUR_US, burst=1), Mode.SHADOW)
STRICT = (BUCKET, NEVER, DAY)
ALL = (*STRICT, MONTH, TRIED)
ASKED = Take(client_id="cl_test", generation=1, key_id="key", cost=1, now_us=NOW_US, own_clock=True)


async def ask(store: Store, asked: Take = ASKED, *limits: Limit, script: Script = SHORT) -> list[int]:
    """The numbers of the reply; none where the script has fallen through."""
    reply = await store.run(script, *take_words(PackedPlan(limits or ALL), asked, asked.now_us))
    return list(scripts.numbers_of(reply)) if reply else []


def test_what_is_common_is_answered_on_it(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", record_key("cl_test"), "generation", 1)
        assert (await ask(store))[:2] == [1, NOW_US]
        for after_us, cost in ((0, 1), (0, 0), (HOUR_US, 8)):
            reply = await ask(store, ASKED._replace(now_us=NOW_US + after_us, cost=cost))
            assert reply[:2] == [1, NOW_US + after_us]
            assert len(reply) == 2 + 3 * len(ALL)
        await store.call("HSET", record_key("cl_strict"), "generation", 1)
        for after_us, cost, outcome in ((0, 1, 1), (500_000, 99, 0), (HOUR_US, 8, 1), (2 * HOUR_US, 4, 0)):
            asked = ASKED._replace(client_id="cl_strict", now_us=NOW_US + after_us, cost=cost)
            reply = await ask(store, asked, *STRICT)
            assert reply[:2] == [outcome, NOW_US + after_us]
            assert len(reply) == 2 + 3 * len(STRICT)
        # On the server's clock, with a history, of nobody's, with limits that are not about this, and after a month.
        await store.call("HSET", record_key("cl_other"), "generation", 1)
        assert (await ask(store, ASKED._replace(client_id="cl_other", own_clock=False), BUCKET))[0] == 1
        asked = ASKED._replace(client_id="cl_strict", keep_s=60, now_us=NOW_US + 3 * HOUR_US)
        assert (await ask(store, asked, *STRICT))[0] == 1
        await store.call("HSET", record_key("cl_open"), "generation", 1)
        for keep_s in (60, 0, 60):  # The open quarter stays.
            assert (await ask(store, ASKED._replace(client_id="cl_open", keep_s=keep_s), *STRICT))[0] == 1
        assert (await ask(store, ASKED._replace(client_id="ip_1", generation=0, keep_s=60)))[0] == 1
        skipped = await ask(store, ASKED._replace(now_us=NOW_US + 3 * HOUR_US, skipped=frozenset({"never", "day"})))
        assert len(skipped) == 2 + 3 * 3
        assert (await ask(store, ASKED._replace(now_us=NOW_US + 40 * 24 * HOUR_US)))[0] == 0
        assert await ask(store, ASKED._replace(client_id="cl_nobody")) == [scripts.STALE]

    with_store(redis_url, work)


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        (ASKED._replace(now_us=NOW_US - 1), ALL),
        (ASKED._replace(generation=2), ALL),
        (ASKED._replace(once=Once("digest", 1_000_000)), ALL),
        (ASKED._replace(cost=99), ALL),
        (ASKED, ALL[:-1]),
        (ASKED, (*ALL, DAY)),
        (ASKED, (replace(BUCKET, rule=Bucket(count=6, period_us=1_000_000, burst=10)), *ALL[1:])),
        (ASKED, (*ALL, Limit("each", BUCKET.rule, per=Per.KEY))),
    ],
)
def test_whatever_else_falls_through_and_has_written_nothing(
    redis_url: str, asked: Take, limits: tuple[Limit, ...]
) -> None:
    """A clock that has stepped back, another generation, a check that may be a repetition, another plan, two states,
    and a refusal beside a quota in overage."""

    async def work(store: Store) -> None:
        await store.call("HSET", record_key("cl_test"), "generation", 1)
        await ask(store)
        keys = sorted(await store.call("KEYS", "*"))
        states = [await store.call("DUMP", key) for key in keys]
        assert await ask(store, asked, *limits) == FELL_THROUGH
        assert sorted(await store.call("KEYS", "*")) == keys
        assert [await store.call("DUMP", key) for key in keys] == states

    with_store(redis_url, work)


def test_a_cost_beyond_what_can_be_subtracted_exactly_changes_no_limit(redis_url: str) -> None:
    """What was subtracted as if there were room is not added again with another result, also where nothing refuses."""
    tried = (replace(BUCKET, mode=Mode.SHADOW), replace(DAY, mode=Mode.SHADOW))

    async def work(store: Store) -> None:
        for limits, outcome in (((BUCKET, DAY), 0), (tried, 1)):
            asked = ASKED._replace(client_id=f"cl_{outcome}")
            await store.call("HSET", record_key(asked.client_id), "generation", 1)
            await ask(store, asked._replace(cost=3), *limits, script=scripts.TAKE)
            look = await ask(store, asked._replace(cost=0), *limits, script=scripts.TAKE)
            for cost in (EXACT - 1, EXACT - 2):
                reply = await ask(store, asked._replace(cost=cost), *limits, script=scripts.TAKE)
                assert reply == [outcome, *look[1:4], -1, *look[5:7], -1]
            assert await ask(store, asked._replace(cost=0), *limits, script=scripts.TAKE) == look

    with_store(redis_url, work)
