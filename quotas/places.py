"""Where a credential may stand in a request, and which one stands there. Pure text work on bytes.

`Authorization: Bearer` and `X-API-Key` are looked at always, one more header and one cookie where the configuration
names them. The query string is never one of them: it is in too many logs.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from quotas.errors import CredentialError

MAX_CREDENTIAL = 8192
"""Bytes; a longer credential is refused before anything is done with it."""

AUTHORIZATION = b"authorization"
API_KEY = b"x-api-key"
COOKIE = b"cookie"

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
"""A token (RFC 9110, section 5.6.2), of a length that every gateway takes: header and cookie names are such."""

_TAKEN = frozenset(
    [
        "accept",
        "age",
        "allow",
        "alt-svc",
        "baggage",
        "cache-control",
        "cdn-loop",
        "connection",
        "cookie",
        "cookie2",
        "date",
        "dnt",
        "etag",
        "expect",
        "expires",
        "forwarded",
        "from",
        "host",
        "http2-settings",
        "idempotency-key",
        "keep-alive",
        "last-modified",
        "link",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "prefer",
        "priority",
        "range",
        "referer",
        "retry-after",
        "server",
        "set-cookie",
        "te",
        "trace",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-client-ip",
        "x-http-method-override",
        "x-real-ip",
        "x-request-id",
    ]
)
"""Headers that say something else, to HTTP or to us."""

_TAKEN_PREFIXES = (
    *("accept-", "access-control-", "content-", "if-", "proxy-", "ratelimit", "sec-"),
    *("x-envoy-", "x-forwarded-", "x-original-", "x-quotas-", "x-ratelimit-"),
)


class Places(NamedTuple):
    """The places of a configuration. `header` is a further header's name in lower case, `cookie` a cookie's exact name.

    None is that there is no such place.
    """

    header: bytes | None = None
    cookie: bytes | None = None

    def without_cookie(self) -> "Places":
        """The headers alone: for whatever changes something. A browser sends its cookies with what any page asks."""
        return self if self.cookie is None else self._replace(cookie=None)

    def fields(self) -> tuple[bytes, ...]:
        """Names of the header fields that can hold a credential, in lower case; `cookie` may come several times."""
        further = (self.header, None if self.cookie is None else COOKIE)
        return (AUTHORIZATION, API_KEY, *(name for name in further if name is not None))

    def credential(self, found: Mapping[bytes, bytes]) -> bytes:
        """The one credential of a request, of whose fields `found` has the values; empty when there is none.

        Raises CredentialError with the reason `invalid_credential`, or `ambiguous_credentials` for two that disagree;
        an empty one in one place disagrees with a credential in another.
        """
        credential = found.get(API_KEY)
        if credential is not None:
            credential = credential.strip(b" \t")
            if len(found) == 1 and len(credential) <= MAX_CREDENTIAL:
                return credential  # As most are.
        if AUTHORIZATION in found:
            credential = _agreed(credential, _bearer(found[AUTHORIZATION]))
        if self.header is not None and self.header in found:
            credential = _agreed(credential, found[self.header].strip(b" \t"))
        if self.cookie is not None and COOKIE in found:
            credential = _agreed(credential, _cookie(self.cookie, found[COOKIE]))
        if credential is not None and len(credential) > MAX_CREDENTIAL:
            raise CredentialError("invalid_credential")
        return credential or b""


ALWAYS = Places()
"""The two headers that are looked at always, and nothing else."""


def parse_header(name: str) -> bytes:
    """The name of a header that may hold a credential. Raises ValueError for what is none or means something else."""
    if not _TOKEN.fullmatch(name):
        raise ValueError("a header's name has 1 to 64 letters, digits and !#$%&'*+-.^_`|~")
    lower = name.lower()
    if lower in {"authorization", "x-api-key"}:
        raise ValueError(f"{name} is looked at anyway; leave `header` out")
    if lower in _TAKEN or lower.startswith(_TAKEN_PREFIXES):
        raise ValueError(f"{name} means something else; take a name of your own, such as X-Acme-Key")
    return lower.encode()


def parse_cookie(name: str) -> bytes:
    """The name of a cookie that may hold a credential (RFC 6265, section 4.1.1). Raises ValueError."""
    if not _TOKEN.fullmatch(name):
        raise ValueError("a cookie's name has 1 to 64 letters, digits and !#$%&'*+-.^_`|~")
    return name.encode()


def _agreed(one: bytes | None, other: bytes | None) -> bytes | None:
    """What two places hold together; None is nothing, not even an empty credential."""
    if one is None or other is None or one == other:
        return other if one is None else one
    raise CredentialError("ambiguous_credentials")


def _bearer(authorization: bytes) -> bytes | None:
    """The credential of a Bearer header (RFC 6750, section 2.1); None when it is of another scheme.

    The scheme is case-insensitive and one or more spaces follow it (RFC 9110, section 11.4).
    """
    scheme, _, rest = authorization.strip(b" \t").partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    credential = rest.strip(b" \t")
    if b" " in credential or b"," in credential or b"\t" in credential:
        raise CredentialError("invalid_credential")
    return credential


def _cookie(name: bytes, header: bytes) -> bytes | None:
    """The value of the cookie of this name (RFC 6265, section 4.2.1); it may stand in double quotes. None without one.

    Whatever else is in the header is somebody else's, malformed or not. Raises CredentialError for two of the name.
    """
    pairs = (pair.partition(b"=") for pair in header.split(b";"))
    values = [value.strip(b" \t") for key, equals, value in pairs if equals and key.strip(b" \t") == name]
    if len(values) > 1:
        raise CredentialError("ambiguous_credentials")
    if not values:
        return None
    (value,) = values
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value
