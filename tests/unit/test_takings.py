"""A lane's takes are those that each client's would be by itself."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from quotas.keys import BASE62
from quotas.limits import Bucket, Limit, Per, Quota, Window
from quotas.planbook import PlanInForce
from quotas.plans import Plan
from quotas.scripts import TAKE, PackedPlan, Take, take_words
from quotas.takings import Lane
from quotas.tallies import DAY_US

AT_US = int(datetime(2026, 3, 25, 11, tzinfo=UTC).timestamp()) * 1_000_000
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)
RULES = st.sampled_from([Bucket(count=1, period_us=37, burst=1), Quota(units=10, window=Window.DAY)])
LIMITS = st.lists(
    st.builds(Limit, NAMES, RULES, per=st.sampled_from(Per)), max_size=4, unique_by=lambda limit: limit.name
)
IDS = st.text(BASE62, min_size=1, max_size=3) | st.just("key") | st.just("q1")
ASKED = st.tuples(IDS, IDS, st.integers(0, 2**53), st.integers(0, 2 * DAY_US))


@given(LIMITS, st.sampled_from([0, 37]), st.lists(ASKED, min_size=1, max_size=6))
def test_they_are_the_same_takes(limits: list[Limit], keep_s: int, asked: list[tuple[str, str, int, int]]) -> None:
    """Whoever came before, with ids of whatever lengths, and whatever hour and day it has become since."""
    plan = PackedPlan(limits)
    lane = Lane(PlanInForce(Plan("plan", tuple(limits)), plan), None)
    for client_id, key_id, generation, after_us in sorted(asked, key=lambda each: each[3]):
        now_us = AT_US + after_us
        take = Take(client_id, generation, key_id, 1, now_us, keep_s=keep_s)
        ids = (client_id.encode(), key_id.encode(), b"%d" % generation)
        if lane.packed(*ids, now_us) is None:
            lane.keep(take, plan.takes(take, now_us))
        assert lane.packed(*ids, now_us) == TAKE.packed(*take_words(plan, take, now_us))
