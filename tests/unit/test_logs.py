import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quotas.errors import ConfigError
from quotas.limits import EXACT
from quotas.logged_requests import LogError, LoggedRequest, Skip
from quotas.logs import FIELDS, FORMATS, parser

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
HOUR = 3_600 * SECOND
SECRET = "qk-5ecret"

replay = parser()
combined = parser("combined")


def us(text: str) -> int:
    """Epoch microseconds of an instant as Python reads it: at most six digits of a fraction."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


AT = us("2026-10-10T13:55:36+00:00")


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def fault(parse: Any, content: bytes) -> str:
    with pytest.raises(LogError) as caught:
        parse(content)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


# The format `replay`.


def test_a_line_of_the_design() -> None:
    found = replay(
        b'{"at": "2026-01-31T23:59:59.5Z", "client": "acme", "plan": "free", "method": "POST", "cost": 3}\r\n'
    )
    assert found == LoggedRequest(us("2026-01-31T23:59:59.500000+00:00"), "acme", "free", "POST", "/", 3)


def test_what_is_not_said_has_its_default_and_null_is_not_said() -> None:
    assert replay(b'{"at_us":123,"client":"acme"}') == LoggedRequest(123, "acme", None, "GET", "/", None)
    everything = dict.fromkeys(FIELDS) | {"at_us": 123, "client": "acme"}
    assert replay(line(**everything)) == LoggedRequest(123, "acme", None, "GET", "/", None)


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("blank", [b"", b"\n", b"\r\n", b" \t \n"])
def test_blank_lines_are_skipped(log_format: str, blank: bytes) -> None:
    assert parser(log_format, client_from="user" if log_format == "json" else None)(blank) is Skip.BLANK


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-31T23:59:59Z", "2026-01-31T23:59:59+00:00"),
        ("2026-01-31t23:59:59z", "2026-01-31T23:59:59+00:00"),
        ("2026-01-31 23:59:59+00:00", "2026-01-31T23:59:59+00:00"),
        ("2026-01-31T23:59:59-00:00", "2026-01-31T23:59:59+00:00"),
        ("2026-02-01T05:29:59+05:30", "2026-01-31T23:59:59+00:00"),
        ("2026-01-31T15:59:59-0800", "2026-01-31T23:59:59+00:00"),
        ("2026-02-01T23:58:59+23:59", "2026-01-31T23:59:59+00:00"),
        ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00+00:00"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00+00:00"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2017-01-01T08:59:60.5+09:00", "2017-01-01T00:00:00.500000+00:00"),
        ("2255-06-05T23:47:34.740991Z", "2255-06-05T23:47:34.740991+00:00"),
    ],
)
def test_instants_with_offsets_leap_days_and_leap_seconds(text: str, instant: str) -> None:
    assert replay(line(at=text, client="a")) == LoggedRequest(us(instant), "a")


@pytest.mark.parametrize(
    ("fraction", "after_us"),
    [
        ("9", 900_000),
        ("98", 980_000),
        ("987", 987_000),
        ("9876", 987_600),
        ("98765", 987_650),
        ("987654", 987_654),
        ("9876549", 987_654),
        ("98765499", 987_654),
        ("999999999", 999_999),
        ("000001", 1),
        ("0000009" + "9" * 5_000, 0),
    ],
)
def test_digits_after_microseconds_are_cut_off_towards_the_past(fraction: str, after_us: int) -> None:
    for offset in ("Z", "+02:00"):
        zone = 0 if offset == "Z" else 2 * HOUR
        found = replay(line(at=f"2026-10-10T13:55:36.{fraction}{offset}", client="a"))
        assert found == LoggedRequest(AT + after_us - zone, "a")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("", "must be an instant"),
        ("yesterday", "must be an instant"),
        ("2026-10-10", "must be an instant"),
        ("2026-10-10T13:55Z", "must be an instant"),
        ("2026-W41-6T13:55:36Z", "must be an instant"),
        ("٢٠٢٦-10-10T13:55:36Z", "must be an instant"),
        ("2026-10-10T13:55:36", "must end in Z or an offset"),
        ("2026-10-10T13:55:36.Z", "must end in Z or an offset"),
        ("2026-10-10T13:55:36.5", "must end in Z or an offset"),
        ("2026-10-10T13:55:36.\u0665Z", "must end in Z or an offset"),
        ("2026-10-10T13:55:36+24:00", "must end in Z or an offset"),
        ("2026-10-10T13:55:36+02:60", "must end in Z or an offset"),
        ("2026-10-10T13:55:36 UTC", "must end in Z or an offset"),
        ("2026-10-10T13:55:36Z\n", "must end in Z or an offset"),
        ("2026-02-29T00:00:00Z", "does not exist"),
        ("1900-02-29T00:00:00Z", "does not exist"),
        ("2026-04-31T00:00:00Z", "does not exist"),
        ("2026-13-01T00:00:00Z", "does not exist"),
        ("0000-01-01T00:00:00Z", "does not exist"),
        ("2026-10-10T24:00:00Z", "does not exist"),
        ("2026-10-10T13:60:00Z", "does not exist"),
        ("2026-10-10T13:55:61Z", "does not exist"),
        ("2026-10-10T13:55:60Z", "no leap second"),
        ("2016-12-31T23:59:60+01:00", "no leap second"),
        ("1969-12-31T23:59:59Z", "between 1970-01-01 and 2255-06-05"),
        ("1970-01-01T00:59:59+01:00", "between 1970-01-01 and 2255-06-05"),
        ("2255-06-05T23:47:34.740992Z", "between 1970-01-01 and 2255-06-05"),
        ("9999-12-31T23:59:59-23:59", "between 1970-01-01 and 2255-06-05"),
        (1_773_144_000, "must be text"),
        (True, "must be text"),
    ],
)
def test_what_is_no_instant_is_refused(at: Any, message: str) -> None:
    found = fault(replay, line(at=at, client="a"))
    assert found.startswith("`at`")
    assert message in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"at_us":1,"client":"a","at":"1970-01-01T00:00:00Z"}', "exactly one of `at` (RFC 3339) and `at_us`"),
        (b'{"client":"a"}', "exactly one of `at` (RFC 3339) and `at_us`"),
        (b'{"at_us":-1,"client":"a"}', "`at_us` must lie between"),
        (b'{"at_us":9007199254740992,"client":"a"}', "`at_us` must lie between"),
        (b'{"at_us":1e3,"client":"a"}', "`at_us` must be a whole number"),
        (b'{"at_us":"1","client":"a"}', "`at_us` must be a whole number"),
        (b'{"at_us":true,"client":"a"}', "`at_us` must be a whole number"),
        (b'{"at_us":99999999999999999999999,"client":"a"}', "`at_us` must be a whole number"),
        (b'{"at_us":1}', "`client` must be text"),
        (b'{"at_us":1,"client":""}', "`client` must be text"),
        (b'{"at_us":1,"client":7}', "in quotes"),
        (b'{"at_us":1,"client":null}', "`client` must be text"),
        (b'{"at_us":1,"client":["a"]}', "`client` must be text"),
        (b'{"at_us":1,"client":"a\\u0000"}', "128 printable characters"),
        (b'{"at_us":1,"client":"' + b"a" * 129 + b'"}', "128 printable characters"),
        (b'{"at_us":1,"client":"a","plan":""}', "`plan` must be a plan's name"),
        (b'{"at_us":1,"client":"a","plan":1}', "`plan` must be a plan's name"),
        (b'{"at_us":1,"client":"a","method":""}', "`method` must be"),
        (b'{"at_us":1,"client":"a","method":"get"}', "in capitals"),
        (b'{"at_us":1,"client":"a","method":"GET /"}', "`method` must be"),
        (b'{"at_us":1,"client":"a","method":1}', "`method` must be"),
        (b'{"at_us":1,"client":"a","path":""}', "`path` must start with /"),
        (b'{"at_us":1,"client":"a","path":"search"}', "`path` must start with /"),
        (b'{"at_us":1,"client":"a","path":"?/x"}', "`path` must start with /"),
        (b'{"at_us":1,"client":"a","path":["/"]}', "`path` must start with /"),
        (b'{"at_us":1,"client":"a","cost":-1}', "`cost` must be a whole number"),
        (b'{"at_us":1,"client":"a","cost":9007199254740992}', "2^53 - 1"),
        (b'{"at_us":1,"client":"a","cost":1.0}', "`cost` must be a whole number"),
        (b'{"at_us":1,"client":"a","cost":"1"}', "without quotes"),
        (b'{"at_us":1,"client":"a","cost":false}', "`cost` must be a whole number"),
        (b'{"at_us":1,"client":"a","cots":1}', "'cots' is unknown (did you mean 'cost'?)"),
        (b'{"at_us":1,"client":"a","xyzzy":1}', "'xyzzy' is unknown; a line has the fields at, at_us, client"),
        (b'{"at_us":1,"client":"a","' + b"k" * 5_000 + b'":1}', "is unknown"),
        (b'{"at_us":1,"client":"a"', "is no JSON from column 24 on"),
        (b'{"at_us":1,"client":"qk-5ecret}', "is no JSON"),
        (b'{"at_us":1,"client":"\xff"}', "is no JSON"),
        (b'{"at_us":1,"client":"\\ud800"}', "is no JSON"),
        (b'{"at_us":NaN,"client":"a"}', "is no JSON"),
        (b"[" * 5_000, "is no JSON"),
        (b"[1]", "is JSON but no object"),
        (b'"qk-5ecret"', "is JSON but no object"),
        (b"null", "is JSON but no object"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(content: bytes, message: str) -> None:
    assert message in fault(replay, content)


def test_an_error_has_the_number_of_its_line_once_it_is_known() -> None:
    with pytest.raises(LogError) as caught:
        replay(b"?")
    assert str(caught.value).startswith("is no JSON")
    caught.value.line = 12
    assert str(caught.value).startswith("line 12: is no JSON")


def test_the_ends_of_every_range_are_inside() -> None:
    assert replay(line(at_us=0, client="a", cost=0)) == LoggedRequest(0, "a", cost=0)
    most = EXACT - 1
    assert replay(line(at_us=most, client="é" * 128, cost=most)) == LoggedRequest(most, "é" * 128, cost=most)


@pytest.mark.parametrize(
    ("method", "target", "path"),
    [
        ("GET", f"/v1/items?key={SECRET}", "/v1/items"),
        ("GET", "/a//b/../c%2Fd", "/a//b/../c%2Fd"),
        ("GET", "//host/x", "//host/x"),
        ("GET", "https://api.example.com/v1?x=/y", "/v1"),
        ("GET", "https://api.example.com", "/"),
        ("GET", "https://api.example.com?x", "/"),
        ("OPTIONS", "*", "*"),
        ("CONNECT", "db.example.com:443", "db.example.com:443"),
        ("M-SEARCH", "/", "/"),
    ],
)
def test_a_path_has_no_query_and_is_otherwise_as_it_came(method: str, target: str, path: str) -> None:
    expected = LoggedRequest(AT, "frank", method=method, path=path)
    assert replay(line(at_us=AT, client="frank", method=method, path=target)) == expected
    assert combined(clf(request=f"{method} {target} HTTP/1.1")) == expected
    assert parser("json", client_from="user")(line(ts=AT, user="frank", method=method, path=target)) == expected


REQUESTS = st.builds(
    LoggedRequest,
    at_us=st.integers(0, EXACT - 1),
    client=st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=128).filter(
        str.isprintable
    ),
    plan=st.none() | st.text(min_size=1),
    method=st.sampled_from(["GET", "POST", "DELETE", "M-SEARCH"]),
    path=st.text(st.characters(exclude_characters="?", exclude_categories=["Cs"])).map("/".__add__),
    cost=st.none() | st.integers(0, EXACT - 1),
)


@given(REQUESTS, st.booleans(), st.integers(-1439, 1439))
def test_requests_come_back_from_the_lines_that_say_them(request: LoggedRequest, spell: bool, offset: int) -> None:  # noqa: FBT001 # Hypothesis gives it by place.
    fields: dict[str, Any] = {name: getattr(request, name) for name in FIELDS if name != "at"}
    if spell:
        at = EPOCH + timedelta(microseconds=fields.pop("at_us"))
        local = (at + timedelta(minutes=offset)).replace(tzinfo=None)
        if local < datetime(1, 1, 2):  # noqa: DTZ001 # What a clock shows has no zone.
            return
        sign = "-" if offset < 0 else "+"
        fields["at"] = f"{local.isoformat()}{sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    assert replay(line(**{name: value for name, value in fields.items() if value is not None})) == request


# The format `combined`.


def clf(
    user: str = "frank",
    request: str = "GET /apache_pb.gif HTTP/1.0",
    time: str = "10/Oct/2026:13:55:36 +0000",
    after: str = ' 200 2326 "-" "curl/8.9.1"',
    address: str = "127.0.0.1",
) -> bytes:
    return f'{address} - {user} [{time}] "{request}"{after}\n'.encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b'127.0.0.1 - frank [10/Oct/2026:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326',
            LoggedRequest(AT + 7 * HOUR, "frank", path="/apache_pb.gif"),
        ),
        (
            b'2001:db8::7 - acme [29/Feb/2024:23:59:59 +0530] "POST /v1/x?q=1 HTTP/2.0" 429 0 "a?\\"b\\"" "M [en]"\n',
            LoggedRequest(us("2024-02-29T23:59:59+05:30"), "acme", method="POST", path="/v1/x"),
        ),
        (
            b'10.0.0.9 - acme [10/Oct/2026:13:55:36 +0000] "GET /api HTTP/1.1" 200 7 "-" "-" 12 "web@docker" 3ms',
            LoggedRequest(AT, "acme", path="/api"),
        ),
        (clf(user="john doe"), LoggedRequest(AT, "john doe", path="/apache_pb.gif")),
        (clf(user="j [x] - y"), LoggedRequest(AT, "j [x] - y", path="/apache_pb.gif")),
        (clf(user=r"O\x22Hara"), LoggedRequest(AT, 'O"Hara', path="/apache_pb.gif")),
        (clf(user=r"O\"Hara\\"), LoggedRequest(AT, 'O"Hara\\', path="/apache_pb.gif")),
        (clf(user=r"J\xC3\xBCrgen"), LoggedRequest(AT, "Jürgen", path="/apache_pb.gif")),
        (clf(user="Jürgen"), LoggedRequest(AT, "Jürgen", path="/apache_pb.gif")),
        (clf(user=r"J\xFCrgen"), LoggedRequest(AT, r"J\xfcrgen", path="/apache_pb.gif")),
        (clf(request=r"GET /a\x22b\\c HTTP/1.1"), LoggedRequest(AT, "frank", path='/a"b\\c')),
        (clf(request="GET /with space HTTP/1.1"), LoggedRequest(AT, "frank", path="/with space")),
        (clf(request="GET /old"), LoggedRequest(AT, "frank", path="/old")),
    ],
)
def test_lines_of_common_and_combined_logs(content: bytes, expected: LoggedRequest) -> None:
    assert combined(content) == expected


def test_a_user_who_writes_a_log_line_into_the_name_is_still_that_user() -> None:
    name = r"x [01/Jan/2000:00:00:00 +0000] \x22GET / HTTP/1.1\x22 200 1"
    assert combined(clf(user=name)) == LoggedRequest(
        AT, 'x [01/Jan/2000:00:00:00 +0000] "GET / HTTP/1.1" 200 1', path="/apache_pb.gif"
    )


@pytest.mark.parametrize(
    "user", ["-", '""', "", r"\x00", r"a\nb", "u" * 129], ids=["none", "quotes", "empty", "nul", "newline", "long"]
)
def test_lines_without_a_client_are_skipped(user: str) -> None:
    assert combined(clf(user=user)) is Skip.NO_CLIENT


@pytest.mark.parametrize(
    "request_line",
    [
        "-",
        "",
        r"\x16\x03\x01\x00\xEE\x01",
        "GET",
        "GET ",
        "SSH-2.0-Go",
        "HELP me",
        "get / HTTP/1.1",
        "OPTIONS / RTSP/1.0",
    ],
)
def test_what_is_no_http_request_is_skipped(request_line: str) -> None:
    parse = parser("combined", client_from="remote_addr")
    assert parse(clf(user="-", request=request_line, after=' 400 157 "-" "-"')) is Skip.NO_REQUEST


@pytest.mark.parametrize(
    ("client_from", "client"),
    [
        ("remote_addr", "2001:db8::7"),
        ("remote_user", "frank"),
        ("field:6", "200"),
        ("field:9", "curl/8.9.1 (x)"),
        ("field:10", "acme one"),
        ("field:11", 'say "hi"'),
        ("field:12", "rt=0.003"),
        ("field:13", None),
    ],
)
def test_the_client_is_taken_from_where_the_option_says(client_from: str, client: str | None) -> None:
    after = r' 200 2326 "-" "curl/8.9.1 (x)" "acme one" "say \"hi\"" rt=0.003 "-"'
    found = parser("combined", client_from=client_from)(clf(address="2001:db8::7", after=after))
    assert found == (LoggedRequest(AT, client, path="/apache_pb.gif") if client else Skip.NO_CLIENT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"qk-5ecret", "is no common log line"),
        (b'{"ts":1,"user":"qk-5ecret"}', "is no common log line"),
        (clf(time="2026-10-10T13:55:36+00:00"), "is no common log line"),
        (b'127.0.0.1 - frank [10/Oct/2026:13:55:36 +0000] "GET /?qk-5ecret', "is no common log line"),
        (b"example.com:443 " + clf(), "more than `address -` before the user"),
        (b"10.1.1.1, " + clf(user="-"), "more than `address -` before the user"),
        (clf(time="31/Feb/2026:13:55:36 +0000"), "`time` names a date or a time of day that does not exist"),
        (clf(time="10/Okt/2026:13:55:36 +0000"), "does not exist"),
        (clf(time="10/Oct/2026:25:55:36 +0000"), "does not exist"),
        (clf(time="10/Oct/2026::::::::: +0000"), "`time` must be an instant"),
        (clf(time="10/Oct/2026:13:55:36 +9900"), "`time` must end in"),
        (clf(time="10/Oct/1926:13:55:36 +0000"), "`time` must lie between"),
    ],
)
def test_lines_of_another_format_are_refused(content: bytes, message: str) -> None:
    assert message in fault(combined, content)


def test_a_line_without_the_field_of_the_option_is_refused() -> None:
    assert "has 9 fields and no field 10" in fault(parser("combined", client_from="field:10"), clf())
    assert "has 5 fields and no field 6" in fault(parser("combined", client_from="field:6"), clf(after=""))


# The format `json`.

CADDY: dict[str, Any] = {
    "level": "info",
    "ts": 1646861401.5241024,
    "logger": "http.log.access",
    "msg": "handled request",
    "request": {
        "remote_ip": "127.0.0.1",
        "proto": "HTTP/2.0",
        "method": "GET",
        "host": "localhost",
        "uri": f"/v1/items?key={SECRET}",
        "headers": {"User-Agent": ["curl/7.82.0"], "X-Api-Client": ["acme"], "Authorization": ["REDACTED"]},
    },
    "user_id": "",
    "duration": 0.000929675,
    "status": 200,
}
ENVOY: dict[str, Any] = {
    "start_time": "2026-10-10T13:55:36.120Z",
    "method": "POST",
    "path": "/v1/batch?x=1",
    "protocol": "HTTP/1.1",
    "response_code": 200,
    "x_api_client": "acme",
    "upstream_host": None,
}
TRAEFIK: dict[str, Any] = {
    "ClientHost": "203.0.113.9",
    "ClientUsername": "acme",
    "RequestMethod": "REPORT",
    "RequestPath": "/dav.php/calendars/",
    "StartLocal": "2024-12-29T12:42:47.503803974+01:00",
    "StartUTC": "2024-12-29T11:42:47.503803974Z",
    "level": "info",
    "request_X-Api-Client": "acme",
    "time": "2024-12-29T12:42:48+01:00",
}
NGINX: dict[str, Any] = {
    "msec": "1791640536.123",
    "time_iso8601": "2026-10-10T13:55:36+00:00",
    "remote_user": "acme",
    "request": f"GET /v1/items?key={SECRET} HTTP/1.1",
}
RAILS: dict[str, Any] = {"method": "get", "path": "/home", "timestamp": "2026-10-10T13:55:36.000+0000", "user_id": 26}
CADDY_AT = 1646861401_524102
TRAEFIK_AT = us("2024-12-29T11:42:47.503803+00:00")
NGINX_AT = 1791640536_123000


@pytest.mark.parametrize(
    ("record", "client_from", "expected"),
    [
        (CADDY, "request.headers.X-Api-Client.0", LoggedRequest(CADDY_AT, "acme", path="/v1/items")),
        (CADDY, "request.remote_ip", LoggedRequest(CADDY_AT, "127.0.0.1", path="/v1/items")),
        (CADDY, "user_id", Skip.NO_CLIENT),
        (CADDY, "request.headers.X-Other.0", Skip.NO_CLIENT),
        (CADDY, "request.headers.X-Api-Client.1", Skip.NO_CLIENT),
        (CADDY, "request.method.0", Skip.NO_CLIENT),
        (ENVOY, "x_api_client", LoggedRequest(AT + 120_000, "acme", method="POST", path="/v1/batch")),
        (ENVOY, "upstream_host", Skip.NO_CLIENT),
        (ENVOY | {"path": None, "method": None}, "x_api_client", Skip.NO_REQUEST),
        (ENVOY | {"path": "-"}, "x_api_client", Skip.NO_REQUEST),
        (TRAEFIK, "ClientUsername", LoggedRequest(TRAEFIK_AT, "acme", method="REPORT", path="/dav.php/calendars/")),
        (
            TRAEFIK,
            "request_X-Api-Client",
            LoggedRequest(TRAEFIK_AT, "acme", method="REPORT", path="/dav.php/calendars/"),
        ),
        (TRAEFIK | {"ClientUsername": "-"}, "ClientUsername", Skip.NO_CLIENT),
        (NGINX, "remote_user", LoggedRequest(NGINX_AT, "acme", path="/v1/items")),
        (NGINX | {"request": ""}, "remote_user", Skip.NO_REQUEST),
        (NGINX | {"request": "\x16\x03\x01"}, "remote_user", Skip.NO_REQUEST),
        (RAILS, "user_id", LoggedRequest(AT, "26", path="/home")),
        (
            {"ts": 5, "labels.client": "flat", "labels": {"client": "deep"}},
            "labels.client",
            LoggedRequest(5 * SECOND, "flat"),
        ),
        ({"ts": 5, "labels": {"client": "deep"}}, "labels.client", LoggedRequest(5 * SECOND, "deep")),
        ({"ts": None, "time": 5, "c": "a"}, "c", LoggedRequest(5 * SECOND, "a")),
        ({"msg": "server running"}, "c", Skip.NO_CLIENT),
        ({"ts": 5, "c": True}, "c", Skip.NO_CLIENT),
        ({"ts": 5, "c": "a\nb"}, "c", Skip.NO_CLIENT),
        ({"ts": 5, "c": "a", "method": "G ET"}, "c", Skip.NO_REQUEST),
        ({"ts": 5, "c": "a", "path": "x"}, "c", Skip.NO_REQUEST),
    ],
)
def test_lines_of_json_access_logs(record: dict[str, Any], client_from: str, expected: LoggedRequest | Skip) -> None:
    assert parser("json", client_from=client_from)(line(**record)) == expected


def test_every_place_in_a_json_log_can_be_named() -> None:
    parse = parser("json", client_from="who.0.id", time_from="at.end", method_from="m", path_from="url.path")
    record = {
        "ts": 1,
        "at": {"end": 7},
        "m": "put",
        "method": "GET",
        "url": {"path": "/x"},
        "request": "GET / HTTP/1.1",
    }
    assert parse(line(**record, who=[{"id": "acme"}])) == LoggedRequest(7 * SECOND, "acme", method="PUT", path="/x")


@pytest.mark.parametrize(
    ("number", "at_us"),
    [
        ("1646861401.5241024", 1646861401_524102),
        ("1743003163.1276934", 1743003163_127693),
        ("1646861401.524", 1646861401_524000),
        ("1646861401", 1646861401_000000),
        ("1.646861401524e9", 1646861401_524000),
        ('"1646861401.524"', 1646861401_524000),
        ('"1646861401.99999999999999999999"', 1646861401_999999),
        ("1646861401524", 1646861401_524000),
        ("1646861401524.1276", 1646861401_524127),
        ("1646861401524102", 1646861401_524102),
        ("1646861401524102999", 1646861401_524102),
        ('"1646861401524102999"', 1646861401_524102),
        ("0", 0),
        ("1e-7", 0),
        ("99999999.9", 99999999_900000),
        ("100000000000", 100000000_000000),
        ("9007199254", 9007199254_000000),
        ("9007199255", None),
        ("99999999999999", None),
    ],
)
def test_numbers_since_1970_are_exact_in_the_unit_that_their_size_says(number: str, at_us: int | None) -> None:
    content = f'{{"c":"a","ts":{number}}}'.encode()
    parse = parser("json", client_from="c")
    if at_us is None:
        assert "must lie between" in fault(parse, content)
    else:
        assert parse(content) == LoggedRequest(at_us, "a")


@given(st.integers(0, 4_102_444_800_000_000))
def test_seconds_written_with_six_digits_lose_nothing(at_us: int) -> None:
    seconds = f"{at_us // SECOND}.{at_us % SECOND:06}"
    assert Decimal(seconds) * SECOND == at_us
    assert parser("json", client_from="c")(f'{{"c":"a","ts":{seconds}}}'.encode()) == LoggedRequest(at_us, "a")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"c": "a"}, "has no field ts or StartUTC or"),
        ({"c": "a", "ts": -1}, "`time` must lie between"),
        ({"c": "a", "ts": 1e300}, "`time` must lie between"),
        ({"c": "a", "ts": True}, "`time` must be a number since 1970 or RFC 3339 text"),
        ({"c": "a", "ts": [1]}, "`time` must be a number"),
        ({"c": "a", "ts": None}, "`time` must be a number"),
        ({"c": "a", "ts": "2026/10/10 13:55:36"}, "`time` must be an instant of RFC 3339"),
        ({"c": ["a"], "ts": 1}, "go on to an item"),
        ({"c": {"x": "a"}, "ts": 1}, "go on to an item"),
        ({"c": "a", "ts": 1, "method": 7}, "has no text for method or path"),
        ({"c": "a", "ts": 1, "path": {"x": SECRET}}, "has no text for method or path"),
    ],
)
def test_json_lines_that_cannot_be_read_are_refused(record: dict[str, Any], message: str) -> None:
    assert message in fault(parser("json", client_from="c"), line(**record))


@pytest.mark.parametrize("option", ["time", "method", "path"])
def test_a_field_that_an_option_names_must_be_there(option: str) -> None:
    named = {f"{option}_from": "x.y"}
    parse = parser("json", client_from="c", **named)
    assert fault(parse, line(c="a", ts=1)) == f"has no field x.y; name another with --{option}-from"


# The options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_format": "combimed"}, "--log-format: 'combimed' is unknown (did you mean 'combined'?)"),
        ({"log_format": "csv"}, "use one of replay, combined, json"),
        ({"client_from": "remote_user"}, "--client-from: has no meaning for the format replay"),
        ({"log_format": "combined", "time_from": "ts"}, "--time-from: has no meaning for the format combined"),
        ({"log_format": "combined", "client_from": "user"}, "--client-from: must be remote_user, remote_addr or"),
        ({"log_format": "combined", "client_from": "field:5"}, "field:N as in field:10"),
        ({"log_format": "combined", "client_from": "field:010"}, "field:N as in field:10"),
        ({"log_format": "combined", "client_from": ""}, "--client-from: must be"),
        ({"log_format": "json"}, "--client-from: must say where the client is"),
        ({"log_format": "json", "client_from": ""}, "--client-from: must say where the client is"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parser(**options)
    assert message in str(caught.value)


# Whatever the bytes.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["0", "client", "ts"]), inner),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.sampled_from([*FIELDS, "ts", "time", "uri", "request"]), JSON).map(
    lambda record: json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
)
CLF = st.lists(
    st.sampled_from(
        [b" ", b"-", b"\\", b'"', b"[", b"] ", b"10/Oct/2026:13:55:36 +0000", b"GET / HTTP/1.1", b"\xff", b"x41"]
    )
).map(b"".join)
CLF_TIMES = st.text("0123456789:", min_size=8, max_size=8).map(lambda time: clf(time=f"00/Oct/0000:{time} +9999"))


@given(st.binary() | RECORDS | CLF | CLF_TIMES | CLF.map(lambda end: clf()[:-1] + end))
@example(b'1 - a [10/Oct/2026:13:55:36 +0000] "\\"')
@example(b'{"at":"2026-10-10T13:55:60Z","client":"a"}')
def test_no_bytes_raise_anything_but_the_error_of_the_module(content: bytes) -> None:
    for parse in (
        replay,
        combined,
        parser("combined", client_from="field:7"),
        parser("json", client_from="client"),
        parser("json", client_from="request.0", time_from="ts.client.0"),
    ):
        try:
            found = parse(content)
        except LogError:
            continue
        assert isinstance(found, LoggedRequest | Skip)
