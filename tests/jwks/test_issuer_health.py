"""The doctor and issuers: real servers on loopback, real key sets, and what is wrong with them."""

import asyncio
import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from quotas import issuer_health
from quotas.fetching import FetchError
from quotas.findings import Finding, Verdict
from quotas.issuers import Discovery, Issuer, JwksFile, JwksUrl, KeySource, SharedSecret

from .idp import KEY, URL, Pages, answering, issuer, jwk, jwks, reply, serving

OK, WARNING, PROBLEM = Verdict
NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)


def look(*issuers: Issuer, folder: Path = Path(), fetch: Pages | None = None, **secrets: str) -> list[Finding]:
    async def run() -> list[Finding]:
        return await issuer_health.examine(
            issuers, secrets=secrets, folder=folder, clock=lambda: int(NOW.timestamp()) * 1_000_000, fetch=fetch
        )

    return asyncio.run(run())


def served(pages: dict[str, bytes], source: str = "/jwks") -> list[Finding]:
    async def run() -> list[Finding]:
        async with serving(answering(pages)) as server:
            return await issuer_health.examine(
                [issuer(JwksUrl(server.url + source))],
                secrets={},
                folder=Path(),
                clock=lambda: int(NOW.timestamp()) * 1_000_000,
            )

    return asyncio.run(run())


def certified(kid: str, end: dt.datetime) -> dict[str, object]:
    """A key with a certificate that ends then."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder(name, name, KEY.public_key(), x509.random_serial_number())
        .not_valid_before(end - dt.timedelta(days=365))
        .not_valid_after(end)
        .sign(KEY, SHA256())
    )
    return {**jwk(kid), "x5c": [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]}


def test_keys_over_http() -> None:
    (finding,) = served({"/jwks": reply(jwks("a", "b"), "200 OK", "Cache-Control: max-age=300")})
    assert finding.verdict is OK
    assert finding.subject == "issuer https://id.example.com"
    assert finding.message.startswith("2 keys for ES256; asked in ")
    assert finding.message.endswith(" ms, good for 300 s")


def test_keys_for_other_purposes_are_counted_apart() -> None:
    body = json.dumps({"keys": [jwk("a"), {**jwk("b"), "use": "enc"}, {"kty": "new"}]}).encode()
    (finding,) = served({"/jwks": reply(body)})
    assert finding.verdict is OK
    assert "1 key for ES256, 2 more that cannot be used; asked in " in finding.message


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ({}, "answered 404"),
        ({"/jwks": reply(b"<html>")}, "the key set"),
        ({"/jwks": reply(b"", "302 Found", "Location: http://10.0.0.1/jwks")}, "redirect"),
    ],
)
def test_no_keys(pages: dict[str, bytes], told: str) -> None:
    (finding,) = served(pages)
    assert finding.verdict is PROBLEM
    assert told in finding.message
    assert "jwks_url" in finding.advice


def test_nobody_listens() -> None:
    (finding,) = look(issuer(JwksUrl("http://127.0.0.1:1/jwks")))
    assert finding.verdict is PROBLEM
    assert "connect: 127.0.0.1" in finding.message


@pytest.mark.parametrize("body", [b'{"keys": []}', json.dumps({"keys": [{**jwk("a"), "use": "enc"}]}).encode()])
def test_no_key_that_verifies(body: bytes) -> None:
    (finding,) = served({"/jwks": reply(body)})
    assert (finding.verdict, "no key that can verify" in finding.message) == (PROBLEM, True)


def in_file(tmp_path: Path, body: bytes, algorithms: frozenset[str] = frozenset({"ES256"})) -> Finding:
    (tmp_path / "keys.json").write_bytes(body)
    of_file = Issuer("https://id.example.com", ("api",), algorithms, JwksFile("keys.json"))
    (finding,) = look(of_file, folder=tmp_path)
    return finding


def test_keys_in_a_file(tmp_path: Path) -> None:
    finding = in_file(tmp_path, jwks("a"))
    assert (finding.verdict, finding.message) == (OK, "1 key for ES256")


def test_algorithms_without_a_key(tmp_path: Path) -> None:
    finding = in_file(tmp_path, jwks("a"), frozenset({"ES256", "RS256"}))
    assert (finding.verdict, finding.message) == (OK, "1 key for ES256; none for RS256")


def test_no_algorithm_with_a_key(tmp_path: Path) -> None:
    finding = in_file(tmp_path, jwks("a"), frozenset({"RS256"}))
    assert finding.verdict is PROBLEM
    assert "its keys are for ES256, and `algorithms` allows only RS256" in finding.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (finding,) = look(issuer(JwksFile("keys.json")), folder=tmp_path)
    assert (finding.verdict, "cannot be read" in finding.message) == (PROBLEM, True)
    assert "jwks_file" in finding.advice


def test_discovery_that_names_another_issuer() -> None:
    async def run() -> list[Finding]:
        metadata = reply(json.dumps({"issuer": "https://other", "jwks_uri": URL}).encode())
        async with serving(answering({"/.well-known/openid-configuration": metadata})) as server:
            found = [issuer(Discovery(), server.url)]
            return await issuer_health.examine(found, secrets={}, folder=Path(), clock=lambda: 0)

    (finding,) = asyncio.run(run())
    assert (finding.verdict, "another issuer" in finding.message) == (PROBLEM, True)
    assert "to the letter" in finding.advice


def shared(variable: str) -> Issuer:
    return Issuer("https://id.example.com", ("api",), frozenset({"HS256"}), SharedSecret(variable))


def test_shared_secrets() -> None:
    (finding,) = look(shared("HS"), HS="s" * 32)
    assert (finding.verdict, finding.message) == (OK, "a shared secret, from HS")
    (finding,) = look(shared("HS"), HS="short")
    assert finding.verdict is PROBLEM
    assert "short" not in finding.message
    (finding,) = look(shared("HS"))
    assert (finding.verdict, finding.message) == (PROBLEM, "HS is not set in the environment")


def test_each_issuer_is_asked_even_when_another_does_not_answer() -> None:
    source: KeySource = JwksUrl("https://other.example.com/jwks")
    pages = Pages({"https://other.example.com/jwks": FetchError("connect", "down")})
    found = look(issuer(source, "https://other.example.com"), issuer(JwksUrl("https://third.example.com")), fetch=pages)
    assert [each.verdict for each in found] == [PROBLEM, PROBLEM]
    assert len(pages.urls) == 2


def test_certificates_that_end() -> None:
    body = json.dumps(
        {
            "keys": [
                certified("soon", NOW + dt.timedelta(days=7)),
                certified("later", NOW + dt.timedelta(days=7, seconds=1)),
                certified("over", NOW),
                {**jwk("none"), "x5c": ["%%%"]},
                {**jwk("odd"), "x5c": "odd"},
            ]
        }
    ).encode()
    first, *rest = served({"/jwks": reply(body)})
    assert first.verdict is OK
    assert [(each.verdict, each.message) for each in rest] == [
        (WARNING, "the certificate of its key 'over' ended on 2026-11-25"),
        (WARNING, "the certificate of its key 'soon' ends on 2026-12-02"),
    ]
