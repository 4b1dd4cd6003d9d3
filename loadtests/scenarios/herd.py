"""A thundering herd at the end of a quota's window.

Question: when a quota's window ends and everybody asks at once, does each side of the end give exactly its units?

`rush-1` and `rush-2` have a hundred connections each, which ask without a pause from before the end until after it. The
connections of `patient` use up their client's quota, wait as long as `Retry-After` says, and all ask again at once.

Pass: each client was allowed exactly its units in the old window and exactly its units in the new one, and was refused
in both, so that not one unit was withheld; each check that came after `Retry-After` passed; the rest of the window that
each answer tells is right to the second; nobody got anything but 200 and 429.
"""

import time
from collections import deque
from typing import ClassVar

from locust import task
from locust.exception import StopUser

from loadtests.scenarios.caller import REFUSED, TOLD, Caller, Notes, leave

END_NS = TOLD["end_us"] * 1000
NOTES = Notes()


def sleep_until(at_ns: int) -> None:
    """Wait for an instant of the clock that the service goes by; locust has made `sleep` let others work."""
    time.sleep(max(0, at_ns - time.time_ns()) / 1e9)


class Herd(Caller):
    """One connection of a client."""

    abstract = True
    keys: ClassVar[deque[tuple[str, str]]]

    @staticmethod
    def clock() -> int:
        """The clock that the service goes by."""
        return time.time_ns()

    def on_start(self) -> None:
        """Take a place."""
        self.credential = self.keys.popleft()

    def check(self, occasion: str) -> int:
        """Ask once, and keep the answer; its status, and how long it says to wait."""
        name, key = self.credential
        answer = NOTES.note(name, occasion, self.ask(key))
        self.retry_s = answer.retry_s or 0
        return answer.status


class Rush(Herd):
    """Asks without a pause across the end."""

    keys: ClassVar = deque(TOLD["keys"]["rush"])
    fixed_count = len(keys)

    @task
    def play(self) -> None:
        """All of it."""
        sleep_until(END_NS - TOLD["rush_before_ns"])
        while time.time_ns() < END_NS + TOLD["rush_after_ns"]:
            self.check("rush")
        raise StopUser


class Patient(Herd):
    """Asks until it is refused, waits as it was told, and asks again."""

    keys: ClassVar = deque(TOLD["keys"]["patient"])
    fixed_count = len(keys)

    @task
    def play(self) -> None:
        """All of it."""
        while self.check("first") != REFUSED:
            pass
        time.sleep(self.retry_s)
        self.check("retry")
        sleep_until(END_NS + TOLD["rush_after_ns"])  # By then all others have asked again, too.
        self.check("last")
        raise StopUser


leave(lambda: NOTES.rows)
