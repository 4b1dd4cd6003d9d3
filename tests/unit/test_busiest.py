"""Estimates of who asks most: never too high, never more than stated too low, and bounded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from quotas.busiest import Busiest

names = st.integers(0, 30).map(lambda number: (f"id-{number}", "plan"))


@given(st.lists(names, max_size=400), st.integers(1, 8))
def test_a_count_is_never_too_high_and_not_too_low_by_more_than_its_share(
    asked: list[tuple[str, str]], size: int
) -> None:
    busiest, true = Busiest(size), Counter[tuple[str, str]]()
    for at, name in enumerate(asked, 1):
        true[name] += 1
        count = busiest.add(name)
        assert 0 <= count <= true[name]
        assert len(busiest) <= size
        assert count == true[name] or len(true) > size
        assert count >= true[name] - at // (size + 1)


@given(st.integers(2, 50))
def test_whoever_asks_every_second_time_is_found_among_any_number_of_others(times: int) -> None:
    busiest = Busiest(4)
    for number in range(4 * times):
        busiest.add((f"once-{number}", "plan"))
        count = busiest.add(("often", "plan"))
    assert count > 0


def test_the_past_counts_half_and_is_forgotten_at_last() -> None:
    busiest = Busiest(4)
    for _ in range(9):
        busiest.add(("a", "plan"))
    busiest.halve()
    assert busiest.add(("a", "plan")) == 5
    busiest.forget(("a", "plan"))
    assert busiest.add(("a", "plan")) == 1
    busiest.halve()
    assert len(busiest) == 0


def test_what_came_in_vain_makes_room() -> None:
    busiest = Busiest(2)
    for name in ("a", "a", "b"):
        busiest.add((name, "plan"))
    assert busiest.add(("new", "plan")) == 0
    assert busiest.add(("new", "plan")) == 1
    assert busiest.add(("a", "plan")) == 2
