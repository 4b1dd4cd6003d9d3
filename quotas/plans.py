"""Plans as people write them: YAML text in, checked values out, or every fault at once with its path.

Nothing here reads a file or a clock. A document is looked at in three passes whose faults are all reported
together: names that stand twice (YAML would silently keep the last), fields and their shapes, and the numbers
that only the domain can judge.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from quotas.errors import ConfigError, Fault
from quotas.limits import MAX_LIMITS, Bucket, Limit, Mode, Per, Quota, Window
from quotas.windows import load_zone

UNIT_US = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 604_800_000_000,
}
"""Units of a rate's period, in microseconds. A month has no fixed length: that is a quota."""

_RATE = re.compile(r"(-?[0-9_]+)\s*(?:/|\bper\b)\s*(?:([0-9_]+)\s+)?([a-z]+?)s?")
_QUOTA = re.compile(r"(-?[0-9_]+)\s*(?:/|\bper\b)\s*([a-z]+?)s?")
_MAX_DIGITS = 19


class StoreErrorPolicy(Enum):
    """What a check answers when the store does not: let it pass uncounted, or refuse it."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits and the answer to give when the store is down."""

    name: str
    limits: tuple[Limit, ...]
    on_store_error: StoreErrorPolicy = StoreErrorPolicy.DENY


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one configuration file says."""

    source: str
    plans: Mapping[str, Plan]


def parse(text: str, source: str) -> Config:
    """The configuration in `text`; `source` is its name in messages. Raises ConfigError with every fault."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(source, [_yaml_fault(error)]) from error
    faults = [] if root is None else list(_duplicates(root, "", set()))
    if not isinstance(document, dict):
        raise ConfigError(source, [*faults, Fault("(file)", "must hold a mapping with the field `plans`")])
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        faults += [_fault(details) for details in error.errors(include_url=False)]
    if faults:
        raise ConfigError(source, faults)
    return Config(source, {name: plan.to_domain(name) for name, plan in file.plans.items()})


def parse_rate(text: str) -> tuple[int, int]:
    """`5/second` or `13 per 7 seconds` as (count, period in microseconds). Raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no rate; write it as 5/second, 100 per minute or 13 per 7 seconds")
    count, times, unit = match.groups()
    if unit in {"month", "year"}:
        raise ValueError(f"a {unit} has no fixed length; use `quota: {count}/{unit}` for a calendar {unit}")
    if unit not in UNIT_US:
        raise ValueError(f"unknown unit {unit!r}; known are {', '.join(UNIT_US)}")
    return _whole(count), (1 if times is None else _whole(times)) * UNIT_US[unit]


def parse_quota(text: str) -> tuple[int, Window]:
    """`10000/month` as (units, window). Raises ValueError."""
    match = _QUOTA.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no quota; write it as 10000/month")
    units, window = match.groups()
    if window not in {known.value for known in Window}:
        raise ValueError(f"unknown window {window!r}; known are {', '.join(known.value for known in Window)}")
    return _whole(units), Window(window)


def _whole(text: str) -> int:
    digits = text.replace("_", "")
    if not digits.removeprefix("-") or len(digits) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]} is no whole number below 2^53")
    return int(digits)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _printable(name: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]{1,64}", name) or name != name.strip():
        raise ValueError("a name has 1 to 64 printable ASCII characters: it is written into header fields")
    return name


_Name = Annotated[str, AfterValidator(_printable)]


class _Limit(_Model):
    rate: str | None = None
    burst: int | None = None
    quota: str | None = None
    timezone: str | None = None
    anchor_day: int | None = None
    mode: Annotated[Mode, Field(strict=False)] = Mode.ENFORCE
    per: Annotated[Per, Field(strict=False)] = Per.CLIENT

    @model_validator(mode="after")
    def _possible(self) -> "_Limit":
        self.to_domain("limit")
        return self

    def to_domain(self, name: str) -> Limit:
        """The limit; raises ValueError for what no bucket or quota can be."""
        if (self.rate is None) == (self.quota is None):
            raise ValueError("must have either `rate` (a bucket) or `quota` (a calendar window)")
        return Limit(name, self._bucket() if self.rate is not None else self._quota(), self.mode, self.per)

    def _bucket(self) -> Bucket:
        assert self.rate is not None
        for name in ("timezone", "anchor_day"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` goes with `quota`, not with `rate`")
        count, period_us = parse_rate(self.rate)
        return Bucket(count=count, period_us=period_us, burst=count if self.burst is None else self.burst)

    def _quota(self) -> Quota:
        assert self.quota is not None
        if self.burst is not None:
            raise ValueError("`burst` goes with `rate`, not with `quota`")
        units, window = parse_quota(self.quota)
        zone = load_zone(self.timezone or "UTC").key
        return Quota(units=units, window=window, timezone=zone, anchor_day=self.anchor_day or 1)


class _Plan(_Model):
    limits: Annotated[dict[_Name, _Limit], Field(min_length=1, max_length=MAX_LIMITS)]
    on_store_error: Annotated[StoreErrorPolicy, Field(strict=False)] = StoreErrorPolicy.DENY

    def to_domain(self, name: str) -> Plan:
        limits = tuple(limit.to_domain(title) for title, limit in self.limits.items())
        return Plan(name, limits, self.on_store_error)


class _File(_Model):
    plans: Annotated[dict[_Name, _Plan], Field(min_length=1)]


_MODELS: dict[str, type[_Model]] = {"": _File, "plans": _Plan, "limits": _Limit}


def _fault(details: ErrorDetails) -> Fault:
    location = [str(part) for part in details["loc"]]
    path = ".".join(part for part in location if part != "[key]") or "(file)"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        message = _unknown(location)
    elif details["type"] == "missing":
        message = "is missing"
    elif "[key]" in location and details["type"] == "string_type":
        message = "a name must be text; put it in quotes"
    else:
        message += _given(details["input"])
    return Fault(path, message)


def _given(value: Any) -> str:
    """What stood there, when it is short and plain enough to help."""
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40):  # noqa: PLR2004 # One line.
        return f" (given: {value!r})"
    return ""


def _unknown(location: list[str]) -> str:
    depth = location[:-1]
    holder = _MODELS["" if not depth else "limits" if "limits" in depth else "plans"]
    known = list(holder.model_fields)
    close = get_close_matches(location[-1], known, n=1)
    return f"unknown field; did you mean `{close[0]}`?" if close else f"unknown field; known: {', '.join(known)}"


def _yaml_fault(error: yaml.YAMLError) -> Fault:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return Fault(f"line {mark.line + 1}, column {mark.column + 1}", f"no valid YAML: {error.problem}")
    return Fault("(file)", "no valid YAML")


def _duplicates(node: yaml.Node, path: str, seen: set[int]) -> Iterator[Fault]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, f"{path}.{index}".lstrip("."), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value)
        here = f"{path}.{name}".lstrip(".")
        line = key.start_mark.line + 1
        if name in lines and name != "<<":
            yield Fault(here, f"stands twice, on lines {lines[name]} and {line}; YAML would keep only the last")
        lines.setdefault(name, line)
        yield from _duplicates(value, here, seen)
