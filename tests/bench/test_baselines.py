import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from loadtests.bench import node, servers
from loadtests.bench.cases import Server
from quotas import embedded

PER_HOUR = 3


def ask(port: int, key: str) -> int:
    return answered(port, key).status


def answered(port: int, key: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/check", headers={"X-API-Key": key})
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


@contextmanager
def limiting(server: Server, folder: Path) -> Iterator[int]:
    """The port of a baseline that gives each caller so many requests an hour."""
    with embedded.hold(folder / "data") as url:
        told = {**os.environ, "BENCH_REDIS": unquote(urlsplit(url).path), "BENCH_PER_HOUR": str(PER_HOUR)}
        with servers.baseline(server, folder, told) as (port, _):
            yield port


@pytest.mark.parametrize(
    "server",
    [Server.LIMITS, Server.LIMITS_TELLING, Server.THROTTLED, Server.FASTIFY],
    ids=lambda server: server.name,
)
def test_a_baseline_refuses_when_its_limit_is_used_up(server: Server, tmp_path: Path) -> None:
    lacking = node.missing() if server is Server.FASTIFY else None
    if lacking is not None:
        pytest.skip(f"FASTIFY IS NOT TRIED: {lacking}")
    with limiting(server, tmp_path) as port:
        # An hour may begin meanwhile, but not two: one of so many is refused.
        statuses = [ask(port, "one") for _ in range(2 * PER_HOUR + 1)]
        other = ask(port, "another")
    assert statuses[:PER_HOUR] == [200] * PER_HOUR
    assert set(statuses) == {200, 429}
    assert other == 200


def test_the_baseline_that_tells_says_what_is_left_and_until_when(tmp_path: Path) -> None:
    with limiting(Server.LIMITS_TELLING, tmp_path) as port:
        answers = [answered(port, "one") for _ in range(2 * PER_HOUR + 1)]
    fields = [re.fullmatch(r'"hourly";r=(\d+);t=(\d+)', answer.headers["RateLimit"]) for answer in answers]
    found = [(int(field[1]), int(field[2])) for field in fields if field is not None]
    assert [left for left, _ in found[:PER_HOUR]] == [2, 1, 0]
    assert all(0 <= reset_s <= 3600 for _, reset_s in found)
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["RateLimit"] == f'"hourly";r=0;t={refused.headers["Retry-After"]}'


def test_the_bare_app_refuses_nothing(tmp_path: Path) -> None:
    with servers.baseline(Server.BARE, tmp_path, os.environ) as (port, _):
        assert [ask(port, "one") for _ in range(3)] == [200] * 3


def test_node_is_asked_for_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "--node" in str(node.missing())
    for name, version in node.PACKAGES.items():
        package = node.folder() / "node_modules" / name
        package.mkdir(parents=True)
        (package / "package.json").write_text(f'{{"version": "{version}"}}', "utf-8")
    assert node.missing() is None
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "Node is not installed" in str(node.missing())
