"""Keys as text: the checksum finds what was mistyped, cut or swapped, and nothing shown is the secret."""

import hashlib
import hmac
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import keys
from quotas.keys import Environment

BRAND = "quotas"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY = "0123456789abcdefghijABCDEFGHIJ"
PEPPER = b"a pepper of sixteen bytes and more"


def base62(number: int) -> str:
    """Six digits, written here anew: digits, upper case, lower case."""
    return "".join(DIGITS[number // 62**place % 62] for place in range(5, -1, -1))


def made(text: str) -> str:
    """A key of this text with its checksum, made without the code under test."""
    return text + base62(zlib.crc32(text.encode()))


KEY = made(f"{BRAND}_live_{BODY}")


@pytest.mark.parametrize(
    ("text", "crc"), [(b"", 0), (b"123456789", 0xCBF43926), (b"a", 0xE8B7BE43), (b"\xff\xff\xff\xff", 0xFFFFFFFF)]
)
def test_the_checksum_is_crc_32_in_base62(text: bytes, crc: int) -> None:
    assert zlib.crc32(text) == crc
    assert keys.checksum(text) == base62(crc)


@pytest.mark.parametrize(("text", "expected"), [(b"", "000000"), (b"123456789", "3jZRME"), (b"\xff" * 4, "4gfFC3")])
def test_the_checksum_of_these_is_this(text: bytes, expected: str) -> None:
    assert keys.checksum(text) == expected


@given(st.binary(max_size=80))
def test_every_checksum_has_six_digits_and_is_that_of_zlib(text: bytes) -> None:
    assert keys.checksum(text) == base62(zlib.crc32(text))


@pytest.mark.parametrize("brand", ["quotas", "ab", "q2345678901234567890"])
@pytest.mark.parametrize("environment", list(Environment))
def test_a_generated_key_is_well_formed(brand: str, environment: Environment) -> None:
    key = keys.generate(brand, environment)
    assert re.fullmatch(rf"{brand}_{environment.value}_[0-9A-Za-z]{{36}}", key)
    assert key == made(key[:-6])
    assert keys.is_well_formed(key.encode(), brand)


def test_generated_keys_and_ids_are_distinct() -> None:
    assert len({keys.generate(BRAND, Environment.LIVE) for _ in range(500)}) == 500
    assert len({keys.new_id("key") for _ in range(500)}) == 500
    assert re.fullmatch(r"key_[0-9A-Za-z]{14}", keys.new_id("key"))


def test_a_key_made_elsewhere_by_the_same_rule_is_well_formed() -> None:
    assert keys.is_well_formed(KEY.encode(), BRAND)


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"_", id="underscore"),
        pytest.param(b"quotas_live_", id="prefix alone"),
        pytest.param(KEY.replace("_live_", "_test_").encode(), id="swapped prefix"),
        pytest.param(made(f"live_{BODY}").encode(), id="no brand"),
        pytest.param(made(f"acme_live_{BODY}").encode(), id="other brand"),
        pytest.param(made(f"quota_live_{BODY}").encode(), id="brand cut"),
        pytest.param(made(f"quotass_live_{BODY}").encode(), id="brand longer"),
        pytest.param(made(f"{BRAND}_prod_{BODY}").encode(), id="other environment"),
        pytest.param(made(f"{BRAND}_LIVE_{BODY}").encode(), id="environment in capitals"),
        pytest.param(made(f"{BRAND}_live_{BODY[:-1]}").encode(), id="body one short, checksum right"),
        pytest.param(made(f"{BRAND}_live_{BODY}x").encode(), id="body one long, checksum right"),
        pytest.param(made(f"{BRAND}_live_{BODY[:-1]}-").encode(), id="dash in the body, checksum right"),
        pytest.param(made(f"{BRAND}_live_{BODY[:-1]}_").encode(), id="underscore in the body, checksum right"),
        pytest.param(made(f"{BRAND}_live_{BODY[:-2]}\u00e9").encode(), id="UTF-8 in the body, checksum right"),
        pytest.param(KEY.encode("utf-16"), id="UTF-16"),
        pytest.param(KEY.encode() + b"\n", id="newline behind"),
        pytest.param(b" " + KEY.encode(), id="space before"),
        pytest.param(b"\xff" * len(KEY), id="no text"),
        pytest.param(KEY.encode()[:-1] + b"\xe9", id="latin-1 at the end"),
        pytest.param(KEY.encode()[:-1] + b"\x00", id="NUL at the end"),
        pytest.param(KEY.upper().encode(), id="upper case"),
        pytest.param(KEY.encode() * 2, id="twice"),
        pytest.param(f"{BRAND}_{KEY}".encode(), id="brand twice"),
        pytest.param(b"null", id="null"),
    ],
)
def test_this_is_no_key(credential: bytes) -> None:
    assert not keys.is_well_formed(credential, BRAND)


@given(st.integers(1, 255))
def test_any_single_changed_byte_is_found_at_every_position(change: int) -> None:
    for position in range(len(KEY)):
        changed = bytearray(KEY.encode())
        changed[position] ^= change
        assert not keys.is_well_formed(bytes(changed), BRAND), position


@given(st.integers(0, len(KEY) - 1), st.integers(1, len(KEY)))
def test_any_cut_is_found(start: int, end: int) -> None:
    cut = KEY.encode()[start:end]
    assert keys.is_well_formed(cut, BRAND) == (cut == KEY.encode())


@pytest.mark.parametrize("position", range(len(KEY) - 7))
def test_neighbours_that_changed_places_are_found(position: int) -> None:
    swapped = KEY[:position] + KEY[position + 1] + KEY[position] + KEY[position + 2 :]
    assert swapped == KEY or not keys.is_well_formed(swapped.encode(), BRAND)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_judged_without_an_error(credential: bytes) -> None:
    assert not keys.is_well_formed(credential, BRAND)


def test_the_digest_is_sha_256_or_hmac_under_the_pepper() -> None:
    credential = KEY.encode()
    plain, peppered = keys.digest(credential, None), keys.digest(credential, PEPPER)
    assert plain == hashlib.sha256(credential).digest()
    assert peppered == hmac.digest(PEPPER, credential, "sha256")
    assert len({plain, peppered, keys.digest(credential, PEPPER + b"x")}) == 3
    assert len(plain) == len(peppered) == 32


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=200))
def test_the_digest_is_hmac_for_every_length(credential: bytes, pepper: bytes) -> None:
    assert keys.digest(credential, pepper) == hmac.digest(pepper, credential, "sha256")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_digests_differ_where_credentials_do(first: bytes, second: bytes) -> None:
    for pepper in (None, PEPPER):
        assert (keys.digest(first, pepper) == keys.digest(second, pepper)) == (first == second)


@pytest.mark.parametrize("environment", list(Environment))
def test_what_is_shown_is_the_prefix_and_four_characters(environment: Environment) -> None:
    key = keys.generate(BRAND, environment)
    assert keys.shown(key) == f"{BRAND}_{environment.value}_" + key.removeprefix(f"{BRAND}_{environment.value}_")[:4]
    assert len(keys.shown(key)) == len(key) - 32
