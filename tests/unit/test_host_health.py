"""This machine and this process: real ports, made-up limits."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from quotas import host_health
from quotas.findings import Verdict

OK, WARNING, PROBLEM = Verdict


def listening(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0))


@contextmanager
def answering(pages: dict[str, tuple[int, bytes]]) -> Iterator[int]:
    """An HTTP server on a port of 127.0.0.1."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = pages.get(self.path, (404, b"nothing"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestPort:
    def test_a_free_one_is_free_afterwards(self) -> None:
        with closing(listening()) as held:
            number = held.getsockname()[1]
        for _ in range(2):
            assert host_health.port("port", "127.0.0.1", number).verdict is OK

    def test_any(self) -> None:
        assert host_health.port("port", "::1", 0).verdict is OK

    def test_one_that_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_health, "ASK_S", 0.05)
        with closing(listening()) as held:
            finding = host_health.port("port", "127.0.0.1", held.getsockname()[1])
        assert (finding.verdict, "another program" in finding.message) == (PROBLEM, True)

    @pytest.mark.parametrize("body", [b"[]", b"{}", b"no JSON", b"\xff"])
    def test_another_program(self, body: bytes) -> None:
        with answering({"/healthz": (200, body)}) as number:
            finding = host_health.port("port", "127.0.0.1", number)
        assert (finding.verdict, "another program" in finding.message) == (PROBLEM, True)

    def test_this_service(self) -> None:
        health = (200, b'{"status":"ok","version":"%b"}' % version("quotas").encode())
        with answering({"/healthz": health, "/readyz": (200, b'{"store":"ok"}')}) as number:
            finding = host_health.port("port", "0.0.0.0", number)
        assert (finding.verdict, "is ready" in finding.message) == (OK, True)

    def test_another_version_of_it(self) -> None:
        pages = {"/healthz": (200, b'{"version":"0.0.9"}'), "/readyz": (200, b"{}")}
        with answering(pages) as number:
            finding = host_health.port("port", "127.0.0.1", number)
        assert (finding.verdict, "quotas 0.0.9 runs on" in finding.message) == (WARNING, True)

    def test_it_is_not_ready(self) -> None:
        pages = {"/healthz": (200, b'{"version":"0.0.9"}'), "/readyz": (503, b'{"store":"timeout"}')}
        with answering(pages) as number:
            finding = host_health.port("port", "127.0.0.1", number)
        assert (finding.verdict, "its store is timeout" in finding.message) == (PROBLEM, True)

    def test_it_does_not_say_whether_it_is_ready(self) -> None:
        with answering({"/healthz": (200, b'{"version":"0.0.9"}')}) as number:
            finding = host_health.port("port", "127.0.0.1", number)
        assert (finding.verdict, "does not answer in time" in finding.message) == (PROBLEM, True)

    def test_no_address_of_this_machine(self) -> None:
        finding = host_health.port("port", "192.0.2.1", 8080)
        assert (finding.verdict, "--host" in finding.advice) == (PROBLEM, True)

    def test_no_address_at_all(self) -> None:
        assert host_health.port("port", "no such host.invalid", 8080).verdict is PROBLEM


@pytest.mark.parametrize(
    ("number", "cores", "verdict"), [(1, 0.5, OK), (2, 2.0, OK), (3, 2.5, WARNING), (64, 64.0, OK), (2, 1.5, WARNING)]
)
def test_workers(number: int, cores: float, verdict: Verdict) -> None:
    assert host_health.workers(number, cores).verdict is verdict


def test_cores_of_a_container() -> None:
    assert host_health.container_cores("150000 100000\n") == 1.5
    assert host_health.container_cores("max 100000\n") == float("inf")
    with pytest.raises(ValueError, match="not enough values"):
        host_health.container_cores("much")


def test_cores_of_this_machine() -> None:
    assert host_health.cores() > 0


@pytest.mark.parametrize(("connections", "limit", "verdict"), [(960, 1024, OK), (961, 1024, PROBLEM), (10**6, -1, OK)])
def test_descriptors(connections: int, limit: int, verdict: Verdict) -> None:
    assert host_health.descriptors(connections, limit).verdict is verdict


def test_descriptors_of_this_process() -> None:
    assert host_health.descriptors(1 << 40).verdict is not WARNING


class TestSharedMemory:
    def test_one_worker_needs_none(self) -> None:
        assert host_health.shared_memory(1) is None

    def test_there_is_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        finding = host_health.shared_memory(2)
        assert finding is not None
        assert finding.verdict is OK
        assert list(tmp_path.iterdir()) == []

    def test_there_is_no_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        finding = host_health.shared_memory(2)
        assert finding is not None
        assert finding.verdict is PROBLEM

    def test_there_is_little_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_health, "SHARED_BYTES", 1 << 70)
        finding = host_health.shared_memory(2)
        assert finding is not None
        assert finding.verdict is WARNING


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "there"
    finding = host_health.disk(folder)
    assert finding is not None
    assert (finding.verdict, str(tmp_path) in finding.message) == (OK, True)
    monkeypatch.setattr(host_health, "SHARED_BYTES", 1 << 70)
    finding = host_health.disk(folder)
    assert finding is not None
    assert finding.verdict is WARNING
    assert not folder.exists()


class TestLibraries:
    def test_of_this_environment(self) -> None:
        (finding,) = host_health.libraries()
        assert finding.verdict is OK
        assert f"redis {version('redis')}" in finding.message

    @pytest.mark.parametrize("have", ["7.9.9", "9.0.0", "10.1"])
    def test_one_of_another_version(self, have: str) -> None:
        (finding,) = host_health.libraries(lambda name: have if name == "redis" else version(name))
        assert finding.verdict is PROBLEM
        assert finding.message.startswith(f"redis is {have}, and ")

    @pytest.mark.parametrize("have", ["8.0.0", "8.10.1", "8.1.0rc1"])
    def test_one_that_will_do(self, have: str) -> None:
        (finding,) = host_health.libraries(lambda name: have if name == "redis" else version(name))
        assert finding.verdict is OK

    def test_one_is_missing(self) -> None:
        def installed(name: str) -> str:
            if name == "uvloop":
                raise PackageNotFoundError(name)
            return version(name)

        (finding,) = host_health.libraries(installed)
        assert (finding.verdict, finding.message) == (PROBLEM, "uvloop is not installed")
