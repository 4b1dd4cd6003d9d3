"""Issuers as people write them, and keys as text: what is doubtful is refused when it is read."""

import json
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwk  # type: ignore[import-untyped] # It ships no types.
from pydantic import TypeAdapter, ValidationError

from quotas.errors import Fault
from quotas.issuers import (
    DecryptionKeyModel,
    DecryptionKeyModels,
    DecryptionKeySource,
    Discovery,
    Issuer,
    IssuerModel,
    IssuerModels,
    JwksFile,
    JwksUrl,
    KeySource,
    SharedSecret,
    TypPolicy,
    contradictions,
    is_loopback,
)
from quotas.key_sets import (
    MAX_KEYS,
    parse_decryption_key,
    parse_json,
    parse_key_set,
    parse_shared_secret,
)

from .signing import ED448, ED25519, P256, P384, P521, RSA, SECRET, pem, public_jwk

MINIMAL = (
    "{issuer: https://id.example.com, audience: [api], algorithms: [RS256], jwks_url: https://id.example.com/jwks}"
)


def written(text: str, **changes: object) -> IssuerModel:
    given_fields = {**yaml.safe_load(text), **changes}
    return IssuerModel.model_validate({name: value for name, value in given_fields.items() if value != "(absent)"})


def fault(**changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        written(MINIMAL, **changes)
    return "; ".join(".".join(map(str, each["loc"])) + ": " + each["msg"] for each in caught.value.errors())


def sets(*jwks: object) -> list[tuple[str | None, set[str]]]:
    parsed = parse_key_set(json.dumps({"keys": list(jwks)}).encode())
    return [(key.kid, set(key.algorithms)) for key in parsed.keys]


class TestIssuers:
    def test_the_example_of_the_design(self) -> None:
        model = written("""
            issuer: https://id.example.com
            audience: [api]
            algorithms: [RS256, ES256]
            jwks_url: https://id.example.com/.well-known/jwks.json
            subject_claim: sub
            plan_claim: plan
            default_plan: free
        """)
        assert model.to_domain() == Issuer(
            issuer="https://id.example.com",
            audience=("api",),
            algorithms=frozenset({"RS256", "ES256"}),
            keys=JwksUrl("https://id.example.com/.well-known/jwks.json"),
            subject_claim="sub",
            plan_claim="plan",
            default_plan="free",
        )

    def test_defaults(self) -> None:
        found = written(MINIMAL).to_domain()
        assert (found.subject_claim, found.plan_claim, found.default_plan, found.plans) == ("sub", None, None, {})
        assert (found.typ, found.required_claims, found.leeway_s) == (TypPolicy.PREFERRED, (), 5)

    @pytest.mark.parametrize(
        ("changes", "source"),
        [
            ({"jwks_file": "keys.json"}, JwksFile("keys.json")),
            ({"discovery": True}, Discovery()),
            ({"secret_env": "TOKEN_SECRET", "algorithms": ["HS256"]}, SharedSecret("TOKEN_SECRET")),
            ({"jwks_url": "http://localhost:8080/jwks"}, JwksUrl("http://localhost:8080/jwks")),
            ({"jwks_url": "http://127.0.0.1/jwks"}, JwksUrl("http://127.0.0.1/jwks")),
            ({"jwks_url": "http://[::1]:9/jwks?a=b"}, JwksUrl("http://[::1]:9/jwks?a=b")),
            ({"jwks_url": "https://10.0.0.1/jwks"}, JwksUrl("https://10.0.0.1/jwks")),
        ],
    )
    def test_sources(self, changes: dict[str, object], source: KeySource) -> None:
        assert written(MINIMAL, **{"jwks_url": "(absent)", **changes}).to_domain().keys == source

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"issuer": ""}, "issuer: Value error, must have 1 to 512 printable"),
            ({"issuer": " https://a"}, "issuer: "),
            ({"issuer": 5}, "issuer: "),
            ({"issuer": "(absent)"}, "issuer: Field required"),
            ({"audience": []}, "audience: "),
            ({"audience": [""]}, "audience.0: "),
            ({"audience": "api"}, "audience: "),
            ({"audience": [5]}, "audience.0: "),
            ({"algorithms": []}, "algorithms: "),
            ({"algorithms": ["none"]}, "algorithms.0: Value error, must be one of"),
            ({"algorithms": ["RS256", "ES256K"]}, "algorithms.1: "),
            ({"algorithms": ["HS512"]}, "algorithms.0: "),
            ({"algorithms": ["HS256"]}, "HS256 goes with `secret_env`"),
            ({"algorithms": ["RS256", "HS256"]}, "HS256 goes with `secret_env`"),
            ({"algorithms": ["RS256", "HS256"], "secret_env": "A", "jwks_url": None}, "must stand alone"),
            ({"algorithms": ["RS256"], "secret_env": "A", "jwks_url": None}, "HS256 goes with `secret_env`"),
            ({"jwks_url": None}, "must have exactly one of"),
            ({"jwks_file": "a"}, "must have exactly one of"),
            ({"discovery": True}, "must have exactly one of"),
            ({"discovery": False}, "discovery: "),
            ({"secret_env": "not a name"}, "must be the name of an environment variable"),
            ({"secret_env": ""}, "must be the name of an environment variable"),
            ({"jwks_url": "http://id.example.com/jwks"}, "must start with https://"),
            ({"jwks_url": "http://10.0.0.1/jwks"}, "must start with https://"),
            ({"jwks_url": "http://localhost.example.com/jwks"}, "must start with https://"),
            ({"jwks_url": "ftp://localhost/jwks"}, "must start with https://"),
            ({"jwks_url": "file:///etc/passwd"}, "must be an absolute URL"),
            ({"jwks_url": "/jwks"}, "must be an absolute URL"),
            ({"jwks_url": "https://"}, "must be an absolute URL"),
            ({"jwks_url": "https://a/#b"}, "must be an absolute URL"),
            ({"jwks_url": "https://a/ b"}, "must be an absolute URL"),
            ({"jwks_url": "https://exämple.com/"}, "must be an absolute URL"),
            ({"jwks_url": "https://a:0/"}, "must be an absolute URL"),
            ({"jwks_url": "https://a:99999/"}, "jwks_url: "),
            ({"jwks_url": "https://[::1/"}, "jwks_url: "),
            ({"jwks_url": "https://a:b@c/"}, "must not hold a name or a password"),
            ({"jwks_url": "https://a@c/"}, "must not hold a name or a password"),
            ({"jwks_url": None, "discovery": True, "issuer": "accounts.example.com"}, "must be an absolute URL"),
            ({"jwks_url": None, "discovery": True, "issuer": "https://a/?b=c"}, "without a query"),
            ({"subject_claim": ""}, "subject_claim: "),
            ({"subject_claim": "a..b"}, "subject_claim: "),
            ({"subject_claim": ".a"}, "subject_claim: "),
            ({"required_claims": ["a", "b."]}, "required_claims.1: "),
            ({"plan_claim": 5}, "plan_claim: "),
            ({"plans": {"gold": "pro"}}, "`plans` translates"),
            ({"plans": {"gold": 5}, "plan_claim": "p"}, "plans.gold: "),
            ({"typ": "strict"}, "typ: "),
            ({"leeway_s": 61}, "leeway_s: "),
            ({"leeway_s": -1}, "leeway_s: "),
            ({"leeway_s": 1.5}, "leeway_s: "),
            ({"leeway_s": True}, "leeway_s: "),
            ({"jwks_uri": "https://a"}, "jwks_uri: Extra inputs are not permitted"),
        ],
    )
    def test_faults(self, changes: dict[str, object], told: str) -> None:
        assert told in fault(**changes)

    def test_a_secret_in_the_wrong_place_is_not_quoted(self) -> None:
        assert "hunter2" not in fault(secret_env="hunter2 hunter2")

    @pytest.mark.parametrize("policy", TypPolicy)
    def test_policies(self, policy: TypPolicy) -> None:
        assert written(MINIMAL, typ=policy.value).to_domain().typ is policy

    @pytest.mark.parametrize(
        ("plans", "default", "value", "plan"),
        [
            ({}, None, "pro", "pro"),
            ({}, None, "gold", None),
            ({}, "free", "gold", "free"),
            ({}, None, None, None),
            ({}, "free", None, "free"),
            ({"gold": "pro"}, None, "gold", "pro"),
            ({"gold": "pro"}, None, "pro", None),
            ({"gold": "pro"}, "free", "pro", "free"),
            ({"gold": "gone"}, "free", "gold", "free"),
            ({"gold": "pro"}, "free", None, "free"),
        ],
    )
    def test_plans(self, plans: dict[str, str], default: str | None, value: str | None, plan: str | None) -> None:
        issuer = Issuer("i", ("a",), frozenset({"RS256"}), Discovery(), plans=plans, default_plan=default)
        assert issuer.plan(value, {"pro": 1, "free": 2}) == plan

    def test_contradictions(self) -> None:
        document: dict[object, Any] = {
            "plans": {"free": {}},
            "issuers": [
                {"issuer": "a", "default_plan": "free", "plans": {"gold": "pro", "iron": "free", "x": 5}},
                {"issuer": "b", "default_plan": "gone"},
                {"issuer": "a"},
                "junk",
                {"issuer": 5, "plans": []},
            ],
        }
        assert contradictions(document) == [
            Fault("issuers.0.plans.gold", "there is no plan 'pro' in `plans`"),
            Fault("issuers.1.default_plan", "there is no plan 'gone' in `plans`"),
            Fault("issuers.2.issuer", "'a' is listed twice; its tokens need one rule"),
        ]
        broken: list[dict[object, object]] = [{}, {"issuers": 5}, {"issuers": [5], "plans": 5}, {"issuers": [{}]}]
        assert [contradictions(each) for each in broken] == [[]] * 4

    def test_lists_are_bounded(self) -> None:
        one = yaml.safe_load(MINIMAL)
        assert len(TypeAdapter(IssuerModels).validate_python([one] * 100)) == 100
        for adapter, value in ((IssuerModels, [one] * 101), (DecryptionKeyModels, [{"key_env": "A"}] * 5)):
            with pytest.raises(ValidationError):
                TypeAdapter[Any](adapter).validate_python(value)

    @pytest.mark.parametrize(
        ("host", "is_one"),
        [("localhost", True), ("127.9.9.9", True), ("::1", True), ("::2", False), ("10.0.0.1", False), ("a", False),
         ("0.0.0.0", False), ("localhost.", False), ("", False)],
    )  # fmt: skip
    def test_loopback(self, host: str, is_one: bool) -> None:  # noqa: FBT001 # A table.
        assert is_loopback(host) is is_one


class TestJson:
    @pytest.mark.parametrize(
        "data",
        [b"", b"{", b'{"a":1,"a":1}', b'[{"a":{"b":1,"b":2}}]', b"NaN", b"[Infinity]", b"-Infinity", b"1e999",
         b"-1e999", b"[" * 3000, b'{"a":' * 3000, b"\xff", b"\xef\xbb\xbf1", "1".encode("utf-16"), b"1 2", b"'a'",
         b"9" * 5000],
    )  # fmt: skip
    def test_what_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 # Any, and nothing else.
            parse_json(data)

    @settings(max_examples=300)
    @given(st.binary(max_size=40) | st.text('{}[]",:01eE+-. \\u', max_size=30).map(str.encode))
    def test_any_bytes(self, data: bytes) -> None:
        try:
            found = parse_json(data)
        except ValueError:
            return
        assert found == json.loads(data)


class TestKeySets:
    def test_every_type_and_what_it_verifies(self) -> None:
        rsa_all = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
        assert sets(*(public_jwk(key, kid="k") for key in (RSA, P256, P384, P521, ED25519, ED448))) == [
            ("k", rsa_all),
            ("k", {"ES256"}),
            ("k", {"ES384"}),
            ("k", {"ES512"}),
            ("k", {"EdDSA", "Ed25519"}),
            ("k", {"EdDSA"}),
        ]
        assert sets(public_jwk(RSA, alg="PS384")) == [(None, {"PS384"})]

    def test_members_that_do_not_matter(self) -> None:
        more = {"x5c": ["junk"], "x5u": 5, "x5t": [], "unknown": {"a": 1}, "use": "sig", "key_ops": ["verify"]}
        assert len(sets(public_jwk(RSA, kid=None, **more))) == 1

    @pytest.mark.parametrize(
        "odd",
        [
            {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
            {"kty": "oct", "k": "A" * 43},
            {"kty": "oct", "k": "A" * 43, "kid": "k1", "alg": "HS256", "use": "sig"},
            {"kty": "RSA"},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "n": "A" * 2000, "e": "AQAB"},
            {"kty": "RSA", "n": "not base64!", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": "P-256"},
            {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
            {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
            {"kty": ["RSA"]},
            {"kty": None},
            {},
            [],
            5,
            None,
            "key",
            public_jwk(RSA, use="enc"),
            public_jwk(RSA, use=["sig"]),
            public_jwk(RSA, key_ops=["encrypt"]),
            public_jwk(RSA, key_ops="verify"),
            public_jwk(RSA, alg="RSA-OAEP-256"),
            public_jwk(RSA, alg="HS256"),
            public_jwk(RSA, alg="none"),
            public_jwk(RSA, alg=["RS256"]),
            public_jwk(RSA, kid=5),
            public_jwk(RSA, kid=""),
            public_jwk(RSA, kid="k" * 257),
            public_jwk(RSA, d="AA"),
            public_jwk(RSA, k="AA"),
            public_jwk(P256, alg="RS256"),
            public_jwk(P256, alg="ES384"),
            public_jwk(P256, n=5),
            json.loads(jwk.JWK.from_pyca(RSA).export_private()),
            public_jwk(rsa.generate_private_key(65537, 1024)),
        ],
    )
    def test_a_key_that_cannot_be_used_is_ignored(self, odd: object) -> None:
        assert sets(odd, public_jwk(P256, kid="good"), odd) == [("good", {"ES256"})]
        assert sets(odd) == []

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b"null", b'{"keys":[],"keys":[]}']
    )
    def test_what_is_no_set(self, data: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 # Any, and nothing else.
            parse_key_set(data)

    def test_the_number_is_bounded(self) -> None:
        assert len(sets(*[public_jwk(P256)] * MAX_KEYS)) == MAX_KEYS
        with pytest.raises(ValueError, match="more than 100 keys"):
            sets(*[{}] * (MAX_KEYS + 1))

    @settings(max_examples=500)
    @given(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg", "key_ops"]),
            st.sampled_from(
                ["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "A" * 43, "A" * 342, "sig", "", 5, None, []]
            ),
        )
    )
    def test_any_members(self, members: dict[str, object]) -> None:
        assert len(sets(members)) <= 1


class TestSecrets:
    def test_a_secret_does_one_algorithm(self) -> None:
        (key,) = parse_shared_secret(SECRET).keys
        assert key.kid is None
        assert key.algorithms == {"HS256"}

    @pytest.mark.parametrize(
        ("secret", "told"),
        [
            (b"", "at least 32 bytes"),
            (b"x" * 31, "at least 32 bytes"),
            (RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "no shared secret"),
            (RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "no shared secret"),
            (RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "no shared secret"),
            (pem(RSA), "no shared secret"),
            (json.dumps(public_jwk(RSA)).encode(), "no shared secret"),
        ],
    )
    def test_what_is_none(self, secret: bytes, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            parse_shared_secret(secret)

    def test_thirty_two_bytes_of_any_kind(self) -> None:
        for secret in (b"x" * 32, bytes(range(224, 256)), "é".encode() * 16):
            assert parse_shared_secret(secret)


class TestDecryptionKeys:
    @pytest.mark.parametrize(
        ("data", "algorithms"),
        [
            (pem(RSA), {"RSA-OAEP-256"}),
            (pem(P256), {"ECDH-ES", "ECDH-ES+A256KW"}),
            (pem(P521), {"ECDH-ES", "ECDH-ES+A256KW"}),
            (pem(x25519.X25519PrivateKey.generate()), {"ECDH-ES", "ECDH-ES+A256KW"}),
            (jwk.JWK.from_pyca(RSA).export_private().encode(), {"RSA-OAEP-256"}),
            pytest.param(jwk.JWK.generate(kty="oct", size=256).export().encode(), {"dir"}, id="a JWK of 32 bytes"),
            (
                b"\n " + jwk.JWK.generate(kty="EC", crv="P-256", use="enc").export().encode(),
                {"ECDH-ES", "ECDH-ES+A256KW"},
            ),
        ],
    )
    def test_what_a_key_opens(self, data: bytes, algorithms: set[str]) -> None:
        assert parse_decryption_key(data).algorithms == algorithms

    def test_its_name(self) -> None:
        made = jwk.JWK.generate(kty="EC", crv="P-256", kid="own").export().encode()
        assert parse_decryption_key(made).kid == "own"
        assert parse_decryption_key(made, "given").kid == "given"
        assert parse_decryption_key(pem(RSA)).kid is None

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"secret words that are no key",
            b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
            b'{"kty": "oct", "k": "secret"}',
            b'{"kty": "oct"}',
            b'{"kty": "oct", "k": 5}',
            b'{"kty": ["oct"]}',
            b'{"secret',
            b"{}",
            pytest.param(jwk.JWK.generate(kty="oct", size=128).export().encode(), id="a JWK of 16 bytes"),
            jwk.JWK.generate(kty="EC", crv="P-256", use="sig").export().encode(),
            jwk.JWK.generate(kty="EC", crv="P-256").export_public().encode(),
            jwk.JWK.generate(kty="RSA", size=2048).export_public().encode(),
            jwk.JWK.generate(kty="RSA", size=1024).export().encode(),
            b'{"kty": "RSA", "n": 5, "e": "AQAB", "d": "AA"}',
            jwk.JWK.generate(kty="OKP", crv="Ed25519").export().encode(),
            pem(ed25519.Ed25519PrivateKey.generate()),
            pem(ec.generate_private_key(ec.SECP256K1())),
            pem(ec.generate_private_key(ec.BrainpoolP256R1())),
            pem(dsa.generate_private_key(2048)),
            pem(rsa.generate_private_key(65537, 1024)),
            RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")),
            jwk.JWK.generate(kty="EC", crv="secp256k1").export().encode(),
        ],
    )
    def test_what_opens_nothing_is_told_without_the_key(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"no|neither") as caught:
            parse_decryption_key(data)
        assert "secret" not in str(caught.value)
        assert "MII" not in str(caught.value)

    def test_models(self) -> None:
        by_file = DecryptionKeyModel.model_validate({"key_file": "a.pem", "kid": "k"})
        assert by_file.to_domain() == DecryptionKeySource("k", "a.pem", None)
        assert DecryptionKeyModel.model_validate({"key_env": "A"}).to_domain() == DecryptionKeySource(None, None, "A")
        for bad in ({}, {"key_file": "a", "key_env": "A"}, {"key_env": "a b"}, {"key_file": "a", "x": 1}, {"kid": ""}):
            with pytest.raises(ValidationError):
                DecryptionKeyModel.model_validate(bad)

    def test_keys_are_not_shown(self) -> None:
        key = parse_decryption_key(jwk.JWK.generate(kty="oct", size=256, kid="name").export().encode())
        assert repr(key) == "DecryptionKey(kid='name', algorithms=frozenset({'dir'}))"
