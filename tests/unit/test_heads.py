"""Heads straight from a reply, against those of the answer in full: the same to the byte, or none."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.answers import Answer
from quotas.heads import Head
from quotas.holders import Client, Held, Identity, Status
from quotas.keys import Environment
from quotas.limits import Bucket, Limit, Mode, Quota, Window
from quotas.plans import HeaderStyle
from quotas.rendering import LARGEST, MAX_FIELDS, check_response
from quotas.scripts import TAKEN, PackedPlan, Take, decision_of
from quotas.windows import window_at

SECOND = 1_000_000
AT_US = int(datetime(2026, 3, 25, tzinfo=UTC).timestamp()) * SECOND
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)
BUCKETS = st.builds(
    Bucket,
    count=st.integers(1, 10_000),
    period_us=st.sampled_from([SECOND, 60 * SECOND, 3_600 * SECOND, 7]),
    burst=st.integers(1, 100_000),
)
QUOTAS = st.builds(Quota, units=st.integers(0, 10**12), window=st.sampled_from(Window))
PER_SECOND = Limit("per-second", Bucket(count=5, period_us=SECOND, burst=10))


def identity(name: str = "acme") -> Identity:
    client = Client("cl_1", name, "free", Status.ACTIVE, 1, AT_US)
    return Identity(client, "key_1", "key_1", key=Held(b"", Environment.LIVE))


@st.composite
def replies(draw: st.DrawFn) -> tuple[tuple[Limit, ...], list[list[int]]]:
    """Limits, and replies of checks one after the other that they all let pass."""
    rules = draw(st.lists(BUCKETS | QUOTAS, min_size=1, max_size=6))
    names = draw(st.lists(NAMES, min_size=len(rules), max_size=len(rules), unique=True))
    limits = tuple(Limit(name, rule) for name, rule in zip(names, rules, strict=True))
    found, at_us = [], AT_US
    for _ in range(3):
        at_us += draw(st.integers(0, 40 * 86_400 * SECOND))
        reply = [TAKEN, at_us]
        for limit in limits:
            reply += [*_numbers(draw, limit.rule, at_us), 0]
        found.append(reply)
    return limits, found


def _numbers(draw: st.DrawFn, rule: Bucket | Quota, at_us: int) -> tuple[int, int]:
    """What is left, and microseconds until all of it is back, as the script has it for a level or a count."""
    if isinstance(rule, Quota):
        return draw(st.integers(0, rule.units)), window_at(rule, at_us)[1] - at_us
    level = draw(st.integers(0, rule.capacity))
    return level // rule.grains, -((level - rule.capacity) // rule.refill)


@given(replies())
def test_is_the_head_of_the_answer_in_full(case: tuple[tuple[Limit, ...], list[list[int]]]) -> None:
    limits, found = case
    plan, who = PackedPlan(limits), identity("Änne, 100 %")
    head = Head.of(plan.limits, HeaderStyle.DRAFT)
    assert head is not None
    for reply in found:
        asked = Take(client_id="cl_1", generation=1, key_id="key_1", cost=1, now_us=reply[1])
        decision = decision_of(plan, asked, reply)
        assert head.begin(who) + head.lines(reply) == check_response(Answer(None, who, decision)).head


@pytest.mark.parametrize("style", [each for each in HeaderStyle if each is not HeaderStyle.DRAFT])
def test_other_fields_are_told_in_full(style: HeaderStyle) -> None:
    assert Head.of((PER_SECOND,), style) is None


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param((), id="none"),
        pytest.param((PER_SECOND, Limit("s", PER_SECOND.rule, mode=Mode.SHADOW)), id="a shadow"),
        pytest.param((Limit("o", Quota(units=5, window=Window.DAY), mode=Mode.OVERAGE),), id="overage"),
        pytest.param((Limit("once", Bucket(count=0, period_us=SECOND, burst=10)),), id="one that never refills"),
        pytest.param((Limit("vast", Quota(units=LARGEST + 1, window=Window.DAY)),), id="more than a field can say"),
        pytest.param(tuple(Limit(f"{n:064}", PER_SECOND.rule) for n in range(16)), id="more than there is room for"),
    ],
)
def test_limits_with_more_to_them_are_told_in_full(limits: tuple[Limit, ...]) -> None:
    assert Head.of(limits, HeaderStyle.DRAFT) is None


@given(st.integers(1, 16), st.integers(1, 64))
def test_what_has_a_head_has_room_for_it(count: int, length: int) -> None:
    rule = Quota(units=LARGEST, window=Window.YEAR)
    limits = tuple(Limit(f"{number:0{length}}"[:length] + "\\" * 2 + str(number), rule) for number in range(count))
    head = Head.of(limits, HeaderStyle.DRAFT)
    if head is not None:
        ends = window_at(rule, AT_US)[1] - AT_US
        lines = head.lines([TAKEN, AT_US] + [LARGEST, ends, 0] * count)
        fields = dict(line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1])
        assert len(fields[b"ratelimit-policy"]) + len(fields[b"ratelimit"]) <= MAX_FIELDS
