"""What a check request says: the credential it carries and the cost it asks for. Pure text work.

Header values are bytes and stay bytes: a credential is compared exactly, whatever it is made of.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from quotas.errors import CredentialError

MAX_CREDENTIAL = 8192
"""Bytes; a longer credential is refused before anything is done with it."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """One check as the gateway asked it. The credential is left out of the repr."""

    credential: bytes = field(repr=False)
    cost: int = 1


def read(headers: Iterable[tuple[bytes, bytes]]) -> CheckRequest:
    """The request that these headers make; names are lower case, as ASGI has them.

    Raises CredentialError with the reason `missing_credential`, `invalid_credential` or
    `ambiguous_credentials`: two headers of one kind, or two that disagree, never choose a client.
    """
    authorization: bytes | None = None
    api_key: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if authorization is not None:
                raise CredentialError("ambiguous_credentials")
            authorization = value
        elif name == b"x-api-key":
            if api_key is not None:
                raise CredentialError("ambiguous_credentials")
            api_key = value.strip(b" \t")
    bearer = None if authorization is None else _bearer(authorization)
    if bearer is not None and api_key is not None and bearer != api_key:
        raise CredentialError("ambiguous_credentials")
    credential = api_key if bearer is None else bearer
    if not credential:
        raise CredentialError("missing_credential")
    if len(credential) > MAX_CREDENTIAL:
        raise CredentialError("invalid_credential")
    return CheckRequest(credential)


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
