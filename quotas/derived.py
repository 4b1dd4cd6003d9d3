"""What is made of objects that stay, kept by the objects themselves: to look for their values would cost more."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
V = TypeVar("V")


class Derived(Generic[T, V]):
    """What `make` makes of each object. With `most` of them it begins anew.

    An object is held with what is made of it, so that no other has its id meanwhile.
    """

    def __init__(self, make: Callable[[T], V], most: int) -> None:
        self._make = make
        self._most = most
        self._kept: dict[int, tuple[T, V]] = {}

    def of(self, thing: T) -> V:
        """What is made of this very object."""
        kept = self._kept.get(id(thing))
        if kept is None:
            if len(self._kept) >= self._most:
                self._kept.clear()
            kept = self._kept[id(thing)] = (thing, self._make(thing))
        return kept[1]
