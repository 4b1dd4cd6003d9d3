"""What is told of a check once its answer is made: a line in the log when it was refused, at a bounded rate.

No line holds a path. A path can be a secret by itself (reset links, web hooks), and an encoded question mark puts a
query into one; the limit and the reason say what an operator needs, and the gateway's log has the rest.
"""

import logging
import math
from collections.abc import Callable, Collection

from quotas import requests
from quotas.answers import Answer
from quotas.faces import Face
from quotas.log_lines import fields

log = logging.getLogger("quotas.refusals")


class Witness:
    """Sees the answers of one worker's checks. `timer` gives seconds for durations.

    `lines_per_s` is how many refusals are logged in a second at most, 0 logs none. What is left out is counted in the
    next line.
    """

    def __init__(self, *, lines_per_s: int, timer: Callable[[], float]) -> None:
        self._lines_per_s = lines_per_s
        self._timer = timer
        self._room = 0
        self._full_until = -math.inf if lines_per_s else math.inf
        self._left_out = 0

    def refused(
        self, answer: Answer, face: Face, status: int, headers: Collection[tuple[bytes, bytes]], method: str
    ) -> None:
        """Tell of a refusal that was answered with `status`. `headers` and `method` are the check request's own."""
        now = self._timer()
        if now >= self._full_until:
            self._room, self._full_until = self._lines_per_s, now + 1
        if self._room == 0:
            self._left_out += 1
            return
        self._room -= 1
        self._tell(answer, status, requests.common_method(headers, face, method=method))

    def _tell(self, answer: Answer, status: int, method: str) -> None:
        assert answer.reason is not None, "an allowed check is not told of"
        who, decision = answer.identity, answer.decision
        binding = None if decision is None else decision.binding
        told = fields(
            client=(who.client.name or None) if who is not None else None,
            subject=(who.subject or None) if who is not None else None,
            plan=who.client.plan if who is not None else None,
            limit=binding.name if binding is not None else None,
            reason=answer.reason.value,
            status=status,
            method=method,
            left_out=self._left_out or None,
        )
        self._left_out = 0
        log.info("a check was refused", extra=told)
