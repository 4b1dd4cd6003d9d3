"""The faces of the check: where each kind of gateway puts the request it asks about, and which answers it understands.

One core decides; a face says only how the question is read and how the answer is written. A gateway is configured to
ask one of them, so a face believes its own carriers and no others: what a client may have put into the headers of
another face steers nothing.

nginx's `auth_request` (ngx_http_auth_request_module) knows 2xx, 401 and 403 and makes 500 of most others, and it keeps
the connection only when no body comes. So its face has no bodies, and says in `X-Quotas-Status` what `/check` would
have answered. Envoy's ext_authz sends the request itself, with a prefix before its path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One way to ask. `method` and `target` name the headers that carry them, in lower case.

    None is not carried: the check request's own method is meant, and the target is the path below the face's.
    `instead` are the statuses that this kind of gateway does not understand, and what it is told in their place; when
    `tells_status`, `X-Quotas-Status` has the true one of every refusal. Without `bodies` no answer has one.
    """

    name: str
    method: bytes | None
    target: bytes | None
    instead: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    tells_status: bool = False
    bodies: bool = True


NATIVE = Face("check", b"x-forwarded-method", b"x-forwarded-uri")
NGINX = Face(
    "nginx",
    b"x-original-method",
    b"x-original-uri",
    instead=MappingProxyType({400: 403, 429: 403}),
    tells_status=True,
    bodies=False,
)
ENVOY = Face("envoy", None, None)
DIRECT = Face("direct", None, None)
"""No gateway's: a holder asks this service itself, and the request is about itself."""

FACES = (NATIVE, NGINX, ENVOY)

PATH = b"/check"
_NGINX_PATH = b"/check/nginx"
_ENVOY_PATH = b"/check/envoy"


def find(path: bytes, query: bytes) -> tuple[Face, bytes] | None:
    """Which face a check request is for, and the target that its own path carries; None is no check.

    `path` is the path as it was sent, undecoded and without its query. What is below `/check` is a check whatever it
    is: a gateway may append the path it asks about. The target is `/` where the face has a header for it.

        /check, /check/any    NATIVE, /
        /check/nginx          NGINX, /
        /check/envoy          ENVOY, /
        /check/envoy/a%2Fb    ENVOY, /a%2Fb, with `?` and the query if there is one
        /check/envoy*         ENVOY, *: the target of `OPTIONS *` (RFC 9112, section 3.2.4) behind the prefix
    """
    if path == PATH:
        return NATIVE, b"/"
    if not path.startswith(b"/check/"):
        return None
    if path.startswith(_ENVOY_PATH):
        below = path[len(_ENVOY_PATH) :]
        if below in {b"", b"*"} or below.startswith(b"/"):
            target = below or b"/"
            return ENVOY, target + b"?" + query if query else target
    if path == _NGINX_PATH or path.startswith(_NGINX_PATH + b"/"):
        return NGINX, b"/"
    return NATIVE, b"/"
