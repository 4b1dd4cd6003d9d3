r"""The plainest check requests, read from their bytes without an HTTP parser. Pure work on bytes.

Nearly every check on a kept connection comes alone and whole, with one credential and nothing that is about its body
or its connection. A parser written in C costs such a request more than reading it here does, because it calls back
for every line. Whatever is doubtful is not read here but by the parser and `requests`, as if this file did not exist:
what is read here must be what they would say, and only then is it of use.

Theory of operation. Work for each byte is done in C, work for each line in one turn of one loop:

1. With all printable ASCII taken out, there must remain line ends, CR LF, and nothing else. So no line holds a control
   character, a bare CR or a bare LF, and a split at CR leaves each line but the first with its LF before it.
2. The first line is known whole, when it is for a face's own path, or taken apart. It chooses the face.
3. Each other line is cut at its colon, and its name looked up as it was sent, in the table of the face: to most fields
   nobody listens. A blank line before the last, a folded line and a space before the colon are names that are none.
4. What may be said once was said at most once, and one of the lines was a credential.

    b"GET /check HTTP/1.1\r\nHost: a\r\nX-API-Key: k\r\n\r\n"
        without printable ASCII    b"\r\n" four times
        split at CR                b"GET /check HTTP/1.1", b"\nHost: a", b"\nX-API-Key: k", b"\n", b"\n"

Names that were sent are kept, a bounded number of them; values, paths and credentials never are.
"""

import re
from typing import NamedTuple

from quotas import faces
from quotas.errors import CredentialError
from quotas.faces import FACES, Face
from quotas.places import API_KEY, AUTHORIZATION, COOKIE, MAX_CREDENTIAL, Places

MAX_NAMES = 1000
"""Names that each face keeps a meaning for, spellings counted one by one. Others are looked at anew each time."""

MAX_NAME = 64
"""Bytes of a name that is kept."""

MAX_REQUEST_LINE = 8192
"""Bytes of a first line that is taken apart: far below what the parser takes (65,535)."""

MAX_LINES = 100
"""Lines of a request that is read here, with the first and the blank last one."""

_PRINTABLE = bytes(range(0x20, 0x7F))
_ENDS = frozenset(b"\r\n" * lines for lines in range(2, MAX_LINES + 1))
_SPACE, _COMMA, _HASH = b" ,#"  # Numbers: to look for a byte is six times as fast as for bytes.
_NAME = re.compile(rb"\n[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")}
_WORDS = 3
"""Of a first line: method, target and version."""

_PATHS = (b"/check", b"/check/", b"/check/nginx", b"/check/envoy", b"/check/envoy/")
"""The faces' own, which hold nothing of a client's."""

# What a field means: for most, nothing. Two fields of one bit are not plain; the lowest is that of credentials.
_UNREAD, _KEY, _BEARER, _COOKIES, _METHOD, _TARGET, _LENGTH, _CONNECTION, _REFUSED = 0, 1, 3, 5, 8, 16, 32, 64, 128

_VALUES = {
    _METHOD: frozenset(space + method for method in _METHODS for space in (b"", b" ")),
    _LENGTH: frozenset([b"0", b" 0"]),
    _CONNECTION: frozenset([b" keep-alive", b" Keep-Alive"]),
    _REFUSED: frozenset[bytes](),
}
"""With which values, space and all, a field leaves a request plain; a target may be any."""

_NOT_PLAIN = (
    *(b"transfer-encoding", b"expect", b"upgrade", b"http2-settings", b"te", b"trailer"),
    *(b"keep-alive", b"proxy-connection", b"x-quotas-cost"),
)
_USUAL = (
    *("Accept", "Accept-Encoding", "Accept-Language", "Access-Control-Request-Method", "Authorization", "Connection"),
    *("Content-Length", "Content-Type", "Cookie", "Host", "Origin", "Referer", "Traceparent", "Tracestate"),
    *("User-Agent", "Via", "X-API-Key", "X-Api-Key", "X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Internal"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Method", "X-Forwarded-Port", "X-Forwarded-Proto"),
    *("X-Forwarded-Server", "X-Forwarded-URI", "X-Forwarded-Uri", "X-Original-Method", "X-Original-URI", "X-Real-IP"),
    *("X-Real-Ip", "X-Request-ID", "X-Request-Id"),
)
"""Spelled as gateways and clients do: known from the start, so that no flood of names keeps them out."""


class PlainRequest(NamedTuple):
    """A check request that says nothing but its method, its target and whose it is.

    `method` is its own, as is `target`, which is as `faces.find` has it; both stand where the face's headers carry
    none. The credential is not empty, and left out of the repr.
    """

    face: Face
    method: str
    target: bytes
    credential: bytes

    def __repr__(self) -> str:
        return f"PlainRequest(face={self.face.name!r}, method={self.method!r})"


_new = tuple.__new__
"""The constructor of a named tuple is Python, and felt in a check."""


class _Names(dict[bytes, int]):
    """What fields mean to a face, by their names as they were sent, each with the LF before it.

    Every name means something, and is kept if there is room.
    """

    def __missing__(self, name: bytes) -> int:
        if not _NAME.fullmatch(name):
            return _REFUSED
        meaning = self.get(name.lower(), _UNREAD)
        if len(self) < MAX_NAMES and len(name) <= MAX_NAME:
            self[name] = meaning
        return meaning


class Plain:
    """Reads the plain requests of one configuration: its `places`, and the header of a request's id.

    `id_header` is in lower case; None is that requests have no id.
    """

    def __init__(self, places: Places, id_header: bytes | None) -> None:
        self._places = places
        self._names = {face: _names(face, places, id_header) for face in FACES}
        lines = [b"%b %b HTTP/1.1" % (method, path) for method in _METHODS for path in _PATHS]
        self._known = {line: self._taken_apart(line) for line in lines}

    def read(self, data: bytes) -> PlainRequest | None:
        """The request whose head these bytes are, no more and no less; None is that they have to be read in full.

        `data` is what came at once, to a parser that waits for a request. When the answer is not None the parser would
        have found one request of HTTP/1.1 in it, without a body, after which the connection is kept, and
        `requests.plain_credential` this credential. None says nothing about the request.
        """
        if not data.endswith(b"\r\n\r\n") or data.translate(None, _PRINTABLE) not in _ENDS:
            return None
        lines = data.split(b"\r")
        first = self._known.get(lines[0]) or self._taken_apart(lines[0])
        if first is None:
            return None
        face, method, target, names = first
        credential = b""
        said = _UNREAD
        for line in lines[1:-2]:
            name, _, value = line.partition(b":")
            if not value:  # It may be a name without a colon.
                return None
            meaning = names[name]
            if not meaning:  # As most.
                continue
            if meaning & said:
                return None
            said |= meaning
            if meaning <= _COOKIES:
                credential = value.strip(b" ") if meaning == _KEY else self._credential(meaning, value)
            elif meaning != _TARGET and value not in _VALUES[meaning]:
                return None
        is_plain = 0 < len(credential) <= MAX_CREDENTIAL
        return _new(PlainRequest, (face, method, target, credential)) if is_plain else None

    def _taken_apart(self, line: bytes) -> tuple[Face, str, bytes, _Names] | None:
        """What a first line of printable ASCII says, and what fields mean below it. None is not plain."""
        words = line.split(b" ")
        if len(words) != _WORDS or words[2] != b"HTTP/1.1" or len(line) > MAX_REQUEST_LINE:
            return None
        method = _METHODS.get(words[0])
        if method is None or _HASH in line:  # What a fragment is, is not known here.
            return None
        path, _, query = words[1].partition(b"?")
        found = faces.find(path, query)
        if found is None:
            return None
        face, target = found
        return face, method, target, self._names[face]

    def _credential(self, meaning: int, value: bytes) -> bytes:
        """The credential in an `Authorization` or `Cookie` field; empty when there is none, or anything is wrong."""
        if meaning == _BEARER and value[:8] == b" Bearer ":
            credential = value[8:]
            if _SPACE not in credential and _COMMA not in credential:
                return credential  # As most are.
        try:
            return self._places.credential({AUTHORIZATION if meaning == _BEARER else COOKIE: value})
        except CredentialError:
            return b""


def _names(face: Face, places: Places, id_header: bytes | None) -> _Names:
    """What the usual fields mean to a face, and all that it reads in lower case."""
    meanings = [(name, _REFUSED) for name in _NOT_PLAIN]
    meanings += [(b"content-length", _LENGTH), (b"connection", _CONNECTION), (API_KEY, _KEY), (AUTHORIZATION, _BEARER)]
    read = (
        *((face.method, _METHOD), (face.target, _TARGET), (places.header, _KEY), (id_header, _REFUSED)),
        (None if places.cookie is None else COOKIE, _COOKIES),
    )
    meanings += [(name, meaning) for name, meaning in read if name is not None]
    names = _Names()
    for name, meaning in meanings:
        names[b"\n" + name] = _REFUSED if b"\n" + name in names else meaning  # Nothing can mean two things.
    for text in _USUAL:
        usual = b"\n" + text.encode()
        names[usual.lower()] = names[usual] = names.get(usual.lower(), _UNREAD)
    return names


def fields(data: bytes) -> list[tuple[bytes, bytes]]:
    """The header fields of a request that was found plain, as the parser would tell them, names in lower case."""
    parted = (line.partition(b":") for line in data.split(b"\r\n")[1:-2])
    return [(name.lower(), value.lstrip(b" ")) for name, _, value in parted]
