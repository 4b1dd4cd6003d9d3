"""The head of an allowed check, written straight from the numbers of the script's reply.

Nearly every check is allowed, and nothing special is told of it: then all that differs from one answer to the next are
a few integers, and a head is one format with these in it. It is that of `rendering.check_response`, to the byte.
"""

from collections.abc import Callable, Sequence

from quotas import rendering
from quotas.derived import Derived
from quotas.limits import Bucket, Limit, Mode
from quotas.plans import HeaderStyle

_SECOND = 1_000_000
_FOREVER_US = 10**15
_MAX_KEPT = 1024
"""Plans whose heads a worker keeps."""


class Head:
    """What is told of allowed checks about all limits of a plan, as far as it is the same for all identities."""

    __slots__ = ("_ends", "_format", "_from_us", "_numbers", "_told", "_until_us")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._told = [rendering.told.of(limit) for limit in limits]
        self._numbers = _numbers_of(limits)
        self._ends = [1 + 2 + 3 * at for at, limit in enumerate(limits) if not isinstance(limit.rule, Bucket)]
        self._format = b""
        self._from_us = self._until_us = 0

    @classmethod
    def of(cls, limits: tuple[Limit, ...], style: HeaderStyle) -> "Head | None":
        """The head of checks that are about all of these limits; None where there is more to tell."""
        return _kept.of(limits) if style is HeaderStyle.DRAFT else None

    begin = staticmethod(rendering.head_of)
    """The header lines that are an identity's own."""

    begin_on = staticmethod(rendering.head_on)
    """The same of whoever is on a plan, as a format for the field values of client and subject."""

    def lines(self, reply: Sequence[int]) -> bytes:
        """All others after a reply of `lua/take.lua` that has taken."""
        if not self._from_us <= reply[1] < self._until_us:
            self._begin_windows(reply)
        return self._format % self._numbers(reply)

    def _begin_windows(self, reply: Sequence[int]) -> None:
        """Make the format for the windows that this reply is of; it is the same until the first of them ends."""
        now_us = reply[1]
        ends = [now_us + reply[at] for at in self._ends]
        windows = iter(ends)
        policies = ", ".join([told.policy or told.policy_until(next(windows)) for told in self._told])
        names = [told.name.replace("%", "%%") for told in self._told]
        limits = ", ".join([f"{name};r=%d;t=%d" for name in names])
        policies = policies.replace("%", "%%")
        self._format = f"ratelimit-policy: {policies}\r\nratelimit: {limits}\r\ncontent-length: 0\r\n".encode()
        self._from_us, self._until_us = now_us, min(ends, default=now_us + _FOREVER_US)


def _numbers_of(limits: Sequence[Limit]) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """What gives the numbers of the format for a reply: of each limit what is left, and seconds until there is more.

    It is written out for these limits, because a loop over them would take longer than all the rest of a head. What
    there is more of in a bucket is its next token, as `decisions.Standing.next_unit_after_us` has it: in the reply `r`,
    `a` is the time until it is full, and `w` how many tokens come after the next one.
    """
    parts = []
    for at, limit in enumerate(limits):
        left, after_us, rule = f"r[{2 + 3 * at}]", f"r[{3 + 3 * at}]", limit.rule
        if isinstance(rule, Bucket):
            whole = f"{rule.burst - 1} - {left}"
            next_us = f"max(1, a - w * {rule.grains} // {rule.refill})"
            after_us = f"({next_us} if (a := {after_us}) and (w := {whole}) else a)"
        parts.append(f"{left}, -(-{after_us} // {_SECOND}), ")
    made: Callable[[Sequence[int]], tuple[int, ...]] = eval(f"lambda r: ({''.join(parts)})", {"max": max})  # noqa: S307 # Of integers alone.
    return made


def _made(limits: tuple[Limit, ...]) -> Head | None:
    """None where numbers alone do not tell all, or where there is not room for all of it in every case."""
    length = 0
    for limit in limits:
        rule, told = limit.rule, rendering.told.of(limit)
        if limit.mode is not Mode.ENFORCE or told.most > rendering.LARGEST:
            return None
        if isinstance(rule, Bucket) and not rule.refill:
            return None
        length += 2 * len(told.name) + len(f", ;q={told.most};w=, ;r={told.most};t=") + 2 * len(str(rendering.LARGEST))
    return Head(limits) if limits and length <= rendering.MAX_FIELDS else None


_kept: Derived[tuple[Limit, ...], Head | None] = Derived(_made, _MAX_KEPT)
