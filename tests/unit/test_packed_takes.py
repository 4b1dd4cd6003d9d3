"""Takes made from what a plan's takes have in common: the same to the byte as each made by itself."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from quotas.keys import BASE62
from quotas.limits import Bucket, Limit, Per, Quota, Window
from quotas.scripts import TAKE, PackedPlan, Take, take_words
from quotas.tallies import DAY_US

AT_US = int(datetime(2026, 3, 25, 11, tzinfo=UTC).timestamp()) * 1_000_000
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)
RULES = st.one_of(
    st.builds(
        Bucket, count=st.integers(1, 100), period_us=st.sampled_from([7, 37, 1_000_000]), burst=st.integers(1, 37)
    ),
    st.builds(Quota, units=st.integers(0, 10**12), window=st.sampled_from(Window)),
)
IDS = st.text(BASE62, min_size=1, max_size=40)
TAKES = st.builds(
    Take,
    client_id=IDS,
    generation=st.integers(0, 2**53),
    key_id=IDS,
    cost=st.just(1),
    now_us=st.just(AT_US),
    test=st.booleans(),
    own_clock=st.just(False),  # noqa: FBT003 # A value as any other.
    skipped=st.just(frozenset()),
    once=st.none(),
    keep_s=st.sampled_from([0, 37, 34_000_000]),
)


@st.composite
def plans(draw: st.DrawFn) -> PackedPlan:
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    return PackedPlan([Limit(name, draw(RULES), per=draw(st.sampled_from(Per))) for name in names])


@given(plans(), st.lists(TAKES, min_size=1, max_size=5), st.lists(st.integers(0, 40 * DAY_US), min_size=1, max_size=4))
def test_they_are_the_same_takes(plan: PackedPlan, takes: list[Take], later: list[int]) -> None:
    """Whoever came before, and whatever hour, day and window it has become since."""
    for after_us in sorted(later):
        for each in takes:
            asked = each._replace(now_us=AT_US + after_us)
            ids = asked.client_id.encode(), asked.key_id.encode(), b"%d" % asked.generation
            packed = plan.takes(asked, asked.now_us).packed(*ids)
            assert packed == TAKE.packed(*take_words(plan, asked, asked.now_us))


@given(plans(), TAKES)
def test_one_is_kept_as_long_as_it_holds(plan: PackedPlan, asked: Take) -> None:
    takes = plan.takes(asked, AT_US)
    assert plan.takes(asked, takes.until_us - 1) is takes
    assert plan.takes(asked, takes.until_us) is not takes
    assert takes.until_us <= AT_US + DAY_US
