import posixpath
import re
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quotas.paths import ANY, MAX_DOUBTFUL, MAX_PATH, MAX_PATTERN, MAX_READINGS, PathPattern, readings

READINGS: list[tuple[bytes, str]] = [
    # Undoubted: one reading.
    (b"/", "/"),
    (b"/v1/batch", "/v1/batch"),
    (b"/v1/batch?", "/v1/batch"),
    (b"/v1/batch?a=/../x;y#z", "/v1/batch"),
    (b"/v1/batch/", "/v1/batch"),
    (b"/v1//batch///", "/v1/batch"),
    (b"/v1/b%61tch", "/v1/batch"),
    (b"/v1/users/%40me", "/v1/users/@me"),
    (b"/v1/jobs/7%3Acancel", "/v1/jobs/7:cancel"),
    (b"/!$&'()*+,=:@-._~", "/!$&'()*+,=:@-._~"),
    (b"/%21%24%26%27%28%29%2a%2B%2c%3d%3A%40%2d%2e%5f%7e", "/!$&'()*+,=:@-._~"),
    (b"/a%20b%22c%3c%7B", "/a%20b%22c%3C%7B"),
    (b'/a b"c<{', "/a%20b%22c%3C%7B"),
    (b"/a%3fb", "/a%3Fb"),
    (b"/a%23b", "/a%23b"),
    (b"/caf%c3%a9", "/café"),
    ("/café".encode(), "/café"),
    (b"/%E2%82%AC/%F0%9F%98%80", "/€/😀"),
    (b"/100%25", "/100%25"),
    (b"/.well-known/x", "/.well-known/x"),
    (b"/a/.../b", "/a/.../b"),
    (b"/a/b..", "/a/b.."),
    (b"", "/"),
    (b"?q=1", "/"),
    (b"http://host", "/"),
    (b"http://host?q=1", "/"),
    (b"http://host/p?q=1", "/p"),
    (b"HTTPS://u@[::1]:8443/p/", "/p"),
    # Doubtful: the plain reading first, the others in any order.
    (b"/a/./b", "/a/b /a/./b"),
    (b"/a/../b", "/b /a/../b"),
    (b"/a/%2e%2E/b", "/b /a/../b"),
    (b"/a/.%2e/b", "/b /a/../b"),
    (b"/a/b/..", "/a /a/b/.."),
    (b"/..", "/ /.."),
    (b"/../../a", "/a /../../a"),
    (b"/a//../b", "/b /a/b /a/../b"),
    (b"/a/%2e%2e/../b", "/b /a/b /a/../../b"),
    (b"/a%2fb", "/a%2Fb /a/b"),
    (b"/a%2Fb//c/../d?q=1", "/a%2Fb/d /a%2Fb/c/../d /a/b/d /a/b/c/../d"),
    (b"/a%5cb", "/a%5Cb /a/b"),
    (b"/a\\b", "/a%5Cb /a/b"),
    (b"/a\\b%5Cc", "/a%5Cb%5Cc /a/b%5Cc /a%5Cb/c /a/b/c"),
    (b"/a%2Fb%5Cc", "/a%2Fb%5Cc /a/b%5Cc /a%2Fb/c /a/b/c"),
    (b"/a;v=1/b;jsessionid=2", "/a;v=1/b;jsessionid=2 /a/b"),
    (b"/a%3Bv", "/a;v /a"),
    (b"/a/..;x/b", "/a/..;x/b /a/../b /b"),
    (b"/a;x%2Fb", "/a;x%2Fb /a;x/b /a /a/b"),
    (b"/b%2561tch", "/b%2561tch /batch"),
    (b"/%%36%31", "/%2561 /61 /a"),
    (b"/a%25252e", "/a%25252e /a%252e /a."),
    (b"/a%252Fb", "/a%252Fb /a%2Fb /a/b"),
    (b"/v1/%252e%252e/b", "/v1/%252e%252e/b /v1/../b /b"),
    (b"//host/p", "/host/p /p"),
    (b"/\\host/p", "/%5Chost/p /host/p /p"),
    (b"/a#b", "/a /a%23b"),
    (b"/a#b?c", "/a /a%23b"),
    (b"http://host#b", "/ /%23b"),
    (b"/a%00b", "/a%00b /a /ab"),
    (b"/a\0b", "/a%00b /a /ab"),
    (b"/a%0Ab%7f", "/a%0Ab%7F /ab"),
    (b"/a\tb%09c", "/a%09b%09c /abc /ab%09c"),
    (b"/a b ", "/a%20b%20 /a%20b"),
    (b"/a%FFb", "/a%FFb /ab"),
    (b"/a\xffb", "/a%FFb /ab"),
    (b"/caf\xe9", "/caf%E9 /caf"),
    (b"/\xc3%A9%C3", "/é%C3 /é"),
    (b"/%ED%A0%80", "/%ED%A0%80 /"),
    (b"/50%", "/50%25 /50"),
    (b"/b%zz", "/b%25zz /bzz"),
    (b"/b%4", "/b%254 /b4"),
    (b"*", "/ /*"),
    (b"host.example:443", "/ /host.example:443"),
    (b"[::1]:443", "/ /%5B::1%5D:443"),
    # Hopeless.
    (b"v1/batch", "/v1/batch *"),
    (b"\\v1", "/%5Cv1 *"),
    (b"http:/v1", "/http:/v1 *"),
    (b"HTTP:25", "/HTTP:25 *"),
    (b"http://host:x/v1", "/http:/host:x/v1 *"),
    (b"http://h%2Fv1/batch", "/http:/h%2Fv1/batch *"),
    (b"http:///v1", "/http:/v1 *"),
    (b"http://host\\v1", "/http:/host%5Cv1 *"),
    (b"\xff\x00", "/%FF%00 *"),
    (b"/v1%C0%AFbatch", "/v1%C0%AFbatch *"),
    (b"/v1%e0%80%afbatch", "/v1%E0%80%AFbatch *"),
    (b"/v1%25C0%25AFbatch", "/v1%25C0%25AFbatch *"),
    (b"/v1%u002fbatch", "/v1%25u002fbatch *"),
    (b"/a;x%2F..%5C..//%252e/%00", "/a;x%2F..%5C../%252e/%00 *"),
    (b"/a%" + b"25" * 40 + b"61", "/a%" + "25" * 40 + "61 *"),
]


@pytest.mark.parametrize(("target", "expected"), READINGS)
def test_readings_of_spellings(target: bytes, expected: str) -> None:
    found = readings(target)
    first, *others = expected.split(" ")
    assert found[0] == first
    assert sorted(found[1:]) == sorted(others)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/" + b"a" * (MAX_PATH - 1), ("/" + "a" * (MAX_PATH - 1),)),
        (b"/" + b"a" * MAX_PATH, (ANY,)),
        (b"/" + b"a" * MAX_PATH + b"?q=1", (ANY,)),
        (b"/a/?" + b"q" * 2 * MAX_PATH, ("/a",)),
        (b"/a?" + b"q" * 2 * MAX_PATH, ("/a",)),
        (b"/" * MAX_DOUBTFUL, ("/",)),
        (b"/" * (MAX_DOUBTFUL + 1), (ANY,)),
        (b"x" * (MAX_DOUBTFUL + 1), (ANY,)),
        (b"/" + b"%C3%A9" * 341, ("/" + "é" * 341,)),
        (b"/" + b"a;" * 1000, ("/" + "a;" * 1000, "/a")),
        (b"/%2F;" + b"a" * 2000, ("/%2F;" + "a" * 2000, ANY)),
    ],
)
def test_lengths(target: bytes, expected: tuple[str, ...]) -> None:
    assert readings(target) == expected


ATTACKS: list[tuple[bytes, str]] = [
    (b"/v1/batch", "everybody"),
    (b"/v1/batch/", "Express, Django with APPEND_SLASH, Spring before 6"),
    (b"//v1//batch//", "nginx merge_slashes, Tomcat, Werkzeug"),
    (b"/v1/./batch", "nginx, Node URL, Tomcat, Apache with PHP"),
    (b"/./v1/batch/.", "the same"),
    (b"/v1/x/../batch", "the same"),
    (b"/v1/x/..//batch", "the same"),
    (b"/x/../v1/y/../batch", "the same"),
    (b"/../v1/batch", "Node URL: the root has no parent"),
    (b"/v1/batch/x/..", "nginx, Node URL, Tomcat"),
    (b"/v1/x//../../batch", "RFC 3986: the empty segment is the parent's child"),
    (b"/v1/x//../batch", "nginx: merged first"),
    (b"/x//../v1%2Fbatch", "nginx: merged first"),
    (b"/v1//../batch", "RFC 3986, Node URL"),
    (b"/v1/%2e/batch", "nginx, Node URL"),
    (b"/v1/x/%2e%2e/batch", "nginx, Node URL"),
    (b"/v1/x/.%2E/batch", "nginx, Node URL"),
    (b"/v1/%2e%2e/../batch", "java.net.URI.normalize, which knows no %2e"),
    (b"/v1/b%61tch", "everybody"),
    (b"/%76%31/%62%61%74%63%68", "everybody"),
    (b"/v1%2fbatch", "WSGI, ASGI, nginx"),
    (b"%2fv1/batch", "a server that decodes first"),
    (b"/v1%2F%2fbatch", "WSGI, nginx"),
    (b"/v1/x%2F../batch", "nginx"),
    (b"/v1/x/..%2Fbatch", "nginx"),
    (b"/v1/x%2f%2e%2e%2fbatch", "nginx"),
    (b"/x%2Fx/../v1%2Fbatch", "Node: decodeURIComponent(new URL(target, base).pathname)"),
    (b"/v1\\batch", "Node URL"),
    (b"/v1/x\\..\\batch", "Node URL"),
    (b"/v1%5Cbatch", "IIS"),
    (b"/v1/x/..%5cbatch", "IIS"),
    (b"/v1/batch;jsessionid=1", "servlet containers"),
    (b"/v1;a=b/batch;c", "servlet containers"),
    (b"/v1/batch;", "servlet containers"),
    (b"/;/v1/batch", "Tomcat"),
    (b"/v1/x/..;/batch", "Tomcat"),
    (b"/v1/x/..;a=b/batch", "Tomcat"),
    (b"/v1/x/%2e%2e;/batch", "Tomcat"),
    (b"/v1/x/.;/..;/batch", "Tomcat"),
    (b"/v1/batch;x%2F..", "Tomcat: parameters go before escapes are decoded"),
    (b"/v1/batch%3Bx", "nginx with a URI in proxy_pass, in front of Tomcat"),
    (b"/v1/b%2561tch", "two decoders"),
    (b"/v1%252Fbatch", "two decoders"),
    (b"/v1/x/%252e%252e/batch", "two decoders"),
    (b"/v1/x/..%252fbatch", "two decoders"),
    (b"/v1/b%252561tch", "three decoders"),
    (b"/v1/b%%36%31tch", "two lenient decoders"),
    (b"//x/v1/batch", "Node URL with a base, PHP parse_url"),
    (b"///x/v1/batch", "Node URL with a base"),
    (b"/\\x/v1/batch", "Node URL with a base"),
    (b"/a/..//x/v1/batch", "Node URL, twice"),
    (b"http://x/v1/batch", "everybody"),
    (b"http://x//v1/batch", "nginx"),
    (b"hTTp://u:p@x:80/v1/batch?x", "everybody"),
    (b"http:/v1/batch", "Node URL"),
    (b"http:v1/batch", "Node URL"),
    (b"http:\\\\x\\v1\\batch", "Node URL"),
    (b"v1/batch", "Node URL"),
    (b"/v1/batch?x=/y", "everybody"),
    (b"/v1/batch#x", "nginx, Node, WSGI"),
    (b"/v1/batch#/../x?y", "nginx, Node, WSGI"),
    (b"/v1%2Fbatch#x", "nginx, WSGI"),
    (b"/v1/batch%00.png", "C strings"),
    (b"/v1/batch%0a", "Django, PHP: `$` in a route"),
    (b"/v1/ba\ttch", "Node URL, Python urlsplit"),
    (b"/v1/batch \t", "Node URL"),
    (b"/v1/ba%FFtch", "decoders that ignore what is not UTF-8"),
    (b"/v1/b%atch", "ASP: a percent sign without digits is dropped"),
    (b"/v1%c0%afbatch", "UTF-8 decoders of the nineties"),
    (b"/v1%u002fbatch", "IIS"),
    (b"/v1/batch" + b"/." * 900, "nginx, Node URL"),
    (b"/" * 8000 + b"v1/batch", "nginx"),
    (b"/v1;%2F/x/%252e%252e;/%5c./..//.%00/b%2561tch", "nobody, but it costs"),
]


@pytest.mark.parametrize(("target", "who"), ATTACKS)
def test_no_spelling_gets_around_a_pattern(target: bytes, who: str) -> None:
    for pattern in ("/v1/batch", "/v1/*", "/v1/{name}", "/{version}/batch"):
        assert PathPattern(pattern).matches_any(readings(target)), who


@pytest.mark.parametrize(
    "target",
    [b"/v1/batches", b"/v1/batch/x", b"/v2/batch", b"/v1/batch/x%2Fy", b"/v1/batch%3Fx", b"/V1/batch", b"*", b""],
)
def test_another_path_is_not_charged(target: bytes) -> None:
    assert not PathPattern("/v1/batch").matches_any(readings(target))


@pytest.mark.parametrize("target", [b"/search/../x", b"/search/%2e%2e/x", b"/search/%252e./x", b"/search/..;/x"])
def test_an_upstream_that_keeps_dot_segments_is_no_way_out_of_a_prefix(target: bytes) -> None:
    assert PathPattern("/search/*").matches_any(readings(target))


# Upstreams, modelled with other means than the module's: a chain of them, and then a router that decodes.


def decode(path: str) -> str:
    return unquote(path, errors="surrogateescape")


def resolve(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def browser(path: str) -> str:
    """WHATWG: backslashes, a host, dot segments in any spelling, and no merging of slashes."""
    path = re.sub(r"^//+[^/]*", "", path.replace("\\", "/"))
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        dots = segment.lower().replace("%2e", ".")
        if dots == "..":
            kept = kept[:-1]
        elif dots != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


def php(path: str) -> str:
    try:
        return urlsplit(path).path or "/"
    except ValueError:  # A bracket in what it takes for a host; PHP answers false.
        return path


def written(path: str) -> str:
    """A decoded path as a reading has it; of the characters in PIECES."""
    return "".join(char if char.isalnum() or char in "/-._~;" else f"%{ord(char) & 0xFF:02X}" for char in path)


UPSTREAMS: dict[str, Callable[[str], str]] = {
    "browser": browser,
    "nginx": lambda path: resolve(decode(path)),
    "php": php,
    "raw dots": resolve,
    "servlet": lambda path: resolve(decode(re.sub(";[^/]*", "", path))),
    "wsgi": decode,
    "windows": lambda path: decode(path).replace("\\", "/"),
    "c": lambda path: decode(path).partition("\0")[0] or "/",
}
PIECES = ["/", "//", "v1", "batch", "..", ".", ";", "a", "\\", "%2F", "%2e", "%5c", "%3B", "%25", "25", "2e", "%61"]


@given(
    st.lists(st.sampled_from([*PIECES, "%00", "é", "%c3%a9", "%"]), max_size=9),
    st.lists(st.sampled_from([*UPSTREAMS]), max_size=3),
)
@example(["x%2Fx", "/", "..", "/", "v1%2Fbatch"], ["browser"])
def test_what_modelled_upstreams_make_of_a_target_is_a_reading(pieces: list[str], chain: list[str]) -> None:
    target = "/" + "".join(pieces)
    path = target
    for name in chain:
        path = UPSTREAMS[name](path)
    routed = re.sub("/+", "/", decode(path)).rstrip("/") or "/"
    found = readings(target.encode())
    assert written(routed) in found or ANY in found


TARGETS = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [piece.encode() for piece in PIECES] + [b"?", b"#", b"\0", b"\xc3", b"\xa9", b"%C3", b"%zz", b"http:", b"*"]
    ),
    max_size=40,
).map(b"".join)


@given(TARGETS)
def test_any_bytes_have_readings_within_bounds(target: bytes) -> None:
    found = readings(target)
    assert 1 <= len(found) <= MAX_READINGS
    assert len(set(found)) == len(found)
    for path in found:
        assert path == ANY or path.startswith("/")
        assert len(path) <= 3 * len(target) + 1
        assert not re.search(r"[?#\\\0-\x20\x7f]|//|[^/]/\Z", path)
        assert not re.search(r"%(?![0-9A-F]{2})", path)
    assert PathPattern("*").matches_any(found)


@given(TARGETS)
def test_the_plain_reading_reads_as_itself(target: bytes) -> None:
    plain = readings(target)[0]
    assert readings(plain.encode())[0] == plain


@given(TARGETS)
def test_a_reading_is_among_its_own_readings(target: bytes) -> None:
    for path in set(readings(target)) - {ANY}:
        again = readings(path.encode())
        assert path in again or ANY in again


@given(TARGETS, st.binary(max_size=20))
def test_a_query_changes_nothing(target: bytes, query: bytes) -> None:
    assert readings(target + b"?" + query) == readings(target)


@given(st.integers(0, MAX_DOUBTFUL), st.lists(st.sampled_from(PIECES), min_size=1, max_size=6))
def test_long_doubts_stay_small(length: int, pieces: list[str]) -> None:
    target = ("/" + "".join(pieces) * length)[:length].encode()
    found = readings(target)
    assert len(found) <= MAX_READINGS
    assert sum(map(len, found)) <= MAX_READINGS * (3 * MAX_DOUBTFUL + 1)


MATCHES: list[tuple[str, str, bool]] = [
    ("*", "/", True),
    ("*", "/a/b", True),
    ("/*", "/", True),
    ("/*", "/a/b", True),
    ("/", "/", True),
    ("/", "/a", False),
    ("/search/*", "/search", True),
    ("/search/*", "/search/a", True),
    ("/search/*", "/search/a/b\nc", True),
    ("/search/*", "/searches", False),
    ("/search/*", "/a/search", False),
    ("/search/*", "/Search/a", False),
    ("/v1/{any}/items", "/v1/7/items", True),
    ("/v1/{any}/items", "/v1/7%2F8/items", True),
    ("/v1/{any}/items", "/v1/7/8/items", False),
    ("/v1/{any}/items", "/v1//items", False),
    ("/v1/{any}/items", "/v1/items", False),
    ("/v1/{any}/items", "/v1/7/items/8", False),
    ("/v1/{a}/{b-2}/*", "/v1/7/8", True),
    ("/v1/{a}/{b-2}/*", "/v1/7", False),
    ("/v1/batch", "/v1/batch", True),
    ("/v1/batch", "/v1/batch/", False),
    ("/v1/batch", "/v1/batch\n", False),
    ("/v1/batch", "/V1/batch", False),
    ("/v1//batch/", "/v1/batch", True),
    ("/a.c", "/abc", False),
    ("/a+(b)", "/a+(b)", True),
    ("/caf%c3%a9", "/café", True),
    ("/café", "/café", True),
    ("/caf%E9", "/caf%E9", True),
    ("/a b", "/a%20b", True),
    ("/users/%40me", "/users/@me", True),
    ("/a%2Fb", "/a%2Fb", True),
    ("/a%2Fb", "/a/b", False),
    ("/a/%2A", "/a/*", True),
    ("/a/%2A", "/a/b", False),
    ("/a/x%2Ay", "/a/x*y", True),
    ("/%7Bid%7D", "/%7Bid%7D", True),
    ("/%7Bid%7D", "/7", False),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), MATCHES)
def test_matches(pattern: str, path: str, expected: bool) -> None:  # noqa: FBT001 (a column of the table)
    assert PathPattern(pattern).matches(path) is expected
    assert PathPattern(pattern).matches_any(["/no/such/path", path]) is expected
    assert PathPattern(pattern).matches(ANY)


def test_no_readings_match_nothing() -> None:
    assert not PathPattern("*").matches_any([])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty; write"),
        ("search", "start with a slash; write it as /search/"),
        ("**", "start with a slash"),
        ("http://host/p", "start with a slash"),
        ("/a*", "not the whole last segment; write {name}"),
        ("/a/*b", "not the whole last segment"),
        ("/a/*/b", "not the whole last segment"),
        ("/a/*/", "not the whole last segment"),
        ("/a/**", "not the whole last segment"),
        ("/a/{b", "brace outside of a whole segment"),
        ("/a/b}", "brace outside of a whole segment"),
        ("/a/{}", "brace outside of a whole segment"),
        ("/a/x{b}", "brace outside of a whole segment"),
        ("/a/{b}x", "brace outside of a whole segment"),
        ("/a/{b}{c}", "brace outside of a whole segment"),
        ("/a/{{b}}", "brace outside of a whole segment"),
        ("/a/{b/c}", "brace outside of a whole segment"),
        ("/{ok}/{", "brace outside of a whole segment"),
        ("/a?b=1", "write %3F or %23"),
        ("/a#b", "write %3F or %23"),
        ("/a/../b", "dot segment; write the path that it leads to"),
        ("/./b", "dot segment"),
        ("/a/%2e%2E", "dot segment"),
        ("/a/.%2e/", "dot segment"),
        ("/50%", "write %25 for the sign"),
        ("/a%zz", "write %25 for the sign"),
        ("/a\nb", "control character"),
        ("/a\udc80", "control character"),
        ("/" + "a" * MAX_PATTERN, "longer than 1024 characters"),
    ],
)
def test_refused_patterns_say_what_to_do(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as refusal:
        PathPattern(text)
    assert len(str(refusal.value)) < 7 * MAX_PATTERN


def test_patterns_are_equal_by_their_common_form() -> None:
    assert PathPattern("/caf%C3%A9/") == PathPattern("/café")
    assert hash(PathPattern("/caf%C3%A9/")) == hash(PathPattern("/café"))
    assert PathPattern("*") == PathPattern("/*")
    assert PathPattern("/%2A") != PathPattern("/*")
    assert PathPattern("/{a}") != PathPattern("/%7Ba%7D")
    assert repr(PathPattern("/%2a/b%61r/{x}/*")) == "PathPattern(text='/%2A/bar/{x}/*')"


def test_patterns_are_frozen() -> None:
    with pytest.raises(AttributeError):
        PathPattern("/a").text = "/b"  # type: ignore[misc]  # That is what is tested.


SEGMENTS = st.text(
    st.characters(exclude_characters="/*{}?#%\\", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8
)
PATTERNS = st.lists(
    SEGMENTS.filter(lambda segment: segment not in {".", ".."}) | st.sampled_from(["{x}", "%2A", "%7b", "%2f", "%FF"]),
    max_size=6,
).map(lambda segments: "/" + "/".join(segments))


@given(PATTERNS)
def test_a_pattern_in_the_common_form_is_itself(text: str) -> None:
    pattern = PathPattern(text)
    assert PathPattern(pattern.text) == pattern
    assert PathPattern(text + "/*").matches_any(readings(text.encode()))


@given(PATTERNS)
def test_a_pattern_matches_its_own_spelling_as_a_target(text: str) -> None:
    assert PathPattern(text).matches_any(readings(text.encode()))
    assert PathPattern(text).matches_any(readings(quote(text, safe="/%").encode()))


@given(st.text(max_size=40) | st.text("/*{}%.ab;é", max_size=40).map(lambda text: "/" + text))
def test_any_text_is_a_pattern_or_a_value_error(text: str) -> None:
    try:
        pattern = PathPattern(text)
    except ValueError:
        return
    assert pattern.text.startswith("/")
    assert len(pattern.text) <= 3 * 4 * len(text)
