"""Tokens: what other programs sign and encrypt is understood, and no bytes whatever do more than be refused."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwcrypto import jwk  # type: ignore[import-untyped] # It ships no types.

from quotas.errors import CredentialError
from quotas.issuers import Issuer, TypPolicy
from quotas.key_sets import (
    DecryptionKey,
    KeySet,
    VerificationKey,
    parse_decryption_key,
    parse_shared_secret,
)
from quotas.plans import is_client_name
from quotas.tokens import MAX_TRIES, UnknownKey, Verified, looks_like_token, subject_digest, verify

from .signing import (
    ALL_PUBLIC,
    BY_SECRET,
    CLAIMS,
    ED448,
    ED25519,
    ISS,
    NOW,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RS256_ONLY,
    RSA,
    SECRET,
    SECRET_SETS,
    SETS,
    SIGNERS,
    b64,
    encrypted,
    hmac_signed,
    hs256,
    key_set,
    pem,
    public_jwk,
    signed,
    text,
    trusted,
)

INVALID, EXPIRED = "invalid_credential", "expired_credential"
SIGNING: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("k1", RSA)),
    "ES256": ("p256", P256),
    "ES384": ("p384", P384),
    "ES512": ("p521", P521),
    "EdDSA": ("ed25519", ED25519),
}


def accepted(token: bytes, issuers: dict[str, Issuer] | None = None, **changes: Any) -> Verified:
    found = verify(token, issuers or trusted(), **{"key_sets": SETS, "now_s": NOW, **changes})
    assert isinstance(found, Verified)
    return found


def refused(token: bytes, issuers: dict[str, Issuer] | None = None, **changes: Any) -> str:
    with pytest.raises(CredentialError) as caught:
        verify(token, issuers or trusted(), **{"key_sets": SETS, "now_s": NOW, **changes})
    return caught.value.reason


def claims(**changes: object) -> dict[str, object]:
    return {**CLAIMS, **changes}


def without(name: str) -> dict[str, object]:
    return {claim: value for claim, value in CLAIMS.items() if claim != name}


class TestSignatures:
    @pytest.mark.parametrize("alg", SIGNING)
    def test_what_pyjwt_signs_is_accepted_by_each_algorithm(self, alg: str) -> None:
        kid, key = SIGNING[alg]
        token = jwt.encode(CLAIMS, key, algorithm=alg, headers={"kid": kid}).encode()
        assert looks_like_token(token)
        assert accepted(token).subject == "alice"
        assert accepted(token, trusted(algorithms=frozenset({alg}))).subject == "alice"
        assert refused(token, trusted(algorithms=frozenset(ALL_PUBLIC) - {alg})) == INVALID

    def test_a_shared_secret(self) -> None:
        token = jwt.encode(CLAIMS, SECRET, algorithm="HS256", headers={"kid": "any"}).encode()
        assert accepted(token, BY_SECRET, key_sets=SECRET_SETS).subject == "alice"
        other = {ISS: parse_shared_secret(b"another secret of more than 32 bytes")}
        assert refused(token, BY_SECRET, key_sets=other) == INVALID

    def test_ed448_and_the_newer_name_of_eddsa(self) -> None:
        assert accepted(signed(alg="EdDSA", key=ED448, header={"alg": "EdDSA", "kid": "ed448"}))
        assert accepted(signed(sign_as="EdDSA", key=ED25519, header={"alg": "Ed25519", "kid": "ed25519"}))
        assert refused(signed(sign_as="EdDSA", key=ED448, header={"alg": "Ed25519", "kid": "ed448"})) == INVALID

    def test_every_other_key_and_every_changed_byte_is_refused(self) -> None:
        assert refused(signed(key=OTHER_RSA)) == INVALID
        token = signed()
        for place in (3, len(token) // 2, len(token) - 10):
            changed = bytearray(token)
            changed[place] = ord("A") if changed[place] != ord("A") else ord("B")
            assert refused(bytes(changed)) == INVALID

    @pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 70, 71, 72, 96, 128, 256])
    def test_es256_signatures_of_the_wrong_length(self, size: int) -> None:
        token = signed(alg="ES256", key=P256, header={"alg": "ES256", "kid": "p256"})
        message, _, signature = token.rpartition(b".")
        assert accepted(token)
        made = (jwt.utils.base64url_decode(signature) * 4)[:size]
        assert refused(message + b"." + b64(made)) == INVALID

    def test_a_der_signature_and_zeros_are_refused(self) -> None:
        header = {"alg": "ES256", "kid": "p256"}
        message = b64(text(header)) + b"." + b64(text(CLAIMS))
        der = P256.sign(message, ec.ECDSA(SHA256()))
        for signature in (der, bytes(64), b"\xff" * 64):
            assert refused(message + b"." + b64(signature)) == INVALID


class TestAlgorithmConfusion:
    """C34, and the suite of issue 5: the token chooses nothing."""

    @pytest.mark.parametrize(
        "alg", ["none", "None", "NONE", "nOnE", "", " none", "none\x00", "HS256 ", "rs256", "RS256 "]
    )
    def test_none_in_all_spellings(self, alg: str) -> None:
        message = b64(text({"alg": alg, "kid": "k1"})) + b"." + b64(text(CLAIMS))
        for signature in (b"", b64(b"x"), signed().rpartition(b".")[2]):
            for issuers in (trusted(), BY_SECRET, trusted(algorithms=frozenset({alg, "RS256"}))):
                assert refused(message + b"." + signature, issuers) == INVALID

    @pytest.mark.parametrize("alg", [None, 5, True, [], ["RS256"], {"RS256": 1}, {}])
    def test_an_algorithm_that_is_no_text(self, alg: object) -> None:
        assert refused(signed(header={"alg": alg, "kid": "k1"})) == INVALID
        assert refused(signed(header={"kid": "k1"})) == INVALID

    def test_hs256_with_the_public_key_in_every_writing(self) -> None:
        public = RSA.public_key()
        spki, pkcs1 = PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1
        written = [
            public.public_bytes(encoding, form) for encoding in (Encoding.PEM, Encoding.DER) for form in (spki, pkcs1)
        ]
        jwk_text = json.dumps(public_jwk(RSA, kid="k1"))
        written += [
            jwk_text.encode(),
            jwk_text.replace(" ", "").encode(),
            written[0].strip(),
            json.dumps({"keys": [public_jwk(RSA)]}).encode(),
        ]
        for secret in written:
            token = hmac_signed(secret)
            for issuers in (trusted(), RS256_ONLY, trusted(algorithms=frozenset({"RS256", "HS256"})), BY_SECRET):
                assert refused(token, issuers) == INVALID

    def test_a_public_key_is_no_shared_secret(self) -> None:
        public = RSA.public_key()
        for encoding in (Encoding.PEM, Encoding.DER):
            with pytest.raises(ValueError, match="no shared secret"):
                parse_shared_secret(public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(ValueError, match="no shared secret"):
            parse_shared_secret(json.dumps(public_jwk(RSA)).encode())

    @pytest.mark.parametrize(
        ("written", "real"), [("RS256", "PS256"), ("PS256", "RS256"), ("RS256", "RS512"), ("RS512", "RS256")]
    )
    def test_rs_and_ps_are_not_swapped(self, written: str, real: str) -> None:
        token = signed(header={"alg": written, "kid": "k1"}, sign_as=real)
        assert refused(token) == INVALID
        assert refused(token, trusted(algorithms=frozenset({written}))) == INVALID
        assert refused(signed(alg=real), trusted(algorithms=frozenset({written}))) == INVALID

    def test_a_key_is_for_the_algorithms_that_it_says(self) -> None:
        sets = {ISS: key_set(public_jwk(RSA, kid="k1", alg="PS256"))}
        assert refused(signed(), key_sets=sets) == INVALID
        assert accepted(signed(alg="PS256"), key_sets=sets)

    def test_a_key_of_another_type_under_the_kid(self) -> None:
        for alg, (_, key) in SIGNING.items():
            for kid in {name for name, _ in SIGNING.values()} - {SIGNING[alg][0]}:
                assert refused(signed(alg=alg, key=key, header={"alg": alg, "kid": kid})) == INVALID

    @pytest.mark.parametrize(
        "more",
        [
            {"jwk": public_jwk(OTHER_RSA)},
            {"jwk": public_jwk(OTHER_RSA, kid="k1")},
            {"jku": "https://evil.example.com/jwks"},
            {"x5u": "https://evil.example.com/cert"},
            {"x5c": ["MIIB"]},
            {"jwk": 5, "jku": [], "x5u": {}, "x5c": None},
        ],
    )
    def test_keys_in_the_header_are_not_looked_at(self, more: dict[str, object]) -> None:
        header = {"alg": "RS256", "kid": "k1", **more}
        assert refused(signed(header=header, key=OTHER_RSA)) == INVALID
        assert accepted(signed(header=header))

    @pytest.mark.parametrize(
        "more",
        [
            {"crit": ["x"]},
            {"crit": ["x"], "x": 1},
            {"crit": ["exp"], "exp": NOW + 1},
            {"crit": []},
            {"crit": None},
            {"crit": "alg"},
            {"crit": ["alg"]},
            {"crit": ["b64"], "b64": True},
            {"b64": False},
            {"zip": "DEF"},
            {"zip": None},
        ],
    )
    def test_extensions_are_refused(self, more: dict[str, object]) -> None:
        assert refused(signed(header={"alg": "RS256", "kid": "k1", **more})) == INVALID

    def test_an_unencoded_payload_is_refused(self) -> None:
        message = b64(text({"alg": "RS256", "kid": "k1", "b64": False, "crit": ["b64"]})) + b"." + b64(text(CLAIMS))
        assert refused(message + b"." + b64(SIGNERS["RS256"].sign(message, RSA))) == INVALID


class TestShape:
    @pytest.mark.parametrize(
        "credential",
        [
            b"",
            b".",
            b"..",
            b"....",
            b"foo",
            b"a.b",
            b"null",
            b"a.b.c.d",
            b"a.b.c.d.e.f",
            b".b.c",
            b"a.b.c=",
            b"a.b.c\n",
            b"a.b.c ",
            b"a.b+.c",
            b"a.b/.c",
            b"a.\xc3\xa9.c",
            b"caf\xe9",
            b"quotas_live_0123456789abcdefghijABCDEFGHIJ000000",
        ],
    )
    def test_what_is_no_token(self, credential: bytes) -> None:
        assert not looks_like_token(credential)
        assert refused(credential) == INVALID

    @pytest.mark.parametrize("credential", [b"a..", b"a.b.", b"a.b.c", b"a..c.d.e", b"a....", b"eyJ.eyJ.-_"])
    def test_what_has_the_shape_and_is_none(self, credential: bytes) -> None:
        assert looks_like_token(credential)
        assert refused(credential) == INVALID

    def test_the_size_comes_first(self) -> None:
        long = signed(claims(pad="x" * 5000))
        assert 7000 < len(long) <= 8192
        assert accepted(long)
        assert not looks_like_token(b"a." + b"b" * 8192 + b".c")
        assert refused(signed(claims(pad="x" * 7000))) == INVALID
        assert refused(b"a.b." + b"c" * 100_000) == INVALID
        assert refused(b"." * 100_000) == INVALID

    def test_base64url_has_one_form(self) -> None:
        token = signed(header={"alg": "RS256", "kid": "k1"})
        head, body, signature = token.split(b".")
        assert accepted(token)
        alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        other = alphabet[alphabet.index(signature[-1:]) + 1]
        assert len(signature) % 4
        assert refused(head + b"." + body + b"." + signature[:-1] + bytes([other])) == INVALID
        assert refused(token + b"=") == INVALID

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"null",
            b"[]",
            b"5",
            b'"text"',
            b"{",
            b"{}",
            b"\xff\xfe{}",
            b"\xef\xbb\xbf{}",
            json.dumps(CLAIMS).encode("utf-16"),
            b"[" * 5000,
            b'{"a":' * 1000 + b"1" + b"}" * 1000,
            b'{"iss":' + b"9" * 5000 + b"}",
        ],
    )
    def test_claims_that_are_no_object(self, payload: bytes) -> None:
        assert refused(signed(payload)) == INVALID
        assert refused(signed(header=payload)) == INVALID

    @pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "a"])
    def test_a_name_twice(self, name: str) -> None:
        value = json.dumps(claims(a=1)[name])
        twice = text(claims(a=1))[:-1] + f', "{name}": {value}}}'.encode()
        assert json.loads(twice) == claims(a=1)
        assert refused(signed(twice)) == INVALID
        assert refused(signed(b'{"iss": 1, ' + text(CLAIMS)[1:])) == INVALID
        assert refused(signed(text(claims(deep={}))[:-2] + b'{"a": 1, "a": 1}}')) == INVALID
        assert refused(signed(header=b'{"alg": "RS256", "kid": "k1", "alg": "RS256"}')) == INVALID
        assert refused(signed(header=b'{"alg": "none", "kid": "k1", "alg": "RS256"}')) == INVALID


class TestClaims:
    """C26: now is 1000000, the leeway 5."""

    @pytest.mark.parametrize(
        ("changes", "outcome"),
        [
            ({"iss": "http"}, INVALID),
            ({"iss": ISS + "/"}, INVALID),
            ({"iss": [ISS]}, INVALID),
            ({"iss": {ISS: 1}}, INVALID),
            ({"iss": None}, INVALID),
            ({"iss": ISS.upper()}, INVALID),
            ({"aud": "api"}, None),
            ({"aud": ["api"]}, None),
            ({"aud": ["a", "api"]}, None),
            ({"aud": ["api-v2"]}, INVALID),
            ({"aud": []}, INVALID),
            ({"aud": "API"}, INVALID),
            ({"aud": "ap"}, INVALID),
            ({"aud": ""}, INVALID),
            ({"aud": "api "}, INVALID),
            ({"aud": None}, INVALID),
            ({"aud": {"api": 1}}, INVALID),
            ({"aud": ["api", 1]}, INVALID),
            ({"aud": [["api"]]}, INVALID),
            ({"exp": NOW - 4}, None),
            ({"exp": NOW - 4.5}, None),
            ({"exp": NOW - 5}, EXPIRED),
            ({"exp": NOW - 5.0}, EXPIRED),
            ({"exp": 0}, EXPIRED),
            ({"exp": NOW + 0.25}, None),
            ({"exp": 253402300799}, None),
            ({"exp": 253402300800}, INVALID),
            ({"nbf": NOW + 5}, None),
            ({"nbf": NOW + 6}, INVALID),
            ({"nbf": NOW + 5.5}, INVALID),
            ({"nbf": None}, INVALID),
            ({"nbf": "0"}, INVALID),
            ({"iat": NOW + 3}, None),
            ({"iat": NOW + 3000}, None),
            ({"iat": None}, INVALID),
            ({"iat": True}, INVALID),
            ({"jti": "a"}, None),
            ({"jti": 5}, INVALID),
            ({"jti": ""}, INVALID),
            ({"jti": None}, INVALID),
            ({"jti": "x" * 513}, INVALID),
            ({"cnf": {"jkt": "thumb"}}, None),
            ({"cnf": {}}, None),
            ({"cnf": {"jkt": 5}}, INVALID),
            ({"cnf": {"jkt": None}}, INVALID),
            ({"cnf": "jkt"}, INVALID),
            ({"cnf": None}, INVALID),
        ],
    )
    def test_at_the_edge(self, changes: dict[str, object], outcome: str | None) -> None:
        token = signed(claims(**changes))
        if outcome is None:
            assert accepted(token)
        else:
            assert refused(token) == outcome

    @pytest.mark.parametrize("name", ["iss", "aud", "exp", "sub"])
    def test_absent(self, name: str) -> None:
        assert refused(signed(without(name))) == INVALID

    def test_iat_may_be_absent(self) -> None:
        assert accepted(signed(without("iat"))).issued_at_us is None

    @pytest.mark.parametrize(
        "exp",
        [b"1e999", b"-1e999", b"[1]", b"null", b"1" + b"0" * 50, b"true", b"false", b'"2000000"', b"{}", b"-1",
         b"NaN", b"Infinity", b"-Infinity", b"1e300", b"9" * 400, b"9" * 5000, b"0x10", b"01"],
    )  # fmt: skip
    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    def test_c03_times_that_are_none(self, name: str, exp: bytes) -> None:
        payload = text(without(name))[:-1] + f', "{name}": '.encode() + exp + b"}"
        assert refused(signed(payload)) == INVALID

    @pytest.mark.parametrize(
        "sub",
        [
            1234,
            1234.0,
            "",
            None,
            True,
            [],
            ["alice"],
            {},
            "x" * 513,
            "a\nb",
            "a\x00b",
            "\ud800",
            "a\u2028b",
            "\u202ealice",
            "a\u200bb",
        ],
    )
    def test_c03_subjects_that_are_none(self, sub: object) -> None:
        assert refused(signed(claims(sub=sub))) == INVALID

    @pytest.mark.parametrize("sub", ["é" * 86, "x" * 511 + " ", "%" * 171, "日" * 57, "👍" * 43])
    def test_a_subject_fits_into_a_field(self, sub: str) -> None:
        """512 bytes percent-encoded: with a client's name and sixteen limits, that is what a gateway can read."""
        assert refused(signed(claims(sub=sub)))
        assert accepted(signed(claims(sub=sub[:-1]))).subject == sub[:-1]

    @pytest.mark.parametrize("sub", ["a", "x" * 512, "a b", "é", "e\u0301", "1234", "auth0|5", "a}b", "日本", " a "])
    def test_subjects_are_exact(self, sub: str) -> None:
        assert accepted(signed(claims(sub=sub))).subject == sub

    def test_one_reason_for_the_time_alone(self) -> None:
        assert refused(signed(claims(exp=NOW - 60))) == EXPIRED
        assert refused(signed(claims(exp=NOW - 60, aud="other"))) == INVALID
        assert refused(signed(claims(exp=NOW - 60), key=OTHER_RSA)) == INVALID

    def test_the_leeway_is_the_issuers(self) -> None:
        assert accepted(signed(claims(exp=NOW - 59)), trusted(leeway_s=60))
        assert refused(signed(claims(exp=NOW)), trusted(leeway_s=0)) == EXPIRED
        assert accepted(signed(claims(exp=NOW)), trusted(leeway_s=0), now_s=NOW - 0.001)

    def test_what_is_found(self) -> None:
        made = claims(exp=NOW + 300.25, iat=NOW - 1.5, jti="j1", plan="gold", cnf={"jkt": "thumb"})
        assert accepted(signed(made), trusted(plan_claim="plan")) == Verified(
            issuer=ISS,
            subject="alice",
            name="test.example.com/auth/alice",
            expires_at_us=1_000_300_250_000,
            lasts_until_us=1_000_305_250_000,
            issued_at_us=999_998_500_000,
            jti="j1",
            plan_value="gold",
            jkt="thumb",
        )

    def test_it_lasts_until_it_is_refused(self) -> None:
        token = signed(claims(exp=NOW + 10.5))
        until_s = accepted(token).lasts_until_us / 1_000_000
        assert accepted(token, now_s=until_s - 0.001)
        assert refused(token, now_s=until_s) == EXPIRED

    def test_the_subject_is_not_shown(self) -> None:
        assert "alice" not in repr(accepted(signed()))

    @pytest.mark.parametrize(
        ("path", "more", "found"),
        [
            ("client_id", {"client_id": "c1"}, "c1"),
            ("act.sub", {"act": {"sub": "b"}}, "b"),
            ("a.b.c", {"a": {"b": {"c": "deep"}}}, "deep"),
            ("https://x.example.com/id", {"https://x.example.com/id": "named"}, "named"),
            ("a.b", {"a.b": "whole", "a": {"b": "inner"}}, "whole"),
            ("act.sub", {"act": "b"}, None),
            ("act.sub", {"act": {"sub": 5}}, None),
            ("act.sub", {"act": []}, None),
            ("client_id", {}, None),
        ],
    )
    def test_another_subject_claim(self, path: str, more: dict[str, object], found: str | None) -> None:
        token, issuers = signed(claims(**more)), trusted(subject_claim=path)
        if found is None:
            assert refused(token, issuers) == INVALID
        else:
            assert accepted(token, issuers).subject == found

    @pytest.mark.parametrize("value", [5, True, None, ["gold"], {"a": 1}, "", "x" * 513])
    def test_a_plan_claim_that_is_no_text_is_no_plan(self, value: object) -> None:
        assert accepted(signed(claims(plan=value)), trusted(plan_claim="plan")).plan_value is None
        assert accepted(signed(), trusted(plan_claim="plan")).plan_value is None

    def test_a_plan_claim_that_is_not_asked_for(self) -> None:
        assert accepted(signed(claims(plan="gold"))).plan_value is None

    def test_required_claims(self) -> None:
        issuers = trusted(required_claims=("client_id", "act.sub"))
        assert accepted(signed(claims(client_id="c", act={"sub": "x"})), issuers)
        assert accepted(signed(claims(client_id=0, act={"sub": False})), issuers)
        for more in ({"client_id": "c"}, {"client_id": None, "act": {"sub": "x"}}, {"client_id": "c", "act": {}}):
            assert refused(signed(claims(**more)), issuers) == INVALID


class TestKinds:
    @pytest.mark.parametrize(
        ("typ", "required", "preferred"),
        [
            ("at+jwt", True, True),
            ("AT+JWT", True, True),
            ("application/at+jwt", True, True),
            ("Application/at+JWT", True, True),
            ("JWT", False, True),
            ("jwt", False, True),
            ("application/jwt", False, True),
            (None, False, True),
            ("", False, False),
            ("at", False, False),
            ("logout+jwt", False, False),
            ("secevent+jwt", False, False),
            ("dpop+jwt", False, False),
            ("id_token+jwt", False, False),
            ("refresh+jwt", False, False),
            ("application/application/at+jwt", False, False),
        ],
    )
    def test_the_header(self, typ: str | None, required: bool, preferred: bool) -> None:  # noqa: FBT001 # A table.
        token = signed(header={"alg": "RS256", "kid": "k1", "typ": typ})
        for policy, passes in ((TypPolicy.REQUIRED, required), (TypPolicy.PREFERRED, preferred), (TypPolicy.OFF, True)):
            if passes:
                assert accepted(token, trusted(typ=policy))
            else:
                assert refused(token, trusted(typ=policy)) == INVALID

    @pytest.mark.parametrize("typ", [5, True, [], {}, ["at+jwt"]])
    def test_a_type_that_is_no_text(self, typ: object) -> None:
        token = signed(header={"alg": "RS256", "kid": "k1", "typ": typ})
        assert refused(token, trusted(typ=TypPolicy.OFF)) == INVALID

    @pytest.mark.parametrize(
        ("more", "passes"),
        [
            ({"token_use": "access"}, True),
            ({"token_use": "id"}, False),
            ({"token_use": "ID"}, False),
            ({"token_type": "refresh"}, False),
            ({"token_type": "access"}, True),
            ({"type": "refresh"}, False),
            ({"type": "service"}, True),
            ({"typ": "Bearer"}, True),
            ({"typ": "ID"}, False),
            ({"typ": "Refresh"}, False),
            ({"typ": "Offline"}, False),
            ({"typ": "Logout"}, False),
            ({"typ": "Bearer", "nonce": "n"}, True),
            ({"typ": "Bearer", "token_use": "id"}, False),
            ({"nonce": "n"}, False),
            ({"at_hash": "h"}, False),
            ({"c_hash": "h"}, False),
            ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, False),
            ({"token_use": 5, "type": ["refresh"]}, True),
        ],
    )
    def test_the_claims_of_other_tokens(self, more: dict[str, object], passes: bool) -> None:  # noqa: FBT001 # A table.
        token = signed(claims(**more))
        assert accepted(token, trusted(typ=TypPolicy.OFF))
        if passes:
            assert accepted(token)
        else:
            assert refused(token) == INVALID

    def test_a_named_access_token_may_have_a_nonce_and_is_still_no_refresh_token(self) -> None:
        header = {"alg": "RS256", "kid": "k1", "typ": "at+jwt"}
        for policy in (TypPolicy.REQUIRED, TypPolicy.PREFERRED):
            assert accepted(signed(claims(nonce="n"), header=header), trusted(typ=policy))
            assert refused(signed(claims(token_use="refresh"), header=header), trusted(typ=policy)) == INVALID


class TestKeyNames:
    def test_an_unknown_kid_is_no_verdict(self) -> None:
        token = signed(header={"alg": "RS256", "kid": "new"})
        assert verify(token, trusted(), SETS, now_s=NOW) == UnknownKey(ISS, "new")
        assert verify(token, trusted(), {}, now_s=NOW) == UnknownKey(ISS, "new")
        assert verify(signed(header={"alg": "RS256"}), trusted(), {}, now_s=NOW) == UnknownKey(ISS, None)

    @pytest.mark.parametrize("changes", [{"aud": "other"}, {"exp": NOW - 9}, {"sub": 5}, {"iss": "https://other"}])
    def test_a_token_that_no_key_could_save_is_worth_no_fetch(self, changes: dict[str, object]) -> None:
        token = signed(claims(**changes), header={"alg": "RS256", "kid": "new"})
        assert refused(token) == refused(token, key_sets={}) == (EXPIRED if "exp" in changes else INVALID)
        forbidden = signed(header={"alg": "HS256", "kid": "new"})
        assert refused(forbidden, key_sets={}) == INVALID

    @pytest.mark.parametrize("kid", [5, True, [], {}, ["k1"], "", "k" * 257, "k\n1", "\ud800"])
    def test_a_kid_that_is_no_name(self, kid: object) -> None:
        assert refused(signed(header={"alg": "RS256", "kid": kid})) == INVALID

    @pytest.mark.parametrize("header", [{"alg": "RS256", "kid": None}, {"alg": "RS256"}])
    def test_without_a_kid_each_fitting_key_is_tried(self, header: dict[str, object]) -> None:
        assert accepted(signed(header=header))
        sets = {ISS: key_set(public_jwk(OTHER_RSA, kid="a"), public_jwk(P256, kid="b"), public_jwk(RSA, kid="c"))}
        assert accepted(signed(header=header), key_sets=sets)
        assert refused(signed(header=header), key_sets={ISS: key_set(public_jwk(P256, kid="b"))}) == INVALID
        assert refused(signed(header=header), key_sets={ISS: KeySet(())}) == INVALID

    def test_at_most_eight_are_tried(self) -> None:
        right, wrong = (key_set(public_jwk(key, kid="k1")).keys[0] for key in (RSA, OTHER_RSA))
        for before, passes in ((MAX_TRIES - 1, True), (MAX_TRIES, False)):
            sets = {ISS: KeySet((*[wrong] * before, right))}
            for token in (signed(header={"alg": "RS256"}), signed()):
                if passes:
                    assert accepted(token, key_sets=sets)
                else:
                    assert refused(token, key_sets=sets) == INVALID

    def test_two_keys_of_one_name_and_keys_without_a_name(self) -> None:
        sets = {ISS: key_set(public_jwk(P256, kid="k1"), public_jwk(OTHER_RSA, kid="k1"), public_jwk(RSA, kid="k1"))}
        assert accepted(signed(), key_sets=sets)
        nameless = {ISS: key_set(public_jwk(OTHER_RSA), public_jwk(RSA))}
        assert accepted(signed(), key_sets=nameless)
        assert refused(signed(), key_sets={ISS: key_set(public_jwk(OTHER_RSA, kid="k1"), public_jwk(RSA))}) == INVALID

    def test_a_key_is_never_used_for_another_algorithm(self) -> None:
        odd = KeySet((VerificationKey("k1", frozenset({"ES256"}), SETS[ISS].keys[0].jose),))
        assert refused(signed(), key_sets={ISS: odd}) == INVALID
        assert refused(signed(header={"alg": "ES256", "kid": "k1"}), key_sets={ISS: SETS[ISS]}) == INVALID


class TestEncrypted:
    RSA_BOX = rsa.generate_private_key(65537, 2048)
    EC_BOX = ec.generate_private_key(ec.SECP256R1())
    X_BOX = x25519.X25519PrivateKey.generate()
    DIRECT = jwk.JWK.generate(kty="oct", size=256)
    KEYS = (
        parse_decryption_key(pem(RSA_BOX), "rsa"),
        parse_decryption_key(pem(EC_BOX), "ec"),
        parse_decryption_key(pem(X_BOX), "x"),
        parse_decryption_key(DIRECT.export().encode(), "dir"),
    )
    CASES = (
        ("RSA-OAEP-256", "rsa", jwk.JWK.from_pyca(RSA_BOX)),
        ("ECDH-ES", "ec", jwk.JWK.from_pyca(EC_BOX)),
        ("ECDH-ES+A256KW", "ec", jwk.JWK.from_pyca(EC_BOX)),
        ("ECDH-ES", "x", jwk.JWK.from_pyca(X_BOX)),
        ("dir", "dir", DIRECT),
    )

    def opened(self, token: bytes, keys: tuple[DecryptionKey, ...] = KEYS) -> Verified:
        return accepted(token, decryption_keys=keys)

    def closed(self, token: bytes, keys: tuple[DecryptionKey, ...] = KEYS) -> str:
        return refused(token, decryption_keys=keys)

    @pytest.mark.parametrize(("alg", "kid", "key"), CASES)
    def test_what_jwcrypto_encrypts_is_accepted(self, alg: str, kid: str, key: Any) -> None:
        header = {"alg": alg, "enc": "A256GCM", "cty": "JWT", "iss": ISS}
        for more in ({}, {"kid": kid}, {"typ": "JWT", "apu": "YQ", "apv": "Yg"}):
            token = encrypted(signed(), key, {**header, **more})
            assert looks_like_token(token)
            assert self.opened(token).subject == "alice"
            assert self.opened(token, tuple(each for each in self.KEYS if each.kid == kid)).subject == "alice"
            assert self.closed(token, tuple(each for each in self.KEYS if each.kid != kid)) == INVALID
            assert self.closed(token, ()) == INVALID
        assert self.closed(encrypted(signed(), key, {**header, "kid": "other"})) == INVALID

    @pytest.mark.parametrize(("alg", "kid", "key"), CASES)
    def test_nothing_is_decompressed(self, alg: str, kid: str, key: Any) -> None:
        header = {"alg": alg, "enc": "A256GCM", "kid": kid, "zip": "DEF"}
        assert self.closed(encrypted(signed(), key, header)) == INVALID
        bomb = encrypted(b"a" * 4_000_000, key, header)
        assert len(bomb) < 8192
        assert self.closed(bomb) == INVALID

    @pytest.mark.parametrize(
        ("alg", "enc", "key"),
        [
            ("RSA-OAEP", "A256GCM", CASES[0][2]),
            ("RSA1_5", "A256GCM", CASES[0][2]),
            ("RSA-OAEP-256", "A128CBC-HS256", CASES[0][2]),
            ("RSA-OAEP-256", "A128GCM", CASES[0][2]),
            ("ECDH-ES+A128KW", "A256GCM", CASES[1][2]),
            ("ECDH-ES", "A256CBC-HS512", CASES[1][2]),
            ("dir", "A128CBC-HS256", CASES[4][2]),
            ("A256KW", "A256GCM", CASES[4][2]),
            ("A256GCMKW", "A256GCM", CASES[4][2]),
        ],
    )
    def test_other_algorithms_are_refused(self, alg: str, enc: str, key: Any) -> None:
        assert self.closed(encrypted(signed(), key, {"alg": alg, "enc": enc})) == INVALID

    @pytest.mark.parametrize("enc", [None, 5, [], {}, ["A256GCM"], "", "a256gcm"])
    def test_an_encryption_that_is_none(self, enc: object) -> None:
        parts = encrypted(signed(), self.DIRECT, {"alg": "dir", "enc": "A256GCM"}).split(b".")
        assert self.closed(b".".join([b64(text({"alg": "dir", "enc": enc})), *parts[1:]])) == INVALID

    def test_headers_may_be_long(self) -> None:
        header = {"alg": "dir", "enc": "A256GCM", "pad": "x" * 3000}
        assert self.opened(encrypted(signed(), self.DIRECT, header))

    @pytest.mark.parametrize("inside", [b"", text(CLAIMS), b"a.b", b"a.b.c.d.e", b"\xff", b"a.b.c"])
    def test_inside_must_be_a_signed_token(self, inside: bytes) -> None:
        assert self.closed(encrypted(inside, self.DIRECT, {"alg": "dir", "enc": "A256GCM"})) == INVALID

    def test_inside_is_verified_like_any_other(self) -> None:
        header = {"alg": "dir", "enc": "A256GCM"}
        once = encrypted(signed(), self.DIRECT, header)
        assert self.closed(encrypted(once, self.DIRECT, header)) == INVALID
        assert self.closed(encrypted(signed(key=OTHER_RSA), self.DIRECT, header)) == INVALID
        assert self.closed(encrypted(signed(claims(exp=NOW - 9)), self.DIRECT, header)) == EXPIRED
        unknown = encrypted(signed(header={"alg": "RS256", "kid": "new"}), self.DIRECT, header)
        assert verify(unknown, trusted(), SETS, self.KEYS, now_s=NOW) == UnknownKey(ISS, "new")
        assert self.closed(encrypted(signed(), self.DIRECT, {**header, "cty": "text/plain"})) == INVALID

    @pytest.mark.parametrize("place", range(5))
    def test_every_part_counts(self, place: int) -> None:
        parts = encrypted(signed(), self.CASES[0][2], {"alg": "RSA-OAEP-256", "enc": "A256GCM"}).split(b".")
        for part in (b"", b64(b"x"), b64(b"x" * 12), b64(b"\x00" * 256), parts[place][:-4], parts[place] + b"AAAA"):
            assert self.closed(b".".join([*parts[:place], part, *parts[place + 1 :]])) == INVALID

    @pytest.mark.parametrize(
        "epk",
        [
            None,
            5,
            [],
            "x",
            {},
            {"kty": "EC"},
            {"kty": "EC", "crv": "P-256"},
            {"kty": "EC", "crv": "P-256", "x": "", "y": ""},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": "P-256", "x": 5, "y": []},
            {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": "nope", "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": ["P-256"], "x": "AA", "y": "AA"},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
            {"kty": "OKP", "crv": "X25519", "x": "AA"},
            public_jwk(P256, use=["sig"], key_ops=["sign"]),
            public_jwk(P256, d="AA"),
        ],
    )
    @pytest.mark.parametrize("alg", ["ECDH-ES", "ECDH-ES+A256KW"])
    def test_ephemeral_keys_that_are_none(self, alg: str, epk: object) -> None:
        header = b64(text({"alg": alg, "enc": "A256GCM", "epk": epk}))
        assert self.closed(header + b".." + b64(b"i" * 12) + b"." + b64(b"c" * 40) + b"." + b64(b"t" * 16)) == INVALID


class TestNames:
    def test_names_can_be_clients_names(self) -> None:
        for sub in ("a", "x" * 512, "é" * 80, "a b"):
            assert is_client_name(accepted(signed(claims(sub=sub))).name)
        assert accepted(signed(claims(sub="x" * 512))).name != accepted(signed(claims(sub="x" * 511))).name

    def test_c14_pairs_do_not_meet(self) -> None:
        pairs = [
            ("a:b", "c"),
            ("a", "b:c"),
            ("1:a", "b"),
            ("a", "b"),
            ("ab", ""),
            ("", "ab"),
            ("a", "\u00e9"),
            ("a", "e\u0301"),
        ]
        assert len({subject_digest(*pair) for pair in pairs}) == len(pairs)
        assert subject_digest("a", "b") == "78901c91d9fe6a7d0ea14356d6ccde1dffcfb02d97ef138182ba38e91bccc29d"


NASTY: list[object] = [
    *(None, True, False, 0, -1, 1, 10**50, -(10**50), 2**53, NOW, NOW + 5, 0.5, 1e300, float("inf"), float("nan")),
    *("", "a", "api", ISS, "alice", "JWT", "at+jwt", "none", "k1", "\ud800", "\x00", "é", "x" * 600, "1e999"),
    *([], {}, [[]], ["api"], ["api", 5], {"jkt": 5}, {"b": None}, {"b": {"c": 1}}),
]
JSON = st.sampled_from(NASTY) | st.recursive(
    st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)
NAMES = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "typ", "token_use", "cnf", "nonce", "plan", "events", "a")
HEADER_NAMES = (
    "alg",
    "kid",
    "typ",
    "cty",
    "crit",
    "zip",
    "enc",
    "epk",
    "apu",
    "apv",
    "jwk",
    "jku",
    "x5c",
    "b64",
    "p2c",
)
POLICIES = [
    trusted(algorithms=frozenset({"HS256"}), typ=policy, plan_claim="plan", required_claims=required)
    for policy in TypPolicy
    for required in ((), ("a.b",))
]


def outcome(token: bytes, issuers: dict[str, Issuer] | None = None, **changes: Any) -> Verified | UnknownKey | str:
    """What `verify` does; whatever else it raised fails the test."""
    try:
        return verify(token, issuers or trusted(), **{"key_sets": SETS, "now_s": NOW, **changes})
    except CredentialError as error:
        return {INVALID: INVALID, EXPIRED: EXPIRED}[error.reason]


class TestAnything:
    @settings(max_examples=1000)
    @given(st.binary(max_size=300))
    def test_bytes(self, credential: bytes) -> None:
        assert outcome(credential) == INVALID

    @settings(max_examples=1000)
    @given(st.lists(st.binary(max_size=60), min_size=3, max_size=5).map(lambda parts: b".".join(map(b64, parts))))
    def test_parts(self, credential: bytes) -> None:
        assert outcome(credential, decryption_keys=TestEncrypted.KEYS) == INVALID

    @settings(max_examples=1500)
    @given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4), st.sampled_from(POLICIES))
    @example({"exp": float("nan")}, POLICIES[0])
    def test_claims(self, changes: dict[str, object], issuers: dict[str, Issuer]) -> None:
        token = hmac_signed(SECRET, claims(**changes))
        found = outcome(token, issuers, key_sets=SECRET_SETS)
        if isinstance(found, Verified):
            # PyJWT agrees, as far as it looks.
            options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
            told = jwt.decode(token, SECRET, ["HS256"], options, audience="api", issuer=ISS)
            assert told["sub"] == found.subject

    @settings(max_examples=1000)
    @given(JSON)
    def test_claims_of_any_shape(self, anything: object) -> None:
        assert outcome(hmac_signed(SECRET, anything), BY_SECRET, key_sets=SECRET_SETS) == INVALID

    @settings(max_examples=1000)
    @given(st.dictionaries(st.sampled_from(HEADER_NAMES), JSON, max_size=4))
    def test_headers(self, changes: dict[str, object]) -> None:
        found = outcome(hmac_signed(SECRET, CLAIMS, {"alg": "HS256", **changes}), BY_SECRET, key_sets=SECRET_SETS)
        assert not isinstance(found, UnknownKey)

    @settings(max_examples=1000)
    @given(
        st.sampled_from(["RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A256KW", "dir"]),
        st.dictionaries(st.sampled_from(HEADER_NAMES[1:]), JSON | st.just(public_jwk(P256)), max_size=4),
        st.lists(st.binary(max_size=64), min_size=4, max_size=4),
    )
    def test_headers_of_encrypted_tokens(self, alg: str, changes: dict[str, object], parts: list[bytes]) -> None:
        header = text({"alg": alg, "enc": "A256GCM", **changes})
        token = b".".join([b64(header), *map(b64, parts)])
        assert outcome(token, decryption_keys=TestEncrypted.KEYS) == INVALID

    REAL = (
        signed(),
        signed(alg="ES256", key=P256, header={"alg": "ES256", "kid": "p256"}),
        encrypted(signed(), TestEncrypted.DIRECT, {"alg": "dir", "enc": "A256GCM"}),
        encrypted(signed(), TestEncrypted.CASES[1][2], {"alg": "ECDH-ES", "enc": "A256GCM"}),
    )

    @settings(max_examples=1500)
    @given(st.sampled_from(REAL), st.data())
    def test_real_tokens_changed(self, token: bytes, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(token)))
        end = data.draw(st.integers(start, min(len(token), start + 8)))
        put = data.draw(st.binary(max_size=6) | st.text("ABCabc019-_.=", max_size=6).map(str.encode))
        changed = token[:start] + put + token[end:]
        found = outcome(changed, decryption_keys=TestEncrypted.KEYS)
        assert isinstance(found, Verified) == (changed == token)

    @settings(max_examples=500)
    @given(st.sampled_from(REAL), st.sampled_from(REAL), st.permutations(range(5)))
    def test_parts_of_real_tokens_mixed(self, one: bytes, other: bytes, order: list[int]) -> None:
        parts = (one.split(b".") + other.split(b"."))[:5]
        mixed = b".".join(parts[place] for place in order if place < len(parts))
        found = outcome(mixed, decryption_keys=TestEncrypted.KEYS)
        assert isinstance(found, str) or mixed in self.REAL


def test_the_secret_is_not_shown() -> None:
    assert SECRET.decode() not in repr(SECRET_SETS)
    assert hs256(b"", SECRET)
