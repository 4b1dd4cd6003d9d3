r"""Which path a request asks for, whatever way it is spelled, and the patterns that limits and costs name.

Pure text work: it decides nothing about a request, never raises on one, and never repairs one for the upstream.

Theory of operation. We do not serve the request: an upstream does, and we cannot know how it reads a target. It
is a chain of decoders (gateway, server, framework), each of which may rewrite the path in one of a few known
ways. So a target has *readings*: everything that some chain of these rewrites, in any order, makes of it. A limit
applies when any reading matches its pattern, hence no spelling gets around a limit and a doubtful one can only
cost more. The rewrites, and who does them:

- decode escapes. Letters, digits, `-._~` (RFC 3986, 6.2.2) and also `!$&'()*+,;=:@`: no router tells `%40me` from
  `@me`. Other ASCII is written as upper-case escapes, so `%3F` never becomes a query; UTF-8 is decoded, and bytes
  that are none stay escaped. Everybody does this one: it is the common form of all readings, and alone no doubt.
- decode again, when that shows new escapes (`%252e`): a gateway that decodes, in front of one that does.
- take `%2F` as a slash: WSGI and ASGI servers, nginx. Others keep it as data in a segment.
- take a backslash, raw (WHATWG URLs: Node) or as `%5C` (Windows), as a slash.
- drop `;matrix=params` of each segment: servlet containers, before or after decoding.
- merge doubled slashes, and remove dot segments, also `%2e`: merged first (nginx: `/a//../b` is `/b`) or not
  (RFC 3986: `/a/b`), or never (WSGI and ASGI servers). `..` at the root stays at the root (RFC 3986, 5.2.4).
- take `//name` at the start as a host: `new URL(target, base)` in Node, `parse_url` in PHP.
- cut at a raw `#` (nearly everybody; Go does not) and at NUL (C strings).
- drop control characters and bytes that are not UTF-8, or the `%` of an invalid escape such as `%zz`: lenient
  decoders; `$` of many regular expressions also overlooks a last `%0A`. Strict ones keep them: `%25zz`.
- drop raw tabs and line ends, and raw blanks and controls at the end: Node and other parsers of WHATWG URLs.

At the end of each, doubled slashes become one and the slash at the end goes, as most routers have it; where an
upstream tells `/a/` from `/a`, one limit covers both. A raw `?` starts the query for everybody, and it is cut.

    /v1/users/%40me?q=1   /v1/users/@me
    /caf%c3%a9//          /café
    /a%2Fb//c/../d        /a%2Fb/d    /a%2Fb/c/../d    /a/b/c/../d    /a/b/d
    /v1/%252e%252e/b      /v1/%252e%252e/b    /v1/../b    /b
    /v1/batch;a=1         /v1/batch;a=1    /v1/batch
    http://host/p         /p          the absolute form of RFC 9112, 3.2.2
    (empty)               /           an empty path is the root: RFC 9110, 4.2.3
    * and host:443        /   /*      of OPTIONS and CONNECT: no path, or one that lacks its slash
    v1/batch              /v1/batch   ANY

`ANY` is the reading of a hopeless input, and every pattern matches it: a path of over 8192 bytes, or one of over
2048 that is not written in the common form already; a target of no known form; more doubts than 8 readings hold, or
than the length leaves time for; IIS's `%u002F`; UTF-8 that hides ASCII in longer sequences (`%C0%AF`). It makes such
a request dear, not free. The plain reading still comes first, if the path is not too long to have one.

Not spelling but routing, and so not undone here: letter case (RFC 3986, 6.2.2.1: paths have it; Express and IIS
ignore it), `/index.php/v1`, `.json` at the end, `+` for a space.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

ANY = "*"
"""The reading that every pattern matches. No path reads like it: those begin with a slash."""

MAX_READINGS = 8
MAX_PATH = 8192
"""Bytes of a path without its query; a longer one is `ANY`."""
MAX_DOUBTFUL = 2048
"""Bytes of a path that is not in the common form; a longer one is `ANY`: rewriting costs time on each check."""
MAX_PATTERN = 1024
"""Characters of a pattern."""

_MAX_STATES = 32
_MAX_WORK = 8192
"""Bytes to rewrite, over all states of one path: a long path may have few doubts."""
_MAX_CACHED = 128
"""Bytes of a path whose readings are kept: 1024 of them take about 1 MB, at the very worst 12 MB."""

_COMMON = rb"-A-Za-z0-9._~!$&'()*+,=:@"
_NORMAL = re.compile(rb"((?:/(?!\.\.?(?:[/?]|\Z))[%s]++)++|/)(?:\?|\Z)" % _COMMON)
_TOKEN = re.compile(rb"%%[0-9A-Fa-f]{2}|[^%s;/\x80-\xff]" % _COMMON)
_KEPT = re.compile(rb"[%s;\x80-\xff]" % _COMMON)
_NAMED = r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])"
_ABSOLUTE = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*+://(?:[A-Za-z0-9._~:-]*@)?{_NAMED}(?::[0-9]*)?(?=[/#]|\Z)")
_NO_PATH = re.compile(rf"\*|(?!(?i:https?):){_NAMED}:[0-9]+")
_HOPELESS = re.compile(r"%25u[0-9A-Fa-f]{4}|%C[01]%[89AB]|%E0%[89]|%F0%8")
_NOT_UTF8 = {0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}
_UNSEEN = re.compile(r"%(?:[01][0-9A-F]|7F|[89A-F][0-9A-F])")
_LINES = re.compile(r"[\t\n\r]")
_BLANK = "".join(map(chr, range(0x21)))
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TWICE = re.compile(r"%25[0-9A-Fa-f]{2}")
_SLASH = re.compile(r"%2[Ff]")
_BACKSLASH = re.compile(r"%5[Cc]")
_SLASHES = re.compile(r"//+")
_PARAMS = re.compile(r";[^/]*+")
_HOST = re.compile(r"\A//+[^/]*+")
_FROM_NUL = re.compile(r"(?:%00|\0).*", re.DOTALL)
_DOTS = re.compile(r"/\.\.?(?:/|\Z)")


def readings(target: bytes) -> tuple[str, ...]:
    """The paths that an upstream could understand the request target as, the plain one first.

    `target` is what the gateway carried: raw bytes in any form, with or without a query. Never raises. There are
    one to `MAX_READINGS` distinct readings, without query and fragment; each begins with a slash or is `ANY`.
    """
    normal = _NORMAL.match(target)
    if normal is not None:
        return (normal[1].decode("ascii"),) if normal.end(1) <= MAX_PATH else (ANY,)
    path = target.partition(b"?")[0]
    if len(path) > MAX_DOUBTFUL:
        return (ANY,)
    return _cached(path) if len(path) <= _MAX_CACHED else _read(path)


def _read(path: bytes) -> tuple[str, ...]:
    """The readings of a path without its query that is not in the common form already."""
    starts = _origin(path.decode("utf-8", "surrogateescape"))
    plain = _tidy(_remove_dots(_merge(_common(_cut_fragment(starts[0])))))
    found = dict.fromkeys([plain, *_closure(starts)])
    if ANY in found or len(found) > MAX_READINGS or any(map(_HOPELESS.search, found)):
        return (plain, ANY)
    return tuple(found)


_cached = lru_cache(maxsize=1024)(_read)


def _origin(path: str) -> tuple[str, ...]:
    """The path in origin form, which begins with a slash: what it could be, and `ANY` if it is of no known form."""
    if path.startswith("/"):
        return (path,)
    if not path:
        return ("/",)
    absolute = _ABSOLUTE.match(path)
    if absolute is not None:
        rest = path[absolute.end() :]
        return (rest if rest.startswith("/") else "/" + rest,)
    return ("/", "/" + path) if _NO_PATH.fullmatch(path) else ("/" + path, ANY)


def _closure(starts: Sequence[str]) -> list[str]:
    """What any chain of rewrites makes of the paths, in the common form; with `ANY` when there is too much of it."""
    most = min(_MAX_STATES, _MAX_WORK // len(starts[0]))
    states = dict.fromkeys(starts)
    queue = list(states)
    found = []
    for state in queue:  # It grows while it is walked.
        if state == ANY or len(queue) > most:
            return [ANY]
        common = _common(state)
        found.append(_tidy(common))
        for new in (common, _UNSEEN.sub("", common), *(rewrite(state) for rewrite in _REWRITES)):
            if new not in states:
                states[new] = None
                queue.append(new)
    return found


def _spelling() -> dict[bytes, bytes]:
    """How each escape, its digits in any case, and each raw byte outside the common form is written in it."""
    table = {}
    for code in range(256):
        byte, escape = bytes([code]), b"%%%02X" % code
        table[byte] = byte if _KEPT.fullmatch(byte) else escape
        for high in {escape[1:2], escape[1:2].lower()}:
            table.update(dict.fromkeys((b"%" + high + low for low in (escape[2:], escape[2:].lower())), table[byte]))
    return table


_SPELLING = _spelling()


def _common(path: str) -> str:
    """The common form: escapes decoded once where that is no doubt, the rest of ASCII escaped, UTF-8 as text."""
    raw = _TOKEN.sub(lambda token: _SPELLING[token[0]], path.encode("utf-8", "surrogateescape"))
    text = raw.decode("utf-8", "surrogateescape")
    return text if text.isascii() else text.translate(_NOT_UTF8)


def _merge(path: str) -> str:
    return _SLASHES.sub("/", path)


def _tidy(path: str) -> str:
    return _merge(path).rstrip("/") or "/"


def _remove_dots(path: str) -> str:
    """RFC 3986, 5.2.4, on a path that begins with a slash; the slash at the end is not kept."""
    if not _DOTS.search(path):
        return path
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


def _decode_again(path: str) -> str:
    return _common(path.replace("%25", "%")) if _TWICE.search(path) else path


def _cut_fragment(path: str) -> str:
    return path.partition("#")[0]


_REWRITES: tuple[Callable[[str], str], ...] = (
    _merge,
    _remove_dots,
    _decode_again,
    _cut_fragment,
    lambda path: _SLASH.sub("/", path),
    lambda path: _BACKSLASH.sub("/", path),
    lambda path: path.replace("\\", "/"),
    lambda path: _PARAMS.sub("", path),
    lambda path: _HOST.sub("", path, count=1) or "/",
    lambda path: _FROM_NUL.sub("", path),
    lambda path: path.rstrip(_BLANK),
    lambda path: _LINES.sub("", path),
    lambda path: _STRAY.sub("", path),
)


_NAME = r"\{[A-Za-z0-9_-]+\}"
_FAULTS: tuple[tuple[str, str], ...] = (
    (r"\A\Z", "is empty; write * for every path"),
    (r"\A(?!/|\*\Z)", "does not start with a slash; write it as /search/*, or * for every path"),
    (r"[?#]", "holds a query or a fragment, and patterns see the path only; write %3F or %23 for the character"),
    (r"[\0-\x1f\x7f\ud800-\udfff]", "holds a control character or half of one; write it as an escape such as %0A"),
    (_STRAY.pattern, "holds a percent sign without two hexadecimal digits; write %25 for the sign"),
    (r"/(?:\.|%2[Ee]){1,2}(?:/|\Z)", "holds a dot segment; write the path that it leads to"),
    (
        r"\*(?!\Z)|[^/]\*",
        "has a * that is not the whole last segment; write {name} for one segment, %2A for the character",
    ),
    (
        rf"/(?!{_NAME}(?:/|\Z))[^/]*[{{}}]",
        "has a brace outside of a whole segment {name}; write %7B or %7D for the character",
    ),
)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """What a limit's or a cost's `path` says; two are equal when their `text` in the common form is.

    `/search/*` is the path `/search` and everything below, `/v1/{any}/items` has any one segment in the middle (the
    name says nothing), `*` or `/*` is every path; else the text is literal, with its letter case. Spelled like a
    target: `/caf%C3%A9/` is `/café`, and `%2A`, `%7B` and `%7D` stand for the characters themselves.

    Raises ValueError, saying what is wrong and what to write instead.
    """

    text: str
    _match: Callable[[str], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.text) > MAX_PATTERN:
            raise ValueError(f"{self.text[:40]!r}… is longer than {MAX_PATTERN} characters; end it early with /*")
        for fault, message in _FAULTS:
            if re.search(fault, self.text):
                raise ValueError(f"{self.text!r} {message}")
        segments = [_written(segment) for segment in self.text.split("/") if segment]
        # Every part stands between two slashes and can hold none, so there is one way to match and no backtracking.
        regex = "".join(_compiled(segment) for segment in segments) or "/"
        object.__setattr__(self, "text", "/" + "/".join(segments))
        object.__setattr__(self, "_match", re.compile(regex, re.DOTALL).fullmatch)

    def matches(self, path: str) -> bool:
        """Whether one reading is of this pattern; `ANY` always is."""
        return path == ANY or self._match(path) is not None

    def matches_any(self, paths: Sequence[str]) -> bool:
        """Whether any reading is of this pattern."""
        return any(map(self.matches, paths))


def _written(segment: str) -> str:
    """A segment of a pattern in the common form, in which a literal star stays an escape."""
    return segment if segment == "*" or re.fullmatch(_NAME, segment) else _common(segment).replace("*", "%2A")


def _compiled(segment: str) -> str:
    if segment == "*":
        return "(?:/.*)?"
    return "/[^/]+" if segment.startswith("{") else "/" + re.escape(segment.replace("%2A", "*"))
