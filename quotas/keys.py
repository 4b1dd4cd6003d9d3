"""API keys as text: how one is made, recognised and digested. No I/O; the registry keeps what is kept.

A key is `<brand>_<live|test>_<30 base62><6 base62>`: 178 random bits, then the CRC-32 of everything before it
in base62 (digits, upper case, lower case; zero-padded), so that a typing error, a cut and a swapped prefix
are found before anybody is asked. The checksum is no secret; the random part is the credential.
"""

import hashlib
import secrets
import zlib
from enum import Enum
from functools import lru_cache

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 30
CHECKSUM_LENGTH = 6
SHOWN_LENGTH = 4
"""Characters of the body that listings show behind the prefix."""

KEY_KIND = "key"
"""What the ids of keys begin with, before a `_`."""

_ALPHABET = frozenset(BASE62.encode())
_BLOCK = 64
"""Bytes of a block of SHA-256."""


class Environment(Enum):
    """What a key is for; both kinds work alike, and people and scanners can tell them apart."""

    LIVE = "live"
    TEST = "test"


def checksum(text: bytes) -> str:
    """CRC-32 (ISO-HDLC, as zlib) of `text` as six base62 digits."""
    number = zlib.crc32(text)
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


def generate(brand: str, environment: Environment) -> str:
    """A new key. It is a secret: show it once, keep only its digest."""
    body = "".join(secrets.choice(BASE62) for _ in range(BODY_LENGTH))
    text = f"{brand}_{environment.value}_{body}"
    return text + checksum(text.encode())


def new_id(kind: str, length: int = 14) -> str:
    """A new random identifier such as `key_3kTMd9xQz0aB1c`, 83 bits at the default length; not a secret."""
    return f"{kind}_" + "".join(secrets.choice(BASE62) for _ in range(length))


def is_of_brand(credential: bytes, brand: str) -> bool:
    """Whether this begins as keys of this brand do, so that it is one of ours or none."""
    return credential.startswith(brand.encode() + b"_")


def is_well_formed(credential: bytes, brand: str) -> bool:
    """Whether this could be a key of this brand: prefix, length, alphabet and checksum are right."""
    start = credential.removeprefix(brand.encode() + b"_")
    body = start[5:]
    return (
        is_of_brand(credential, brand)
        and start[:5] in {b"live_", b"test_"}
        and len(body) == BODY_LENGTH + CHECKSUM_LENGTH
        and _ALPHABET.issuperset(body)
        and checksum(credential[:-CHECKSUM_LENGTH]).encode() == credential[-CHECKSUM_LENGTH:]
    )


def pattern(brand: str) -> str:
    """A regular expression for keys of this brand, in the syntax that RE2, Hyperscan and Python share.

    It cannot check the checksum; its length and its prefix are what keeps other text out.
    """
    return rf"\b{brand}_(?:live|test)_[0-9A-Za-z]{{{BODY_LENGTH + CHECKSUM_LENGTH}}}\b"


def digest(credential: bytes, pepper: bytes | None) -> bytes:
    """What is kept of a key, in hexadecimal where it is text: HMAC-SHA-256 under the pepper, or SHA-256 without one."""
    if pepper is None:
        return hashlib.sha256(credential).digest()
    inner, outer = _begun(pepper)
    inner, outer = inner.copy(), outer.copy()
    inner.update(credential)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(8)
def _begun(pepper: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    """The two hashes of HMAC (RFC 2104, section 2), as far as the pepper goes; `hmac` begins both for each key anew."""
    block = (pepper if len(pepper) <= _BLOCK else hashlib.sha256(pepper).digest()).ljust(_BLOCK, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    return inner, outer


def shown(key: str) -> str:
    """The part of a key that listings may show: its prefix and four characters more."""
    prefix, _, body = key.rpartition("_")
    return f"{prefix}_{body[:SHOWN_LENGTH]}"
