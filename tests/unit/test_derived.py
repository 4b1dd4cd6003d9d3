"""What is made of objects: once of each, and of the object itself, not of one that equals it."""

from quotas.derived import Derived


def test_it_is_made_once_of_each_object() -> None:
    made = Derived[list[int], list[int]](lambda thing: [*thing, 0], 10)
    one, equal = [1], [1]
    assert made.of(one) == [1, 0]
    assert made.of(one) is made.of(one)
    assert made.of(equal) is not made.of(one)


def test_with_the_most_of_them_it_begins_anew_and_stays_right() -> None:
    made = Derived[list[int], int](lambda thing: thing[0], 3)
    assert [made.of([number]) for number in range(100)] == list(range(100))
