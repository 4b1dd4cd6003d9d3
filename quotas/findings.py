"""What an examination finds: a subject, how it stands, and what to do about it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from quotas.errors import ConfigError, one_line

_SHOWN = 3
"""How many names are told of many."""


class Verdict(Enum):
    """How something stands.

    OK: nothing to do. WARNING: it works, and can surprise. PROBLEM: checks fail, are answered wrongly or will be, or
    what must be kept is not.
    """

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `message` says how it is, `advice` what to do; only what is OK needs none.

    Both can quote what a server or a file says, so they are made one line that can be printed. Neither has a secret.
    """

    subject: str
    verdict: Verdict
    message: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert self.advice or self.verdict is Verdict.OK, "what is wrong comes with what to do"
        for name in ("subject", "message", "advice"):
            object.__setattr__(self, name, one_line(getattr(self, name)))


def ok(subject: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, Verdict.OK, message)


def warning(subject: str, message: str, advice: str) -> Finding:
    """It works, and can surprise."""
    return Finding(subject, Verdict.WARNING, message, advice)


def problem(subject: str, message: str, advice: str) -> Finding:
    """It does not work, or what must be kept is not."""
    return Finding(subject, Verdict.PROBLEM, message, advice)


def of_faults(subject: str, error: ConfigError, advice: str) -> list[Finding]:
    """A problem for each fault of a configuration."""
    return [problem(subject, str(fault), advice) for fault in error.faults]


def worst(findings: Iterable[Finding]) -> Verdict:
    """The verdict on all of them together."""
    found = {finding.verdict for finding in findings}
    return next((each for each in (Verdict.PROBLEM, Verdict.WARNING) if each in found), Verdict.OK)


def some(noun: str, names: Sequence[str]) -> str:
    """How many of what there are, and the first of their names."""
    return f"{len(names)} {noun if len(names) == 1 else noun + 's'} ({few(names)})" if names else f"no {noun}"


def few(names: Sequence[str]) -> str:
    """The first of some names, and how many there are beside."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
