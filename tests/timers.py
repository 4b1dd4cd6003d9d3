"""The timer of a `quotas.pace.Pace`, which is over when a test says so."""

from collections.abc import Callable

from quotas.pace import PAUSE_S


class Timers:
    """Timers that are over when a test says so."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], object]]] = []

    def later(self, seconds: float, then: Callable[[], object]) -> None:
        """Set a timer."""
        self.set.append((seconds, then))

    def fire(self) -> None:
        """The one timer that is set is over."""
        [(seconds, then)] = self.set
        assert seconds == PAUSE_S
        self.set.clear()
        then()
