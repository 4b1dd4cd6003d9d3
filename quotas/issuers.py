"""Who may sign tokens, and where their keys are: `issuers` and `decryption_keys` of quotas.yaml.

Pure: no file, no address and no variable is read here; `jwks` does that. What is refused is refused when the
configuration is loaded, so that a token never meets a doubtful issuer.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from quotas.errors import Fault
from quotas.key_sets import MAX_KID, PUBLIC_ALGORITHMS, SECRET_ALGORITHM

MAX_TEXT = 512
"""Characters of an issuer, an audience, a subject or a claim's path."""
MAX_LEEWAY_S = 60


class TypPolicy(Enum):
    """Which of an issuer's tokens are access tokens (RFC 9068 section 4, RFC 8725 section 3.11).

    REQUIRED: the header's `typ` is `at+jwt`. PREFERRED: it is `at+jwt`, `JWT` or absent. Both refuse what the claims
    show to be an ID, refresh or logout token (`tokens` says how). OFF: neither is looked at, so that an ID token
    with the right audience passes. `application/` may stand before a type; case does not matter.
    """

    REQUIRED = "required"
    PREFERRED = "preferred"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class JwksUrl:
    """The issuer's keys are at this address."""

    url: str


@dataclass(frozen=True, slots=True)
class JwksFile:
    """The issuer's keys are in this file; a relative path starts at the configuration file's folder."""

    path: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """The issuer's metadata says where its keys are."""


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """The issuer signs with a secret that this environment variable holds too."""

    variable: str


KeySource = JwksUrl | JwksFile | Discovery | SharedSecret


@dataclass(frozen=True, slots=True)
class Issuer:
    """One party whose tokens are believed, and how far.

    A token needs one of `audience`. `subject_claim`, `plan_claim` and `required_claims` are a claim's name, else names
    with dots between them that lead through objects. `leeway_s` is for `exp` and `nbf`, both ways.
    """

    issuer: str
    audience: tuple[str, ...]
    algorithms: frozenset[str]
    keys: KeySource
    subject_claim: str = "sub"
    plan_claim: str | None = None
    plans: Mapping[str, str] = field(default_factory=dict)
    default_plan: str | None = None
    typ: TypPolicy = TypPolicy.PREFERRED
    required_claims: tuple[str, ...] = ()
    leeway_s: int = 5

    def plan(self, value: str | None, known: Container[str]) -> str | None:
        """The plan that a plan claim's value means; None is none, which is 403 `no_plan`.

        With `plans`, only they translate a value; without, the value is a plan's name. What leads to no `known` plan
        falls to `default_plan`.
        """
        name = self.plans.get(value) if self.plans and value is not None else value
        return name if name is not None and name in known else self.default_plan


@dataclass(frozen=True, slots=True)
class DecryptionKeySource:
    """Where a private key is: in a file or in an environment variable, exactly one of them not None."""

    kid: str | None
    file: str | None
    variable: str | None


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine by its writing: `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def contradictions(document: Mapping[object, object]) -> list[Fault]:
    """What only shows between an issuer and the rest of the file, in the raw document: issuers twice, unknown plans."""
    issuers, plans = document.get("issuers"), document.get("plans")
    known = plans if isinstance(plans, dict) else None
    faults, seen = [], set()
    for index, issuer in enumerate(issuers) if isinstance(issuers, list) else ():
        if not isinstance(issuer, dict):
            continue
        if isinstance(name := issuer.get("issuer"), str):
            if name in seen:
                faults.append(Fault(f"issuers.{index}.issuer", f"{name!r} is listed twice; its tokens need one rule"))
            seen.add(name)
        for path, plan in _named_plans(issuer):
            if known is not None and isinstance(plan, str) and plan not in known:
                faults.append(Fault(f"issuers.{index}.{path}", f"there is no plan {plan!r} in `plans`"))
    return faults


def _named_plans(issuer: Mapping[object, object]) -> list[tuple[str, object]]:
    plans = issuer.get("plans")
    translated = [(f"plans.{value}", plan) for value, plan in plans.items()] if isinstance(plans, dict) else []
    return [*translated, ("default_plan", issuer.get("default_plan"))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _text(text: str) -> str:
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable() or text != text.strip():
        raise ValueError(f"must have 1 to {MAX_TEXT} printable characters")
    return text


def _claim_path(path: str) -> str:
    if "" in _text(path).split("."):
        raise ValueError("is no claim's name, nor names with dots between them")
    return path


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        # The message does not quote it: somebody may have written the secret itself.
        raise ValueError("must be the name of an environment variable, not its value")
    return name


def check_url(text: str) -> str:
    """An absolute https URL, or http on loopback; else ValueError."""
    parts = urlsplit(_text(text))
    if not text.isascii() or " " in text or not parts.hostname or parts.fragment or parts.port == 0:
        raise ValueError("must be an absolute URL in ASCII, without a fragment")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a name or a password")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("must start with https:// (http:// is for loopback addresses only)")
    return text


def _algorithm(name: str) -> str:
    if name not in PUBLIC_ALGORITHMS and name != SECRET_ALGORITHM:
        raise ValueError(f"must be one of {', '.join(sorted(PUBLIC_ALGORITHMS))} or {SECRET_ALGORITHM}")
    return name


Text = Annotated[str, AfterValidator(_text)]
ClaimPath = Annotated[str, AfterValidator(_claim_path)]
Url = Annotated[str, AfterValidator(check_url)]
Variable = Annotated[str, AfterValidator(_variable)]


class IssuerModel(_Model):
    """One entry of `issuers`."""

    issuer: Text
    audience: Annotated[list[Text], Field(min_length=1, max_length=100)]
    algorithms: Annotated[list[Annotated[str, AfterValidator(_algorithm)]], Field(min_length=1)]
    jwks_url: Url | None = None
    jwks_file: Text | None = None
    discovery: Literal[True] | None = None
    secret_env: Variable | None = None
    subject_claim: ClaimPath = "sub"
    plan_claim: ClaimPath | None = None
    plans: dict[str, str] = {}
    default_plan: str | None = None
    typ: Annotated[TypPolicy, Field(strict=False)] = TypPolicy.PREFERRED
    required_claims: list[ClaimPath] = []
    leeway_s: Annotated[int, Field(ge=0, le=MAX_LEEWAY_S)] = 5

    @model_validator(mode="after")
    def _consistent(self) -> "IssuerModel":
        if sum(source is not None for source in (self.jwks_url, self.jwks_file, self.discovery, self.secret_env)) != 1:
            raise ValueError("must have exactly one of `jwks_url`, `jwks_file`, `discovery: true` and `secret_env`")
        if (self.secret_env is not None) != (SECRET_ALGORITHM in self.algorithms):
            raise ValueError(f"{SECRET_ALGORITHM} goes with `secret_env`, and with nothing else")
        if self.secret_env is not None and set(self.algorithms) != {SECRET_ALGORITHM}:
            raise ValueError(f"{SECRET_ALGORITHM} must stand alone in `algorithms`: a secret and public keys never mix")
        if self.discovery and "?" in check_url(self.issuer):
            raise ValueError("discovery needs an issuer without a query")
        if self.plans and self.plan_claim is None:
            raise ValueError("`plans` translates the values of `plan_claim`, which is missing")
        return self

    def to_domain(self) -> Issuer:
        """The issuer, as tokens are verified with it."""
        return Issuer(
            issuer=self.issuer,
            audience=tuple(self.audience),
            algorithms=frozenset(self.algorithms),
            keys=self._source(),
            subject_claim=self.subject_claim,
            plan_claim=self.plan_claim,
            plans=dict(self.plans),
            default_plan=self.default_plan,
            typ=self.typ,
            required_claims=tuple(self.required_claims),
            leeway_s=self.leeway_s,
        )

    def _source(self) -> KeySource:
        if self.jwks_url is not None:
            return JwksUrl(self.jwks_url)
        if self.jwks_file is not None:
            return JwksFile(self.jwks_file)
        return Discovery() if self.secret_env is None else SharedSecret(self.secret_env)


class DecryptionKeyModel(_Model):
    """One entry of `decryption_keys`."""

    kid: Annotated[str, Field(min_length=1, max_length=MAX_KID)] | None = None
    key_file: Text | None = None
    key_env: Variable | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "DecryptionKeyModel":
        if (self.key_file is None) == (self.key_env is None):
            raise ValueError("must have either `key_file` or `key_env`")
        return self

    def to_domain(self) -> DecryptionKeySource:
        """Where the key is."""
        return DecryptionKeySource(self.kid, self.key_file, self.key_env)


IssuerModels = Annotated[list[IssuerModel], Field(max_length=100)]
DecryptionKeyModels = Annotated[list[DecryptionKeyModel], Field(max_length=4)]
"""At most four: a token without a `kid` may cost one private operation for each."""
