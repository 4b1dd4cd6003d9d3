"""One abusive client among a thousand polite ones.

Question: do a thousand polite clients notice one that never pauses?

Each of them asks every five seconds, with a connection and a key of its own. The abuser is a program of its own (see
`loadtests.asking`) with a few connections that ask again as soon as they have their answer. Times with it and without
it take turns.

Pass: the p99 of the polite with the abuser is at most 1.2 times that without it, as medians of the phases; none of them
was refused; the abuser was allowed what its plan permits and no more, and asked for a multiple of what all others did.
The sender's own share of a CPU is told, and must be below a half: beyond that it would measure itself.
"""

import random
import time
from collections import deque
from typing import ClassVar

from locust import between, task

from loadtests.scenarios.caller import TOLD, Caller, Notes, leave

LOOK_EVERY_US = 250_000
NOTES = Notes()
LOOKS: list[tuple[int, int]] = []
"""The monotonic clock and the CPU time of this process, in microseconds, again and again."""


class Polite(Caller):
    """Asks about every five seconds."""

    keys: ClassVar = deque(TOLD["keys"].items())
    fixed_count = len(keys)
    wait_time = between(4, 6)

    def on_start(self) -> None:
        """Become a client, and begin at a time of its own, so that they do not all ask at once."""
        self.credential = self.keys.popleft()
        time.sleep(random.uniform(0, 5))

    def on_stop(self) -> None:
        """Let another be this client."""
        self.keys.append(self.credential)

    @task
    def check(self) -> None:
        """Ask once."""
        name, key = self.credential
        NOTES.note(name, "", self.ask(key))
        look()


def look() -> None:
    """Note how busy this process is, not too often."""
    at_us = time.monotonic_ns() // 1000
    if not LOOKS or at_us - LOOKS[-1][0] >= LOOK_EVERY_US:
        LOOKS.append((at_us, time.process_time_ns() // 1000))


leave(lambda: {"checks": NOTES.rows, "looks": LOOKS})
