"""What a worker refuses by itself is what the script says at that very instant, whatever others have let pass."""

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from takes import Taker, with_store

from quotas.answers import Answer, Reason
from quotas.decisions import Decision
from quotas.faces import ENVOY, NATIVE, NGINX
from quotas.holders import Identity
from quotas.limits import Bucket, Limit, Mode, Per, Quota, Window
from quotas.paths import PathPattern
from quotas.plans import HeaderStyle, Match
from quotas.refusal_memory import RefusalMemory
from quotas.rendering import check_response
from quotas.scripts import PackedPlan, Take
from quotas.store import Store

NOW_US = 1_773_145_799_000_000
"""A second before a whole hour."""

SECOND_US = 1_000_000
NOBODY = Identity.of_nobody("ip_test", "plan")
GROUPS = {"/a": Match(path=PathPattern("/a")), "/b": Match(path=PathPattern("/b"))}

buckets = st.builds(
    Bucket,
    count=st.sampled_from([0, 1, 3, 5, 13, 70_000]),
    period_us=st.sampled_from([300_000, SECOND_US, 7 * SECOND_US, 60 * SECOND_US]),
    burst=st.sampled_from([1, 1, 2, 3, 6]),
)
quotas = st.builds(Quota, units=st.integers(0, 8), window=st.sampled_from([Window.HOUR, Window.DAY]))
modes = st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW])
pers = st.sampled_from([Per.CLIENT, Per.CLIENT, Per.KEY])
groups = st.sampled_from([None, None, "/a", "/b"])


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Limit], dict[str, Match], dict[str, str]]:
    """Limits; which of them are about one path only, as the plan says it; and by the limit's name, that path."""
    limits: list[Limit] = []
    about: dict[str, str] = {}
    for number in range(draw(st.integers(1, 4))):
        name = f"limit-{number}"
        rule = draw(st.one_of(buckets, buckets, quotas))
        mode = draw(modes)
        if isinstance(rule, Quota) and mode is Mode.SHADOW and draw(st.booleans()):
            mode = Mode.OVERAGE
        limits.append(Limit(name, rule, mode, draw(pers)))
        group = draw(groups)
        if group is not None:
            about[name] = group
    return limits, {name: GROUPS[group] for name, group in about.items()}, about


class Step:
    """One check, so long after the one before, of one key for one path; `elsewhere` is by another worker."""

    def __init__(self, elapsed_us: int, cost: int, path: str, key_id: str, *, elsewhere: bool) -> None:
        self.elapsed_us, self.cost, self.path, self.key_id, self.elsewhere = elapsed_us, cost, path, key_id, elsewhere

    def __repr__(self) -> str:
        return f"Step{self.elapsed_us, self.cost, self.path, self.key_id, self.elsewhere}"


steps = st.builds(
    Step,
    st.sampled_from([0, 1, 1, 999, 1000, 2345, 20_000, 50_000, 199_999, SECOND_US]),
    st.sampled_from([1, 1, 1, 1, 2, 3, 7, 0]),
    st.sampled_from(["/", "/a", "/a", "/b"]),
    st.sampled_from(["key_1", "key_1", "key_2"]),
    elsewhere=st.sampled_from([False, False, False, True]),
)


class AlwaysCurrent:
    """An ear that hears everything."""

    def begin(self) -> None:
        raise AssertionError("it listens already")

    def is_current(self) -> bool:
        return True


def told(decision: Decision) -> list[object]:
    """All that is written of it, on every face and in every style."""
    answer = Answer(Reason.of(decision), NOBODY, decision)
    return [check_response(answer, face, style) for face in (NATIVE, NGINX, ENVOY) for style in HeaderStyle]


def test_it_is_the_script_s_answer_in_everything_that_is_told(server_url: str) -> None:
    numbers = count()
    costs: list[int] = []

    @settings(max_examples=400)
    @given(plans(), st.integers(0, 2 * SECOND_US), st.lists(steps, min_size=10, max_size=40))
    def always(plan: tuple[list[Limit], dict[str, Match], dict[str, str]], after_us: int, asked: list[Step]) -> None:
        limits, matches, about = plan
        packed = PackedPlan(limits)

        async def work(store: Store) -> None:
            now_us = NOW_US + after_us
            memory = RefusalMemory(lambda: now_us)
            memory.listen(AlwaysCurrent())
            taker = Taker(store, f"cl_{next(numbers)}")
            await taker.register()
            for step in asked:
                now_us += step.elapsed_us
                skipped = frozenset(name for name, path in about.items() if path != step.path)
                take = Take(taker.client_id, 1, step.key_id, step.cost, now_us, own_clock=True, skipped=skipped)
                remembered = None if step.elsewhere else memory.recall(packed, take)
                decision = await taker.take(packed, now_us=now_us, cost=step.cost, skipped=skipped, key_id=step.key_id)
                if remembered is not None:
                    assert not decision.allowed
                    assert told(remembered) == told(decision)
                    assert remembered.at_us // SECOND_US == decision.at_us // SECOND_US
                    costs.append(step.cost)
                elif not step.elsewhere:
                    memory.remember(packed, matches, take, decision, sent_us=now_us, heard_us=now_us)

        with_store(server_url, work)

    always()
    assert len(costs) > 300, "it was asked often enough"
    assert set(costs) == {1, 2, 3, 7}
