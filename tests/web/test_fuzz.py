"""Whatever is asked, by whomever: a check is answered, in words of HTTP, and nothing goes wrong inside.

The requests are made up: raw header bytes, credentials that are nearly right, tokens of any JSON, signed and not,
everything twice. Signed ones are by keys that the service believes, so that their claims are looked at.
"""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jwcrypto.jwk import JWK  # type: ignore[import-untyped] # It ships no types.
from soak import EXAMPLES
from starlette.types import Message
from unit import signing

from quotas import keys

from .serving import Service, service

Headers = list[tuple[bytes, bytes]]
BY_SECRET = "https://secret.example.com"
PLANS = f"""
plans:
  plan:
    limits:
      per-second: {{rate: 3/second, burst: 5}}
      monthly: {{quota: 100000/month}}
      each: {{rate: 100/second, per: key}}
      search: {{rate: 30/minute, match: {{path: /search/*}}}}
    costs:
      - {{path: /batch, methods: [POST], cost: 10}}
clients: {{acme: {{plan: plan}}}}
issuers:
  - issuer: {signing.ISS}
    audience: [api]
    algorithms: [ES256, EdDSA]
    jwks_file: jwks.json
    plan_claim: plan
    default_plan: plan
  - issuer: {BY_SECRET}
    audience: [api]
    algorithms: [HS256]
    secret_env: FUZZ_SECRET
decryption_keys: [{{key_file: decryption.pem}}]
credentials: {{header: X-Acme-Key, cookie: session}}
"""
ANONYMOUS = "anonymous: {plan: plan}\nheaders: both\npreflight: pass\n"
KEYS_OF_ISSUER = {
    "keys": [signing.public_jwk(signing.P256, kid="p256"), signing.public_jwk(signing.ED25519, kid="ed25519")]
}
BOX = JWK.from_pem(signing.pem(signing.P384))
ALLOWED = {200, 400, 401, 403, 429}
TOKEN = re.compile(rb"[a-z0-9-]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Request(NamedTuple):
    """A check as it comes from a server: the path's bytes are ASCII, header names lower case."""

    method: str
    path: bytes
    query: bytes
    headers: Headers
    peer: tuple[str, int] | None


@dataclass(frozen=True)
class Bench:
    """Workers, with and without a plan for anonymous callers, and what they log that is worse than information.

    The one with it also writes all header fields and lets preflights pass.
    """

    runner: asyncio.Runner
    workers: dict[bool, Service]
    secret: bytes
    logged: list[logging.LogRecord]

    def ask(self, request: Request, *, anonymous: bool) -> tuple[int, Headers, bytes]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.disconnect"}  # A promised body does not come.

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": request.method,
            "path": unquote(request.path.decode("ascii")),
            "raw_path": request.path,
            "root_path": "",
            "query_string": request.query,
            "headers": request.headers,
            "client": request.peer,
            "server": ("quotas", 80),
        }

        async def run() -> None:
            await self.workers[anonymous].asgi(scope, receive, send)

        self.runner.run(run())
        start, *rest = sent
        return start["status"], start["headers"], b"".join(message["body"] for message in rest)


@pytest.fixture(scope="module")
def bench(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("issuer")
    (folder / "jwks.json").write_text(json.dumps(KEYS_OF_ISSUER))
    (folder / "decryption.pem").write_bytes(signing.pem(signing.P384))
    logged: list[logging.LogRecord] = []
    listening = _Listening(logged)
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.chdir(folder)
        patch.setenv("FUZZ_SECRET", signing.SECRET.decode())
        stack = AsyncExitStack()

        async def begin() -> tuple[dict[bool, Service], str]:
            workers = {
                anonymous: await stack.enter_async_context(
                    service(
                        server_url,
                        PLANS + (ANONYMOUS if anonymous else ""),
                        clock=lambda: signing.NOW * 1_000_000,
                    )
                )
                for anonymous in (False, True)
            }
            await workers[False].store.call("FLUSHALL")
            return workers, await workers[False].key("fuzz", "plan")

        workers, secret = runner.run(begin())
        logging.getLogger().addHandler(listening)
        try:
            yield Bench(runner, workers, secret.encode(), logged)
        finally:
            logging.getLogger().removeHandler(listening)
            runner.run(stack.aclose())


class _Listening(logging.Handler):
    def __init__(self, logged: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        self._logged.append(record)


# --- Keys: the marks are replaced by a secret that is valid.

SECRET, TAMPERED = b"{secret}", b"{tampered}"
made_up_keys = st.builds(
    lambda body: (text := f"quotas_live_{body}") + keys.checksum(text.encode()),
    st.text(keys.BASE62, min_size=30, max_size=30),
).map(str.encode)
pieces = st.sampled_from([SECRET, TAMPERED, b"quotas_", b"live_", b"test_", b" ", b"\x00", b"\xff", b"=", b".", b","])
api_keys = (
    st.just(SECRET)
    | st.just(TAMPERED)
    | made_up_keys
    | st.lists(pieces | st.binary(max_size=8), max_size=4).map(b"".join)
)

# --- Tokens: any JSON in any place, some of it signed.

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
instants = st.sampled_from([signing.NOW - 100, signing.NOW, signing.NOW + 300, 0, -1, 2**53, 10**400, 1e308, 0.5])
likely: dict[str, st.SearchStrategy[Any]] = {
    "iss": st.sampled_from([signing.ISS, BY_SECRET]),
    "aud": st.sampled_from(["api", ["api"], ["x", "api"]]),
    "sub": st.text(max_size=140) | st.sampled_from(["alice", "a\r\nb", "\ud800", "x" * 5000]),
    "exp": instants,
    "nbf": instants,
    "iat": instants,
    "plan": st.sampled_from(["plan", "gold", ""]),
    "typ": st.sampled_from(["access", "id", "refresh"]),
    "scope": st.sampled_from(["read write", "read  write", "", "\x00"]),
    "scp": st.sampled_from([["read"], "read", [1]]),
    "cnf": st.just({"jkt": "x"}),
    "jti": st.text(max_size=8),
}
changes = st.dictionaries(st.sampled_from(sorted(likely)) | st.text(max_size=6), st.just(None), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: likely.get(name, values) | values for name in names})
)
claims = st.builds(
    lambda change, gone: {name: value for name, value in {**signing.CLAIMS, **change}.items() if name not in gone},
    changes,
    st.frozensets(st.sampled_from(sorted(signing.CLAIMS)), max_size=1) | st.just(frozenset[str]()),
)
odd_json = st.sampled_from(
    [b"", b"{", b"[]", b"null", b'{"a":1,"a":2}', b"[" * 2000, b'"\\ud800"', b"\xff", b"{}", b"1e999"]
)
header_fields = st.dictionaries(
    st.sampled_from(["kid", "typ", "crit", "b64", "zip", "jku", "jwk", "x5c", "cty", "enc", "epk", "alg"]),
    st.sampled_from(["p256", "ed25519", "JWT", "at+jwt", "DEF", "A256GCM", ["exp"], True, "none", "HS256"]) | values,
    max_size=2,
)


def by_elliptic_curve(written: dict[str, Any], change: dict[str, Any]) -> bytes:
    return signing.signed(written, alg="ES256", key=signing.P256, header={"alg": "ES256", "kid": "p256", **change})


def by_edwards_curve(written: object, change: dict[str, Any]) -> bytes:
    return signing.signed(
        written, alg="EdDSA", key=signing.ED25519, header={"alg": "EdDSA", "kid": "ed25519", **change}
    )


def by_secret(written: dict[str, Any], change: dict[str, Any]) -> bytes:
    return signing.hmac_signed(signing.SECRET, {**written, "iss": BY_SECRET}, {"alg": "HS256", **change})


def unsigned(header: object, written: object, rest: list[bytes]) -> bytes:
    return b".".join([signing.b64(signing.text(header)), signing.b64(signing.text(written)), *map(signing.b64, rest)])


def boxed(inside: bytes) -> bytes:
    return signing.encrypted(inside, BOX, {"alg": "ECDH-ES", "enc": "A256GCM"})


no_change = st.just(dict[str, Any]())
signed = (
    st.builds(by_elliptic_curve, claims, no_change | header_fields)
    | st.builds(by_edwards_curve, claims | values | odd_json, no_change | header_fields)
    | st.builds(by_secret, claims, no_change | header_fields)
)
tokens = (
    signed
    | st.builds(
        unsigned,
        header_fields | values | odd_json,
        claims | values | odd_json,
        st.lists(st.binary(max_size=8), max_size=4),
    )
    | st.builds(boxed, signed | st.binary(max_size=20))
    | st.builds(
        lambda token, at, byte: token[:at] + byte + token[at + 1 :], signed, st.integers(0, 400), st.binary(max_size=1)
    )
)
credentials = api_keys | tokens | st.binary(max_size=20) | st.just(b"x" * 9000)

# --- Requests.

schemes = st.sampled_from([b"Bearer ", b"bearer  ", b"BEARER\t", b"Basic ", b"Bearer", b"", b"DPoP "])
cookies = st.lists(
    st.builds(
        lambda name, value: name + b"=" + value, st.sampled_from([b"session", b" session", b"a", b""]), credentials
    )
    | st.binary(max_size=10),
    max_size=3,
).map(b"; ".join)
hops = st.sampled_from(
    [
        b"203.0.113.9",
        b"10.0.0.1:80",
        b"[2001:db8::1]:443",
        b"::ffff:1.2.3.4",
        b"127.0.0.1",
        b"fe80::1%eth0",
        b"unknown",
        b"",
    ]
) | st.binary(max_size=12)
forwarded = st.lists(hops, max_size=5).map(b", ".join)
methods = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "purge", "M-SEARCH"])
odd_methods = st.text(st.characters(max_codepoint=0xFF), min_size=1, max_size=40)
targets = st.sampled_from(
    [b"/", b"/search/a", b"/search%2fa", b"//x/../search/b", b"/batch", b"*", b"", b"http://x/batch"]
)
costs = st.sampled_from([b"0", b"1", b"5", b"6", b"007", b"-1", b"", b"1e3", b"9007199254740992", b"\xb2"])
presented = st.one_of(
    st.tuples(st.just(b"authorization"), tokens.map(b"Bearer ".__add__)),
    st.tuples(st.just(b"authorization"), tokens.map(b"bearer  ".__add__)),
    st.tuples(st.just(b"authorization"), st.builds(lambda scheme, value: scheme + value, schemes, credentials)),
    st.tuples(st.just(b"cookie"), tokens.map(b"a=b; session=".__add__)),
    st.tuples(st.just(b"cookie"), cookies),
    st.tuples(st.sampled_from([b"x-api-key", b"x-acme-key"]), api_keys),
    st.tuples(st.sampled_from([b"x-api-key", b"x-acme-key"]), credentials),
)
carried = st.one_of(
    st.tuples(st.just(b"x-forwarded-for"), forwarded),
    st.tuples(st.just(b"x-quotas-cost"), costs),
    st.tuples(st.sampled_from([b"x-forwarded-method", b"x-original-method"]), methods.map(str.encode)),
    st.tuples(st.sampled_from([b"x-forwarded-uri", b"x-original-uri"]), targets | st.binary(max_size=20)),
    st.tuples(st.sampled_from([b"x-forwarded-method", b"x-original-method", b"x-quotas-cost"]), st.binary(max_size=6)),
    st.tuples(
        st.sampled_from([b"origin", b"access-control-request-method", b"x-request-id", b"host"]), st.binary(max_size=9)
    ),
    st.sampled_from([(b"content-length", b"5"), (b"content-length", b"0"), (b"expect", b"100-continue")]),
    st.tuples(st.binary(max_size=10), st.binary(max_size=10)),
)
PREFLIGHT = [(b"origin", b"https://example.com"), (b"access-control-request-method", b"POST")]
one = presented.map(lambda field: [field])
several = st.lists(presented, max_size=3) | one.map(lambda fields: fields * 2)
headers = st.builds(
    lambda before, fields, after: before + fields + after,
    st.just(Headers()) | st.lists(carried, max_size=1),
    st.integers(0, 9).flatmap(lambda chance: several if chance == 0 else one),
    st.just(Headers()) | st.lists(carried, max_size=2) | st.just(PREFLIGHT),
)
ascii_text = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?#"), max_size=15)
paths = st.sampled_from([b"/check", b"/check/nginx", b"/check/envoy"]) | st.builds(
    lambda face, rest: face + rest.encode(),
    st.sampled_from([b"/check/", b"/check/envoy/", b"/check/nginx/"]),
    ascii_text,
)
peers = st.sampled_from(
    [("127.0.0.1", 1), ("127.0.0.1", 1), ("203.0.113.9", 1), ("2001:db8::9", 1), ("::1", 1), ("x", 0), None]
)
requests = st.builds(
    Request,
    method=st.integers(0, 9).flatmap(lambda chance: odd_methods if chance == 0 else methods),
    path=paths,
    query=ascii_text.map(str.encode),
    headers=headers,
    peer=peers,
)


@settings(max_examples=EXAMPLES)
@given(request=requests, anonymous=st.booleans())
def test_every_check_is_answered(bench: Bench, *, request: Request, anonymous: bool) -> None:
    last = b"0" if bench.secret[-1:] != b"0" else b"1"
    tampered = bench.secret[:-1] + last
    sent = [(name, value.replace(SECRET, bench.secret).replace(TAMPERED, tampered)) for name, value in request.headers]
    status, fields, body = bench.ask(request._replace(headers=sent), anonymous=anonymous)
    assert bench.logged == []
    assert status in ALLOWED
    names = [name for name, _ in fields]
    assert len(names) == len(set(names))
    for name, value in fields:
        assert TOKEN.fullmatch(name), name
        assert VALUE.fullmatch(value), (name, value)
    answer = dict(fields)
    event(f"{status} {answer.get(b'x-quotas-reason', b'').decode()}")
    assert {b"cache-control", b"x-quotas-client", b"x-quotas-plan", b"x-quotas-subject"} <= set(names)
    assert (status == 200) == (b"x-quotas-reason" not in answer)
    assert (status == 401) == (b"www-authenticate" in answer)
    assert int(answer.get(b"content-length", b"0")) == len(body) or request.method == "HEAD"
    if status == 200:
        assert body == b""
    if body:
        assert json.loads(body)["reason"] == answer[b"x-quotas-reason"].decode()
    assert bench.secret not in body + b"".join(value for _, value in fields)


def test_the_requests_reach_every_end(bench: Bench) -> None:
    """What the fuzzing begins with is right: one step away from it lies every kind of answer."""
    local = ("127.0.0.1", 1)

    def status(name: bytes, value: bytes, *more: tuple[bytes, bytes], anonymous: bool = False) -> tuple[int, bytes]:
        answer, fields, _ = bench.ask(
            Request("GET", b"/check", b"", [(name, value), *more], local), anonymous=anonymous
        )
        return answer, dict(fields).get(b"x-quotas-reason", b"")

    alice = {**signing.CLAIMS, "exp": signing.NOW + 300}
    free = (b"x-quotas-cost", b"0")
    assert status(b"x-api-key", bench.secret, free) == (200, b"")
    for made in (by_elliptic_curve, by_edwards_curve):
        assert status(b"cookie", b"session=" + made(alice, {}), free) == (200, b"")
    assert status(b"x-acme-key", boxed(by_edwards_curve(alice, {})), free) == (200, b"")
    assert status(b"x-acme-key", by_secret(alice, {})) == (403, b"no_plan")
    assert status(b"x-acme-key", by_secret({**alice, "exp": 1}, {})) == (401, b"expired_credential")
    assert status(b"x-api-key", bench.secret, (b"x-quotas-cost", b"6")) == (403, b"cost_exceeds_limit")
    assert status(b"x-api-key", bench.secret, (b"x-quotas-cost", b"x")) == (400, b"invalid_request")
    assert status(b"accept", b"*/*") == (401, b"missing_credential")
    assert status(b"accept", b"*/*", free, anonymous=True) == (200, b"")
