"""Keys as text: key sets of issuers, shared secrets, and the private keys that open encrypted tokens.

Pure: the text was read elsewhere, see `jwks`.

A key is tied to its algorithms when it is parsed, by its type, its curve and its own `alg`. A shared secret can do
HS256 alone and comes from the environment alone; a public key can never do HS256. No header can change either.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key
from joserfc.util import urlsafe_b64decode

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

MAX_KID = 256
MAX_KEYS = 100
MIN_SECRET = 32
"""Bytes of a shared secret: as many as HS256's digest has (RFC 7518, section 3.2)."""

_RSA_BITS = range(2048, 8193)
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_AGREEMENT_CURVES = frozenset({"P-256", "P-384", "P-521", "X25519", "X448"})
_DESCRIPTIONS = frozenset({"use", "key_ops", "alg", "x5u", "x5c", "x5t", "x5t#S256"})
"""Members of a JWK that are not needed to make the key."""

_DIRECT_BYTES = 32
_KEY_MARKS = (b"BEGIN ", b"ssh-", b"ecdsa-sha2-")


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
