"""Plans that change under a running service: in force on every worker soon, or not at all and said so."""

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

import httpx
import pytest
from redis import Redis

from loadtests.processes import standing_still
from quotas import embedded, plan_files
from quotas import reloading as reloading_module
from quotas.configuration import ConfigFile
from quotas.metrics import Metrics
from quotas.operations import Operations
from quotas.planbook import Planbook
from quotas.plans import Config
from quotas.reloading import Reloader

from .processes import PATIENCE_S, Home, Serving, until

ONE = "plans: {free: {limits: {yearly: {quota: 111/year}}}}"
TWO = "plans: {free: {limits: {yearly: {quota: 222/year}}}}"
THREE = "plans: {free: {limits: {yearly: {quota: 333/year}}}}"
BAD = """
plans:
  free:
    limits:
      yearly: {quota: 999/fortnight}
      second: {rate: 5/second, burts: 3}
unknown: 1
"""
BAD_PATHS = ["plans.free.limits.yearly.quota", "plans.free.limits.second.burts", "unknown"]
GOLD = Template(
    "plans: {free: {limits: {yearly: {quota: 111/year}}}, gold: {limits: {yearly: {quota: 777/year}}}}\n"
    "clients: {acme: {plan: $plan}}\n"
)
FREE = Template("plans: {free: {limits: {yearly: {quota: 111/year}}}}\nclients: {acme: {plan: $plan}}\n")
PLAN_OF = {111: "free", 777: "gold"}
METRIC = "quotas_config_last_reload_successful"


class Reloading:
    """A service whose plan file a test changes, and a client of it."""

    def __init__(self, home: Home, serving: Serving, file: Path) -> None:
        self.home = home
        self.serving = serving
        self.file = file
        self.secret = ""
        # A connection for each question: whichever worker is not standing still takes it.
        self.http = httpx.Client(
            base_url=serving.url,
            timeout=PATIENCE_S,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def register(self, client: str = "acme") -> None:
        """A key of a client that there is, or is soon: a service makes those of its file once it has its store."""
        until(lambda: client in self.home.operate(self._names))
        self.secret = self.home.key(client)

    @staticmethod
    async def _names(operations: Operations) -> list[str]:
        return [client.name for client in await operations.clients.all()]

    def replace(self, text: str) -> None:
        """Have another file in its place at once, as editors and deployments do."""
        other = self.file.with_suffix(".new")
        other.write_text(text, "utf-8")
        other.replace(self.file)

    def look(self) -> httpx.Response:
        headers = {"x-api-key": self.secret, "x-quotas-cost": "0"}
        return self.http.get("/check", headers=headers)

    def units(self) -> int | None:
        """What the worker that answers thinks the quota is."""
        policy = self.look().headers.get("ratelimit-policy")
        return None if policy is None else int(policy.partition(";q=")[2].partition(";")[0])

    def until_in_force(self, units: int) -> None:
        workers = self.serving.workers()
        assert workers
        until(lambda: self.serving.on_each_worker(self.units, workers) == [units] * len(workers))

    def successful(self) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith(METRIC)]
        return float(line.rpartition(" ")[2])

    def said(self, words: str) -> list[str]:
        return [line for line in self.serving.err().splitlines() if words in line]


@contextmanager
def reloading(folder: Path, text: str = ONE, *, file: Path | None = None, client: bool = True) -> Iterator[Reloading]:
    """Two workers that serve this file; its client is `acme`, made here unless the file does."""
    home = Home(folder)
    if file is None:
        file = folder / "plans.yaml"
        file.write_text(text, "utf-8")
    home.environment["QUOTAS_CONFIG"] = str(file)  # For the commands beside it.
    with home.serving("--workers", "2", "--config", str(file)) as serving:
        running = Reloading(home, serving, file)
        if client:
            home.create("acme")
        running.register()
        until(lambda: len(serving.workers()) == 2)
        yield running


def test_a_changed_file_is_in_force_on_every_worker(tmp_path: Path) -> None:
    """Replaced, and written in place; what comes last counts."""
    with reloading(tmp_path) as running:
        running.until_in_force(111)
        before = running.serving.workers()
        running.replace(TWO)
        running.until_in_force(222)
        running.file.write_text(THREE, "utf-8")
        running.until_in_force(333)
        running.replace(ONE)
        running.replace(TWO)
        running.until_in_force(222)
        assert running.successful() == 1
        assert running.serving.workers() == before


def test_sighup_reads_a_file_that_does_not_look_changed(tmp_path: Path) -> None:
    with reloading(tmp_path) as running:
        running.until_in_force(111)
        workers = running.serving.workers()
        with standing_still(workers):  # So that nobody sees it between the two.
            was = running.file.stat()
            running.file.write_text(TWO, "utf-8")
            os.utime(running.file, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert len(ONE) == len(TWO)
        running.serving.process.send_signal(signal.SIGHUP)
        running.until_in_force(222)
        assert len(running.said("was reloaded")) == 2
        assert running.serving.workers() == workers
        assert running.serving.stop() == 0


def test_sighup_reaches_a_worker_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plans(ONE)
    with home.serving() as serving:
        running = Reloading(home, serving, tmp_path / "quotas.yaml")
        home.create("acme")
        running.register()
        until(lambda: running.units() == 111)
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: len(running.said("was reloaded")) == 1)
        assert running.units() == 111
        home.plans(TWO)
        until(lambda: running.units() == 222)
        assert serving.stop() == 0


def test_the_link_swap_of_a_config_map(tmp_path: Path) -> None:
    """As the kubelet does it: `..data` is a link to a folder, and another link is renamed over it."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def publish(name: str, text: str) -> None:
        (folder / name).mkdir()
        (folder / name / "plans.yaml").write_text(text, "utf-8")
        (folder / "..data_tmp").symlink_to(name)
        (folder / "..data_tmp").rename(folder / "..data")

    publish("..2026_06_10", ONE)
    (folder / "plans.yaml").symlink_to("..data/plans.yaml")
    with reloading(tmp_path, file=folder / "plans.yaml") as running:
        running.until_in_force(111)
        old = folder / "..2026_06_10"
        publish("..2026_06_11", TWO)
        (old / "plans.yaml").unlink()
        old.rmdir()
        running.until_in_force(222)
        publish("..2026_06_12", BAD)
        until(lambda: running.successful() == 0)
        publish("..2026_06_13", THREE)
        running.until_in_force(333)
        until(lambda: running.successful() == 1)


class TestBadFiles:
    def test_the_old_plans_stay_and_it_is_said_once_by_each_worker(self, tmp_path: Path) -> None:
        with reloading(tmp_path) as running:
            running.until_in_force(111)
            running.replace(BAD)
            until(lambda: running.successful() == 0 and len(running.said("not reloaded")) == 2)
            assert running.serving.on_each_worker(running.units) == [111, 111]
            for line in running.said("not reloaded"):
                assert str(running.file) in line
                assert all(f"{path}: " in line for path in BAD_PATHS)
            running.replace(TWO)
            running.until_in_force(222)
            until(lambda: running.successful() == 1)
            assert len(running.said("not reloaded")) == 2

    def test_a_file_that_goes_and_comes_back(self, tmp_path: Path) -> None:
        with reloading(tmp_path) as running:
            running.until_in_force(111)
            running.file.unlink()
            until(lambda: running.successful() == 0)
            assert running.serving.on_each_worker(running.units) == [111, 111]
            running.replace(ONE)
            until(lambda: running.successful() == 1)
            assert running.serving.on_each_worker(running.units) == [111, 111]

    def test_whatever_is_in_it_a_worker_goes_on(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        home.plans(ONE)
        with home.serving() as serving:
            running = Reloading(home, serving, tmp_path / "quotas.yaml")
            home.create("acme")
            running.register()
            for content in (b"", b"\xff\xfe", b"[" * 100_000):
                running.file.write_bytes(content)
                until(lambda: running.successful() == 0)
                assert running.units() == 111
                running.replace(ONE)
                until(lambda: running.successful() == 1)
            running.file.unlink()
            running.file.mkdir()
            until(lambda: running.successful() == 0)
            running.file.rmdir()
            running.replace(TWO)
            until(lambda: running.units() == 222 and running.successful() == 1)

    def test_a_key_can_be_revoked_meanwhile(self, tmp_path: Path) -> None:
        """An emergency does not wait for a file to be put right that it has nothing to do with."""
        with reloading(tmp_path) as running:
            (key,) = json.loads(running.home.good("keys", "list", "--client", "acme", "--json"))
            running.replace(BAD)
            done = running.home.command("keys", "revoke", key["id"], "--yes")
            assert (done.returncode, done.stderr) == (0, "")
            assert running.look().status_code == 401

    def test_a_worker_that_is_replaced_meanwhile_has_the_plans_of_the_others(self, tmp_path: Path) -> None:
        """The old plans are those that were in force, not those that the service started with."""
        with reloading(tmp_path) as running:
            running.until_in_force(111)
            running.replace(TWO)
            running.until_in_force(222)
            running.replace(BAD)
            until(lambda: running.successful() == 0 and len(running.said("not reloaded")) == 2)
            before = running.serving.workers()
            os.kill(before[0], signal.SIGKILL)
            until(lambda: before[0] not in running.serving.workers() and len(running.serving.workers()) == 2)
            assert running.serving.on_each_worker(running.units) == [222, 222]


def test_a_large_file_is_read_while_checks_go_on(tmp_path: Path) -> None:
    """Ten thousand clients are seconds of work; other tasks of the worker have their turns meanwhile."""
    file = tmp_path / "quotas.yaml"
    file.write_text(ONE + "\nclients:\n" + "".join(f"  client-{n}: {{plan: free}}\n" for n in range(2_000)), "utf-8")
    turns = 0

    async def work() -> None:
        nonlocal turns

        async def adopt(_: Config) -> None:
            """No registry here."""

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        watched = ConfigFile(file)
        book = Planbook(plan_files.parse(TWO, "before"))
        async with Reloader(
            file=watched, known=watched.fingerprint(), planbook=book, use=book.use, metrics=Metrics(), adopt=adopt
        ) as reloader:
            task = asyncio.create_task(others())
            await asyncio.sleep(0)
            turns = 0
            assert await reloader.reload()
            task.cancel()
        assert list(book.config.clients)[-1] == "client-1999"

    asyncio.run(work())
    assert turns > 10


def test_a_bad_file_stays_told_when_the_clients_of_the_one_before_are_kept_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading_module, "ADOPT_AFTER_S", 0)
    file = tmp_path / "quotas.yaml"
    metrics = Metrics()

    async def work() -> None:
        asked, may, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def adopt(config: Config) -> None:
            if config.clients:
                asked.set()
                await may.wait()
                asyncio.get_running_loop().call_soon(done.set)

        file.write_text(GOLD.substitute(plan="free"), "utf-8")
        watched = ConfigFile(file)
        book = Planbook(plan_files.parse(TWO, "before"))
        async with Reloader(
            file=watched, known=watched.fingerprint(), planbook=book, use=book.use, metrics=metrics, adopt=adopt
        ) as reloader:
            assert await reloader.reload()
            await asyncio.wait_for(asked.wait(), PATIENCE_S)
            file.write_text(BAD, "utf-8")
            assert not await reloader.reload()
            may.set()
            await asyncio.wait_for(done.wait(), PATIENCE_S)
            assert f"{METRIC} 0.0" in metrics.exposition().splitlines()

    asyncio.run(work())


class TestClientsOfTheFile:
    def test_they_are_created_and_moved_at_the_start_and_on_reload(self, tmp_path: Path) -> None:
        with reloading(tmp_path, GOLD.substitute(plan="free"), client=False) as running:
            running.until_in_force(111)
            running.replace(GOLD.substitute(plan="gold"))
            running.until_in_force(777)
            running.replace(GOLD.substitute(plan="gold").replace("clients: {", "clients: {new: {plan: free}, "))
            running.register("new")
            running.until_in_force(111)
            assert running.serving.stop() == 0
            running.file.write_text(GOLD.substitute(plan="free"), "utf-8")
        with reloading(tmp_path, file=tmp_path / "plans.yaml", client=False) as running:
            running.until_in_force(111)

    def test_what_was_spent_stays_spent(self, tmp_path: Path) -> None:
        with reloading(tmp_path, GOLD.substitute(plan="free"), client=False) as running:
            assert running.http.get("/check", headers={"x-api-key": running.secret}).status_code == 200
            running.replace(GOLD.substitute(plan="gold"))
            running.until_in_force(777)
            assert running.look().headers["ratelimit"].startswith('"yearly";r=776;')

    @pytest.mark.parametrize(("before", "after"), [((FREE, 111), (GOLD, 777)), ((GOLD, 777), (FREE, 111))])
    def test_a_move_in_one_file_with_its_plan_refuses_nobody(
        self, tmp_path: Path, before: tuple[Template, int], after: tuple[Template, int]
    ) -> None:
        """The plan comes with the file that moves the client to it, or goes with the file that moves it away."""
        statuses: Counter[int] = Counter()
        ended = threading.Event()
        with reloading(tmp_path, before[0].substitute(plan=PLAN_OF[before[1]]), client=False) as running:
            running.until_in_force(before[1])

            def load() -> None:
                while not ended.is_set():
                    statuses[running.look().status_code] += 1

            with ExitStack() as stack:
                threads = [threading.Thread(target=load) for _ in range(2)]
                for thread in threads:
                    thread.start()
                    stack.callback(thread.join)
                stack.callback(ended.set)
                running.replace(after[0].substitute(plan=PLAN_OF[after[1]]))
                until(lambda: running.units() == after[1])
                running.until_in_force(after[1])
        assert set(statuses) == {200}

    def test_a_store_that_is_away_delays_them_and_no_more(self, tmp_path: Path) -> None:
        """When it is back, the file that could not be taken over is, without anybody's help."""
        data = tmp_path / "store"
        data.mkdir()
        home = Home(tmp_path)
        home.plans(GOLD.substitute(plan="free"))
        with ExitStack() as held, ExitStack() as stack:
            url = held.enter_context(embedded.hold(data))
            home.environment |= {"QUOTAS_REDIS_URL": url}
            running = Reloading(home, stack.enter_context(home.serving()), tmp_path / "quotas.yaml")
            running.register()
            until(lambda: running.units() == 111)
            with Redis(unix_socket_path=str(data / "valkey.sock")) as store:
                assert store.waitaof(1, 0, PATIENCE_S * 1_000)[0] == 1
            os.kill(int((data / "valkey.pid").read_text()), signal.SIGKILL)
            held.close()
            running.replace(GOLD.substitute(plan="gold"))
            until(lambda: bool(running.said("cannot be kept")))
            assert held.enter_context(embedded.hold(data)) == url
            until(lambda: running.units() == 777)
            until(lambda: running.successful() == 1)

    def test_a_service_with_such_a_file_starts_without_its_store(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        home.environment["QUOTAS_REDIS_URL"] = f"unix://{tmp_path}/none.sock"
        home.plans(GOLD.substitute(plan="free"))
        with home.serving() as serving:
            assert httpx.get(f"{serving.url}/healthz", timeout=PATIENCE_S, trust_env=False).status_code == 200
