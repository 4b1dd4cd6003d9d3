"""Series that stay: what is counted by labels that come from the configuration and from the code.

Theory of operation. The table holds a list of the series. Any worker adds to it under the lock, and nothing is ever
taken from it. A series is a line of JSON: family, number of cells, labels. The cells of a slot are given out in the
order of the list, so that the list alone says where each series is, in every slot. Its length is written after what it
covers: a worker that is killed between the two has added nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from quotas.slots import BusyError, Cells, Slots

OTHER = "other"
"""Label of whatever has no place of its own."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series, or one set of them: its family, its labels, and its cells in every slot."""

    family: str
    labels: tuple[str, ...]
    first: int
    width: int


class SeriesList:
    """The list. `length` is a cell of the table for the list's bytes, `text` its place; `cells` how many there are."""

    def __init__(self, slots: Slots, length: Cells, text: memoryview, cells: int) -> None:
        self._slots = slots
        self._length = length
        self._text = text
        self._cells = cells
        self._read = 0
        self._given = 0
        self._known: dict[tuple[str, tuple[str, ...]], Series] = {}

    def find(self, family: str, labels: Sequence[str], width: int = 1) -> int:
        """The first cell of a series, which is made if need be. Without room it is that of the labels `other`.

        A family whose labels are found like this must have been given those at the start.
        """
        key = (family, tuple(labels))
        series = self._known.get(key)
        if series is None:
            try:
                with self._slots.lock():
                    series = self._make(key, width)
            except (BusyError, OSError):
                series = None
        if series is None:
            series = self._known[family, (OTHER,) * len(labels)]
        return series.first

    def make_at_start(self, family: str, labels: Sequence[str], width: int = 1) -> int:
        """The first cell of a series that there must be. To be called under the lock; there is room at the start."""
        series = self._make((family, tuple(labels)), width)
        assert series is not None, "there is room for the series that every service has"
        return series.first

    def all(self) -> list[Series]:
        """Every series of the service, in the order in which they were made."""
        self._learn()
        return list(self._known.values())

    def _learn(self) -> None:
        """Read what others have added."""
        end = int(self._length[0])
        for line in bytes(self._text[self._read : end]).splitlines():
            family, width, labels = orjson.loads(line)
            self._known[family, tuple(labels)] = Series(family, tuple(labels), self._given, width)
            self._given += width
        self._read = end

    def _make(self, key: tuple[str, tuple[str, ...]], width: int) -> Series | None:
        self._learn()
        if key not in self._known:
            line = orjson.dumps([key[0], width, key[1]]) + b"\n"
            end = self._read + len(line)
            if end > len(self._text) or self._given + width > self._cells:
                return None
            self._text[self._read : end] = line
            self._length[0] = end
            self._learn()
        return self._known[key]
