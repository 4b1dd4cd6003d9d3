"""Configuration files as people write them: YAML text in, values out, or every fault at once with its path.

Nothing here reads a file or a clock. Faults of the document (`documents`), of fields and their shapes, and of what
no limit can be are all reported together.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import IPv4Network, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from quotas import documents, scopes
from quotas.addresses import Network, Proxies
from quotas.errors import ConfigError, Fault
from quotas.faces import FACES
from quotas.issuers import (
    DecryptionKeyModel,
    DecryptionKeyModels,
    IssuerModel,
    IssuerModels,
    contradictions,
)
from quotas.limits import EXACT, MAX_LIMITS, Bucket, Limit, Mode, Per, Quota
from quotas.paths import PathPattern
from quotas.places import Places, parse_cookie, parse_header
from quotas.plans import (
    LOOPBACK,
    MAX_CLIENT_NAME,
    MAX_KEEP_MONTHS,
    MOST_CLIENTS,
    Config,
    CostRule,
    Dedupe,
    HeaderStyle,
    Match,
    Plan,
    Preflight,
    StoreErrorPolicy,
    is_client_name,
)
from quotas.rates import UNIT_US, AnchorDay, BurstNumber, QuotaText, RateText, ZoneName, parse_quota, parse_rate

_SHORT_UNITS = {"ms": "millisecond", "s": "second", "min": "minute"}
_DURATION = re.compile(r"([0-9]{1,9})\s*(ms|s|min|milliseconds?|seconds?|minutes?)")
MIN_WITHIN_US, MAX_WITHIN_US = 1_000, 60_000_000
"""How long a check can be known again: a millisecond to a minute."""

_OTHER_HEADERS = {"authorization", "x-api-key", "cookie", "x-quotas-cost", "x-forwarded-for"} | {
    name.decode() for face in FACES for name in (face.method, face.target) if name is not None
}
"""What a check is read from, in lower case: none of these can be the id of a request too."""


def parse(text: str, source: str) -> Config:
    """The configuration in `text`; `source` is its name in messages. Raises ConfigError with every fault."""
    document, faults = documents.read(text, source)
    if not isinstance(document, dict):
        raise ConfigError(source, [*faults, Fault("(file)", "must hold a mapping with the field `plans`")])
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        faults += [_fault(details) for details in error.errors(include_url=False)]
    faults += [*_contradictions(document), *contradictions(document)]
    if faults:
        raise ConfigError(source, faults)
    return file.to_domain(source)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


def _printable(name: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]{1,64}", name) or name != name.strip():
        raise ValueError("a name has 1 to 64 printable ASCII characters: it is written into header fields")
    return name


def _client_name(name: str) -> str:
    if not is_client_name(name):
        raise ValueError(f"a client's name has 1 to {MAX_CLIENT_NAME} printable characters")
    return name


def _pattern(text: object) -> PathPattern:
    if not isinstance(text, str):
        raise ValueError("a path pattern is text, such as /search/* or /v1/{any}/items")  # noqa: TRY004 # pydantic collects it.
    return PathPattern(text)


def _network(text: object) -> Network:
    if not isinstance(text, str):
        raise ValueError("a network is text, such as 10.0.0.0/8 or ::1/128")  # noqa: TRY004 # pydantic collects it.
    network = ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    # A peer's mapped address is compared as the IPv4 address that it is; so is a network of them.
    return network if mapped is None else IPv4Network((mapped, max(0, network.prefixlen - 96)))


def _named(parse: Callable[[str], bytes]) -> Callable[[object], bytes | None]:
    """`parse` for what YAML has read; null is that there is none."""

    def read(value: object) -> bytes | None:
        if value is not None and not isinstance(value, str):
            raise ValueError("a name is text; put it in quotes")
        return None if value is None else parse(value)

    return read


_Name = Annotated[str, AfterValidator(_printable)]


def _scopes(names: list[str]) -> list[str]:
    scopes.checked(names)
    return names


Scopes = Annotated[list[str], AfterValidator(_scopes)]
RequiredScopes = Annotated[Scopes, Field(min_length=1)]


def _method(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,31}", text):
        raise ValueError(f"{text[:40]!r} is no HTTP method")
    return text.upper()


def _id_header(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", name):
        raise ValueError("must be the name of a header, such as X-Request-ID")
    if name.lower() in _OTHER_HEADERS:
        raise ValueError("is a header with a meaning of its own; name one that the gateway sets anew for each request")
    return name


def _within(text: object) -> int:
    """`5 s`, `500 ms` or `1 minute` in microseconds."""
    found = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError("a time is written as 5 s, 500 ms or 1 minute")
    number, unit = found.groups()
    us = int(number) * UNIT_US[_SHORT_UNITS.get(unit) or unit.removesuffix("s")]
    if not MIN_WITHIN_US <= us <= MAX_WITHIN_US:
        raise ValueError("must be between 1 ms and 60 s: checks are sent again at once, and an id may come again later")
    return us


class _Match(_Model):
    methods: Annotated[list[Annotated[str, AfterValidator(_method)]], Field(min_length=1)] | None = None
    path: Annotated[PathPattern, BeforeValidator(_pattern)] | None = None

    @model_validator(mode="after")
    def _something(self) -> "_Match":
        if self.methods is None and self.path is None:
            raise ValueError("must have `methods`, `path` or both")
        return self

    def to_domain(self) -> Match:
        return Match(None if self.methods is None else frozenset(self.methods), self.path)


class _LimitMatch(_Match):
    required_scopes: RequiredScopes | None = None


class _Cost(_Match):
    cost: Annotated[int, Field(ge=0, lt=EXACT)]


class _Limit(_Model):
    rate: RateText | None = None
    burst: BurstNumber | None = None
    quota: QuotaText | None = None
    timezone: ZoneName | None = None
    anchor_day: AnchorDay | None = None
    mode: Annotated[Mode, Field(strict=False)] = Mode.ENFORCE
    per: Annotated[Per, Field(strict=False)] = Per.CLIENT
    match: _LimitMatch | None = None

    @model_validator(mode="after")
    def _possible(self) -> "_Limit":
        if (self.rate is None) == (self.quota is None):
            raise ValueError("must have either `rate` (a bucket) or `quota` (a calendar window)")
        self.to_domain("limit")
        return self

    def to_domain(self, name: str) -> Limit:
        """The limit; raises ValueError for what no bucket or quota can be."""
        return Limit(name, self._bucket() if self.rate is not None else self._quota(), self.mode, self.per)

    def _bucket(self) -> Bucket:
        assert self.rate is not None
        count, period_us = parse_rate(self.rate)
        if count == 0 and self.burst is None:
            raise ValueError("a rate of 0 needs a `burst`, which is otherwise the rate's count")
        return Bucket(count=count, period_us=period_us, burst=count if self.burst is None else self.burst)

    def _quota(self) -> Quota:
        assert self.quota is not None
        units, window = parse_quota(self.quota)
        anchor_day = 1 if self.anchor_day is None else self.anchor_day
        return Quota(units=units, window=window, timezone=self.timezone or "UTC", anchor_day=anchor_day)


class _Plan(_Model):
    limits: Annotated[dict[_Name, _Limit], Field(min_length=1, max_length=MAX_LIMITS)]
    costs: list[_Cost] = []
    on_store_error: Annotated[StoreErrorPolicy, Field(strict=False)] = StoreErrorPolicy.DENY
    required_scopes: RequiredScopes | None = None
    test_plan: str | None = None

    def to_domain(self, name: str) -> Plan:
        matches = {title: limit.match for title, limit in self.limits.items() if limit.match is not None}
        return Plan(
            name,
            tuple(limit.to_domain(title) for title, limit in self.limits.items()),
            {title: match.to_domain() for title, match in matches.items()},
            tuple(CostRule(rule.to_domain(), rule.cost) for rule in self.costs),
            self.on_store_error,
            frozenset(self.required_scopes or ()),
            {title: frozenset(match.required_scopes) for title, match in matches.items() if match.required_scopes},
            self.test_plan,
        )


class _Client(_Model):
    plan: str


class _Credentials(_Model):
    header: Annotated[bytes, BeforeValidator(_named(parse_header))] | None = None
    cookie: Annotated[bytes, BeforeValidator(_named(parse_cookie))] | None = None

    def to_domain(self) -> Places:
        return Places(self.header, self.cookie)


class _Anonymous(_Model):
    plan: str | None = None


class _Dedupe(_Model):
    header: Annotated[str, AfterValidator(_id_header)] = "X-Request-ID"
    within: Annotated[int, BeforeValidator(_within)] = 5 * UNIT_US["second"]


class _Metrics(_Model):
    max_clients: Annotated[int, Field(ge=0, le=MOST_CLIENTS)] = 1000


class _Usage(_Model):
    keep_months: Annotated[int, Field(ge=0, le=MAX_KEEP_MONTHS)] = 13


class _File(_Model):
    plans: Annotated[dict[_Name, _Plan], Field(min_length=1)]
    clients: dict[Annotated[str, AfterValidator(_client_name)], _Client] = {}
    trusted_proxies: list[Annotated[Network, BeforeValidator(_network)]] | None = None
    issuers: IssuerModels = []
    decryption_keys: DecryptionKeyModels = []
    headers: Annotated[HeaderStyle, Field(strict=False)] = HeaderStyle.DRAFT
    preflight: Annotated[Preflight, Field(strict=False)] = Preflight.CHECK
    credentials: _Credentials = _Credentials()
    anonymous: _Anonymous = _Anonymous()
    dedupe: _Dedupe | None = None
    metrics: _Metrics = _Metrics()
    usage: _Usage = _Usage()

    def to_domain(self, source: str) -> Config:
        return Config(
            source,
            {name: plan.to_domain(name) for name, plan in self.plans.items()},
            {name: client.plan for name, client in self.clients.items()},
            LOOPBACK if self.trusted_proxies is None else Proxies(tuple(self.trusted_proxies)),
            {issuer.issuer: issuer.to_domain() for issuer in self.issuers},
            tuple(key.to_domain() for key in self.decryption_keys),
            places=self.credentials.to_domain(),
            anonymous=self.anonymous.plan,
            max_clients=self.metrics.max_clients,
            headers=self.headers,
            preflight=self.preflight,
            dedupe=None if self.dedupe is None else Dedupe(self.dedupe.header.lower().encode(), self.dedupe.within),
            keep_months=self.usage.keep_months,
        )


def _contradictions(document: Mapping[object, object]) -> list[Fault]:
    """What only shows between fields. It is looked for in the raw document, so that no other fault hides it."""
    faults = []
    plans, clients = document.get("plans"), document.get("clients")
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        test_plan = plan.get("test_plan") if isinstance(plan, dict) else None
        if isinstance(test_plan, str) and isinstance(plans, dict) and test_plan not in plans:
            faults.append(Fault(f"plans.{name}.test_plan", f"there is no plan {test_plan!r} in `plans`"))
        limits = plan.get("limits") if isinstance(plan, dict) else None
        for title, limit in limits.items() if isinstance(limits, dict) else ():
            if isinstance(limit, dict):
                path = f"plans.{name}.limits.{title}"
                faults += [Fault(f"{path}.{field}", message) for field, message in _misplaced(limit)]
    named = [(f"clients.{name}", client) for name, client in clients.items()] if isinstance(clients, dict) else []
    for path, holder in (*named, ("anonymous", document.get("anonymous"))):
        plan = holder.get("plan") if isinstance(holder, dict) else None
        if isinstance(plan, str) and isinstance(plans, dict) and plan not in plans:
            faults.append(Fault(f"{path}.plan", f"there is no plan {plan!r} in `plans`"))
    faults += _closed(document)
    credentials, dedupe = document.get("credentials"), document.get("dedupe")
    if isinstance(credentials, dict) and isinstance(dedupe, dict):
        header, id_header = credentials.get("header"), dedupe.get("header")
        if isinstance(header, str) and isinstance(id_header, str) and header.lower() == id_header.lower():
            faults.append(Fault("dedupe.header", "is where `credentials` looks for one; name another header"))
    return faults


def _closed(document: Mapping[object, object]) -> Iterator[Fault]:
    """A plan for callers without a credential that asks for scopes, which only credentials have."""
    plans, anonymous = document.get("plans"), document.get("anonymous")
    name = anonymous.get("plan") if isinstance(anonymous, dict) else None
    plan = plans.get(name) if isinstance(plans, dict) and isinstance(name, str) else None
    if isinstance(plan, dict) and plan.get("required_scopes"):
        yield Fault("anonymous.plan", f"the plan {name!r} asks for `required_scopes`, which only credentials have")


def _misplaced(limit: Mapping[object, object]) -> Iterator[tuple[str, str]]:
    """Fields that belong to the other kind of limit, or to another mode."""
    match = limit.get("match")
    if limit.get("mode") == Mode.SHADOW.value and isinstance(match, dict) and "required_scopes" in match:
        yield "match.required_scopes", "a limit in shadow mode refuses nothing; ask for scopes in one that is enforced"
    if limit.get("quota") is None:
        for field in ("timezone", "anchor_day"):
            if limit.get(field) is not None and limit.get("rate") is not None:
                yield field, f"`{field}` goes with `quota`, not with `rate`"
    elif limit.get("rate") is None and limit.get("burst") is not None:
        yield "burst", "`burst` goes with `rate`, not with `quota`"


def _fault(details: ErrorDetails) -> Fault:
    location = [str(part) for part in details["loc"]]
    is_key = bool(location) and location[-1] == "[key]"
    path = ".".join(location[:-1] if is_key else location) or "(file)"
    kind = details["type"]
    if kind == "extra_forbidden":
        return Fault(path, _unknown(location))
    if kind == "missing":
        return Fault(path, "is missing")
    if kind == "model_type":
        return Fault(path, "must be a mapping of fields" + _given(details["input"]))
    if is_key and kind == "string_type":
        return Fault(path, "a name must be text; put it in quotes")
    return Fault(path, details["msg"].removeprefix("Value error, ") + _given(details["input"]))


def _given(value: Any) -> str:
    """What stood there, when it is short and plain enough to help."""
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 40):  # noqa: PLR2004 # One line.
        return f" (given: {value!r})"
    return ""


def _unknown(location: Sequence[str]) -> str:
    """What to write instead of a field that nobody knows."""
    known = list(_holder(location[:-1]).model_fields)
    close = get_close_matches(location[-1], known, n=1)
    return f"unknown field; did you mean `{close[0]}`?" if close else f"unknown field; known: {', '.join(known)}"


def _holder(location: Sequence[str]) -> type[BaseModel]:
    """The model at a place; told by position, because plans and limits may be called anything."""
    for place, model in _PLACES:
        if len(place) == len(location) and all(each in ("*", name) for each, name in zip(place, location, strict=True)):
            return model
    return _File


_PLACES: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    (("plans", "*"), _Plan),
    (("plans", "*", "limits", "*"), _Limit),
    (("plans", "*", "limits", "*", "match"), _LimitMatch),
    (("plans", "*", "costs", "*"), _Cost),
    (("clients", "*"), _Client),
    (("credentials",), _Credentials),
    (("anonymous",), _Anonymous),
    (("dedupe",), _Dedupe),
    (("metrics",), _Metrics),
    (("usage",), _Usage),
    (("issuers", "*"), IssuerModel),
    (("decryption_keys", "*"), DecryptionKeyModel),
)
