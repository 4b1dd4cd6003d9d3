"""Who asks most, among any number of names, in bounded memory. Pure.

Theory of operation (Misra and Gries, "Finding repeated elements", 1982). There are counters for a bounded number of
names. A name that comes while none is free lowers all of them by one in place of being counted, and a counter at zero
is free again. Each lowering uses up one check of every counter beside the one that came, so there is at most one in
`size + 1` checks. So a count is never higher than how often its name came, and lower by at most that many: who makes a
larger part of the checks is always found, and nobody is taken for busier than they are.

Lowering all counters is a number that all are above; names are kept by their counters, so that those which it has
reached are found at once.
"""

Name = tuple[str, str]


class Busiest:
    """Counts of at most `size` names."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counters: dict[Name, int] = {}
        self._at: dict[int, set[Name]] = {}
        self._lowered = 0

    def __len__(self) -> int:
        return len(self._counters)

    def add(self, name: Name) -> int:
        """Count a name; returns its count, 0 when there is no counter for it."""
        counter = self._counters.get(name)
        if counter is not None:
            self._leave(name, counter)
        elif len(self._counters) < self._size:
            counter = self._lowered
        else:
            self._lowered += 1
            for gone in self._at.pop(self._lowered, ()):
                del self._counters[gone]
            return 0
        self._put(name, counter + 1)
        return counter + 1 - self._lowered

    def halve(self, times: int = 1) -> None:
        """Have the past count half, rounded down, so many times."""
        counts = {name: (counter - self._lowered) >> times for name, counter in self._counters.items()}
        self._counters.clear()
        self._at.clear()
        self._lowered = 0
        for name, count in counts.items():
            if count:
                self._put(name, count)

    def forget(self, name: Name) -> None:
        """Count a name no more."""
        counter = self._counters.pop(name, None)
        if counter is not None:
            self._leave(name, counter)

    def _put(self, name: Name, counter: int) -> None:
        self._counters[name] = counter
        self._at.setdefault(counter, set()).add(name)

    def _leave(self, name: Name, counter: int) -> None:
        names = self._at[counter]
        names.remove(name)
        if not names:
            del self._at[counter]
