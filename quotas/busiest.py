"""Who asks most, among any number of names, in bounded memory. Pure.

Theory of operation (Misra and Gries, "Finding repeated elements", 1982). There are counters for a bounded number of
names. A name that comes while none is free lowers all of them by one in place of being counted, and a counter at
zero is free again. So a count is never more than how often its name came, and less by at most the number of names
that came in vain; that is at most all that came, divided by the number of counters. Who comes often enough is
therefore always found, and nobody is taken for busier than they are.

Lowering all counters is a number that is subtracted from all; counters at zero are looked for once in many times.
"""

_SWEEP = 64
"""Names that come in vain between two sweeps."""


class Busiest:
    """Counts of at most `size` names."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: dict[tuple[str, str], int] = {}
        self._lowered = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, name: tuple[str, str]) -> int:
        """Count a name; returns its count, 0 when there is none for it."""
        count = self._counts.get(name)
        if count is None and len(self._counts) >= self._size:
            self._lowered += 1
            if self._lowered % _SWEEP == 0:
                self._keep(1)
            return 0
        count = max(self._lowered, count or 0) + 1
        self._counts[name] = count
        return count - self._lowered

    def halve(self) -> None:
        """Have the past count half, rounded down."""
        self._keep(2)

    def forget(self, name: tuple[str, str]) -> None:
        """Count a name no more."""
        self._counts.pop(name, None)

    def _keep(self, divisor: int) -> None:
        """Keep the counters that are above zero after a division; the subtracted number starts anew."""
        kept = ((name, (count - self._lowered) // divisor) for name, count in self._counts.items())
        self._counts = {name: count for name, count in kept if count > 0}
        self._lowered = 0
