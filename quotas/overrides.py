"""Limits of one client that differ from its plan, until an instant or for good.

An override names a limit of the plan and says what is different about it; everything else stays the plan's, also
when the plan changes later. A rate that comes without a burst brings its own, as in a plan: its count. An override
of a limit that the plan does not have waits until it has.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, ValidationError

from quotas import instants
from quotas.limits import Bucket, Limit, Quota
from quotas.plans import Plan
from quotas.rates import AnchorDay, BurstNumber, QuotaText, RateText, ZoneName, parse_quota, parse_rate


class Override(BaseModel):
    """What is different about one limit; None is not different. `until_us` is the first instant it is over."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rate: RateText | None = None
    burst: BurstNumber | None = None
    quota: QuotaText | None = None
    timezone: ZoneName | None = None
    anchor_day: AnchorDay | None = None
    until_us: int | None = None

    def applied(self, limit: Limit) -> Limit:
        """The limit as this override makes it. Raises ValueError when that is no limit."""
        rule = limit.rule
        return replace(limit, rule=self._bucket(rule) if isinstance(rule, Bucket) else self._quota(rule))

    def _bucket(self, rule: Bucket) -> Bucket:
        if self.quota is not None or self.timezone is not None or self.anchor_day is not None:
            raise ValueError("this limit is a bucket: it can have another rate and burst")
        if self.rate is None:
            return replace(rule, burst=rule.burst if self.burst is None else self.burst)
        count, period_us = parse_rate(self.rate)
        return Bucket(count=count, period_us=period_us, burst=count if self.burst is None else self.burst)

    def _quota(self, rule: Quota) -> Quota:
        if self.rate is not None or self.burst is not None:
            raise ValueError("this limit is a quota: it can have other units, another time zone and anchor day")
        units, window = (rule.units, rule.window) if self.quota is None else parse_quota(self.quota)
        anchor_day = rule.anchor_day if self.anchor_day is None else self.anchor_day
        return Quota(units=units, window=window, timezone=self.timezone or rule.timezone, anchor_day=anchor_day)


def load(text: str) -> Mapping[str, Override]:
    """Overrides by limit name, from text that has each name on a line and what is different on the next.

    What this version cannot read is left out: a field of a later one, a time zone that is gone.
    """
    found: dict[str, Override] = {}
    for name, dumped in zip(names(text), text.split("\n")[1::2], strict=False):
        with suppress(ValidationError):
            found[name] = Override.model_validate_json(dumped)
    return found


def names(text: str) -> list[str]:
    """The limits that such text is about, also where it cannot be read."""
    return text.split("\n")[:-1:2]


def joined(dumped: Mapping[str, str]) -> str:
    """The text that `load` reads, of overrides that are `written` already."""
    return "".join(f"{name}\n{each}\n" for name, each in dumped.items())


def written(override: Override) -> str:
    """One override as one line of JSON."""
    return override.model_dump_json(exclude_none=True)


def told(override: Override) -> dict[str, str | int]:
    """An override for people and programs: what is different by name, `until` as RFC 3339 text."""
    different: dict[str, str | int] = override.model_dump(exclude={"until_us"}, exclude_none=True)
    return different if override.until_us is None else {**different, "until": instants.show(override.until_us)}


def dump(overrides: Mapping[str, Override]) -> str:
    """The text that `load` reads."""
    return joined({name: written(override) for name, override in overrides.items()})


@dataclass(frozen=True, slots=True)
class Overridden:
    """A plan with its overrides, which holds until `until_us`; None is for good."""

    plan: Plan
    until_us: int | None


def apply(plan: Plan, overrides: Mapping[str, Override], now_us: int) -> Overridden:
    """The plan as it is for one client now. An override that no longer fits its limit is left out."""
    alive = {
        name: override
        for name, override in overrides.items()
        if override.until_us is None or now_us < override.until_us
    }
    limits = tuple(_fitting(limit, alive.get(limit.name)) for limit in plan.limits)
    ends = [override.until_us for override in alive.values() if override.until_us is not None]
    return Overridden(replace(plan, limits=limits), min(ends, default=None))


def _fitting(limit: Limit, override: Override | None) -> Limit:
    if override is None:
        return limit
    try:
        return override.applied(limit)
    except ValueError:
        return limit
