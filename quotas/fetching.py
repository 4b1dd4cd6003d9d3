"""An issuer's keys over HTTP: one answer, from an address that may be asked, within bounds.

Addresses. What the operator wrote is believed, so it may be a private address. What an answer says (a redirect, a
`jwks_uri`) must be https on public addresses only, unless it is of the same origin; if the operator wrote a loopback
address, it may be loopback. A name is resolved once, every address it has is checked, and the connection goes to one
of those: a second, different answer of the name server is never asked for.

The client is asyncio with h11, which uvicorn brings along: a deadline that holds over every byte (a thread with
urllib cannot be stopped), the address that was checked, no decompression, and no new package. It takes no proxy; where
one is needed, `jwks_file` is the way.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from socket import SOCK_STREAM
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from quotas.errors import QuotasError
from quotas.issuers import check_url, is_loopback

MAX_BYTES = 256 * 1024
MAX_REDIRECTS = 3

_CONNECT_S = 1.5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_AGE = re.compile(r'(?:^|[\s,])max-age="?([0-9]{1,9})', re.IGNORECASE)
_NAT64 = IPv6Network("64:ff9b::/96")
_TUNNELS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Fetch = Callable[[str, str], Awaitable["Answer"]]
"""(address, what the operator wrote) to an answer; raises FetchError."""


class FetchError(QuotasError):
    """Keys that could not be had. `kind` is a short word for the metric, one of these.

    `timeout`, `connect`, `tls`, `protocol`, `status`, `redirect`, `address`, `too_large`, `invalid`, `mismatch`,
    `file`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {detail}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of a 200, and its `max-age` in seconds; None is not said."""

    body: bytes
    max_age_s: int | None = None


class Fetcher:
    """A GET over asyncio and h11, for public documents; no cookie, no credential, no proxy, no compression.

    `resolve` gives a name's addresses, `tls` says which certificates are believed: by default what the system does.
    """

    def __init__(self, *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._resolve = _addresses_of if resolve is None else resolve
        self._tls = ssl.create_default_context() if tls is None else tls

    async def __call__(self, url: str, written: str) -> Answer:
        """What is at `url`, after at most `MAX_REDIRECTS` redirects. Raises FetchError; has no deadline of its own."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(url, written)
            if isinstance(answer, Answer):
                return answer
            url = answer
        raise FetchError("redirect", f"more than {MAX_REDIRECTS} redirects")

    async def _ask(self, url: str, written: str) -> Answer | str:
        """The answer, or the URL that it points to."""
        try:
            parts = urlsplit(check_url(url))
        except ValueError as error:
            raise FetchError("redirect", f"leads to no address that may be asked: {error}") from error
        try:
            addresses = [ip_address(text) for text in await self._resolve(parts.hostname or "", _port(parts))]
            if not addresses or not _is_allowed(parts, addresses, urlsplit(written)):
                raise FetchError("address", f"{parts.hostname} is at no address that may be asked")
            reader, writer = await self._connect(parts, addresses)
            try:
                answer = await _exchange(reader, writer, parts)
            finally:
                writer.transport.abort()
            return answer if isinstance(answer, Answer) else urljoin(url, answer)
        except ssl.SSLError as error:
            raise FetchError("tls", f"{parts.hostname}: {error.reason}") from error
        except OSError as error:
            raise FetchError("connect", f"{parts.hostname}: {error.strerror or type(error).__name__}") from error
        except (h11.ProtocolError, ValueError) as error:
            raise FetchError("protocol", f"{parts.hostname} does not speak HTTP/1.1 as it should") from error

    async def _connect(
        self, parts: SplitResult, addresses: Sequence[Address]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address that takes one; the certificate must be the name's."""
        failure: OSError = ConnectionError()
        secure = {"ssl": self._tls, "server_hostname": parts.hostname} if parts.scheme == "https" else {}
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    return await asyncio.open_connection(str(address), _port(parts), **secure)  # type: ignore[arg-type] # Typed by keyword.
            except OSError as error:
                failure = error
        raise failure


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


async def _addresses_of(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _is_allowed(parts: SplitResult, addresses: Sequence[Address], written: SplitResult) -> bool:
    """Whether these addresses of a URL may be asked, given what the operator wrote. One bad address spoils all."""
    plain = [_plain(address) for address in addresses]
    is_local = all(address.is_loopback for address in plain)
    if is_local and is_loopback(written.hostname or ""):
        return True
    if parts.scheme != "https":
        return False
    is_own = (parts.hostname, _port(parts)) == (written.hostname, _port(written))
    return is_own or all(_is_public(address) for address in plain)


def _plain(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only carries it: mapped, or translated (RFC 6052)."""
    if isinstance(address, IPv4Address):
        return address
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped or address


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _TUNNELS)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: SplitResult) -> Answer | str:
    """One request and its answer. Never more than `MAX_BYTES` of the body and 16 kB of headers are held."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=16_384)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    headers = [
        ("Host", parts.netloc),
        ("Accept", "application/json"),
        ("User-Agent", "quotas"),
        ("Connection", "close"),
    ]
    writer.write(connection.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
    connection.send(h11.EndOfMessage())
    body, max_age_s = bytearray(), None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            if event.status_code in _REDIRECTS:
                return _location(event)
            max_age_s = _checked(event)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BYTES:
                raise FetchError("too_large", f"more than {MAX_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Answer(bytes(body), max_age_s)
        else:
            assert isinstance(event, h11.InformationalResponse), "h11 raises when an answer ends too early"


def _location(response: h11.Response) -> str:
    for name, value in response.headers:
        if name == b"location":
            return value.decode("ascii")
    raise FetchError("redirect", "without a location")


def _checked(response: h11.Response) -> int | None:
    """The `max-age` of an answer that can be used."""
    if response.status_code != 200:  # noqa: PLR2004 # The one that carries the document.
        raise FetchError("status", f"answered {response.status_code}")
    max_age_s = None
    for name, value in response.headers:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise FetchError("protocol", "answered with an encoding that was not asked for")
        if name == b"cache-control" and (match := _MAX_AGE.search(value.decode("latin-1"))):
            max_age_s = int(match[1])
    return max_age_s
