"""Tokens as other programs make them: PyJWT signs any bytes, jwcrypto encrypts. Keys are new in every run."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwcrypto import jwe, jwk  # type: ignore[import-untyped] # It ships no types.
from jwt.algorithms import get_default_algorithms

from quotas.issuers import Issuer, JwksUrl, SharedSecret
from quotas.key_sets import KeySet, parse_key_set, parse_shared_secret

NOW = 1_000_000
ISS = "https://test.example.com/auth"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()
SECRET = b"a shared secret of more than 32 bytes"

SIGNERS = get_default_algorithms()
CLAIMS = {"iss": ISS, "aud": "api", "sub": "alice", "exp": NOW + 300, "iat": NOW - 1}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def text(value: object) -> bytes:
    """JSON; bytes are taken as they are, so that a test can write what no dictionary can hold."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def signed(
    claims: object = CLAIMS, *, alg: str = "RS256", key: Any = RSA, header: object = None, sign_as: str = ""
) -> bytes:
    """A token whose signature is right for `sign_as`, else `alg`, whatever header and claims say."""
    written = {"alg": alg, "kid": "k1", "typ": "JWT"} if header is None else header
    message = b64(text(written)) + b"." + b64(text(claims))
    return message + b"." + b64(SIGNERS[sign_as or alg].sign(message, key))


def hs256(message: bytes, secret: bytes) -> bytes:
    """Without any library, because libraries refuse the secrets that an attacker would use."""
    return hmac.digest(secret, message, hashlib.sha256)


def hmac_signed(secret: bytes, claims: object = CLAIMS, header: object = None) -> bytes:
    message = b64(text({"alg": "HS256", "kid": "k1"} if header is None else header)) + b"." + b64(text(claims))
    return message + b"." + b64(hs256(message, secret))


def public_jwk(key: PrivateKey, **more: object) -> dict[str, object]:
    made = jwk.JWK.from_pem(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    known = json.loads(made.export_public())
    known.pop("kid", None)
    return {**known, **more}


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def key_set(*jwks: Mapping[str, object]) -> KeySet:
    return parse_key_set(json.dumps({"keys": list(jwks)}).encode())


KEYS = key_set(
    public_jwk(RSA, kid="k1"),
    public_jwk(P256, kid="p256"),
    public_jwk(P384, kid="p384"),
    public_jwk(P521, kid="p521"),
    public_jwk(ED25519, kid="ed25519"),
    public_jwk(ED448, kid="ed448"),
)
SETS = {ISS: KEYS}
SECRET_SETS = {ISS: parse_shared_secret(SECRET)}
ALL_PUBLIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")


def trusted(**changes: Any) -> dict[str, Issuer]:
    """The one issuer, as `verify` takes issuers."""
    given: dict[str, Any] = {
        "issuer": ISS,
        "audience": ("api",),
        "algorithms": frozenset(ALL_PUBLIC),
        "keys": JwksUrl("https://test.example.com/jwks"),
    }
    return {ISS: Issuer(**{**given, **changes})}


RS256_ONLY = trusted(algorithms=frozenset({"RS256"}))
BY_SECRET = trusted(algorithms=frozenset({"HS256"}), keys=SharedSecret("SECRET"))


def encrypted(inside: bytes, key: Any, header: Mapping[str, object]) -> bytes:
    """A JWE by jwcrypto, with zip where the header says so."""
    box = jwe.JWE(inside, json.dumps(header), algs=[header["alg"], header["enc"]])
    box.add_recipient(key)
    return bytes(box.serialize(compact=True).encode())
