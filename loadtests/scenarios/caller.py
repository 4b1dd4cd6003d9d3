"""What all scenarios share: a user that asks, what it is answered, and how that is counted or noted.

Nothing is judged here. Only locust imports these files: importing locust replaces the sockets and threads of the
whole process with gevent's, which a process that runs asyncio must not do. What a scenario is told, and what it
leaves, are files whose names the environment has; see `loadtests.processes.locust`.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, events

ALLOWED, REFUSED = 200, 429

TOLD: Mapping[str, Any] = json.loads(Path(os.environ["LOADTEST_TOLD"]).read_text("utf-8"))
"""What the scenario was told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One check: its status, 0 without an answer; its headers in lower case; when it was sent and came, nanoseconds."""

    status: int
    headers: Mapping[str, str]
    error: str
    sent_ns: int
    received_ns: int
    text: str = ""

    @property
    def said(self) -> str:
        """The reason that was given, `degraded` without a check, or the name of what broke."""
        if self.status == 0:
            return self.error
        return "degraded" if "x-quotas-degraded" in self.headers else self.headers.get("x-quotas-reason", "")

    @property
    def retry_s(self) -> int | None:
        """`Retry-After` in seconds."""
        value = self.headers.get("retry-after", "")
        return int(value) if value.isdecimal() else None

    @property
    def resets_s(self) -> int | None:
        """When the last limit of `RateLimit` has more, in seconds."""
        value = self.headers.get("ratelimit", "").rpartition(";t=")[2]
        return int(value) if value.isdecimal() else None


class Caller(FastHttpUser):
    """A user that asks. `expected` are statuses with which the service did what it should: locust shows no failure."""

    abstract = True
    path: ClassVar[str] = "/check"
    expected: ClassVar[frozenset[int]] = frozenset({ALLOWED, REFUSED})

    @staticmethod
    def clock() -> int:
        """Nanoseconds; of the monotonic clock, unless instants are compared with the service's."""
        return time.monotonic_ns()

    def ask(self, key: str) -> Answer:
        """Ask once with an API key.

        With POST, because the HTTP client silently sends a GET again when its connection breaks: a lost answer
        would not be seen, and the service would have counted one check more than we did.
        """
        return self.send(self.path, {"X-API-Key": key})

    def send(self, path: str, headers: Mapping[str, str], body: str = "") -> Answer:
        """The answer to one POST."""
        sent_ns = self.clock()
        request = self.client.request(
            "POST", path, name=type(self).__name__, headers=dict(headers), data=body, catch_response=True
        )
        with request as response:
            received_ns = self.clock()
            headers = {name.lower(): value for name, value in (response.headers or {}).items()}
            status = response.status_code if response.headers is not None else 0
            error = "" if status else type(getattr(response, "error", None)).__name__
            answer = Answer(status, headers, error, sent_ns, received_ns, (response.text or "") if body else "")
            if status in self.expected:
                response.success()
            return answer


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

    def count(self, answer: Answer, wrong: str = "") -> None:
        """Count an answer; `wrong` says what is wrong with it."""
        self.first_sent_ns = self.first_sent_ns or answer.sent_ns
        self.last_received_ns = answer.received_ns
        if wrong or answer.status not in {ALLOWED, REFUSED}:
            what = wrong or f"{answer.status} {answer.said}".strip()
            self.errors[what] = self.errors.get(what, 0) + 1
        elif answer.status == ALLOWED:
            self.allowed += 1
        else:
            self.refused += 1


class Tallied(Caller):
    """One client, whose answers are counted. It takes a key when it starts and hands it back when it stops."""

    abstract = True
    keys: ClassVar[deque[tuple[str, str]]]
    tallies: ClassVar[dict[str, Tally]] = {}

    def on_start(self) -> None:
        """Become a client that nobody else is at the moment."""
        self.credential = self.keys.popleft()

    def on_stop(self) -> None:
        """Let another be this client."""
        self.keys.append(self.credential)

    @staticmethod
    def wrong(answer: Answer) -> str:  # noqa: ARG004 # A scenario that expects more of an answer looks at it.
        """What is wrong with an answer of the right status, "" for nothing."""
        return ""

    def check(self) -> Answer:
        """Ask once, and count it."""
        name, key = self.credential
        answer = self.ask(key)
        self.tallies.setdefault(name, Tally(name)).count(answer, self.wrong(answer))
        return answer

    @classmethod
    def counted(cls) -> list[dict[str, Any]]:
        """All tallies."""
        return [asdict(tally) for tally in cls.tallies.values()]


class Notes:
    """Every check, in the order of answers, as `loadtests.verdicts.verdict.Check` has it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, int, str, int, int, int | None, int | None]] = []

    def note(self, client: str, key: str, answer: Answer) -> Answer:
        """Keep an answer."""
        sent_us, received_us = answer.sent_ns // 1000, -(-answer.received_ns // 1000)
        row = (client, key, answer.status, answer.said, sent_us, received_us, answer.resets_s, answer.retry_s)
        self.rows.append(row)
        return answer


def leave(what: Callable[[], Any]) -> None:
    """Write this when the load has ended; at `quit`, unlike at `quitting`, every user has had its last answer."""

    def write(**_: Any) -> None:
        Path(os.environ["LOADTEST_LEFT"]).write_text(json.dumps(what()), "utf-8")

    events.quit.add_listener(write)  # type: ignore[no-untyped-call] # locust types its users, not its events.


@events.spawning_complete.add_listener  # type: ignore[untyped-decorator] # The same.
def _begun(**_: Any) -> None:
    """Say that all users are there."""
    Path(os.environ["LOADTEST_BEGUN"]).touch()
