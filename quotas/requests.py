"""What a check request says: credential, method, path and cost. Pure text work.

Header values are bytes and stay bytes: a credential is compared exactly, whatever it is made of. Method and path
are those of the request that the gateway asks about, carried as its face (`faces`) has it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from quotas.errors import CredentialError, RequestError
from quotas.faces import NATIVE, Face
from quotas.limits import EXACT
from quotas.places import ALWAYS, COOKIE, Places
from quotas.scopes import NONE

_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,31}")
_COMMON_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
_PLAIN_METHODS = _COMMON_METHODS - {"OPTIONS"}
"""Of the other it can depend on more headers what it asks for."""

_COST = re.compile(rb"[0-9]{1,16}")


class CheckRequest(NamedTuple):  # A tuple: each check makes one, at a third of a dataclass's cost.
    """One check as the gateway asked it. The credential is left out of the repr; it is empty when there is none.

    `target` is the carried request target, byte for byte. `cost` None is not said: the plan's rules decide. `scopes`
    are needed beside those that the plan asks for. A `look` is about all limits, whatever the target.
    `request_id` is by what a check that was sent twice is known; None is by nothing.
    """

    credential: bytes
    method: str = "GET"
    target: bytes = b"/"
    cost: int | None = None
    request_id: bytes | None = None
    scopes: frozenset[str] = NONE
    look: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it asks for nothing but what its plan says of its method and target."""
        return self.cost is None and self.request_id is None and not self.scopes and not self.look

    def __repr__(self) -> str:
        return f"CheckRequest(method={self.method!r}, cost={self.cost!r}, scopes={self.scopes!r}, look={self.look!r})"


_request: Callable[[tuple[object, ...]], CheckRequest] = partial(tuple.__new__, CheckRequest)
"""A request of all its values; the constructor of a named tuple is Python, and felt in a check."""


def read(  # noqa: PLR0913 # What was sent, who sent it, and what the configuration makes of both.
    headers: Iterable[tuple[bytes, bytes]],
    face: Face = NATIVE,
    *,
    method: str = "GET",
    target: bytes = b"/",
    trusted: bool = False,
    places: Places = ALWAYS,
    optional: bool = False,
    id_header: bytes | None = None,
) -> CheckRequest:
    """The request that these headers make; names are lower case, as ASGI has them.

    `method` and `target` are the check request's own, as `faces.find` has them, and stand where the face's headers
    carry none. `X-Quotas-Cost` is believed only from a `trusted` peer and otherwise not looked at. The credential is
    looked for in `places`; a request without one, or with an empty one, is an error unless it is `optional`.
    `id_header` is what the request's id is read from, none of the headers that are read otherwise; None reads none.

    Raises CredentialError with the reason `missing_credential`, `invalid_credential` or
    `ambiguous_credentials`: two headers of one kind, or two that disagree, never choose a client. Raises
    RequestError with the reason `invalid_request` for a method, path or cost that cannot be read, and for two ids.
    """
    found = _found(headers, _looked_at(face, places, id_header), trusted=trusted)
    credential = places.credential(found)
    if not credential and not optional:
        raise CredentialError("missing_credential")
    carried = None if face.method is None else found.get(face.method)
    if carried is not None:
        method = carried.decode("latin-1")
    if method not in _COMMON_METHODS and not _METHOD.fullmatch(method):
        raise RequestError("invalid_request")
    cost = _cost(found[b"x-quotas-cost"]) if trusted and b"x-quotas-cost" in found else None
    if face.target is not None:
        target = found.get(face.target, target)
    request_id = None if id_header is None else found.get(id_header, b"").strip(b" \t") or None
    return _request((credential, method, target, cost, request_id, NONE, False))


def plain_credential(
    headers: Iterable[tuple[bytes, bytes]],
    face: Face,
    *,
    method: str,
    places: Places,
    id_header: bytes | None,
) -> bytes | None:
    """The credential of a request that says nothing else but its method and target, as most do: `read` in short.

    None is that there is more to it, or something wrong with it: then it has to be read in full. So it does when the
    credential is empty.
    """
    try:
        found = _found(headers, _looked_at(face, places, id_header), trusted=True)
        if face.method is not None:
            carried = found.pop(face.method, None)
            if carried is not None:
                method = carried.decode("latin-1")
        if face.target is not None:
            found.pop(face.target, None)
        return places.credential(found) if len(found) == 1 and method in _PLAIN_METHODS else None
    except RequestError:
        return None


def common_method(headers: Iterable[tuple[bytes, bytes]], face: Face = NATIVE, *, method: str = "GET") -> str:
    """The carried method for a log: one that everybody knows, or `other`, because a method can be any word."""
    values = [] if face.method is None else [value for name, value in headers if name == face.method]
    carried = values[0].decode("latin-1") if values else method
    return carried if carried in _COMMON_METHODS else "other"


def is_preflight(headers: Iterable[tuple[bytes, bytes]], face: Face = NATIVE, *, method: str = "GET") -> bool:
    """Whether this is a CORS preflight: OPTIONS with one `Origin` and one `Access-Control-Request-Method`.

    That is what a browser sends before a request of a page on another origin (Fetch, section 4.8), and it sends no
    credential with it. `method` is the check request's own. A method that is carried twice is none.
    """
    names = (b"origin", b"access-control-request-method", face.method)
    found = [(name, value) for name, value in headers if name in names]
    values = dict(found)
    carried = method.encode("latin-1") if face.method is None else values.get(face.method, method.encode("latin-1"))
    return (
        carried == b"OPTIONS"
        and len(found) == len(values)
        and all(values.get(name, b"").strip(b" \t") for name in names[:2])
    )


def _found(
    headers: Iterable[tuple[bytes, bytes]], reasons: Mapping[bytes, str], *, trusted: bool
) -> dict[bytes, bytes]:
    """The values of the headers that are read; none of them may come twice, but cookies, which are one list."""
    found: dict[bytes, bytes] = {}
    cookies: list[bytes] = []
    for name, value in headers:
        if name in reasons:
            if name not in found:
                found[name] = value
            elif name == COOKIE:
                cookies.append(value)  # HTTP/2 may split it at any cookie (RFC 9113, section 8.2.3).
            elif trusted or name != b"x-quotas-cost":
                raise (RequestError if reasons[name] == "invalid_request" else CredentialError)(reasons[name])
    if cookies:
        found[COOKIE] = b";".join((found[COOKIE], *cookies))
    return found


@lru_cache(64)
def _looked_at(face: Face, places: Places, id_header: bytes | None) -> Mapping[bytes, str]:
    """The headers that are read, and the reason to refuse a request that has one of them twice."""
    carriers = (name for name in (face.method, face.target, id_header) if name is not None)
    return {
        **dict.fromkeys((*carriers, b"x-quotas-cost"), "invalid_request"),
        **dict.fromkeys(places.fields(), "ambiguous_credentials"),
    }


def _cost(value: bytes) -> int:
    """ASCII digits and nothing else, below 2**53."""
    if not _COST.fullmatch(value) or int(value) >= EXACT:
        raise RequestError("invalid_request")
    return int(value)
