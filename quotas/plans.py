"""Plans, and everything else that a configuration file says, as values. `plan_files` reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from quotas import scopes
from quotas.addresses import Proxies
from quotas.issuers import DecryptionKeySource, Issuer
from quotas.limits import Limit
from quotas.paths import PathPattern
from quotas.places import ALWAYS, Places

LOOPBACK = Proxies((IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")))
"""Whose word on costs and addresses is taken when the file does not say."""

MAX_CLIENT_NAME = 128

MOST_CLIENTS = 10_000
"""The most clients that can be counted each under its own name."""

MAX_KEEP_MONTHS = 36
"""The longest that a usage history can be kept, in months."""

LONGEST_MONTH_DAYS = 31


class StoreErrorPolicy(Enum):
    """What a check answers when the store does not: let it pass uncounted, or refuse it."""

    ALLOW = "allow"
    DENY = "deny"


class HeaderStyle(Enum):
    """How what is left is told: the IETF draft's `RateLimit` fields, `X-RateLimit-*` of one limit, or both."""

    DRAFT = "draft"
    LEGACY = "legacy"
    BOTH = "both"


class Preflight(Enum):
    """What becomes of CORS preflights: they pass free, or they are checked like any other request."""

    FREE = "pass"
    CHECK = "check"


@dataclass(frozen=True, slots=True)
class Dedupe:
    """By which header, in lower case, a check that is sent twice is known, and for how long: whole milliseconds."""

    header: bytes
    within_us: int


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a rule is about. None is any method, or any path; methods are upper case."""

    methods: frozenset[str] | None = None
    path: PathPattern | None = None

    def matches(self, method: str, paths: Sequence[str]) -> bool:
        """Whether a request is meant, in any of the readings of its path."""
        return (self.methods is None or method.upper() in self.methods) and (
            self.path is None or self.path.matches_any(paths)
        )


@dataclass(frozen=True, slots=True)
class CostRule:
    """What the requests that match cost, in units; 0 is free."""

    match: Match
    cost: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits, which requests each is about, what requests cost, and the answer when the store is down.

    A limit without an entry in `matches` is about every request. `required_scopes` are asked of every request,
    `limit_scopes` of those that the limit of this name is about. Test keys of its clients are on `test_plan`; None is
    this one.
    """

    name: str
    limits: tuple[Limit, ...]
    matches: Mapping[str, Match] = field(default_factory=dict)
    costs: tuple[CostRule, ...] = ()
    on_store_error: StoreErrorPolicy = StoreErrorPolicy.DENY
    required_scopes: frozenset[str] = scopes.NONE
    limit_scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    test_plan: str | None = None

    @property
    def asks_for_paths(self) -> bool:
        """Whether a request's method and path make any difference."""
        return bool(self.matches or self.costs)

    def skipped(self, method: str, paths: Sequence[str]) -> frozenset[str]:
        """Names of the limits that are not about this request, in any reading of its path."""
        return frozenset(name for name, match in self.matches.items() if not match.matches(method, paths))

    def scopes_for(self, skipped: frozenset[str]) -> frozenset[str]:
        """Scopes that a request needs which all limits but the `skipped` are about."""
        if not self.limit_scopes:
            return self.required_scopes
        asked = (each for name, each in self.limit_scopes.items() if name not in skipped)
        return self.required_scopes.union(*asked)

    def cost(self, method: str, paths: Sequence[str]) -> int:
        """Units that this request costs: of the first rule that matches, else 1; of several readings, the most."""
        return max(self._cost(method, path) for path in paths)

    def _cost(self, method: str, path: str) -> int:
        return next((rule.cost for rule in self.costs if rule.match.matches(method, (path,))), 1)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one configuration file says. `clients` are those kept in the file, as name -> plan.

    `issuers` are those whose tokens are believed, by their `iss`; `decryption_keys` say where private keys are.
    `max_clients` is how many clients are counted each under its own name, at most.

    `places` are where a credential may stand. `anonymous` is the plan of callers without one; None: they are refused.
    `dedupe` None charges every check, however often it is sent. A usage history is kept for `keep_months`; 0 is none.
    """

    source: str
    plans: Mapping[str, Plan]
    clients: Mapping[str, str] = field(default_factory=dict)
    trusted_proxies: Proxies = LOOPBACK
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    decryption_keys: tuple[DecryptionKeySource, ...] = ()
    headers: HeaderStyle = HeaderStyle.DRAFT
    preflight: Preflight = Preflight.CHECK
    places: Places = ALWAYS
    anonymous: str | None = None
    dedupe: Dedupe | None = None
    max_clients: int = 1000
    keep_months: int = 13

    @property
    def keep_s(self) -> int:
        """How long a day of the usage history is kept, in seconds: at least so many whole months, in every zone."""
        return (self.keep_months * LONGEST_MONTH_DAYS + 1) * 86_400 if self.keep_months else 0


def is_client_name(name: str) -> bool:
    """Whether a client can be called this: 1 to 128 printable characters, compared exactly."""
    return 1 <= len(name) <= MAX_CLIENT_NAME and name.isprintable()
