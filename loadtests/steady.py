"""The scenario for locust: one client asks as fast as it can, the others about once a second, each with its own key.

It judges nothing. It counts, for each client, what was answered and from when to when, and leaves the counts for
`run` to hold against the plan. Only locust imports this file: importing locust replaces the sockets and threads of
the whole process with gevent's, which a process that runs asyncio must not do.
"""

import json
import os
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, between, constant, events, task
from locust.contrib.fasthttp import FastResponse

ALLOWED, REFUSED = 200, 429


@dataclass(slots=True)
class Tally:
    """What one client was answered. Times are of the monotonic clock, in nanoseconds; None before the first check.

    The first check is timed before it is sent and the last after it is received, so the time between them is
    never shorter than the time in which the service decided. `errors` counts all other answers by status and
    reason, and checks without an answer by the name of what happened.
    """

    client: str
    allowed: int = 0
    refused: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_sent_ns: int | None = None
    last_received_ns: int | None = None


def _read_keys() -> dict[str, dict[str, str]]:
    """Group -> client -> key, from the file that `run` wrote."""
    keys: dict[str, dict[str, str]] = json.loads(Path(os.environ["LOADTEST_KEYS"]).read_text("utf-8"))
    return keys


KEYS = _read_keys()
TALLIES = {client: Tally(client) for group in KEYS.values() for client in group}


class Caller(FastHttpUser):
    """One client. It takes a key of its group when it starts and hands it back when it stops."""

    abstract = True
    keys: ClassVar[deque[tuple[str, str]]]

    def on_start(self) -> None:
        """Become a client that nobody else is at the moment."""
        self.credential = self.keys.popleft()

    def on_stop(self) -> None:
        """Let another be this client."""
        self.keys.append(self.credential)

    @task
    def check(self) -> None:
        """Ask once.

        With POST, because the HTTP client silently sends a GET again when its connection breaks: a lost answer
        would not be seen, and the service would have counted one check more than we did.
        """
        name, key = self.credential
        tally = TALLIES[name]
        sent_ns = time.monotonic_ns()
        tally.first_sent_ns = tally.first_sent_ns or sent_ns
        request = self.client.request(
            "POST", "/check", name=type(self).__name__, headers={"X-API-Key": key}, catch_response=True
        )
        with request as response:
            tally.last_received_ns = time.monotonic_ns()
            if response.status_code == ALLOWED:
                tally.allowed += 1
            elif response.status_code == REFUSED:
                tally.refused += 1
                response.success()
            else:
                what = _error(response)
                tally.errors[what] = tally.errors.get(what, 0) + 1


def _error(response: FastResponse) -> str:
    """What was answered instead of yes or no: status and reason, or what broke."""
    if response.headers is None:
        return type(getattr(response, "error", None)).__name__
    return f"{response.status_code} {response.headers.get('x-quotas-reason', '')}".rstrip()


class Hot(Caller):
    """Asks again as soon as it has its answer."""

    keys: ClassVar = deque(KEYS["hot"].items())
    fixed_count = len(keys)
    wait_time = constant(0)


class Polite(Caller):
    """Asks about once a second, and never more than twice."""

    keys: ClassVar = deque(KEYS["polite"].items())
    fixed_count = len(keys)
    wait_time = between(0.5, 1.5)


@events.quit.add_listener  # type: ignore[untyped-decorator] # locust types its users, not its events.
def _leave_tallies(**_: Any) -> None:
    """Write what was counted; at `quit`, unlike at `quitting`, every user has had its last answer."""
    tallies = json.dumps([asdict(tally) for tally in TALLIES.values()])
    Path(os.environ["LOADTEST_TALLIES"]).write_text(tallies, "utf-8")
