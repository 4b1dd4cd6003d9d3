"""Something remembered by text, bounded in entries and in bytes; what was used longest ago goes first."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """What is remembered. `size` is how many bytes one value takes with its name; it must not change while kept."""

    def __init__(self, max_entries: int, max_bytes: int, size: Callable[[V], int]) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size = size
        self._kept: OrderedDict[str, V] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: str) -> V | None:
        """What is remembered under this name, or None; it counts as used now."""
        value = self._kept.get(name)
        if value is not None:
            self._kept.move_to_end(name)
        return value

    def keep(self, name: str, value: V) -> None:
        """Remember a value in place of any other of this name."""
        self.forget(name)
        self._kept[name] = value
        self._bytes += self._size(value)
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= self._size(oldest)

    def forget(self, name: str) -> None:
        """Remember nothing under this name."""
        value = self._kept.pop(name, None)
        if value is not None:
            self._bytes -= self._size(value)

    def clear(self) -> None:
        """Remember nothing."""
        self._kept.clear()
        self._bytes = 0
