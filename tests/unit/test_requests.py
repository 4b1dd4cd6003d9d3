"""What headers say. `K` stands for a key; a credential is bytes, and two that disagree choose nobody."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quotas import keys
from quotas.errors import CredentialError, RequestError
from quotas.faces import ENVOY, NATIVE, NGINX, Face
from quotas.places import ALWAYS, MAX_CREDENTIAL, Places
from quotas.requests import CheckRequest, is_preflight, plain_credential, read

Headers = list[tuple[bytes, bytes]]
AUTHORIZATION, API_KEY = b"authorization", b"x-api-key"
K = b"quotas_live_0123456789abcdefghijABCDEFGHIJ4gfFC3"
REASONS = {"missing_credential", "invalid_credential", "ambiguous_credentials"}


def bearer(value: bytes) -> tuple[bytes, bytes]:
    return (AUTHORIZATION, value)


def api_key(value: bytes) -> tuple[bytes, bytes]:
    return (API_KEY, value)


def reason(headers: Headers) -> str:
    """Why these headers name no client."""
    with pytest.raises(CredentialError) as caught:
        read(headers)
    return caught.value.reason


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([bearer(b"Bearer " + K)], id="bearer"),
        pytest.param([bearer(b"bearer " + K)], id="lower case"),
        pytest.param([bearer(b"BEARER  " + K)], id="upper case, two spaces"),
        pytest.param([bearer(b" bEaReR     " + K + b" \t")], id="mixed case, space around"),
        pytest.param([api_key(K)], id="api key"),
        pytest.param([api_key(b"\t " + K + b" \t")], id="api key, space around"),
        pytest.param([bearer(b"Bearer " + K), api_key(K)], id="both agree"),
        pytest.param([api_key(K), bearer(b"bearer  " + K)], id="both agree, the other way round"),
        pytest.param([(b"accept", b"*/*"), api_key(K), (b"cookie", b"a=b")], id="among others"),
        pytest.param([bearer(b"Basic dTpw"), api_key(K)], id="basic is for the upstream"),
        pytest.param([(b"cookie", b"a"), (b"cookie", b"b"), api_key(K)], id="other headers may repeat"),
    ],
)
def test_these_headers_carry_the_key(headers: Headers) -> None:
    assert read(headers).credential == K


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([], "missing_credential", id="none"),
        pytest.param([bearer(b"")], "missing_credential", id="empty header"),
        pytest.param([bearer(b"Bearer")], "missing_credential", id="scheme alone"),
        pytest.param([bearer(b"Bearer ")], "missing_credential", id="scheme and space"),
        pytest.param([bearer(b"Bearer \t ")], "missing_credential", id="scheme and much space"),
        pytest.param([api_key(b"")], "missing_credential", id="empty api key"),
        pytest.param([api_key(b" \t ")], "missing_credential", id="blank api key"),
        pytest.param([bearer(b"Basic dTpw")], "missing_credential", id="basic"),
        pytest.param([bearer(b"Digest username=x")], "missing_credential", id="digest"),
        pytest.param([bearer(b"Bearerx " + K)], "missing_credential", id="another scheme"),
        pytest.param([bearer(b"Bearer" + K)], "missing_credential", id="no space"),
        pytest.param([bearer(b"Bearer\t" + K)], "missing_credential", id="tab for a space"),
        pytest.param([bearer(K)], "missing_credential", id="no scheme"),
        pytest.param([bearer(b"\xff\xfe")], "missing_credential", id="no text"),
        pytest.param([bearer(b"Basic dTpw"), api_key(b"")], "missing_credential", id="basic and an empty api key"),
        pytest.param([bearer(b"Bearer " + K + b" extra")], "invalid_credential", id="something behind"),
        pytest.param([bearer(b"Bearer " + K + b"\textra")], "invalid_credential", id="something behind a tab"),
        pytest.param([bearer(b"Bearer a,Basic b")], "invalid_credential", id="joined values"),
        pytest.param([bearer(b"Bearer a, Bearer a")], "invalid_credential", id="joined equal values"),
        pytest.param([bearer(b"Bearer a,b")], "invalid_credential", id="comma"),
        pytest.param([bearer(b"Bearer a b"), api_key(K)], "invalid_credential", id="malformed beside a key"),
        pytest.param([api_key(K), api_key(b"junk")], "ambiguous_credentials", id="two api keys"),
        pytest.param([api_key(K), api_key(K)], "ambiguous_credentials", id="two equal api keys"),
        pytest.param([api_key(K), api_key(b"")], "ambiguous_credentials", id="an api key and an empty one"),
        pytest.param([bearer(b"Bearer " + K)] * 2, "ambiguous_credentials", id="two equal bearers"),
        pytest.param([bearer(b"Basic x"), bearer(b"Bearer " + K)], "ambiguous_credentials", id="two schemes"),
        pytest.param([bearer(b"Bearer " + K), api_key(b"other")], "ambiguous_credentials", id="they disagree"),
        pytest.param([bearer(b"Bearer " + K), api_key(b"")], "ambiguous_credentials", id="empty api key beside it"),
        pytest.param([bearer(b"Bearer"), api_key(K)], "ambiguous_credentials", id="empty bearer beside it"),
        pytest.param([bearer(b"Bearer " + K), api_key(K.lower())], "ambiguous_credentials", id="differ in case"),
    ],
)
def test_these_headers_name_nobody(headers: Headers, expected: str) -> None:
    assert reason(headers) == expected


@pytest.mark.parametrize("value", [b"caf\xe9", "caf\u00e9".encode(), b"\xff", b"a\x00b"])
def test_a_credential_that_is_no_ascii_stays_bytes_and_is_no_key(value: bytes) -> None:
    """Case C04: nothing on the way decodes it."""
    for headers in ([bearer(b"Bearer " + value)], [api_key(value)]):
        credential = read(headers).credential
        assert credential == value
        assert not keys.is_well_formed(credential, "quotas")


@pytest.mark.parametrize("header", [lambda value: bearer(b"Bearer " + value), api_key], ids=["bearer", "api key"])
def test_a_credential_has_at_most_8192_bytes(header: type) -> None:
    assert MAX_CREDENTIAL == 8192
    assert read([header(b"x" * 8192)]).credential == b"x" * 8192
    assert reason([header(b"x" * 8193)]) == "invalid_credential"
    assert reason([header(b"x" * 1_000_000)]) == "invalid_credential"


def test_no_credential_is_in_a_repr_or_an_error() -> None:
    """Case C33."""
    secret = b"SECRET123"
    assert "SECRET123" not in repr(read([api_key(secret)]))
    assert "SECRET123" not in repr(CheckRequest(secret))
    for headers in ([api_key(secret)] * 2, [bearer(b"Bearer " + secret + b" x")], [api_key(secret * 1_000)]):
        with pytest.raises(CredentialError) as caught:
            read(headers)
        assert "SECRET123" not in f"{caught.value!r} {caught.value} {caught.value.args}"


def test_a_credential_in_the_path_is_none() -> None:
    target = b"/v1/x?api_key=SECRET123"
    assert reason([(b"x-forwarded-uri", target)]) == "missing_credential"
    assert "SECRET123" not in repr(read([api_key(K), (b"x-forwarded-uri", target)]))


values = st.binary(max_size=30) | st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([b"Bearer", b"bearer", b"Basic", b"", b" "]),
    st.sampled_from([b" ", b"  ", b"\t", b",", b""]),
    st.sampled_from([K, b"", b"a", b"\xff"]) | st.binary(max_size=10),
)


@given(st.lists(st.tuples(st.sampled_from([AUTHORIZATION, API_KEY, b"accept"]), values), max_size=4))
def test_any_header_values_give_a_credential_or_one_of_three_reasons(headers: Headers) -> None:
    try:
        credential = read(headers).credential
    except CredentialError as error:
        assert error.reason in REASONS  # noqa: PT017 # Both ends are right here.
    else:
        assert 0 < len(credential) <= MAX_CREDENTIAL
        assert any(credential in value for _, value in headers)
        assert credential == credential.strip(b" \t")


@given(headers=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=6), trusted=st.booleans())
@example(headers=[(b"x-quotas-cost", b"-1"), (API_KEY, K)], trusted=True)
@example(headers=[(b"x-quotas-cost", b"\xb2"), (API_KEY, K)], trusted=True)
@example(headers=[(b"x-forwarded-method", b"\xff"), (API_KEY, K)], trusted=True)
def test_any_headers_raise_nothing_else(*, headers: Headers, trusted: bool) -> None:
    try:
        request = read(headers, trusted=trusted)
    except RequestError as error:
        assert error.reason in {*REASONS, "invalid_request"}  # noqa: PT017 # Both ends are right here.
    else:
        assert request.cost is None or request.cost >= 0


@pytest.mark.parametrize(("value", "cost"), [(b"0", 0), (b"1", 1), (b"007", 7), (b"9007199254740991", 2**53 - 1)])
def test_a_trusted_peer_says_what_it_costs(value: bytes, cost: int) -> None:
    assert read([api_key(K), (b"x-quotas-cost", value)], trusted=True).cost == cost


@pytest.mark.parametrize(
    "value",
    [b"", b"-1", b"+1", b"1.0", b"1e3", b"0x10", b"1_000", b"1, 1", b"\xd9\xa3", b"9007199254740992", b"9" * 99],
)
def test_a_cost_that_is_no_whole_number_is_invalid(value: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read([api_key(K), (b"x-quotas-cost", value)], trusted=True)
    assert caught.value.reason == "invalid_request"


@pytest.mark.parametrize("value", [b"0", b"500", b"-1", b"junk"])
def test_a_cost_from_anyone_else_is_not_looked_at(value: bytes) -> None:
    assert read([api_key(K), (b"x-quotas-cost", value)]).cost is None


@pytest.mark.parametrize(
    ("headers", "method", "target"),
    [
        ([], "PUT", b"/"),
        ([(b"x-forwarded-method", b"POST"), (b"x-forwarded-uri", b"/v1/a%2Fb?c=d")], "POST", b"/v1/a%2Fb?c=d"),
        ([(b"x-forwarded-uri", b"/caf\xe9")], "PUT", b"/caf\xe9"),
    ],
)
def test_method_and_path_are_the_carried_ones(headers: Headers, method: str, target: bytes) -> None:
    request = read([api_key(K), *headers], method="PUT")
    assert (request.method, request.target) == (method, target)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-forwarded-method", b"")],
        [(b"x-forwarded-method", b"GE T")],
        [(b"x-forwarded-method", b"G\xe9T")],
        [(b"x-forwarded-method", b"GET"), (b"x-forwarded-method", b"POST")],
        [(b"x-forwarded-uri", b"/a"), (b"x-forwarded-uri", b"/b")],
    ],
)
def test_a_method_or_path_that_cannot_be_read_is_invalid(headers: Headers) -> None:
    with pytest.raises(RequestError) as caught:
        read([api_key(K), *headers])
    assert caught.value.reason == "invalid_request"


FORWARDED = [(b"x-forwarded-method", b"PUT"), (b"x-forwarded-uri", b"/forwarded")]
ORIGINAL = [(b"x-original-method", b"PATCH"), (b"x-original-uri", b"/original")]


@pytest.mark.parametrize(
    ("face", "method", "target"),
    [(NATIVE, "PUT", b"/forwarded"), (NGINX, "PATCH", b"/original"), (ENVOY, "POST", b"/own")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_face_reads_its_own_carriers_and_no_others(face: Face, method: str, target: bytes) -> None:
    request = read([api_key(K), *FORWARDED, *ORIGINAL], face, method="POST", target=b"/own")
    assert (request.method, request.target) == (method, target)


@pytest.mark.parametrize("face", [NATIVE, NGINX, ENVOY], ids=lambda face: face.name)
def test_without_carriers_the_check_request_speaks_for_itself(face: Face) -> None:
    request = read([api_key(K)], face, method="POST", target=b"/own")
    assert (request.method, request.target) == ("POST", b"/own")


@pytest.mark.parametrize("face", [NATIVE, NGINX, ENVOY], ids=lambda face: face.name)
@pytest.mark.parametrize("name", [b"x-forwarded-method", b"x-forwarded-uri", b"x-original-method", b"x-original-uri"])
def test_a_carrier_that_stands_twice_is_refused_by_its_own_face_only(face: Face, name: bytes) -> None:
    headers = [api_key(K), (name, b"GET"), (name, b"GET")]
    if name in {face.method, face.target}:
        with pytest.raises(RequestError) as caught:
            read(headers, face)
        assert caught.value.reason == "invalid_request"
    else:
        assert read(headers, face).target == b"/"


ORIGIN, ASKS = (b"origin", b"https://app.example"), (b"access-control-request-method", b"DELETE")
OPTIONS = (b"x-forwarded-method", b"OPTIONS")


@pytest.mark.parametrize(
    ("headers", "face", "method", "expected"),
    [
        ([OPTIONS, ORIGIN, ASKS], NATIVE, "GET", True),
        ([ORIGIN, ASKS], NATIVE, "OPTIONS", True),
        ([(b"origin", b"null"), ASKS, OPTIONS], NATIVE, "GET", True),
        ([(b"x-original-method", b"OPTIONS"), ORIGIN, ASKS], NGINX, "GET", True),
        ([ORIGIN, ASKS], ENVOY, "OPTIONS", True),
        ([OPTIONS, ORIGIN, ASKS], NGINX, "GET", False),
        ([OPTIONS, ORIGIN, ASKS], ENVOY, "GET", False),
        ([(b"x-forwarded-method", b"POST"), ORIGIN, ASKS], NATIVE, "OPTIONS", False),
        ([(b"x-forwarded-method", b"options"), ORIGIN, ASKS], NATIVE, "GET", False),
        ([OPTIONS, OPTIONS, ORIGIN, ASKS], NATIVE, "GET", False),
        ([OPTIONS, ORIGIN, ORIGIN, ASKS], NATIVE, "GET", False),
        ([OPTIONS, ORIGIN, ASKS, ASKS], NATIVE, "GET", False),
        ([OPTIONS, ORIGIN], NATIVE, "GET", False),
        ([OPTIONS, ASKS], NATIVE, "GET", False),
        ([OPTIONS, (b"origin", b" "), ASKS], NATIVE, "GET", False),
        ([OPTIONS, ORIGIN, (b"access-control-request-method", b"")], NATIVE, "GET", False),
        ([], ENVOY, "OPTIONS", False),
    ],
)
def test_what_a_preflight_is(headers: Headers, face: Face, method: str, *, expected: bool) -> None:
    assert is_preflight(headers, face, method=method) is expected


ID = b"x-request-id"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(ID, b"")], None),
        ([(ID, b" \t")], None),
        ([(ID, b" a b ")], b"a b"),
        ([(ID, b"a,a")], b"a,a"),
        ([(ID, b"\xff")], b"\xff"),
        ([(b"x-other", b"a")], None),
    ],
)
def test_a_request_s_id_is_read_where_it_is_asked_for(headers: Headers, expected: bytes | None) -> None:
    assert read([api_key(K), *headers], id_header=ID).request_id == expected
    assert read([api_key(K), *headers]).request_id is None


def test_two_ids_are_malformed_where_they_are_read() -> None:
    headers = [api_key(K), (ID, b"a"), (ID, b"a")]
    with pytest.raises(RequestError) as caught:
        read(headers, id_header=ID)
    assert caught.value.reason == "invalid_request"
    assert read(headers).request_id is None


PLAIN_NAMES = [AUTHORIZATION, API_KEY, b"x-my-key", b"cookie", b"x-forwarded-method", b"x-forwarded-uri", b"host"]
PLAIN_NAMES += [b"x-original-method", b"x-original-uri", b"x-quotas-cost", b"x-request-id", b"origin"]
PLAIN_VALUES = [K, b" " + K, b"Bearer " + K, b"Basic dTpw", b"", b"GET", b"OPTIONS", b"G T", b"/a", b"5", b"acme=" + K]


@given(
    headers=st.lists(st.tuples(st.sampled_from(PLAIN_NAMES), st.sampled_from(PLAIN_VALUES)), max_size=5),
    face=st.sampled_from([NATIVE, NGINX, ENVOY]),
    method=st.sampled_from(["GET", "POST", "OPTIONS", "PURGE"]),
    places=st.sampled_from([ALWAYS, Places(b"x-my-key", b"acme")]),
    id_header=st.sampled_from([None, b"x-request-id"]),
)
@example(headers=[api_key(K)], face=NATIVE, method="GET", places=ALWAYS, id_header=None)
@example(headers=[bearer(b"Bearer " + K)], face=NGINX, method="GET", places=ALWAYS, id_header=None)
def test_read_in_short_it_says_the_same_or_nothing(
    headers: Headers, face: Face, method: str, places: Places, id_header: bytes | None
) -> None:
    credential = plain_credential(headers, face, method=method, places=places, id_header=id_header)
    if credential:
        for trusted in (False, True):
            full = read(headers, face, method=method, trusted=trusted, places=places, id_header=id_header)
            assert (full.credential, full.is_plain) == (credential, True)
            assert full.method != "OPTIONS"
        assert not is_preflight(headers, face, method=method)


@pytest.mark.parametrize("sent", [api_key(K), bearer(b"Bearer " + K)])
@pytest.mark.parametrize("face", [NATIVE, NGINX, ENVOY])
def test_most_requests_can_be_read_in_short(sent: tuple[bytes, bytes], face: Face) -> None:
    carried = [(name, value) for name, value in ((face.method, b"PUT"), (face.target, b"/a?b")) if name is not None]
    headers = [(b"host", b"api"), *carried, sent, (b"x-request-id", b"1")]
    assert plain_credential(headers, face, method="GET", places=ALWAYS, id_header=None) == K
