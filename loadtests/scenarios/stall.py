"""The store stands still for two seconds under load.

Question: when the store stands still for two seconds under load, is every check answered in time and as its plan says?

The service's own Valkey is stopped by a signal and goes on after two seconds. Half of the load is from the client
`deny` and half from `allow`, on plans with that `on_store_error`.

Pass: every check is answered within the store's deadline and a margin; checks of `deny` get 503 `store_unavailable` and
those of `allow` 200 with `X-Quotas-Degraded` while the store stands still, and decisions before and from a second after
it went on; there is no other answer; and each client was charged at least what it was allowed by a decision, and at
most that and what was in flight.
"""

import itertools
from typing import ClassVar

from locust import constant_pacing, task

from loadtests.scenarios.caller import TOLD, Caller, Notes, leave

NOTES = Notes()


class Asker(Caller):
    """Asks ten times a second, in the name of `deny` and `allow` in turns."""

    fixed_count = TOLD["users"]
    wait_time = constant_pacing(0.1)
    expected = frozenset({200, 429, 503})
    turns: ClassVar = itertools.cycle(TOLD["keys"].items())

    @task
    def check(self) -> None:
        """Ask once."""
        name, key = next(self.turns)
        NOTES.note(name, "", self.ask(key))


leave(lambda: NOTES.rows)
