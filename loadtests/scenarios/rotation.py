"""Keys are rotated under load.

Question: when keys are replaced under load, does every key end exactly when it should, and no new one fail?

The admin API gives one client after the other a new key in place of its newest, with a grace of a second. Each client
has one user that asks with its newest key and one that goes on with the key before it.

Pass: a key that nobody has replaced is never answered 401, from the moment in which it is known; an old one passes when
it was answered before the end of its grace and is 401 when it was sent at the end or later, to the microsecond of the
registry; each grace began while its rotation was under way; each client's quota counts what was allowed, with all its
keys together; nobody got anything else.
"""

import json
import time
from collections import deque
from itertools import cycle
from typing import ClassVar

from locust import constant, constant_pacing, task

from loadtests.scenarios.caller import TOLD, Caller, Notes, leave

CREATED, UNAUTHENTICATED = 201, 401
PAUSE_S = 0.02
EVERY_S = 0.2
NOTES = Notes()
ROTATIONS: list[tuple[str, str, str, int, int]] = []
NEWEST: dict[str, tuple[str, str]] = {client: (key["id"], key["key"]) for client, key in TOLD["keys"].items()}
BEFORE: dict[str, tuple[str, str]] = {}


class Timed(Caller):
    """Its instants are compared with the service's."""

    abstract = True

    @staticmethod
    def clock() -> int:
        """The clock that the service goes by."""
        return time.time_ns()


class Holder(Timed):
    """Asks with one of a client's keys."""

    abstract = True
    expected = frozenset({200, UNAUTHENTICATED})
    wait_time = constant(PAUSE_S)
    clients: ClassVar[deque[str]]
    holds: ClassVar[dict[str, tuple[str, str]]]

    def on_start(self) -> None:
        """Ask for a client for which no other user of this kind asks."""
        self.name = self.clients.popleft()

    def on_stop(self) -> None:
        """Let another do so."""
        self.clients.append(self.name)

    @task
    def check(self) -> None:
        """Ask once, if there is such a key yet."""
        held = self.holds.get(self.name)
        if held is not None:
            key_id, key = held
            NOTES.note(self.name, key_id, self.ask(key))


class Newest(Holder):
    """Asks with the newest key, from the moment in which it is known."""

    clients: ClassVar = deque(TOLD["keys"])
    fixed_count = len(clients)
    holds: ClassVar = NEWEST


class Before(Holder):
    """Goes on with the key before."""

    clients: ClassVar = deque(TOLD["keys"])
    fixed_count = len(clients)
    holds: ClassVar = BEFORE


class Operator(Timed):
    """Replaces one client's key after the other's."""

    fixed_count = 1
    expected = frozenset({CREATED})
    wait_time = constant_pacing(EVERY_S)
    turns: ClassVar = cycle(list(TOLD["keys"]))

    @task
    def rotate(self) -> None:
        """Replace one key."""
        client = next(self.turns)
        old = NEWEST[client]
        headers = {"Authorization": f"Bearer {TOLD['token']}", "Content-Type": "application/json"}
        body = json.dumps({"grace_seconds": TOLD["grace_s"]})
        answer = self.send(f"/admin/v1/keys/{old[0]}/rotate", headers, body)
        if answer.status != CREATED:
            NOTES.note(client, old[0], answer)
            return
        made = json.loads(answer.text)
        NEWEST[client], BEFORE[client] = (made["id"], made["key"]), old
        asked_us, answered_us = answer.sent_ns // 1000, -(-answer.received_ns // 1000)
        ROTATIONS.append((client, old[0], made["id"], asked_us, answered_us))


leave(lambda: {"checks": NOTES.rows, "rotations": ROTATIONS})
