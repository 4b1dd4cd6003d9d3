"""Steady traffic by Zipf's law, and one client that never pauses.

Question: does everyone get what the plan gives, no more and no less, while one never pauses?

`hot` asks again as soon as it has its answer. The other clients ask at paces that follow Zipf's law: the second of them
half as often as the first, the hundredth a hundredth as often, and none more often than its plan allows.

Pass: nobody was allowed more than burst and rate give in its time; `hot` got at least nine tenths of that; nobody else
was refused; nobody got anything but 200 and 429; and `/metrics` counts what the clients counted.
"""

import random
from collections import deque
from typing import ClassVar

from locust import constant, task

from loadtests.scenarios.caller import TOLD, Tallied, leave

PAUSES_S = TOLD["pauses"]
"""Seconds between two checks of a client, on average, by its name."""

SPREAD = 0.2
"""The share of it by which a pause may be longer or shorter."""


class Hot(Tallied):
    """Asks again as soon as it has its answer."""

    keys: ClassVar = deque(TOLD["keys"]["hot"].items())
    fixed_count = len(keys)
    wait_time = constant(0)

    @task
    def ask_once(self) -> None:
        """One check."""
        self.check()


class Zipf(Tallied):
    """Asks at the pace of its rank."""

    keys: ClassVar = deque(TOLD["keys"]["zipf"].items())
    fixed_count = len(keys)

    @task
    def ask_once(self) -> None:
        """One check."""
        self.check()

    def wait_time(self) -> float:
        """Seconds until the next check."""
        return float(PAUSES_S[self.credential[0]]) * random.uniform(1 - SPREAD, 1 + SPREAD)


leave(Tallied.counted)
