"""Who may sign tokens, and with which keys: `issuers` and `decryption_keys` of quotas.yaml, and keys as text.

Pure: no file, no address and no variable is read here; `jwks` does that. What is refused is refused when the
configuration is loaded, so that a token never meets a doubtful issuer.

A key is tied to its algorithms when it is parsed, by its type, its curve and its own `alg`. A shared secret can do
HS256 alone and comes from the environment alone; a public key can never do HS256. No header can change either.
"""

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key
from joserfc.util import urlsafe_b64decode
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from quotas.errors import Fault

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVE_ALGORITHMS = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
"""What a key of this type and curve can verify. `Ed25519` is RFC 9864's name for the usual `EdDSA`."""

SECRET_ALGORITHM = "HS256"  # noqa: S105 # The name of an algorithm.
PUBLIC_ALGORITHMS = RSA_ALGORITHMS.union(*CURVE_ALGORITHMS.values())
KEY_AGREEMENTS = frozenset({"ECDH-ES", "ECDH-ES+A256KW"})

MAX_TEXT = 512
"""Characters of an issuer, an audience, a subject or a claim's path."""
MAX_KID = 256
MAX_KEYS = 100
MAX_LEEWAY_S = 60
MIN_SECRET = 32
"""Bytes of a shared secret: as many as HS256's digest has (RFC 7518, section 3.2)."""

_RSA_BITS = range(2048, 8193)
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_AGREEMENT_CURVES = frozenset({"P-256", "P-384", "P-521", "X25519", "X448"})
_DESCRIPTIONS = frozenset({"use", "key_ops", "alg", "x5u", "x5c", "x5t", "x5t#S256"})
"""Members of a JWK that are not needed to make the key."""

_DIRECT_BYTES = 32
_KEY_MARKS = (b"BEGIN ", b"ssh-", b"ecdsa-sha2-")


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


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, its name and what it may verify. The name None serves every `kid`."""

    kid: str | None
    algorithms: frozenset[str]
    jose: Key = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys that verify one issuer's signatures."""

    keys: tuple[VerificationKey, ...]

    def named(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """The keys that a token of this `kid` can be signed by: those of its name, else those without one."""
        if kid is None:
            return self.keys
        return tuple(key for key in self.keys if key.kid == kid) or tuple(key for key in self.keys if key.kid is None)


@dataclass(frozen=True, slots=True)
class DecryptionKey:
    """A private key that opens encrypted tokens, and by which algorithms. The name None serves every `kid`."""

    kid: str | None
    algorithms: frozenset[str]
    jose: Key = field(repr=False)


def parse_json(data: bytes) -> Any:
    """UTF-8 JSON, read strictly. Raises ValueError.

    Refused beside what is no JSON: a name twice in an object, NaN, a number that overflows, and nesting deeper than
    the interpreter follows.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite_number
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def parse_key_set(data: bytes) -> KeySet:
    """A JWK Set (RFC 7517), without the keys that cannot be used here. Raises ValueError when it is none.

    Ignored are keys of unknown type, curve or algorithm, for another use, of unsafe size, and those that show private
    or symmetric material: everybody has read it.
    """
    document = parse_json(data)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("is no JSON object with a list `keys`")  # noqa: TRY004 # The caller has one fault to catch.
    if len(listed) > MAX_KEYS:
        raise ValueError(f"has more than {MAX_KEYS} keys")
    return KeySet(tuple(key for jwk in listed if (key := _public_key(jwk)) is not None))


def parse_shared_secret(secret: bytes) -> KeySet:
    """The key set of one HS256 secret. Raises ValueError for a short one, and for what looks like an asymmetric key."""
    if len(secret) < MIN_SECRET:
        raise ValueError(f"a shared secret has at least {MIN_SECRET} bytes")
    if any(mark in secret for mark in _KEY_MARKS) or secret.lstrip().startswith(b"{"):
        raise ValueError("a key of a key pair is no shared secret")
    try:
        jose = OctKey.import_key(secret)
    except ValueError:
        raise ValueError("a public key is no shared secret") from None
    return KeySet((VerificationKey(None, frozenset({SECRET_ALGORITHM}), jose),))


def parse_decryption_key(data: bytes, kid: str | None = None) -> DecryptionKey:
    """A private key from PEM (PKCS 8 or older) or from a JWK. Raises ValueError, which never quotes the key.

    RSA from 2048 bits, EC and X25519 keys for ECDH-ES, and as JWK a symmetric key of 32 bytes for `dir`. `kid` goes
    before the JWK's own.
    """
    try:
        jose = _private_jwk(data) if data.lstrip().startswith(b"{") else _private_pem(data)
    except (JoseError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is neither a PEM private key without a password nor a private JWK") from None
    return DecryptionKey(jose.kid if kid is None else kid, _decryption_algorithms(jose), jose)


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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("has a name twice in an object")
    return members


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite_number(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError("has a number that overflows")
    return number


def _public_key(jwk: object) -> VerificationKey | None:
    if not isinstance(jwk, dict) or not _PRIVATE_MEMBERS.isdisjoint(jwk):
        return None
    kid, algorithms = jwk.get("kid"), _verifies(jwk)
    if not algorithms or not (kid is None or (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID)):
        return None
    # Only what makes the key is handed on: certificates, addresses and further members have no say.
    members = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    if not all(isinstance(value, str) for value in members.values()):
        return None
    try:
        if jwk["kty"] == "RSA" and _bits(members.get("n", "")) not in _RSA_BITS:
            return None
        return VerificationKey(kid, algorithms, import_key(members))
    except (JoseError, ValueError, UnsupportedAlgorithm):
        return None


def _verifies(jwk: Mapping[str, object]) -> frozenset[str]:
    """The algorithms that a public JWK may be used for; none if it is not for signatures."""
    use, operations, alg = jwk.get("use"), jwk.get("key_ops"), jwk.get("alg")
    if use is not None and use != "sig":
        return frozenset()
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return frozenset()
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            able = RSA_ALGORITHMS
        case str(kty), str(crv):
            able = CURVE_ALGORITHMS.get((kty, crv), frozenset())
        case _:
            able = frozenset()
    return able if alg is None else able & {alg} if isinstance(alg, str) else frozenset()


def _bits(number: str) -> int:
    return int.from_bytes(urlsafe_b64decode(number.encode())).bit_length()


def _private_jwk(data: bytes) -> Key:
    jwk = parse_json(data)
    if jwk.get("use") not in {None, "enc"}:
        raise ValueError("is for signatures")
    if jwk.get("kty") == "RSA" and _bits(str(jwk.get("n", ""))) not in _RSA_BITS:
        raise ValueError("is of an unsafe size")
    return import_key({name: value for name, value in jwk.items() if name not in _DESCRIPTIONS})


def _private_pem(data: bytes) -> Key:
    match load_pem_private_key(data, None):
        case RSAPrivateKey() as key if key.key_size in _RSA_BITS:
            return RSAKey.import_key(key)
        case EllipticCurvePrivateKey(curve=SECP256R1() | SECP384R1() | SECP521R1()) as key:
            return ECKey.import_key(key)
        case X25519PrivateKey() | X448PrivateKey() as key:
            return OKPKey.import_key(key)
        case _:
            raise ValueError("is of no type that opens tokens")


def _decryption_algorithms(jose: Key) -> frozenset[str]:
    match jose:
        case RSAKey() if jose.is_private:
            return frozenset({"RSA-OAEP-256"})
        case ECKey() | OKPKey() if jose.is_private and jose.curve_name in _AGREEMENT_CURVES:
            return KEY_AGREEMENTS
        case OctKey() if len(jose.raw_value) == _DIRECT_BYTES:
            return frozenset({"dir"})
        case _:
            raise ValueError("opens no tokens; what does is RSA from 2048 bits, EC, X25519, or 32 bytes for `dir`")


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
