"""Access tokens: JWTs signed by a configured issuer (RFC 7519, RFC 7515), also encrypted to us (RFC 7516).

Pure: the time and the keys are arguments, nothing is fetched. joserfc computes signatures and opens encryption; every
decision is made here.

A token never chooses how it is verified. Its unverified `iss` only picks one of the configured issuers; that issuer
fixes the algorithms, the key fixes them once more by its type, and `alg` must be in both. `jku`, `x5u`, `x5c` and
`jwk` are not looked at. `crit` is refused whatever it lists, because no extension is understood, and so are `b64` and
`zip`: nothing is ever decompressed.

Whatever the bytes, `verify` returns or raises CredentialError. Its work is bounded: first the size, then the shape,
then at most `MAX_TRIES` signatures and as many private operations. All text is compared byte for byte.

1. Five parts are opened with a configured private key, where there is one, into the three that must be inside: by
   RSA-OAEP-256, ECDH-ES, ECDH-ES+A256KW or `dir`, each with A256GCM. Encryption proves nothing about the sender.
2. Three parts: header, claims, signature. Base64url without padding and in its one canonical form; JSON without
   a name twice.
3. The signature, by each key that has the token's `kid` and algorithm. A `kid` of null is none.
4. The claims. `exp` is required; it and `nbf` and `iat` are numbers between 0 and the year 10000, fractions
   allowed. Refused is `exp <= now - leeway` and `nbf > now + leeway`; `iat` is not a not-before. `aud` is text or a
   list of texts, one of which must be ours. The subject is text: a number is refused, never converted. Scopes are
   those of `scope`, or of `scp` where that is absent: text or a list of texts, and nothing else.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OKPKey
from joserfc.util import urlsafe_b64decode

from quotas import scopes
from quotas.errors import CredentialError
from quotas.fields import encoded
from quotas.issuers import MAX_TEXT, Issuer, TypPolicy
from quotas.key_sets import (
    KEY_AGREEMENTS,
    MAX_KID,
    PUBLIC_ALGORITHMS,
    SECRET_ALGORITHM,
    DecryptionKey,
    KeySet,
    VerificationKey,
    parse_json,
)
from quotas.places import MAX_CREDENTIAL
from quotas.plans import MAX_CLIENT_NAME

MAX_TRIES = 8
"""Keys that one token is tried with, when its `kid` does not say which."""

MAX_SUBJECT = 512
"""Bytes of a subject as a field value: it is written into a header field, and a gateway reads a few kB of those.

OpenID Connect Core allows 255 ASCII characters (section 2).
"""

MAX_INSTANT_S = 253_402_300_799
"""The last second of the year 9999; what is later is no instant that a token means."""

_PART = rb"[A-Za-z0-9_-]"
_SIGNED = re.compile(rb"%b+(?:\.%b*){2}" % (_PART, _PART))
_ENCRYPTED = re.compile(rb"%b+(?:\.%b*){4}" % (_PART, _PART))
_ALGORITHMS = {each.name: each for each in JWS_ALGORITHMS if each.name in {*PUBLIC_ALGORITHMS, SECRET_ALGORITHM}}
_ENCRYPTION = "A256GCM"
_REFUSED_HEADERS = frozenset({"crit", "b64", "zip"})

_ACCESS = frozenset({"at+jwt"})
_ANY_JWT = frozenset({"at+jwt", "jwt", None})
_KIND_CLAIMS = ("typ", "token_use", "token_type", "type")
_ACCESS_KINDS = frozenset({"access", "access_token", "access-token", "at+jwt", "bearer", "dpop"})
_OTHER_KINDS = frozenset(
    {"id", "id_token", "id-token", "refresh", "refresh_token", "refresh-token", "offline", "logout", "serialized-id"}
)
_ID_CLAIMS = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})


class KnownKeys(Protocol):
    """Key sets by issuer, as a dict is; None while there is none that may be used."""

    def get(self, issuer: str, /) -> KeySet | None:
        """The issuer's key set."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Whom a token speaks for. `lasts_until_us` is when `verify` begins to refuse it: a cache may keep it until then.

    Instants are in microseconds, rounded down; `issued_at_us` None is unknown, and then no cut-off can be compared.
    `plan_value` is the plan claim's text; None where it is absent or no text. `name` can be a client's name, but two
    subjects may propose the same: `subject_digest` is what tells subjects apart. `jkt` is the thumbprint of the key
    that the token is bound to (RFC 9449): a bearer of such a token has not proved to be its holder.
    """

    issuer: str
    subject: str = field(repr=False)
    name: str = field(repr=False)
    expires_at_us: int
    lasts_until_us: int
    issued_at_us: int | None = None
    jti: str | None = None
    plan_value: str | None = None
    jkt: str | None = None
    scopes: frozenset[str] = scopes.NONE


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """No verdict: the issuer's set is not there, or has no key of this name. All that is claimed is in order.

    Whoever can fetch keys may do so and ask again; who cannot refuses. It holds nothing that was verified.
    """

    issuer: str
    kid: str | None


def looks_like_token(credential: bytes) -> bool:
    """Whether this has the shape of a JWS or a JWE in compact form: three or five parts in base64url."""
    return (
        len(credential) <= MAX_CREDENTIAL
        and (_SIGNED.fullmatch(credential) or _ENCRYPTED.fullmatch(credential)) is not None
    )


def verify(
    credential: bytes,
    issuers: Mapping[str, Issuer],
    key_sets: KnownKeys,
    decryption_keys: Sequence[DecryptionKey] = (),
    *,
    now_s: float,
) -> Verified | UnknownKey:
    """Whom a token speaks for, by the time `now_s` in seconds since 1970.

    Raises CredentialError with the reason `expired_credential` for a token whose time alone is over, else with
    `invalid_credential`; nothing else.
    """
    if not looks_like_token(credential):
        raise _invalid()
    if credential.count(b".") > 2:  # noqa: PLR2004 # A signed token has two dots.
        credential = _opened(credential, decryption_keys)
    token = _Token.read(credential)
    issuer = _among(issuers, token.claims.get("iss"))
    if token.alg not in issuer.algorithms:
        raise _invalid()
    key_set = key_sets.get(issuer.issuer)
    named = () if key_set is None else key_set.named(token.kid)
    if key_set is None or (token.kid is not None and not named):
        # A token that no key could save is refused here: it is not worth a fetch.
        _verified(token, issuer, now_s)
        return UnknownKey(issuer.issuer, token.kid)
    fitting = [key for key in named if token.alg in key.algorithms][:MAX_TRIES]
    if not any(token.is_signed_by(key) for key in fitting):
        raise _invalid()
    return _verified(token, issuer, now_s)


def claimed(credential: bytes) -> tuple[str, str, int | None]:
    """Issuer, `jti` and expiry in microseconds (None where it has none) of a signed token, none of it verified.

    Raises ValueError when it does not have both of the first.
    """
    try:
        claims = _members(credential.split(b".")[1]) if _SIGNED.fullmatch(credential) else {}
        expires = _instant(claims, "exp")
    except CredentialError:
        claims, expires = {}, None
    issuer, jti = claims.get("iss"), claims.get("jti")
    if not is_text(issuer) or not is_text(jti):
        raise ValueError("this is no signed token with an `iss` and a `jti`; revoke its subject instead")
    return issuer, jti, None if expires is None else _us(expires)


def subject_digest(issuer: str, subject: str) -> str:
    """One name for (issuer, subject), in hexadecimal; the length in front keeps two pairs from meeting."""
    return hashlib.sha256(f"{len(issuer)}:{issuer}{subject}".encode()).hexdigest()


def _invalid() -> CredentialError:
    return CredentialError("invalid_credential")


def _among(issuers: Mapping[str, Issuer], claimed: object) -> Issuer:
    issuer = issuers.get(claimed) if isinstance(claimed, str) else None
    if issuer is None:
        raise _invalid()
    return issuer


@dataclass(frozen=True, slots=True)
class _Token:
    """A signed token taken apart. Nothing in it is believed yet."""

    alg: str
    kid: str | None
    typ: str | None
    claims: Mapping[str, Any]
    message: bytes
    signature: bytes

    @classmethod
    def read(cls, compact: bytes) -> "_Token":
        first, second, third = compact.split(b".")
        header, claims = _members(first), _members(second)
        return cls(*_header(header), claims, first + b"." + second, _decoded(third))

    def is_signed_by(self, key: VerificationKey) -> bool:
        assert self.alg in key.algorithms, "a key never meets an algorithm that is not its own"
        try:
            return _ALGORITHMS[self.alg].verify(self.message, self.signature, key.jose)
        except (JoseError, ValueError):
            return False


def _decoded(part: bytes) -> bytes:
    try:
        return urlsafe_b64decode(part)
    except ValueError:
        raise _invalid() from None


def _members(part: bytes) -> dict[str, Any]:
    try:
        members = parse_json(_decoded(part))
    except ValueError:
        raise _invalid() from None
    if not isinstance(members, dict):
        raise _invalid()
    return members


def _header(header: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """`alg`, `kid` and `typ`, in lower case and without `application/`; the last two are None when null or absent."""
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not _REFUSED_HEADERS.isdisjoint(header) or not isinstance(alg, str):
        raise _invalid()
    if not isinstance(kid, str | None) or not isinstance(typ, str | None):
        raise _invalid()
    if kid is not None and not (1 <= len(kid) <= MAX_KID and kid.isprintable()):
        raise _invalid()
    return alg, kid, None if typ is None else typ.lower().removeprefix("application/")


def _opened(compact: bytes, keys: Sequence[DecryptionKey]) -> bytes:
    """The signed token inside an encrypted one. Without a key for it, the shape alone is refused."""
    if not keys:
        raise _invalid()
    header = _members(compact.partition(b".")[0])
    alg, kid, _ = _header(header)
    if header.get("enc") != _ENCRYPTION or str(header.get("cty", "JWT")).upper() != "JWT":
        raise _invalid()
    fitting = [key for key in keys if alg in key.algorithms and (kid is None or key.kid in {None, kid})]
    registry = _opening_with(alg)
    for key in fitting[:MAX_TRIES]:
        if alg in KEY_AGREEMENTS and not _is_ephemeral(header.get("epk"), key):
            continue
        try:
            inside = jwe.decrypt_compact(compact, key.jose, registry=registry).plaintext
        except (JoseError, ValueError):
            continue
        if inside is not None and _SIGNED.fullmatch(inside):
            return inside
    raise _invalid()


def _opening_with(alg: str) -> jwe.JWERegistry:
    """Rules of joserfc for one algorithm. Headers unknown to it are no fault (RFC 7516, section 4); sizes are ours."""
    registry = jwe.JWERegistry(algorithms=(alg, _ENCRYPTION), strict_check_header=False)
    registry.max_protected_header_length = registry.max_encrypted_key_length = MAX_CREDENTIAL
    return registry


def _is_ephemeral(epk: object, key: DecryptionKey) -> bool:
    """Whether `epk` is a public key on our key's curve and nothing more: joserfc takes it as it comes."""
    return (
        isinstance(epk, dict)
        and epk.keys() <= {"kty", "crv", "x", "y"}
        and isinstance(key.jose, ECKey | OKPKey)
        and (epk.get("kty"), epk.get("crv")) == (key.jose.key_type, key.jose.curve_name)
    )


def _verified(token: _Token, issuer: Issuer, now_s: float) -> Verified:
    """What the claims say when they are in order; whether the token is signed is another question."""
    claims = token.claims
    _check_kind(token, issuer.typ)
    _check_audience(claims.get("aud"), issuer.audience)
    if any(_claim(claims, path) is None for path in issuer.required_claims):
        raise _invalid()
    expires, issued, earliest = _instant(claims, "exp"), _instant(claims, "iat"), _instant(claims, "nbf")
    if expires is None or (earliest is not None and earliest > now_s + issuer.leeway_s):
        raise _invalid()
    subject, jti, jkt = _claim(claims, issuer.subject_claim), claims.get("jti"), _thumbprint(claims)
    plan_value = None if issuer.plan_claim is None else _claim(claims, issuer.plan_claim)
    if not is_text(subject) or len(encoded(subject)) > MAX_SUBJECT or not ("jti" not in claims or is_text(jti)):
        raise _invalid()
    if expires <= now_s - issuer.leeway_s:
        raise CredentialError("expired_credential")
    return Verified(
        issuer=issuer.issuer,
        subject=subject,
        name=_proposed_name(issuer.issuer, subject),
        expires_at_us=_us(expires),
        lasts_until_us=_us(expires) + issuer.leeway_s * 1_000_000,
        issued_at_us=None if issued is None else _us(issued),
        jti=jti,
        plan_value=plan_value if is_text(plan_value) else None,
        jkt=jkt,
        scopes=_scopes(claims),
    )


def _check_kind(token: _Token, policy: TypPolicy) -> None:
    """Refuse what is no access token, as far as it can be recognised.

    By the header's `typ`; by claims with which issuers name the kind (`typ` in Keycloak, `token_use` in Cognito,
    `token_type` and `type` in others); by `events` of a logout or security event token (RFC 8417); and by claims of
    an ID token (OpenID Connect Core, section 2), unless the token names itself an access token: some have a nonce.
    """
    if policy is TypPolicy.OFF:
        return
    if token.typ not in (_ACCESS if policy is TypPolicy.REQUIRED else _ANY_JWT):
        raise _invalid()
    kinds = {kind.lower() for name in _KIND_CLAIMS if isinstance(kind := token.claims.get(name), str)}
    if not kinds.isdisjoint(_OTHER_KINDS) or "events" in token.claims:
        raise _invalid()
    is_named_access = token.typ in _ACCESS or not kinds.isdisjoint(_ACCESS_KINDS)
    if not is_named_access and not _ID_CLAIMS.isdisjoint(token.claims):
        raise _invalid()


def _check_audience(claimed: object, ours: Sequence[str]) -> None:
    audiences = [claimed] if isinstance(claimed, str) else claimed
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise _invalid()
    if not any(each in ours for each in audiences):
        raise _invalid()


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its whole name, else by names with dots between them; None where it is null or absent."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    """Seconds since 1970 (RFC 7519, NumericDate); None is absent, and null is a fault."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_INSTANT_S:
        raise _invalid()
    return value


def _us(instant_s: float) -> int:
    return math.floor(instant_s * 1_000_000)


def is_text(value: object) -> TypeGuard[str]:
    """Whether this can be a subject, an issuer or a `jti`: 1 to 512 printable characters."""
    return isinstance(value, str) and 1 <= len(value) <= MAX_TEXT and value.isprintable()


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Of `scope` (RFC 9068, section 2.2.3), else of `scp`, as Entra ID (text) and Okta (a list) have it."""
    name = next((name for name in ("scope", "scp") if name in claims), None)
    try:
        return scopes.NONE if name is None else scopes.claimed(claims[name])
    except ValueError:
        raise _invalid() from None


def _thumbprint(claims: Mapping[str, Any]) -> str | None:
    confirmation = claims.get("cnf", {})
    if not isinstance(confirmation, dict) or not ("jkt" not in confirmation or is_text(confirmation["jkt"])):
        raise _invalid()
    return confirmation.get("jkt")


def _proposed_name(issuer: str, subject: str) -> str:
    """`<issuer without its scheme>/<subject>`, cut with a digest where it is too long for a client's name."""
    name = f"{issuer.partition('://')[2] or issuer}/{subject}"
    if len(name) <= MAX_CLIENT_NAME:
        return name
    digest = subject_digest(issuer, subject)[:16]
    return f"{name[: MAX_CLIENT_NAME - len(digest) - 1]}~{digest}"
