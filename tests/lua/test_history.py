"""A history counts what was allowed, and changes nothing else: whatever happens to its client and to the plan."""

from dataclasses import dataclass, field
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from takes import history, opened, with_store

from quotas import scripts
from quotas.limits import Bucket, Limit, Mode, Per, Quota, Window
from quotas.scripts import AMEND, CLOSE, PackedPlan, Refund, Take, decode_state, record_key, state_key, used_key
from quotas.store import Store
from quotas.tallies import DAY_US, QUARTER_US

NOW_US = 20_522 * DAY_US + DAY_US // 2
KEEP_S = 400 * 86_400
WITH, WITHOUT = "cl_with", "cl_without"
FIVE = Limit("five", Bucket(count=1, period_us=1_000_000, burst=5))
SEVEN = Limit("five", Bucket(count=7, period_us=1_000_000, burst=9))
YEAR = Limit("year", Quota(units=10_000, window=Window.YEAR))
DAY = Limit("day", Quota(units=50, window=Window.DAY), Mode.OVERAGE)
TRIED = Limit("tried", Bucket(count=0, period_us=1, burst=3), Mode.SHADOW)
EACH = Limit("each", Quota(units=60, window=Window.DAY), per=Per.KEY)
PLANS = [
    PackedPlan(limits) for limits in ([FIVE, YEAR], [DAY, TRIED], [], [EACH], [EACH, FIVE], [TRIED], [SEVEN, DAY, YEAR])
]


@dataclass(frozen=True)
class Step:
    """What happens some time after the last step; `units` and `skipped` are of a take and of a refund."""

    what: str
    after_us: int
    plan: PackedPlan = field(repr=False)
    units: int
    keep_s: int
    ago_us: int | None
    skipped: frozenset[str]


STEPS = st.builds(
    Step,
    what=st.sampled_from([*["take"] * 8, "refund", "refund", "close", "amend"]),
    after_us=st.integers(0, 3_000_000)
    | st.sampled_from([-1, *(sign * us for sign in (1, -1) for us in (QUARTER_US, DAY_US, 2 * DAY_US, 30 * DAY_US))]),
    plan=st.sampled_from(PLANS),
    units=st.integers(1, 6),
    keep_s=st.sampled_from([KEEP_S, KEEP_S, KEEP_S, 0]),
    ago_us=st.none() | st.sampled_from([0, QUARTER_US, DAY_US, 2 * DAY_US]),
    skipped=st.frozensets(st.sampled_from(["five", "day", "year", "each"]), max_size=2),
)


async def taken(store: Store, step: Step, generation: int, now_us: int) -> int:
    """The units that a take counts; both clients are answered the same."""
    asked = Take(WITH, generation, "k", step.units, now_us, own_clock=True, skipped=step.skipped, keep_s=step.keep_s)
    decision = await scripts.take(store, step.plan, asked)
    assert decision is not None
    assert decision == await scripts.take(store, step.plan, asked._replace(client_id=WITHOUT, keep_s=0))
    return step.units if decision.allowed and step.keep_s else 0


async def given_back(store: Store, step: Step, name: str, now_us: int) -> dict[str, int]:
    """What a refund gives back; both clients are given the same."""
    refunds = [
        await scripts.refund(
            store,
            step.plan,
            Refund(
                client_id=client,
                key_id="k",
                idempotency_key=name,
                units=step.units,
                now_us=now_us,
                taken_us=None if step.ago_us is None else now_us - step.ago_us,
                own_clock=True,
                skipped=step.skipped,
                keep_s=keep_s,
            ),
        )
        for client, keep_s in ((WITH, step.keep_s), (WITHOUT, 0))
    ]
    assert refunds[0] is not None
    assert refunds[0] == refunds[1]
    return dict(refunds[0].units)


async def close(store: Store, now_us: int) -> None:
    """Close the quarter that is open, if one is."""
    is_open = await opened(store, WITH)
    if is_open is not None:
        day = is_open.quarter // 96
        words = (pack("<dd", day * DAY_US, KEEP_S), f"{now_us}")
        assert await store.run(CLOSE, (state_key(WITH), used_key(WITH, day)), words) == 1


async def limits_remember_the_same(store: Store, now_us: int) -> None:
    """The states are the same but for the open quarter; one that is kept for that alone counts as absent."""
    data, plain = [await store.call("GET", state_key(client)) for client in (WITH, WITHOUT)]
    state = None if data is None else decode_state(data)
    if data is None or state is None or plain is not None:
        assert plain == (data[:-16] if data is not None and state is not None and state.open_quarter else data)
    else:
        assert state.memory.until_us <= now_us


@settings(max_examples=200)
@given(st.lists(STEPS, min_size=1, max_size=25))
def test_it_is_what_was_allowed_and_nothing_else_is_different(server_url: str, steps: list[Step]) -> None:
    async def compare(store: Store) -> None:
        await store.call("FLUSHALL")
        for client in (WITH, WITHOUT):
            await store.call("HSET", record_key(client), "generation", 1)
        generation, now_us, counted = 1, NOW_US, dict[int, int]()
        for number, step in enumerate(steps):
            now_us += step.after_us
            if step.what == "take":
                quarter, units = now_us // QUARTER_US, await taken(store, step, generation, now_us)
                counted[quarter] = counted.get(quarter, 0) + units
            elif step.what == "refund":
                names = await given_back(store, step, f"{number}", now_us)
                quotas = [name for name in ("year", "day", "each") if name in names]
                quarter = (now_us - (step.ago_us or 0)) // QUARTER_US
                change = (await history(store, WITH)).get(quarter, 0) - counted.get(quarter, 0)
                assert -step.units <= change <= 0
                assert step.keep_s or not change
                assert not step.keep_s or len(quotas) != 1 or change == -names[quotas[0]]
                counted[quarter] = counted.get(quarter, 0) + change
            elif step.what == "close":
                await close(store, now_us)
            else:
                generation += 1
                for client in (WITH, WITHOUT):
                    assert await store.run(AMEND, (record_key(client), state_key(client)), ()) == generation
            assert await history(store, WITH) == {quarter: units for quarter, units in counted.items() if units}
            await limits_remember_the_same(store, now_us)

    with_store(server_url, compare)
