"""Through nginx.

Question: does everyone get through nginx what the plan gives, and the upstream nothing else?

nginx runs the configuration that `quotas gateway nginx` prints. `hot` never pauses, the others keep within their plan.

Pass: as `steady`, with requests in place of checks: nothing but 200 and 429, nobody over-granted, `hot` got its due,
nobody else was refused, and `/metrics` says the same; each answer has `RateLimit` and `RateLimit-Policy`, each refusal
`Retry-After`; and the upstream got exactly the requests that were allowed.
"""

from collections import deque
from typing import ClassVar

from locust import between, constant, task

from loadtests.scenarios.caller import REFUSED, TOLD, Answer, Tallied, leave


class Requester(Tallied):
    """A client of the gateway."""

    abstract = True
    path = "/some/page"

    @staticmethod
    def wrong(answer: Answer) -> str:
        """The headers that an answer lacks."""
        needed = ["ratelimit", "ratelimit-policy", *(["retry-after"] if answer.status == REFUSED else [])]
        lacking = [name for name in needed if name not in answer.headers]
        return f"{answer.status} without {', '.join(lacking)}" if lacking else ""

    @task
    def ask_once(self) -> None:
        """One request."""
        self.check()


class Hot(Requester):
    """Asks again as soon as it has its answer."""

    keys: ClassVar = deque(TOLD["keys"]["hot"].items())
    fixed_count = len(keys)
    wait_time = constant(0)


class Polite(Requester):
    """Asks about once a second, and never more than twice."""

    keys: ClassVar = deque(TOLD["keys"]["polite"].items())
    fixed_count = len(keys)
    wait_time = between(0.5, 1.5)


leave(Tallied.counted)
