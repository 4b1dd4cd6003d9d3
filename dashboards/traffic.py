"""Clients that do what dashboards are for: one is busy, one is throttled, one uses its quota up, one has no key.

Everything is counted as it was answered, by client and outcome, so that it can be held against what the service counts.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

PLANS = """
plans:
  free:
    limits:
      per-second: {rate: 5/second, burst: 10}
      monthly: {quota: 1000000/month}
  pro:
    limits:
      per-second: {rate: 100/second, burst: 50}
      trial: {rate: 10/second, mode: shadow}
      monthly: {quota: 6000/month}
  small:
    limits:
      monthly: {quota: 25/month}
  lenient:
    limits:
      daily: {quota: 20/day, mode: overage}
    on_store_error: allow
issuers:
  - {issuer: https://id.example.com, audience: [api], algorithms: [ES256], jwks_url: "KEYS/jwks", default_plan: free}
  - {issuer: https://gone.example.com, audience: [api], algorithms: [ES256], jwks_url: "KEYS/gone", default_plan: free}
trusted_proxies: [127.0.0.0/8]
"""
"""`KEYS` stands for the address of who serves key sets."""

UNKNOWN = "unknown"
"""The label of callers without a client."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks how often, up and down by half within half a minute. `cost` goes into X-Quotas-Cost as it is."""

    name: str
    per_second: float
    plan: str | None
    cost: str | None = None
    suspended: bool = False


CALLERS = (
    Caller("acme", 30, "pro"),
    Caller("bert", 10, "pro"),
    Caller("carl", 10, "free"),
    Caller("dora", 8, "small"),
    Caller("emil", 6, "lenient"),
    Caller("gina", 1, "free", suspended=True),
    Caller("hugo", 1, "pro", cost="51"),
    Caller("nobody", 2, None),
    Caller("garbled", 0.5, "free", cost="1.5"),
)

_OUTCOMES = {
    (200, ""): "allowed",
    (400, "invalid_request"): "error",
    (401, "invalid_credential"): "unauthenticated",
    (403, "cost_exceeds_limit"): "never",
    (403, "suspended_client"): "forbidden",
    (429, "quota_exceeded"): "quota_exceeded",
    (429, "rate_limited"): "rate_limited",
    (503, "store_unavailable"): "error",
}


@dataclass(slots=True)
class Tally:
    """What was answered: (client label, outcome) -> checks. `lost` is checks without an answer, of which some count."""

    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    degraded: int = 0
    lost: int = 0

    def count(self, answer: httpx.Response) -> None:
        """Count an answer. Raises KeyError for one that no check should get."""
        outcome = _OUTCOMES[answer.status_code, answer.headers.get("x-quotas-reason", "")]
        self.answered[answer.headers["x-quotas-client"] or UNKNOWN, outcome] += 1
        self.degraded += "x-quotas-degraded" in answer.headers or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens while the traffic goes on, `at_s` after its begin."""

    at_s: float
    happen: Callable[[], None]


async def send(url: str, keys: Mapping[str, str], seconds: float, tally: Tally, events: Sequence[Event] = ()) -> None:
    """Send the traffic of all callers for so long, and wait for every answer."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http, asyncio.TaskGroup() as group:
        for caller in CALLERS:
            group.create_task(_call(http, caller, keys[caller.name], seconds, tally))
        for event in events:
            group.create_task(_happen(event))


async def _happen(event: Event) -> None:
    await asyncio.sleep(event.at_s)
    event.happen()


async def _call(http: httpx.AsyncClient, caller: Caller, key: str, seconds: float, tally: Tally) -> None:
    """Ask at the caller's pace, one check after the other. POST: nothing sends it again by itself."""
    headers = {"x-api-key": key} | ({} if caller.cost is None else {"x-quotas-cost": caller.cost})
    begun = due = time.monotonic()
    while due < begun + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            answer = await http.post("/check", headers=headers)
        except httpx.TransportError:
            tally.lost += 1
        else:
            tally.count(answer)
        swing = 1 + 0.5 * math.sin((due - begun) / 30 * math.tau + len(caller.name) + caller.per_second)
        due += 1 / (caller.per_second * swing)
