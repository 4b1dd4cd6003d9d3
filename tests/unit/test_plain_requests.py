"""What is read without a parser is what the parser and `requests` say; what is doubtful is not read. `K` is a key."""

from dataclasses import dataclass, field

import httptools
import pytest
from hypothesis import event, example, given, settings, target
from hypothesis import strategies as st

from quotas import faces, requests
from quotas.faces import ENVOY, NATIVE, NGINX, Face
from quotas.places import ALWAYS, MAX_CREDENTIAL, Places
from quotas.plain_requests import MAX_LINES, MAX_NAME, MAX_NAMES, MAX_REQUEST_LINE, Plain, PlainRequest, fields

K = b"quotas_live_0123456789abcdefghijABCDEFGHIJ4gfFC3"
KEY = b"X-API-Key: " + K
BOTH = Places(b"x-acme-key", b"acme_session")
CHECK = b"GET /check HTTP/1.1"


def head(*lines: bytes, first: bytes = CHECK) -> bytes:
    return b"".join(line + b"\r\n" for line in (first, *lines, b""))


@dataclass
class Parsed:
    """What the parser calls back, as uvicorn and the hot road keep it."""

    url: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: int = 0

    def on_message_begin(self) -> None:
        self.url, self.headers = b"", []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


def long_way(data: bytes, places: Places, id_header: bytes | None) -> tuple[Face, str, bytes, bytes | None]:
    """The same request as the parser and `requests` have it, which must be one that the hot road answers."""
    parsed = Parsed()
    parser = httptools.HttpRequestParser(parsed)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    for times in (1, 2):  # As often as it comes on one connection.
        parser.feed_data(data)
        assert (parsed.complete, parsed.body) == (times, b"")
        assert (parser.get_http_version(), parser.should_keep_alive(), parser.should_upgrade()) == ("1.1", True, False)
    promised = {name: value for name, value in parsed.headers if name in {b"content-length", b"transfer-encoding"}}
    assert promised in ({}, {b"content-length": b"0"})
    assert fields(data) == parsed.headers
    assert not {name for name, _ in parsed.headers} & {b"expect", b"upgrade", b"http2-settings"}
    method = parser.get_method().decode()
    assert parsed.url.isascii()
    url = httptools.parse_url(parsed.url)
    assert url.path is not None
    found = faces.find(url.path, url.query or b"")
    assert found is not None
    credential = requests.plain_credential(parsed.headers, found[0], method=method, places=places, id_header=id_header)
    return found[0], method, found[1], credential


ORDINARY = {
    "wrk": head(b"Host: bench", KEY),
    "wrk, bearer": head(b"Host: bench", b"Authorization: Bearer " + K),
    "curl": head(b"Host: 127.0.0.1:8080", b"User-Agent: curl/8.5.0", b"Accept: */*", KEY),
    "httpx": head(
        b"Host: 127.0.0.1:8080",
        b"Accept: */*",
        b"Accept-Encoding: gzip, deflate",
        b"Connection: keep-alive",
        b"User-Agent: python-httpx/0.28.1",
        b"X-API-Key: " + K,
    ),
    "nginx": head(
        KEY,
        b"X-Original-Method: POST",
        b"X-Original-URI: /up/x?y=1",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Request-ID: a3ded232ee8ee6617e9dda16008628a0",
        b"Host: quotas_check",
        first=b"GET /check/nginx HTTP/1.1",
    ),
    "Envoy": head(
        b"host: 127.0.0.1:44189",
        b"content-length: 0",
        b"x-request-id: 931ec447-6ab0-4cca-a919-215ced11f150",
        b"x-forwarded-for: 192.0.2.2",
        b"x-api-key: " + K,
        b"x-envoy-internal: true",
        b"x-envoy-expected-rq-timeout-ms: 60000",
        first=b"POST /check/envoy/up/x?y=1 HTTP/1.1",
    ),
    "Caddy": head(
        b"Host: 127.0.0.1:37711",
        b"Via: 1.1 Caddy",
        b"X-Api-Key: " + K,
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: 127.0.0.1:37711",
        b"X-Forwarded-Method: HEAD",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Uri: /up/x?y=1",
        b"X-Request-Id: 24309619-0e79-431d-bd75-fe569e6f218f",
    ),
    "Traefik": head(
        b"Host: 127.0.0.1:8080",
        b"User-Agent: Go-http-client/1.1",
        b"Authorization: Bearer " + K,
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: localhost",
        b"X-Forwarded-Method: DELETE",
        b"X-Forwarded-Port: 80",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Server: gateway",
        b"X-Forwarded-Uri: /up/x?y=1",
        b"X-Real-Ip: 127.0.0.1",
        b"Accept-Encoding: gzip",
    ),
    "HAProxy": head(
        b"x-forwarded-uri: /up/x?y=1",
        b"x-forwarded-method: POST",
        b"x-api-key: " + K,
        b"x-request-id: 5c22deac-fdf1-480e-aef4-966354c72bf9",
        b"x-forwarded-for: 127.0.0.1",
        b"host: quotas",
        b"accept: */*",
        b"user-agent: HAProxy",
    ),
}
"""What a check is asked with, as it came over the wire; for Traefik as its documentation has it."""


@pytest.mark.parametrize("places", [ALWAYS, BOTH], ids=["always", "both"])
@pytest.mark.parametrize("name", ORDINARY)
def test_the_ordinary_requests_are_plain(name: str, places: Places) -> None:
    face, method, carried = {
        "nginx": (NGINX, "GET", b"/"),
        "Envoy": (ENVOY, "POST", b"/up/x?y=1"),
    }.get(name, (NATIVE, "GET", b"/"))
    assert Plain(places, None).read(ORDINARY[name]) == (face, method, carried, K)
    assert long_way(ORDINARY[name], places, None) == (face, method, carried, K)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("url", "face", "carried"),
    [
        (b"/check", NATIVE, b"/"),
        (b"/check?", NATIVE, b"/"),
        (b"/check?a=b?c", NATIVE, b"/"),
        (b"/check/", NATIVE, b"/"),
        (b"/check/any/path", NATIVE, b"/"),
        (b"/check/envoyage", NATIVE, b"/"),
        (b"/check/nginx", NGINX, b"/"),
        (b"/check/nginx?q", NGINX, b"/"),
        (b"/check/envoy", ENVOY, b"/"),
        (b"/check/envoy*", ENVOY, b"*"),
        (b"/check/envoy/", ENVOY, b"/"),
        (b"/check/envoy//a%2Fb/../c?d=/e&f?", ENVOY, b"//a%2Fb/../c?d=/e&f?"),
        (b"/check/envoy/\"<>\\^`{|}~[]:@!$&'()*+,;=-._", ENVOY, b"/\"<>\\^`{|}~[]:@!$&'()*+,;=-._"),
    ],
)
def test_the_first_line_says_face_method_and_target(method: str, url: bytes, face: Face, carried: bytes) -> None:
    data = head(KEY, first=method.encode() + b" " + url + b" HTTP/1.1")
    assert Plain(ALWAYS, None).read(data) == (face, method, carried, K) == long_way(data, ALWAYS, None)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([KEY], id="nothing else"),
        pytest.param([b"X-API-Key:" + K], id="no space"),
        pytest.param([b"X-API-Key:   " + K + b"  "], id="much space"),
        pytest.param([b"x-aPi-KEY: " + K], id="any case"),
        pytest.param([b"Authorization: bearer " + K], id="bearer in lower case"),
        pytest.param([b"authorization:BEARER   " + K + b" "], id="bearer with much space"),
        pytest.param([b"X-Acme-Key: " + K], id="the configured header"),
        pytest.param([b"Cookie: a=b; acme_session=" + K], id="the configured cookie"),
        pytest.param([b"X-Forwarded-Method: PUT", KEY], id="a carried method"),
        pytest.param([KEY, b"X-Forwarded-Method:PUT"], id="a carried method without a space"),
        pytest.param([KEY, b"X-Original-Method: no method", b"X-Original-Method: "], id="another face's carrier"),
        pytest.param([b"Host: a", b"Host: b", KEY, b"Accept: a", b"Accept: b"], id="what nobody reads, twice"),
        pytest.param([b"X-Whatever: a:b: c", KEY, b"!#$%&'*+.^_`|~-9z: x"], id="names nobody knows"),
        pytest.param([KEY, b"Host: "], id="a blank value"),
        pytest.param([KEY, b"Connection: Keep-Alive"], id="kept"),
        pytest.param([KEY, b"Content-Length:0"], id="an empty body"),
        pytest.param([b"X-API-Key: " + b"x" * MAX_CREDENTIAL], id="as long as a credential may be"),
        pytest.param([KEY, *[b"A: b"] * (MAX_LINES - 3)], id="as many lines as may be"),
    ],
)
def test_these_are_plain(lines: list[bytes]) -> None:
    plain = Plain(BOTH, None)
    for _ in range(2):  # Some names are known the second time.
        assert plain.read(head(*lines)) == long_way(head(*lines), BOTH, None)


NOT_PLAIN = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\r\n\r\n", id="blank lines"),
    pytest.param(CHECK, id="a part of a line"),
    pytest.param(head(KEY)[:-2], id="a part of a head"),
    pytest.param(head(KEY)[:-1], id="all but the last byte"),
    pytest.param(b"\r\n" + head(KEY), id="a blank line before it"),
    pytest.param(head(KEY) + b"x", id="more"),
    pytest.param(head(KEY) + b"\r\n", id="a line end more"),
    pytest.param(head(KEY) * 2, id="two requests"),
    pytest.param(head(KEY) + b"body\r\n\r\n", id="a body that ends like a head"),
    pytest.param(head(KEY)[4:], id="the end of another"),
    *[
        pytest.param(head(KEY, first=first), id=repr(first))
        for first in (
            b"OPTIONS /check HTTP/1.1",
            b"TRACE /check HTTP/1.1",
            b"CONNECT /check HTTP/1.1",
            b"get /check HTTP/1.1",
            b"GE /check HTTP/1.1",
            b" /check HTTP/1.1",
            b"GET /check HTTP/1.0",
            b"GET /check HTTP/2.0",
            b"GET /check http/1.1",
            b"GET /check HTTP/1.1 ",
            b"GET  /check HTTP/1.1",
            b"GET /check",
            b"GET /check\tHTTP/1.1",
            b"GET /check/a b HTTP/1.1",
            b"GET /check#a HTTP/1.1",
            b"GET /check?a#b HTTP/1.1",
            b"GET /check\xe9 HTTP/1.1",
            b"GET /check/envoy/\xc3\xa9 HTTP/1.1",
            b"GET /check/envoy/\x7f HTTP/1.1",
            b"GET http://quotas/check HTTP/1.1",
            b"GET check HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET / HTTP/1.1",
            b"GET /checks HTTP/1.1",
            b"GET /Check HTTP/1.1",
            b"GET /v1/usage HTTP/1.1",
            b"GET //check HTTP/1.1",
            b"",
        )
    ],
    pytest.param(head(KEY, first=b"GET /check/" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1"), id="a long first line"),
    *[
        pytest.param(head(KEY, line), id=repr(line))
        for line in (
            b"Content-Length: 1",
            b"Content-Length: 00",
            b"Content-Length: +0",
            b"Content-Length: 0 ",
            b"Content-Length:",
            b"Content-Length: 0\r\nContent-Length: 0",
            b"Transfer-Encoding: chunked",
            b"transfer-encoding: identity",
            b"Expect: 100-continue",
            b"Upgrade: websocket",
            b"UPGRADE: h2c",
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            b"Connection: close",
            b"Connection: upgrade",
            b"Connection: keep-alive, close",
            b"Connection: keep-alive, TE",
            b"Connection: keep-alive\r\nConnection: close",
            b"Proxy-Connection: close",
            b"Keep-Alive: timeout=5",
            b"TE: trailers",
            b"Trailer: a",
            b"X-Quotas-Cost: 2",
            b"X-Request-ID: a",
            b"x-REQUEST-id: a",
            b"X-Forwarded-Method: OPTIONS",
            b"X-Forwarded-Method: get",
            b"X-Forwarded-Method: GET ",
            b"X-Forwarded-Method: ",
            b"X-Forwarded-Method: GET\r\nX-Forwarded-Method: GET",
            b"X-Forwarded-Uri: /\r\nX-Forwarded-Uri: /",
            b"X-API-Key: " + K,
            b"X-API-Key: other",
            b"X-API-Key: ",
            b"Authorization: Bearer " + K,
            b"Authorization: Basic dTpw",
            b"X-Acme-Key: " + K,
            b"Cookie: a=b",
            b"Host",
            b"Host:",
            b"X-Whatever",
            b"Host : a",
            b"X-Whatever : a",
            b" Host: a",
            b"\tHost: a",
            b" folded",
            b"\tfolded: line",
            b": a",
            b":",
            b"H\xf6st: a",
            b"Host\x00: a",
            b"Ho@st: a",
            b"Host: \x00",
            b"Host: \x1b",
            b"Host: \x7f",
            b"Host: caf\xe9",
            b"Host: a\tb",
            b"Host: a\rX-B: c",
            b"Host: a\nX-B: c",
            b"Host: a\n\rX-B: c",
            b"Host: a\r\r\nX-B: c",
            b"Host: a\n\nGET / HTTP/1.1",
            b"\nHost: a",
        )
    ],
    *[
        pytest.param(head(b"Host: a", *lines), id=repr(lines)[:60])
        for lines in (
            (),
            (b"X-API-Key:",),
            (b"X-API-Key:   ",),
            (b"X-API-Key: " + b"x" * (MAX_CREDENTIAL + 1),),
            (b"X-API-Key: caf\xe9",),
            (b"Authorization: Bearer",),
            (b"Authorization: Bearer ",),
            (b"Authorization: Bearer a b",),
            (b"Authorization: Bearer a,b",),
            (b"Authorization: Bearer " + b"x" * (MAX_CREDENTIAL + 1),),
            (b"Authorization: Basic dTpw",),
            (b"Authorization: " + K,),
            (b"Cookie: a=b",),
            (b"Cookie: acme_session=a; acme_session=a",),
            (b"Cookie: acme_session=" + K, b"Cookie: a=b"),
            (b"Cookie: acme_session=" + K, KEY),
            (b"X-Acme-Key: " + K, b"X-Acme-Key: " + K),
            (b"Authorization: Bearer " + K, b"Authorization: Bearer " + K),
            (KEY, *[b"A: b"] * (MAX_LINES - 3)),
        )
    ],
]


@pytest.mark.parametrize("data", NOT_PLAIN)
def test_these_are_not_plain(data: bytes) -> None:
    plain = Plain(BOTH, b"x-request-id")
    assert plain.read(head(b"Host: a", KEY)) is not None
    for _ in range(2):  # Some names are known the second time.
        assert plain.read(data) is None


@pytest.mark.parametrize("carrier", [b"x-original-method", b"x-original-uri"])
def test_a_carrier_means_something_to_its_own_face_alone(carrier: bytes) -> None:
    plain = Plain(ALWAYS, None)
    twice = [KEY, carrier + b": GET", carrier + b": GET"]
    assert plain.read(head(*twice, first=b"GET /check/nginx HTTP/1.1")) is None
    for url in (b"/check", b"/check/envoy"):
        assert plain.read(head(*twice, first=b"GET " + url + b" HTTP/1.1")) is not None


def test_a_place_that_is_not_configured_is_not_looked_at() -> None:
    data = head(KEY, b"X-Acme-Key: a", b"X-Acme-Key: b", b"Cookie: acme_session=a", b"X-Request-ID: a")
    assert Plain(ALWAYS, None).read(data) == (NATIVE, "GET", b"/", K)
    for places, id_header in ((Places(b"x-acme-key"), None), (Places(None, b"c"), None), (ALWAYS, b"x-request-id")):
        assert Plain(places, id_header).read(data) is None


def test_no_credential_is_in_a_repr_nor_is_any_value_or_path_kept() -> None:
    """Case C33."""
    plain = Plain(BOTH, None)
    secrets = (b"X-API-Key: SECRET123", b"Authorization: Bearer SECRET123", b"Cookie: acme_session=SECRET123")
    for line in secrets:
        for first in (CHECK, b"GET /check/envoy/SECRET123 HTTP/1.1", b"GET /check/SECRET123?SECRET123 HTTP/1.1"):
            found = plain.read(head(line, b"X-Whatever: SECRET123", first=first))
            assert found is not None
            assert found.credential == b"SECRET123"
            assert "SECRET123" not in f"{found!r} {found}"
    assert "X-Whatever" in repr(vars(plain))
    assert "SECRET123" not in repr(vars(plain))


def test_names_without_end_are_read_and_not_kept() -> None:
    plain = Plain(ALWAYS, None)
    for number in range(2 * MAX_NAMES):
        assert plain.read(head(b"X-Made-Up-%d: a" % number, KEY)) is not None
    assert plain.read(head(b"X-Made-Up-%d : a" % number, KEY)) is None
    kept = [len(names) for names in vars(plain)["_names"].values()]
    assert max(kept) == MAX_NAMES
    assert plain.read(head(b"x-API-key: " + K, b"tRANSFER-encoding: chunked")) is None
    assert plain.read(head(b"x-API-key: " + K, b"x-forwarded-METHOD: put")) is None


def test_a_long_name_is_read_and_not_kept() -> None:
    plain = Plain(ALWAYS, None)
    assert plain.read(head(b"X" * MAX_NAME + b": a", KEY)) is not None
    assert "X" * MAX_NAME not in repr(vars(plain))


CONFIGURED = [
    (ALWAYS, None),
    (ALWAYS, b"x-request-id"),
    (BOTH, None),
    (BOTH, b"idempotency-key"),
    (Places(b"x-acme-key"), b"x-request-id"),
    (Places(cookie=b"acme_session"), None),
    # No configuration's: nothing may depend on that.
    (Places(b"authorization"), None),
    (Places(b"x-api-key", b"acme_session"), b"cookie"),
    (Places(b"x-original-uri"), b"x-forwarded-method"),
    (Places(b"host"), b"x-api-key"),
    (Places(b"connection"), b"content-length"),
]

cased = st.sampled_from([bytes, bytes.lower, bytes.upper, bytes.title, bytes.swapcase])


def weighed(often: list[bytes], seldom: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of those, in most cases of the first."""
    return st.sampled_from(often * (1 + 6 * len(seldom) // len(often)) + seldom)


ends = weighed([b"\r\n"], [b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b"\n\r", b"\r\r\n"])
colons = weighed([b": ", b":"], [b":  ", b":\t", b" : ", b"", b" ", b"::"])
firsts = st.builds(
    lambda *parts: b"".join(parts),
    weighed(
        [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE"],
        [b"OPTIONS", b"get", b"TRACE", b"CONNECT", b"", b"PRI"],
    ),
    weighed([b" "], [b"  ", b"\t", b""]),
    weighed(
        [b"/check", b"/check/nginx", b"/check/envoy", b"/check/"],
        [b"/checks", b"http://a/check", b"*", b"check", b""],
    ),
    weighed([b"", b"/a", b"/a/b%2Fc?d=e", b"?", b"*"], [b"#", b"?a#b", b"//", b"\xe9", b"\x00", b"/a b", b"?\x7f"]),
    weighed([b" HTTP/1.1"], [b" HTTP/1.0", b" HTTP/1.1 ", b"", b" http/1.1", b" HTTP/2.0", b" HTTP/1.11"]),
)
credentials = st.builds(
    lambda name, case, colon, value: case(name[0]) + colon + name[1] + value,
    st.sampled_from(
        [
            (b"X-API-Key", b""),
            (b"Authorization", b"Bearer "),
            (b"authorization", b"bEARER "),
            (b"X-Acme-Key", b""),
            (b"Cookie", b"acme_session="),
            (b"Cookie", b"a=b; acme_session="),
        ]
    ),
    cased,
    colons,
    weighed([K, b"a", b" a "], [b"", b" ", b"a b", b"a,b", b"caf\xe9", b"a\t", b'"a"', b"a;b", b"\x01", b"x" * 8193]),
)
read = [b"X-Forwarded-Method", b"X-Forwarded-Uri", b"X-Original-Method", b"X-Original-URI", b"X-Request-ID"]
about_bodies = [b"Transfer-Encoding", b"Expect", b"Upgrade", b"HTTP2-Settings", b"Proxy-Connection", b"TE", b"Trailer"]
others = st.builds(
    lambda name, case, colon, value: case(name) + colon + value,
    weighed(
        [*read, b"Host", b"Accept", b"X-Whatever", b"Content-Length", b"Connection", b"Idempotency-Key"],
        [*about_bodies, b"X-Quotas-Cost", b"Cookie", b"", b" ", b"Ho st", b"H\xf6st", b"Host\0", b"\tHost", b"Host "],
    ),
    cased,
    colons,
    weighed(
        [b"GET", b"POST", b"/", b"0", b"keep-alive", b"a:b"],
        [
            b"OPTIONS",
            b"",
            b" ",
            b"5",
            b"close",
            b"upgrade",
            b"chunked",
            b"100-continue",
            b"h2c",
            b"a\tb",
            b"\xff",
            b"\0",
        ],
    ),
)
made = st.builds(
    lambda first, lines, end, last: end.join([first, *lines]) + last,
    firsts,
    st.builds(
        lambda credential, some, at: [*some[:at], *credential, *some[at:]],
        st.lists(credentials, min_size=1, max_size=1) | st.lists(credentials, max_size=2),
        st.lists(others, max_size=5),
        st.integers(0, 5),
    ),
    ends,
    weighed([b"\r\n\r\n"], [b"\r\n", b"", b"\n\n", b"\r\n\n", b"\r\n\r\nx", b"\r\n\r\n\r\n", b"\r\n\r\n" + head(KEY)]),
)
edits = st.tuples(
    st.integers(0, 400),
    st.integers(0, 2),
    st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"", b"#", b"\0", b"-", b"K"]) | st.binary(max_size=2),
)


def edited(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """These bytes with some, at some places, taken out and others put in."""
    for at, taken, put in changes:
        data = data[: at % (len(data) + 1)] + put + data[at % (len(data) + 1) + taken :]
    return data


@settings(max_examples=300)
@given(
    configured=st.sampled_from(CONFIGURED),
    data=st.builds(edited, made | st.sampled_from(list(ORDINARY.values())), st.just([]) | st.lists(edits, max_size=3)),
)
@example(configured=(ALWAYS, None), data=head(KEY, b"Content-Length: 0", b"Connection: Keep-Alive"))
def test_what_is_read_is_what_the_long_way_says(configured: tuple[Places, bytes | None], data: bytes) -> None:
    plain = Plain(*configured)
    found = plain.read(data)
    assert plain.read(data) == found  # Names may be known by now.
    event("plain" if found is not None else "not plain")
    if found is None:
        return
    target(float(data.count(b"\r\n")))
    assert found == long_way(data, *configured)
    assert isinstance(found, PlainRequest)
    assert found.credential
