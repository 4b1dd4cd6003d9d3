"""Who asks most, among any number of names, in bounded memory. Pure.

Theory of operation (Misra and Gries, "Finding repeated elements", 1982; Agarwal et al., "Mergeable summaries", 2012).
There are counts for a bounded number of names. Names are added many at once: each is counted first, whether it had a
count or not. When there are more than `size` counts then, all are lowered by the one that is highest but for `size`,
and those that are not above zero go. Each lowering by one takes one check from at least `size + 1` counts, so it is
lowered at most once in `size + 1` checks. So a count is never higher than how often its name came, and lower by at
most that many: who makes a larger part of the checks is always found, and nobody is taken for busier than they are.

Worked example, of `size` 2. `a a a b b c` are added: a has 3, b 2, c 1. The highest but for two is 1: a has 2, b 1.
"""

from collections import Counter
from collections.abc import Container, Iterable
from operator import itemgetter

Name = tuple[str, str, str]


class Busiest:
    """Counts of at most `size` names."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: Counter[Name] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def highest(self) -> int:
        """The highest count, 0 when there is none."""
        return max(self._counts.values(), default=0)

    def most(self) -> tuple[Name, int] | None:
        """Who has the highest count, and the count; None when there is none."""
        return max(self._counts.items(), key=itemgetter(1), default=None)

    def count(self, name: Name) -> int:
        """How often a name came, or less; 0 when there is no count for it."""
        return self._counts[name]

    def add(self, names: Iterable[Name]) -> None:
        """Count each name as often as it is among these. Meanwhile there is a count for every one of them."""
        counts = self._counts
        counts.update(names)
        if len(counts) > self._size:
            by = sorted(counts.values(), reverse=True)[self._size]
            self._counts = Counter({name: count - by for name, count in counts.items() if count > by})

    def halve(self, times: int = 1) -> None:
        """Have the past count half, rounded down, so many times."""
        self._counts = Counter({name: count >> times for name, count in self._counts.items() if count >> times})

    def forget(self, names: Container[Name]) -> None:
        """Count these no more."""
        self._counts = Counter({name: count for name, count in self._counts.items() if name not in names})
