"""Estimates of who asks most: never too high, never more than stated too low, and bounded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from quotas.busiest import Busiest, Name

names = st.integers(0, 30).map(lambda number: called(str(number)))
batches = st.lists(st.lists(names, max_size=60), max_size=10)


def called(name: str) -> Name:
    return f"id-{name}", name, "plan"


@given(batches, st.integers(1, 8))
def test_a_count_is_never_too_high_and_not_too_low_by_more_than_its_share(asked: list[list[Name]], size: int) -> None:
    busiest, true = Busiest(size), Counter[Name]()
    for batch in asked:
        true.update(batch)
        busiest.add(batch)
        assert len(busiest) <= size
        for name, times in true.items():
            count = busiest.count(name)
            assert 0 <= count <= times
            assert count == times or len(true) > size
            assert count >= times - true.total() // (size + 1)


@given(batches)
def test_who_has_most_is_told_with_the_highest_count(asked: list[list[Name]]) -> None:
    busiest = Busiest(4)
    for batch in asked:
        busiest.add(batch)
        most = busiest.most()
        if most is None:
            assert len(busiest) == busiest.highest == 0
        else:
            name, count = most
            assert count == busiest.highest == busiest.count(name) > 0


@given(st.integers(2, 50), st.integers(1, 7))
def test_whoever_asks_every_second_time_is_found_among_any_number_of_others(times: int, batch: int) -> None:
    busiest = Busiest(4)
    asked = [name for number in range(4 * times) for name in (called(f"once-{number}"), called("often"))]
    for at in range(0, len(asked), batch):
        busiest.add(asked[at : at + batch])
    assert busiest.most() == (called("often"), busiest.highest)


def test_all_counts_are_lowered_by_the_first_that_has_no_place() -> None:
    busiest = Busiest(2)
    busiest.add([called(name) for name in "aaabbc"])
    assert [busiest.count(called(name)) for name in "abc"] == [2, 1, 0]
    assert len(busiest) == 2


def test_the_past_counts_half_and_is_forgotten_at_last() -> None:
    busiest = Busiest(4)
    busiest.add([called("a")] * 9 + [called("b")])
    busiest.halve()
    assert busiest.count(called("a")) == 4
    assert len(busiest) == 1
    busiest.halve(2)
    assert busiest.count(called("a")) == 1
    busiest.halve()
    assert len(busiest) == 0
    assert busiest.most() is None


def test_who_is_forgotten_starts_anew() -> None:
    busiest = Busiest(4)
    busiest.add([called("a"), called("a"), called("b")])
    busiest.forget({called("a")})
    assert busiest.most() == (called("b"), 1)
    busiest.add([called("a")])
    assert busiest.count(called("a")) == 1


def test_what_came_in_vain_makes_room() -> None:
    busiest = Busiest(2)
    for name in ("a", "a", "b", "new"):
        busiest.add([called(name)])
    assert busiest.count(called("new")) == 0
    busiest.add([called("new")])
    assert busiest.count(called("new")) == 1
    assert busiest.count(called("a")) == 1
