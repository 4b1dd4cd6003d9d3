"""An identity provider: its keys, the documents it publishes, and a server of them on loopback that can misbehave."""

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from quotas.fetching import Answer, FetchError
from quotas.issuers import Issuer, JwksUrl, KeySource

ISS = "https://id.example.com"
URL = "https://id.example.com/jwks"
NOW = 1_000_000
KEY = ec.generate_private_key(ec.SECP256R1())
NEW_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(kid: str, key: ec.EllipticCurvePrivateKey = KEY) -> dict[str, object]:
    return {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


def jwks(*kids: str) -> bytes:
    return json.dumps({"keys": [jwk(kid) for kid in kids]}).encode()


def token(kid: str, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    claims = {"iss": ISS, "aud": "api", "sub": "alice", "exp": NOW + 300}
    return jwt.encode(claims, key, "ES256", headers={"kid": kid}).encode()


def issuer(source: KeySource | None = None, name: str = ISS) -> Issuer:
    return Issuer(name, ("api",), frozenset({"ES256"}), source or JwksUrl(URL))


@dataclass(slots=True)
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class Pages:
    """Answers by address instead of a network; without a page it is down. Closing the gate holds answers back."""

    pages: dict[str, Answer | FetchError] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, url: str, written: str) -> Answer:
        self.asked.append((url, written))
        await self.gate.wait()
        page = self.pages.get(url, FetchError("connect", "down"))
        if isinstance(page, FetchError):
            raise page
        return page

    @property
    def urls(self) -> list[str]:
        return [url for url, _ in self.asked]


Serve = Callable[[str, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Server:
    """What a real server on loopback was asked, as (request line's target, whole head)."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        return [head.split(b" ", 2)[1].decode() for head in self.heads]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def reply(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Each connection is handed to `serve` once its head has been read, and ends with the block at the latest."""
    server, running = Server(), set[asyncio.Task[Any]]()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())  # type: ignore[arg-type] # A connection is served by a task.
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            server.heads.append(head)
            await serve(head.split(b" ", 2)[1].decode(), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(take, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def answering(pages: dict[str, bytes]) -> Serve:
    """Serves whole answers by target; what has none is a 404."""

    async def serve(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(pages.get(target, reply(b"nothing", "404 Not Found")))

    return serve


def sending(data: bytes) -> Serve:
    """Sends these bytes and closes."""

    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return serve


def stalling(data: bytes) -> Serve:
    """Sends these bytes and then nothing, without closing."""

    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await asyncio.Event().wait()

    return serve


async def endless(_: str, writer: asyncio.StreamWriter) -> None:
    """A body in chunks, without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        await writer.drain()


class Names:
    """A name server: what it says each time a name is asked for; the last answer stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers[host.partition(".")[0]]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def certified(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context: a certificate for these names, and the belief in it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    today = dt.datetime.now(dt.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([*alternatives, x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server.load_cert_chain(path)
    client.load_verify_locations(path)
    return server, client
