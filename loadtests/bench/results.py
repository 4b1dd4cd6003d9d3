"""What one run has found, and how it stands against the budget."""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtests.bench.cases import BASELINES, MILLIONS, NUMBER_OF_LIMITS, OURS, Server
from loadtests.bench.gateway import Added
from loadtests.bench.rounds import Measured
from loadtests.bench.takes import FULL, LEAST, Takes


@dataclass(frozen=True, slots=True)
class Results:
    """Everything: the measured groups by name, the takes alone, and what a check adds in nginx; None was not asked.

    `others` is the largest share of the machine, 0 to 1, that other programs took while nothing of ours ran; None is
    that nobody can tell.
    """

    groups: Mapping[str, list[Measured]]
    takes: Takes
    added: Added | None
    others: float | None = None

    def of(self, group: str, server: Server, name: str | None = None) -> Measured | None:
        """The first case of a server in a group, or the one of this name; None where it was not measured."""
        for each in self.groups.get(group, ()):
            if each.case.server is server and name in {None, each.case.name}:
                return each
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the budget: what must reach `bound`, `at_least` or at most, and the measured value; None is none."""

    what: str
    bound: float
    unit: str
    value: float | None
    at_least: bool = False

    @property
    def standing(self) -> str:
        """Whether it is met."""
        if self.value is None:
            return "not measured"
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "met" if met else "missed"


def budget(results: Results) -> list[Row]:
    """The budget of the service, row by row."""
    name = BASELINES.name
    ours, bare = results.of(name, Server.QUOTAS, OURS.name), results.of(name, Server.BARE)
    team, telling = results.of(name, Server.LIMITS), results.of(name, Server.LIMITS_TELLING)
    takes, added = results.takes, results.added
    least = takes.script_us[LEAST]
    return [
        Row("checks/s of one worker, against the bare ASGI app", 0.7, "x", _rate(ours, bare), at_least=True),
        Row("checks/s of one worker, against Starlette + limits", 9, "x", _rate(ours, team), at_least=True),
        Row("the same, where limits also tells what is left", 9, "x", _rate(ours, telling), at_least=True),
        Row("CPU of the service per check, against the bare app's per request", 1.0, "x", _cpu(ours, bare)),
        Row("Redis CPU of a take, against the least script", 2.5, "x", takes.script_us[FULL] / least),
        Row("Redis CPU of one limit more", 1.5, "us", takes.further_limit_us),
        Row("commands to Redis per check, over 1 to 8 limits", 1, "", _commands(results)),
        Row("checks/s with 1,000,000 clients, against 1,000", 0.9, "x", _million(results), at_least=True),
        Row("Redis memory of an active client's state", 300, "B", takes.bytes["state"]),
        Row("Redis memory of an API key", 500, "B", takes.bytes["key"]),
        Row(
            "p99 that the check adds in nginx, at half of full load",
            2,
            "ms",
            None if added is None else added.medians(lambda took: took.p99_us)[2] / 1000,
        ),
    ]


def _rate(ours: Measured | None, other: Measured | None) -> float | None:
    return None if ours is None or other is None else ours.rate / other.rate


def _cpu(ours: Measured | None, other: Measured | None) -> float | None:
    if ours is None or other is None:
        return None
    spent, others = (each.median(lambda round_: round_.server_us) for each in (ours, other))
    return None if spent is None or not others else spent / others


def _commands(results: Results) -> float | None:
    """The most that any number of limits had, to the hundredth: what each worker does once a second is in it."""
    found = [
        (each.median(lambda round_: round_.scripts) or 0) + (each.median(lambda round_: round_.lookups) or 0)
        for each in results.groups.get(NUMBER_OF_LIMITS.name, ())
    ]
    return round(max(found), 2) if found else None


def _million(results: Results) -> float | None:
    """Of those that all ask equally often."""
    measured = results.groups.get(MILLIONS.name)
    return None if measured is None else _rate(measured[1], measured[0])
