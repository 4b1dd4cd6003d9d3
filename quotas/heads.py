"""The head of an allowed check, written straight from the numbers of the script's reply.

Nearly every check is allowed, and nothing special is told of it: then all that differs from one answer to the next are
a few integers, and a head is one format with these in it. It is that of `rendering.check_response`, to the byte.
"""

from collections.abc import Sequence

from quotas import rendering
from quotas.derived import Derived
from quotas.limits import Bucket, Limit, Mode
from quotas.plans import HeaderStyle
from quotas.registry import Identity

_SECOND = 1_000_000
_MAX_KEPT = 1024
"""Plans whose formats a worker keeps."""


class Head:
    """What is told of one identity, whatever its limits say."""

    __slots__ = ("_begin", "_limits")

    def __init__(self, identity: Identity, limits: "_Limits") -> None:
        self._begin = rendering.head_of(identity)
        self._limits = limits

    @classmethod
    def of(cls, identity: Identity, limits: tuple[Limit, ...], style: HeaderStyle) -> "Head | None":
        """The head of this identity's checks that are about all of these limits; None where there is more to tell."""
        lines = _kept.of(limits) if style is HeaderStyle.DRAFT else None
        return None if lines is None else cls(identity, lines)

    def lines(self, reply: Sequence[int]) -> bytes:
        """All header lines after a reply of `lua/take.lua` that has taken."""
        return self._begin + self._limits.lines(reply)


class _Limits:
    """What is told of the limits of a plan. `_ends` are the instants at which its windows end, where it has any."""

    __slots__ = ("_ends", "_format", "_rules", "_told")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._told = [rendering.told.of(limit) for limit in limits]
        # Of a bucket: the tokens of one that lacks less than a whole one, grains in a token, and grains a microsecond.
        self._rules = [
            (limit.rule.burst - 1, limit.rule.grains, limit.rule.refill) if isinstance(limit.rule, Bucket) else None
            for limit in limits
        ]
        self._ends: list[int] = []
        self._format = b""

    def lines(self, reply: Sequence[int]) -> bytes:
        numbers: list[int] = []
        ends: list[int] = []
        at = 2
        for rule in self._rules:
            left, after_us = reply[at], reply[at + 1]
            at += 3
            if rule is None:
                ends.append(reply[1] + after_us)
            elif after_us:  # Until the next token, as `decisions.Standing.next_unit_after_us` has it.
                whole = rule[0] - left
                if whole:
                    after_us = max(1, after_us - whole * rule[1] // rule[2])
            numbers.append(left)
            numbers.append(-(-after_us // _SECOND))
        if ends != self._ends or not self._format:
            self._ends, self._format = ends, self._made(ends)
        return self._format % tuple(numbers)

    def _made(self, ends: Sequence[int]) -> bytes:
        """The format for windows that end at these instants."""
        windows = iter(ends)
        policies = ", ".join([told.policy or told.policy_until(next(windows)) for told in self._told])
        names = [told.name.replace("%", "%%") for told in self._told]
        limits = ", ".join([f"{name};r=%d;t=%d" for name in names])
        policies = policies.replace("%", "%%")
        return f"ratelimit-policy: {policies}\r\nratelimit: {limits}\r\ncontent-length: 0\r\n".encode()


def _limits(limits: tuple[Limit, ...]) -> _Limits | None:
    """None where numbers alone do not tell all, or where there is not room for all of it in every case."""
    length = 0
    for limit in limits:
        rule, told = limit.rule, rendering.told.of(limit)
        if limit.mode is not Mode.ENFORCE or told.most > rendering.LARGEST:
            return None
        if isinstance(rule, Bucket) and not rule.refill:
            return None
        length += 2 * len(told.name) + len(f", ;q={told.most};w=, ;r={told.most};t=") + 2 * len(str(rendering.LARGEST))
    return _Limits(limits) if limits and length <= rendering.MAX_FIELDS else None


_kept: Derived[tuple[Limit, ...], _Limits | None] = Derived(_limits, _MAX_KEPT)
