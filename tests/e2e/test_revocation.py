"""Revocation is exact: 1,000 rounds over four real workers, all of them warm, and not one miss."""

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest

from .processes import PATIENCE_S, Home, Serving, children

ROUNDS = 1_000
WORKERS = 4
ISSUER = "https://id.example.com"
SECRET = "a secret of thirty-two bytes or more"
ADMIN = "admin-token-of-the-tests"
PLANS = """
plans:
  free: {limits: {hourly: {rate: 1000000/hour}}}
issuers:
  - {issuer: "https://id.example.com", audience: [api], algorithms: [HS256], secret_env: TEST_TOKEN_SECRET,
     default_plan: free}
"""


class Desk:
    """One kept connection to each worker. The operator's calls go through the first."""

    def __init__(self, connections: list[HTTPConnection]) -> None:
        self._connections = connections

    def statuses(self, credential: str) -> list[int]:
        return [self._ask(connection, "GET", "/check", credential)[0] for connection in self._connections]

    def admin(self, method: str, path: str, body: object = None) -> Any:
        status, content = self._ask(self._connections[0], method, f"/admin/v1{path}", ADMIN, body)
        assert status in {200, 201, 204}, content
        return json.loads(content) if content else None

    @staticmethod
    def _ask(
        connection: HTTPConnection, method: str, path: str, credential: str, body: object = None
    ) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {credential}", "content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def desk(serving: Serving) -> Iterator[Desk]:
    """A connection to every worker: more are opened until each has one."""
    url = urlsplit(serving.url)
    found: dict[int, HTTPConnection] = {}
    others: list[HTTPConnection] = []
    deadline = time.monotonic() + PATIENCE_S
    try:
        while len(found) < WORKERS:
            assert time.monotonic() < deadline, "not every worker took a connection"
            assert url.hostname is not None
            connection = HTTPConnection(url.hostname, url.port or 0, timeout=PATIENCE_S)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            owner = _owner(connection.sock, children(serving.process.pid))
            if owner in found:
                others.append(connection)
            else:
                found[owner] = connection
        yield Desk(list(found.values()))
    finally:
        for connection in (*found.values(), *others):
            connection.close()


_ESTABLISHED = "01"
"""The state of a connection in `/proc/net/tcp`."""


def _owner(ours: socket.socket, workers: list[int]) -> int:
    """The worker that holds the other end of this connection.

    Another program can have our port, in a connection to another than the service.
    """
    ends = [f":{end[1]:04X}" for end in (ours.getpeername(), ours.getsockname())]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(words[9] for words in lines if all(map(str.endswith, words[1:3], ends)) and words[3] == _ESTABLISHED)
    for pid in workers:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if descriptor.readlink() == Path(f"socket:[{inode}]"):
                    return pid
            except OSError:
                continue  # It was closed meanwhile.
    raise AssertionError("no worker holds the connection")


def token(**claims: Any) -> str:
    now_s = time.time()  # What a token must say.
    payload = {"iss": ISSUER, "aud": "api", "iat": now_s, "exp": now_s + 600, **claims}
    return jwt.PyJWT({"enforce_minimum_key_length": False}).encode(payload, SECRET, "HS256")


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def by_key(on: Desk) -> tuple[str, Callable[[], object]]:
    made = on.admin("POST", "/keys", {"client": "acme", "name": "round"})
    return made["key"], lambda: on.admin("DELETE", f"/keys/{made['id']}")


def by_jti(on: Desk) -> tuple[str, Callable[[], object]]:
    jti = secrets.token_hex(8)
    body = {"issuer": ISSUER, "jti": jti, "expires_at": "2100-01-01T00:00:00Z"}
    return token(sub="ada", jti=jti), lambda: on.admin("POST", "/revocations", body)


def by_subject(on: Desk) -> tuple[str, Callable[[], object]]:
    subject = secrets.token_hex(8)
    return token(sub=subject), lambda: on.admin("POST", "/revocations", {"issuer": ISSUER, "subject": subject})


def by_subject_and_instant(on: Desk) -> tuple[str, Callable[[], object]]:
    body = {"issuer": ISSUER, "subject": "bob"}
    return token(sub="bob"), lambda: on.admin("POST", "/revocations", {**body, "issued_before": now()})


def by_issuer_and_instant(on: Desk) -> tuple[str, Callable[[], object]]:
    return token(sub="cy"), lambda: on.admin("POST", "/revocations", {"issuer": ISSUER, "issued_before": now()})


KINDS = (by_key, by_jti, by_subject, by_subject_and_instant, by_issuer_and_instant)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks the kernel which worker holds a connection")
def test_no_worker_lets_a_revoked_credential_pass_after_the_operator_was_answered(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plans(PLANS)
    home.environment |= {"TEST_TOKEN_SECRET": SECRET, "QUOTAS_ADMIN_TOKEN": ADMIN}
    with home.serving("--workers", str(WORKERS)) as serving, desk(serving) as on:
        on.admin("POST", "/clients", {"name": "acme", "plan": "free"})
        for number in range(ROUNDS):
            kind = KINDS[number % len(KINDS)]
            credential, revoke = kind(on)
            assert on.statuses(credential) == [200] * WORKERS, f"round {number}, {kind.__name__}: every worker is warm"
            revoke()
            assert on.statuses(credential) == [401] * WORKERS, f"round {number}, {kind.__name__}: a miss"
