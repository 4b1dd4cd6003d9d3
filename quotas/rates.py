"""Rates, quotas and what else a limit is made of, as people write them. Pure text work, for files and for bodies."""

import re
from typing import Annotated

from pydantic import AfterValidator

from quotas.limits import MAX_PERIOD_US, Quota, Window
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

_RATE = re.compile(r"(-?[0-9_]+)\s*(?:/|\bper\b)\s*(?:([0-9_]+)\s+)?([a-z]+)")
_QUOTA = re.compile(r"(-?[0-9_]+)\s*(?:/|\bper\b)\s*([a-z]+)")
_MAX_DIGITS = 19


def parse_rate(text: str) -> tuple[int, int]:
    """`5/second` or `13 per 7 seconds` as (count, period in microseconds). Raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no rate; write it as 5/second, 100 per minute or 13 per 7 seconds")
    count, times, written = match.groups()
    unit = written.removesuffix("s")
    if unit in {"month", "year"}:
        raise ValueError(f"a {unit} has no fixed length; use `quota: {count}/{unit}` for a calendar {unit}")
    if unit not in UNIT_US:
        raise ValueError(f"unknown unit {written!r}; known are {', '.join(UNIT_US)}")
    return _whole(count), (1 if times is None else _whole(times)) * UNIT_US[unit]


def parse_quota(text: str) -> tuple[int, Window]:
    """`10000/month` as (units, window). Raises ValueError."""
    match = _QUOTA.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no quota; write it as 10000/month")
    units, written = match.groups()
    window = written.removesuffix("s")
    if window not in {known.value for known in Window}:
        raise ValueError(f"unknown window {written!r}; known are {', '.join(known.value for known in Window)}")
    return _whole(units), Window(window)


def _whole(text: str) -> int:
    digits = text.replace("_", "")
    if not digits.removeprefix("-") or len(digits) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]} is no whole number below 2^53")
    return int(digits)


def _rate(text: str) -> str:
    count, period_us = parse_rate(text)
    if count < 0:
        raise ValueError("the rate must not be negative")
    if not 1 <= period_us <= MAX_PERIOD_US:
        raise ValueError("the period must be between 1 microsecond and 366 days")
    return text


def _burst(number: int) -> int:
    if number < 1:
        raise ValueError("the burst must be at least 1")
    return number


def _quota(text: str) -> str:
    units, window = parse_quota(text)
    Quota(units=units, window=window)
    return text


def _anchor_day(number: int) -> int:
    Quota(units=1, window=Window.MONTH, anchor_day=number)
    return number


def _timezone(name: str) -> str:
    return load_zone(name).key


RateText = Annotated[str, AfterValidator(_rate)]
BurstNumber = Annotated[int, AfterValidator(_burst)]
QuotaText = Annotated[str, AfterValidator(_quota)]
AnchorDay = Annotated[int, AfterValidator(_anchor_day)]
ZoneName = Annotated[str, AfterValidator(_timezone)]
