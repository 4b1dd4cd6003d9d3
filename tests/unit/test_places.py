"""Where a credential may stand beyond the two headers that are always looked at. `K` stands for a key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import plan_files
from quotas.errors import ConfigError, CredentialError, RequestError
from quotas.places import MAX_CREDENTIAL, Places
from quotas.requests import read

Headers = list[tuple[bytes, bytes]]
K = b"quotas_live_0123456789abcdefghijABCDEFGHIJ4gfFC3"
BOTH = Places(b"x-acme-key", b"acme_session")
PLANS = "plans: {free: {limits: {a: {rate: 1/second}}}}\n"


def cookie(value: bytes) -> tuple[bytes, bytes]:
    return (b"cookie", value)


def own(value: bytes) -> tuple[bytes, bytes]:
    return (b"x-acme-key", value)


def api_key(value: bytes) -> tuple[bytes, bytes]:
    return (b"x-api-key", value)


def bearer(value: bytes) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + value)


def reason(headers: Headers, places: Places = BOTH) -> str:
    """Why these headers name no client."""
    with pytest.raises(CredentialError) as caught:
        read(headers, places=places)
    return caught.value.reason


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([own(K)], id="the header"),
        pytest.param([own(b" \t" + K + b" ")], id="the header, space around"),
        pytest.param([cookie(b"acme_session=" + K)], id="the cookie"),
        pytest.param([cookie(b'acme_session="' + K + b'"')], id="in double quotes"),
        pytest.param([cookie(b"a=b; acme_session=" + K + b"; c=d")], id="among cookies"),
        pytest.param([cookie(b"a=b;acme_session=" + K + b";c=d")], id="without spaces"),
        pytest.param([cookie(b" acme_session = " + K + b"\t;")], id="with many"),
        pytest.param([cookie(b"a=b"), cookie(b"acme_session=" + K), cookie(b"c=d")], id="split into lines"),
        pytest.param([cookie(b'a; ="; ;; =; \xff=\x00; b="x'), cookie(b"acme_session=" + K)], id="malformed others"),
        pytest.param([cookie(b"ACME_SESSION=x; acme_session2=y; acme_session=" + K)], id="names are exact"),
        pytest.param([cookie(b"x=acme_session=z; acme_session=" + K)], id="the name in a value"),
        pytest.param([cookie(b"acme_session; acme_session=" + K)], id="a name alone is no cookie"),
        pytest.param([own(K), api_key(K), bearer(K), cookie(b"acme_session=" + K)], id="all agree"),
        pytest.param([(b"authorization", b"Basic dTpw"), cookie(b"acme_session=" + K)], id="basic is for the upstream"),
        pytest.param([api_key(K), cookie(b"a=b")], id="other cookies are nobody's"),
    ],
)
def test_these_headers_carry_the_key(headers: Headers) -> None:
    assert read(headers, places=BOTH).credential == K


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([own(b"")], "missing_credential", id="empty"),
        pytest.param([cookie(b"acme_session=")], "missing_credential", id="empty cookie"),
        pytest.param([cookie(b'acme_session=""')], "missing_credential", id="empty quotes"),
        pytest.param([cookie(b"acme_session")], "missing_credential", id="no value"),
        pytest.param([cookie(b"")], "missing_credential", id="no cookies"),
        pytest.param([cookie(b"acme_sessio=" + K)], "missing_credential", id="another cookie"),
        pytest.param([own(K), own(K)], "ambiguous_credentials", id="the header twice"),
        pytest.param([own(K), api_key(b"other")], "ambiguous_credentials", id="headers disagree"),
        pytest.param([own(K), bearer(b"other")], "ambiguous_credentials", id="header and bearer disagree"),
        pytest.param([own(b""), api_key(K)], "ambiguous_credentials", id="empty beside it"),
        pytest.param([cookie(b"acme_session=" + K), api_key(b"other")], "ambiguous_credentials", id="cookie disagrees"),
        pytest.param([cookie(b"acme_session="), api_key(K)], "ambiguous_credentials", id="empty cookie beside it"),
        pytest.param([cookie(b"acme_session=a; acme_session=b")], "ambiguous_credentials", id="two cookies"),
        pytest.param([cookie(b"acme_session=a; acme_session=a")], "ambiguous_credentials", id="two equal cookies"),
        pytest.param([cookie(b"acme_session=a"), cookie(b"acme_session=b")], "ambiguous_credentials", id="two lines"),
        pytest.param(
            [cookie(b"acme_session=" + K), cookie(b"acme_session="), api_key(K)],
            "ambiguous_credentials",
            id="one empty",
        ),
        pytest.param([own(b"x" * (MAX_CREDENTIAL + 1))], "invalid_credential", id="too long"),
        pytest.param([cookie(b"acme_session=" + b"x" * (MAX_CREDENTIAL + 1))], "invalid_credential", id="long cookie"),
    ],
)
def test_these_headers_name_nobody(headers: Headers, expected: str) -> None:
    assert reason(headers) == expected


def test_a_place_that_is_not_configured_is_not_looked_at() -> None:
    headers = [own(K), own(K), cookie(b"acme_session=" + K), cookie(b"acme_session=" + K)]
    assert reason(headers, Places()) == "missing_credential"
    assert read([*headers, api_key(b"other")]).credential == b"other"
    assert reason([own(K)], Places(cookie=b"acme_session")) == "missing_credential"
    assert reason([cookie(b"acme_session=" + K)], Places(b"x-acme-key")) == "missing_credential"


def test_without_the_cookie_the_headers_stay() -> None:
    """What changes something must not believe what a browser sends by itself."""
    headers_only = BOTH.without_cookie()
    assert headers_only == Places(b"x-acme-key")
    assert reason([cookie(b"acme_session=" + K)], headers_only) == "missing_credential"
    assert read([cookie(b"acme_session=other"), own(K)], places=headers_only).credential == K
    assert Places().without_cookie() == Places()


def test_a_value_may_hold_anything_and_stays_bytes() -> None:
    assert read([cookie(b"acme_session=caf\xe9=,\x00")], places=BOTH).credential == b"caf\xe9=,\x00"
    assert read([cookie(b'acme_session="')], places=BOTH).credential == b'"'
    assert read([own(b"caf\xe9")], places=BOTH).credential == b"caf\xe9"


def test_no_credential_is_in_an_error() -> None:
    """Case C33."""
    for headers in ([own(b"SECRET123")] * 2, [cookie(b"acme_session=SECRET123; acme_session=SECRET123")]):
        with pytest.raises(CredentialError) as caught:
            read(headers, places=BOTH)
        assert "SECRET123" not in f"{caught.value!r} {caught.value} {caught.value.args}"


parts = st.sampled_from([b"acme_session", b"=", b";", b"; ", b'"', K, b" ", b"a", b"\xff", b","]) | st.binary(
    max_size=4
)
texts = st.lists(parts, max_size=8).map(b"".join)


@given(st.lists(st.builds(cookie, texts) | st.builds(own, texts) | st.builds(api_key, texts), max_size=4))
def test_any_values_give_one_credential_that_was_there_or_a_reason(headers: Headers) -> None:
    try:
        credential = read(headers, places=BOTH).credential
    except RequestError as error:
        assert error.reason in {"missing_credential", "invalid_credential", "ambiguous_credentials"}  # noqa: PT017 # Both ends are right here.
    else:
        assert credential
        assert any(credential in value for _, value in headers)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", Places()),
        ("credentials: {}", Places()),
        ("credentials: {header: null, cookie: null}", Places()),
        ("credentials: {header: X-Acme-Key, cookie: acme_session}", BOTH),
        ("credentials: {cookie: __Host-Acme}", Places(cookie=b"__Host-Acme")),
    ],
)
def test_the_file_names_the_places(text: str, places: Places) -> None:
    assert plan_files.parse(PLANS + text, "test plans").places == places


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "x-api-key", "Cookie", "Host", "X-Quotas-Cost", "X-Forwarded-For", "X-Original-URI"),
        *("Content-Type", "content-length", "Proxy-Authorization", "Set-Cookie", "Connection", "Origin", "X-Real-IP"),
        *("If-Match", "Sec-Fetch-Site", "Accept", "Accept-Encoding", "RateLimit", "Transfer-Encoding", "Forwarded"),
        *("", "X Acme", "X-Acme:", "X-Acmé", "x" * 65, "x\n", '"x"'),
    ],
)
def test_a_header_that_cannot_be_one_is_a_fault(name: str) -> None:
    faults = _faults(f"credentials: {{header: {name!r}}}" if "\n" not in name else 'credentials: {header: "x\\n"}')
    assert [path for path, _ in faults] == ["credentials.header"]


@pytest.mark.parametrize(
    "name", ["''", "a b", "'a;b'", "'a=b'", "'a,b'", "sitzung-\u00fc", "'\"a\"'", "x" * 65, "5", "[a]"]
)
def test_a_cookie_that_cannot_be_one_is_a_fault(name: str) -> None:
    assert [path for path, _ in _faults(f"credentials: {{cookie: {name}}}")] == ["credentials.cookie"]


def test_all_faults_are_told_at_once() -> None:
    faults = dict(_faults("credentials: {header: Cookie, cookie: a b, cokie: x}"))
    assert set(faults) == {"credentials.header", "credentials.cookie", "credentials.cokie"}
    assert "X-Acme-Key" in faults["credentials.header"]
    assert "did you mean `cookie`" in faults["credentials.cokie"]


def _faults(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        plan_files.parse(PLANS + text, "test plans")
    return [(fault.path, fault.message) for fault in caught.value.faults]
