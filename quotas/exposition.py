"""Metrics as Prometheus reads them: the text format 0.0.4, or OpenMetrics 1.0 for who prefers it. Pure text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a family's samples are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Format(Enum):
    """A format by its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @classmethod
    def asked_for(cls, accept: str) -> "Format":
        """The one that a field `Accept` (RFC 9110, section 12.5.1) prefers; in doubt the text format."""
        weights = dict.fromkeys(cls, 0.0)
        for part in accept.split(","):
            media, *parameters = (word.strip().lower() for word in part.split(";"))
            given = dict(parameter.partition("=")[::2] for parameter in parameters)
            if media == "application/openmetrics-text" and given.get("version", "1.0.0") == "1.0.0":
                weights[cls.OPENMETRICS] = max(weights[cls.OPENMETRICS], _weight(given))
            elif media in {"text/plain", "text/*", "*/*"} and given.get("version", "0.0.4") == "0.0.4":
                weights[cls.TEXT] = max(weights[cls.TEXT], _weight(given))
        return cls.OPENMETRICS if weights[cls.OPENMETRICS] > weights[cls.TEXT] else cls.TEXT


def _weight(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, what it counts, and the names of its labels in the order of their values.

    A counter's name ends with `_total`.
    """

    name: str
    kind: Kind
    told: str
    labels: tuple[str, ...] = ()

    def head(self, form: Format) -> str:
        """The lines before its samples. OpenMetrics calls a counter's family by the name without `_total`."""
        assert self.name.endswith("_total") == (self.kind is Kind.COUNTER), "what counts is a total"
        name = self.name.removesuffix("_total") if form is Format.OPENMETRICS else self.name
        return f"# HELP {name} {self.told}\n# TYPE {name} {self.kind.value}\n"

    def labelled(self, values: Sequence[str]) -> str:
        """`name{label="value"}`."""
        return self.name + braces(zip(self.labels, values, strict=True))


END = {Format.TEXT: "", Format.OPENMETRICS: "# EOF\n"}
"""What ends an exposition."""


def braces(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels by their names, in braces; empty without any. What is special in a value is escaped."""
    inner = ",".join(f'{label}="{escaped(value)}"' for label, value in pairs)
    return f"{{{inner}}}" if inner else ""


def escaped(value: str) -> str:
    """A label's value between its quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def histogram(family: Family, values: Sequence[str], bounds: Sequence[float], cells: Sequence[float]) -> Iterator[str]:
    """The samples of one histogram. `cells` has a count for each bound, one for what is above all, and the sum."""
    pairs = list(zip(family.labels, values, strict=True))
    count = 0.0
    for bound, cell in zip([*map(repr, bounds), "+Inf"], cells, strict=False):
        count += cell
        yield f"{family.name}_bucket{braces([*pairs, ('le', bound)])} {count!r}\n"
    yield f"{family.name}_count{braces(pairs)} {count!r}\n"
    yield f"{family.name}_sum{braces(pairs)} {cells[-1]!r}\n"
