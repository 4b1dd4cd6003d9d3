"""The service as people start, use, stop and lose it."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from .processes import PATIENCE_S, Home, Serving, runs, until

SLOW = """
plans:
  free:
    limits:
      hourly: {rate: 1/hour, burst: 100}
"""
BAD = """
plans:
  free:
    limits:
      per-second: {rate: 5/fortnight, burst: 10}
      hourly: {rate: 1/hour, burts: 3}
  pro:
    on_store_error: perhaps
    limits:
      daily: {quota: many/day}
unknown: 1
"""
BAD_PATHS = [
    "plans.free.limits.per-second",
    "plans.free.limits.hourly.burts",
    "plans.pro.on_store_error",
    "plans.pro.limits.daily",
    "unknown",
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def get(url: str, secret: str | None = None) -> httpx.Response:
    return httpx.get(url, headers={} if secret is None else {"x-api-key": secret}, timeout=PATIENCE_S, trust_env=False)


def hourly_left(serving: Serving, secret: str) -> int:
    """What the limit `hourly` has left after one more check."""
    response = get(f"{serving.url}/check", secret)
    assert response.status_code == 200
    found = re.match(r'"hourly";r=(\d+);t=', response.headers["ratelimit"])
    assert found
    return int(found[1])


def at_once(url: str, secret: str, times: int) -> Counter[int]:
    """The statuses of that many checks, each on a connection that stood before the first was asked."""
    address = urlsplit(url)
    request = f"GET /check HTTP/1.1\r\nHost: quotas\r\nX-API-Key: {secret}\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), PATIENCE_S))
            for _ in range(times)
        ]
        for each in sockets:
            each.sendall(request)
        answers = [stack.enter_context(each.makefile("rb")).read() for each in sockets]
    return Counter(int(answer.split(b" ", 2)[1]) for answer in answers)


def checks_counted(url: str) -> float:
    lines = get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("quotas_checks_total{"))


class TestDemo:
    def test_the_printed_command_works_and_a_healthy_service_says_no_more(self, home: Home) -> None:
        with home.serving("--demo") as serving:
            secret, url = serving.curl
            assert url == f"{serving.url}/check"
            response = get(url, secret)
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["x-quotas-client"] == "demo"
            assert serving.stop() == 0
            assert serving.err() == ""

    def test_of_15_calls_at_once_exactly_10_pass(self, home: Home) -> None:
        with home.serving("--demo") as serving:
            secret, _ = serving.curl
            assert at_once(serving.url, secret, 15) == {200: 10, 429: 5}

    def test_the_key_is_said_once_and_nowhere_else(self, home: Home) -> None:
        home.environment |= {"QUOTAS_LOG_LEVEL": "debug", "QUOTAS_KEY_PEPPER": "a pepper of many bytes"}
        with home.serving("--demo", "--workers", "2") as serving:
            secret, url = serving.curl
            for query in ("", f"?api_key={secret}", "?api_key=SECRET123"):
                get(url + query, secret)
                get(url + query, "SECRET123")
            get(f"{serving.url}/nothing?api_key={secret}")
            httpx.get(url, headers={"x-original-uri": "/?api_key=SECRET123"}, timeout=PATIENCE_S, trust_env=False)
            assert serving.stop() == 0
            said = serving.out() + serving.err()
            assert said.count(secret) == 1
            assert said.count(secret[-36:]) == 1
            assert "SECRET123" not in said
            assert "a pepper" not in said
            kept = b"".join(file.read_bytes() for file in home.data.rglob("*") if file.is_file())
            assert secret.encode() not in kept
            assert secret[-36:].encode() not in kept
            assert b"SECRET123" not in kept
            assert b"a pepper" not in kept


class TestProtocol:
    """What only a real HTTP server shows."""

    def exchange(self, serving: Serving, request: bytes) -> bytes:
        address = urlsplit(serving.url)
        with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                return answer.read()

    def test_every_method_an_upgrade_and_raw_header_bytes(self, home: Home) -> None:
        home.plans(SLOW)
        with home.serving("--demo") as serving:
            secret, _ = serving.curl
            key = b"\r\nHost: quotas\r\nX-API-Key: " + secret.encode()
            close = b"\r\nConnection: close\r\n\r\n"
            for method in (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"PROPFIND"):
                answer = self.exchange(serving, method + b" /check/some/path HTTP/1.1" + key + close)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), method
                assert answer.endswith(b"\r\n\r\n"), method
            websocket = b"\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
            assert self.exchange(serving, b"GET /check HTTP/1.1" + key + websocket).startswith(b"HTTP/1.1 200 OK\r\n")
            raw = b"GET /check HTTP/1.1\r\nHost: quotas\r\nAuthorization: Bearer caf\xe9" + close
            assert self.exchange(serving, raw).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            refused_head = self.exchange(serving, b"HEAD /check HTTP/1.1\r\nHost: quotas" + close)
            assert refused_head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert refused_head.endswith(b"\r\n\r\n")


class TestWorkers:
    def test_four_workers_give_exactly_what_the_plan_gives_and_count_together(self, home: Home) -> None:
        home.plans(SLOW)
        with home.serving("--demo", "--workers", "4") as serving:
            secret, _ = serving.curl
            assert at_once(serving.url, secret, 500) == {200: 100, 429: 400}
            assert {checks_counted(serving.url) for _ in range(20)} == {500}
            assert serving.stop() == 0

    def test_a_worker_that_was_killed_is_replaced_and_its_counts_stay(self, home: Home) -> None:
        home.plans(SLOW)
        with home.serving("--demo", "--workers", "2") as serving:
            secret, _ = serving.curl
            assert at_once(serving.url, secret, 50) == {200: 50}
            before = serving.workers()
            os.kill(before[0], signal.SIGKILL)
            until(lambda: before[0] not in serving.workers() and len(serving.workers()) == 2)
            assert at_once(serving.url, secret, 50) == {200: 50}
            assert {checks_counted(serving.url) for _ in range(10)} == {100}

    def test_workers_and_valkey_end_when_the_supervisor_is_killed(self, home: Home) -> None:
        with home.serving("--demo", "--workers", "2") as serving:
            secret, url = serving.curl
            assert get(url, secret).status_code == 200
            until(lambda: len(serving.workers()) == 2)
            pids = [*serving.workers(), home.valkey_pid()]
            serving.kill()
            until(lambda: not any(runs(pid) for pid in pids))


class TestRestart:
    @pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), (signal.SIGINT, "2")])
    def test_keys_clients_and_what_was_spent_survive(self, home: Home, number: signal.Signals, workers: str) -> None:
        home.plans(SLOW)
        with home.serving("--demo", "--workers", workers) as serving:
            secret, _ = serving.curl
            assert [hourly_left(serving, secret) for _ in range(3)] == [99, 98, 97]
            valkey = home.valkey_pid()
            assert serving.stop(number) == 0
            assert not runs(valkey)
            assert "Traceback" not in serving.err()
        with home.serving("--workers", workers) as serving:
            assert hourly_left(serving, secret) == 96
            assert "demo" in home.good("clients", "list")

    def test_another_demo_key_is_of_the_same_client(self, home: Home) -> None:
        home.plans(SLOW)
        with home.serving("--demo") as serving:
            first, _ = serving.curl
            assert hourly_left(serving, first) == 99
            assert serving.stop() == 0
        with home.serving("--demo") as serving:
            second, _ = serving.curl
            assert second != first
            assert hourly_left(serving, second) == 98
            assert hourly_left(serving, first) == 97

    def test_what_is_on_disk_survives_a_kill_of_everything(self, home: Home) -> None:
        home.plans(SLOW)
        with home.serving("--demo") as serving:
            secret, _ = serving.curl
            assert hourly_left(serving, secret) == 99
            home.settle()
            valkey = home.valkey_pid()
            os.kill(valkey, signal.SIGKILL)
            serving.kill()
            until(lambda: not runs(valkey))
        with home.serving() as serving:
            assert hourly_left(serving, secret) == 98


class TestOneOwner:
    def test_a_second_service_on_the_same_data_is_refused(self, home: Home) -> None:
        with home.serving("--demo") as serving:
            secret, url = serving.curl
            second = home.command("serve", "--port", "0")
            assert second.returncode == 2
            assert str(serving.process.pid) in second.stderr
            assert str(home.data) in second.stderr
            assert second.stdout == ""
            assert get(url, secret).status_code == 200

    def test_a_taken_port_is_a_fault_of_the_command_line(self, home: Home) -> None:
        with home.serving() as serving:
            other = Home(home.folder / "other")
            other.folder.mkdir()
            second = other.command("serve", "--port", serving.url.rpartition(":")[2])
            assert second.returncode == 2
            assert "--port" in second.stderr


class TestCommands:
    def key(self, home: Home) -> tuple[str, str]:
        """A new client `acme` with a key: its secret and its id."""
        assert "acme" in home.good("clients", "create", "acme", "--plan", "free")
        secret = home.good("keys", "create", "--client", "acme", "--name", "production").strip()
        assert re.fullmatch(r"quotas_live_[0-9A-Za-z]{36}", secret)
        listed = home.good("keys", "list", "--client", "acme")
        assert "production" in listed
        assert secret[-32:] not in listed
        key_id = re.search(r"key_[0-9A-Za-z]+", listed)
        assert key_id
        return secret, key_id[0]

    def test_beside_a_running_service(self, home: Home) -> None:
        with home.serving("--workers", "2") as serving:
            valkey = home.valkey_pid()
            url = f"{serving.url}/check"
            secret, key_id = self.key(home)
            assert get(url, secret).status_code == 200
            assert home.command("keys", "revoke", key_id).returncode == 1  # It asks, and nobody answers.
            assert get(url, secret).status_code == 200
            home.good("keys", "revoke", key_id, "--yes")
            assert {get(url, secret).status_code for _ in range(10)} == {401}
            assert home.command("keys", "revoke", key_id, "--yes").returncode == 1
            assert home.valkey_pid() == valkey
            assert runs(valkey)

    def test_without_a_service_and_what_they_made_is_served(self, home: Home) -> None:
        secret, key_id = self.key(home)
        again = home.command("clients", "create", "acme", "--plan", "free")
        assert (again.returncode, "exists" in again.stderr) == (1, True)
        other = home.good("keys", "create", "--client", "acme").strip()
        home.good("keys", "revoke", key_id, "--yes")
        assert not (home.data / "valkey.pid").exists()
        with home.serving() as serving:
            assert get(f"{serving.url}/check", other).status_code == 200
            assert get(f"{serving.url}/check", secret).status_code == 401

    def test_several_at_once(self, home: Home) -> None:
        names = ["one", "two", "three"]
        with ThreadPoolExecutor(len(names)) as pool:
            done = list(pool.map(lambda name: home.command("clients", "create", name, "--plan", "free"), names))
        assert [one.returncode for one in done] == [0] * len(names)
        listed = home.good("clients", "list")
        assert all(name in listed for name in names)

    def test_a_name_that_is_no_text_is_a_no(self, home: Home) -> None:
        """What the terminal sent was not UTF-8."""
        done = home.command("clients", "show", "\udcff")
        assert done.returncode in {1, 2}
        assert "Traceback" not in done.stderr


class TestConfiguration:
    def test_a_bad_file_stops_serve_and_check_config_alike(self, home: Home) -> None:
        home.plans(BAD)
        for words in (("serve", "--port", "0"), ("check-config", "quotas.yaml")):
            done = home.command(*words)
            assert done.returncode == 2
            assert done.stdout == ""
            assert "quotas.yaml" in done.stderr
            for path in BAD_PATHS:
                assert re.search(rf"^  {re.escape(path)}(\.[a-z]+)?: ", done.stderr, re.MULTILINE), (words, path)
            assert len(done.stderr.splitlines()) == 1 + len(BAD_PATHS), words
        assert not (home.data / "valkey.pid").exists()

    @pytest.mark.parametrize("text", [b"", b"\xff\xfe"])
    def test_what_is_no_plan_file_is_a_fault(self, home: Home, text: bytes) -> None:
        (home.folder / "quotas.yaml").write_bytes(text)
        done = home.command("check-config", "quotas.yaml")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "quotas.yaml" in done.stderr

    def test_a_missing_file_is_a_fault(self, home: Home) -> None:
        done = home.command("serve", "--port", "0", "--config", "none.yaml")
        assert (done.returncode, "none.yaml" in done.stderr) == (2, True)

    @pytest.mark.parametrize(
        ("url", "workers"),
        [
            ("http://localhost", "1"),
            ("redis://localhost:port", "1"),
            ("redis://localhost:port", "2"),
            ("redis://localhost?nonsense=1", "1"),
        ],
    )
    def test_a_store_that_cannot_be_named_is_a_fault(self, home: Home, url: str, workers: str) -> None:
        home.environment["QUOTAS_REDIS_URL"] = url
        done = home.command("serve", "--port", "0", "--workers", workers, patience_s=15)
        assert done.returncode == 2
        assert "QUOTAS_REDIS_URL" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_good_file_is_good(self, home: Home) -> None:
        home.plans(SLOW)
        assert "good" in home.good("check-config", "quotas.yaml")


class TestStoreElsewhere:
    def test_a_service_starts_without_its_store(self, home: Home) -> None:
        home.environment["QUOTAS_REDIS_URL"] = f"unix://{home.folder}/none.sock"
        with home.serving() as serving:
            assert get(f"{serving.url}/healthz").status_code == 200
            assert get(f"{serving.url}/readyz").status_code == 503
            assert serving.stop() == 0


def test_a_look_for_garbage_leaves_out_what_a_worker_is_made_of() -> None:
    """In a process of its own: what is left out here is left out for good."""
    script = """
import gc
from pathlib import Path
from quotas import plan_files
from quotas.app import Worker
from quotas.configuration import ConfigFile
from quotas.serving import Settled
from quotas.settings import Settings
config = plan_files.parse("plans: {free: {limits: {a: {rate: 5/second}}}}", "test plans")
made = Settled(Worker(Settings(), ConfigFile(None), None, config, None, None))()
print(len(gc.get_objects()), gc.get_freeze_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    seen, left_out = map(int, done.stdout.split())
    assert left_out > 50_000
    assert seen < left_out / 100
