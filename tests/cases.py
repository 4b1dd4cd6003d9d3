"""The step vectors of tests/vectors, as limits and expected decisions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quotas.decisions import Decision
from quotas.limits import Bucket, Limit, Quota, Window
from quotas.rates import UNIT_US


@dataclass(frozen=True)
class Case:
    """One case: its limits, and the steps with what each must answer."""

    name: str
    limits: list[Limit]
    steps: list[dict[str, Any]]


def load_cases() -> list[Case]:
    text = (Path(__file__).parent / "vectors" / "limits.jsonl").read_text("utf-8")
    return [_case(json.loads(line)) for line in text.splitlines()]


def _case(data: dict[str, Any]) -> Case:
    limits = [Limit(name, _rule(rule)) for name, rule in data["limits"].items()]
    return Case(data["case"], limits, data["steps"])


def _rule(rule: dict[str, Any]) -> Bucket | Quota:
    per = rule["per"]
    if "rate" in rule:
        period_us = per if isinstance(per, int) else UNIT_US[per]
        return Bucket(count=rule["rate"], period_us=period_us, burst=rule["burst"])
    return Quota(
        units=rule["quota"],
        window=Window(per),
        timezone=rule.get("timezone") or "UTC",
        anchor_day=rule.get("anchor") or 1,
    )


def answer(decision: Decision) -> dict[str, Any]:
    """A decision in the words of the vectors."""
    return {
        "allowed": decision.allowed,
        "outcome": decision.outcome.value,
        "binding": decision.binding and decision.binding.name,
        "retry_after_us": decision.retry_after_us,
        "limits": {
            standing.limit.name: {
                "remaining": standing.remaining,
                "reset_after_us": standing.reset_after_us,
            }
            for standing in decision.standings
        },
    }
