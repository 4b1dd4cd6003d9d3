"""`quotas doctor`: what it prints, for people and for machines, and that it leaves everything as it was."""

from contextlib import closing
from pathlib import Path
from socket import create_server

import pytest
from takes import with_store

from quotas import doctor, plan_files
from quotas.findings import Finding, Verdict
from quotas.registry import Registry
from quotas.store import Store

from .terminal import Done, Terminal, snapshot

PLANS = """
plans:
  free: {limits: {per-second: {rate: 5/second}}}
  pro: {limits: {per-second: {rate: 50/second}}}
"""
SECRET = "correct-horse-battery-staple"
ANY_PORT = ("--port", "0")


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    terminal.file("quotas.yaml", PLANS)
    return terminal


@pytest.fixture
def alone(tmp_path: Path) -> Terminal:
    """A terminal without a store of its own to name, in a folder with plans."""
    terminal = Terminal(tmp_path)
    terminal.file("quotas.yaml", PLANS)
    return terminal


def said(done: Done) -> dict[str, list[tuple[str, str]]]:
    """Verdicts and messages by subject."""
    found: dict[str, list[tuple[str, str]]] = {}
    for each in done.json["findings"]:
        found.setdefault(each["subject"], []).append((each["verdict"], each["message"]))
    return found


class TestAllIsWell:
    def test_for_people(self, desk: Terminal) -> None:
        desk.good("clients", "create", "acme", "--plan", "pro")
        rows = desk.good("doctor", *ANY_PORT).rows
        assert all(row.startswith("ok ") for row in rows[:-2]), rows
        assert "ok clients all 1 looked at, each on a plan that exists" in rows
        assert rows[-2:] == ["", "nothing is wrong"]

    def test_for_machines(self, desk: Terminal) -> None:
        told = desk.good("doctor", *ANY_PORT, "--json").json
        assert told["verdict"] == "ok"
        assert {each["verdict"] for each in told["findings"]} == {"ok"}
        assert all(set(each) == {"subject", "verdict", "message", "advice"} for each in told["findings"])

    def test_everything_stays_as_it_was(self, desk: Terminal, redis_url: str) -> None:
        desk.good("clients", "create", "acme", "--plan", "pro")
        assert desk("keys", "create", "--client", "acme", "--name", "k").code == 0
        before, files = snapshot(redis_url), sorted(desk.folder.iterdir())
        desk.good("doctor", *ANY_PORT)
        assert snapshot(redis_url) == before
        assert sorted(desk.folder.iterdir()) == files

    def test_secrets_are_not_told(self, desk: Terminal) -> None:
        desk.environment |= {
            "QUOTAS_KEY_PEPPER": SECRET,
            "QUOTAS_ADMIN_TOKEN": f"ci:{SECRET}",
            "QUOTAS_PEPPER": SECRET,
            "QUOTAS_KEY_PEPPER_PREVIOUS": SECRET[:12],
        }
        done = desk("doctor", *ANY_PORT, "--json")
        assert done.code == 1
        assert SECRET[:12] not in done.out + done.err


class TestExitCodes:
    def test_a_warning_is_no_problem(self, desk: Terminal) -> None:
        desk.environment["QUOTAS_HOT_ROAD"] = "0"
        done = desk.good("doctor", *ANY_PORT)
        assert done.rows[-1] == "1 warning"
        assert "→ unset QUOTAS_HOT_ROAD" in done.rows

    def test_a_problem(self, desk: Terminal) -> None:
        desk.environment |= {"QUOTAS_LOG_LEVEL": "loud", "QUOTAS_HOT_ROAD": "0", "QUOTAS_WORKERS": "2"}
        done = desk("doctor", *ANY_PORT)
        assert (done.code, done.err) == (1, "")
        assert done.rows[-1] == "1 problem and 2 warnings"
        assert "problem settings QUOTAS_LOG_LEVEL: must be debug, info, warning or error" in done.rows

    @pytest.mark.parametrize("words", [("--port", "x"), ("--workers", "0"), ("--connections", "0"), ("more",)])
    def test_wrong_use(self, desk: Terminal, words: tuple[str, ...]) -> None:
        done = desk("doctor", *words)
        assert (done.code, done.out) == (2, "")


class TestPlanFile:
    def test_every_fault_is_told_and_the_store_is_looked_at_all_the_same(self, desk: Terminal) -> None:
        desk.file("quotas.yaml", PLANS + "headers: none\nanonymous: {plan: gold}\n")
        done = desk("doctor", *ANY_PORT, "--json")
        found = said(done)
        assert done.code == 1
        assert [verdict for verdict, _ in found["plan file"]] == ["problem", "problem"]
        assert found["store take"][0][0] == "ok"
        assert "clients" not in found

    def test_the_one_that_is_named(self, desk: Terminal) -> None:
        desk.file("other.yaml", "plans: {}\n")
        assert desk("doctor", *ANY_PORT, "--config", "other.yaml").code == 1

    def test_issuers_are_asked_and_nothing_is_logged(self, desk: Terminal) -> None:
        issuer = (
            "issuers: [{issuer: 'https://id.example.com', audience: [api], algorithms: [ES256], jwks_file: no.json}]\n"
        )
        desk.file("quotas.yaml", PLANS + issuer)
        done = desk("doctor", *ANY_PORT, "--json")
        assert (done.code, done.err) == (1, "")
        assert said(done)["issuer https://id.example.com"][0][0] == "problem"

    def test_a_secret_that_is_missing_is_one_problem(self, desk: Terminal) -> None:
        issuer = "issuers: [{issuer: 'https://id.example', audience: [api], algorithms: [HS256], secret_env: HS}]\n"
        desk.file("quotas.yaml", PLANS + issuer)
        done = desk("doctor", *ANY_PORT)
        assert (done.code, done.rows[-1]) == (1, "1 problem")
        assert "problem issuer https://id.example HS is not set in the environment" in done.rows

    def test_everybody_is_trusted(self, desk: Terminal) -> None:
        desk.file("quotas.yaml", PLANS + 'trusted_proxies: ["0.0.0.0/0"]\n')
        done = desk("doctor", *ANY_PORT, "--json")
        assert (done.code, said(done)["trusted proxies"][0][0]) == (1, "problem")


class TestClients:
    def test_on_a_plan_that_is_gone(self, desk: Terminal) -> None:
        desk.good("clients", "create", "acme", "--plan", "pro")
        desk.good("clients", "create", "bolt", "--plan", "free")
        desk.file("quotas.yaml", "plans: {free: {limits: {b: {rate: 1/second}}}}\n")
        done = desk("doctor", *ANY_PORT, "--json")
        assert done.code == 1
        assert said(done)["clients"] == [
            (
                "problem",
                "all 2 looked at; on plans that do not exist (pro): 1 client (acme), refused with `no_plan`",
            )
        ]

    def test_of_many_the_first_are_looked_at(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        config = plan_files.parse(PLANS, "test")

        async def work(store: Store) -> list[Finding]:
            found = []
            for number in range(3):
                await Registry(store).create_client(f"client-{number}", "free", 1)
                found.append(await doctor.clients(store, config))
            return found

        monkeypatch.setattr(doctor, "MOST_CLIENTS", 2)
        told = [each.message.partition(",")[0] for each in with_store(redis_url, work)]
        assert told == ["all 1 looked at", "all 2 looked at", "the first 2 looked at"]

    def test_as_long_as_there_is_time(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def work(store: Store) -> Finding:
            await Registry(store).create_client("acme", "free", 1)
            return await doctor.clients(store, plan_files.parse(PLANS, "test"))

        monkeypatch.setattr(doctor, "CLIENTS_S", 0)
        finding = with_store(redis_url, work)
        assert (finding.verdict, finding.message.partition(" looked")[0]) == (Verdict.OK, "the first 0")


class TestStores:
    def test_one_that_is_not_there(self, desk: Terminal) -> None:
        desk.environment["QUOTAS_REDIS_URL"] = f"redis://user:{SECRET}@127.0.0.1:1"
        done = desk("doctor", *ANY_PORT, "--json")
        found = said(done)
        assert done.code == 1
        assert SECRET not in done.out
        assert [verdict for verdict, _ in found["store"]] == ["problem"]
        assert found["store"][0][1].startswith("redis://127.0.0.1:1 does not serve: connect: ")
        assert "clients" not in found

    @pytest.mark.parametrize("url", [f"http://{SECRET}", f"redis://{SECRET}:{SECRET}", "redis://h/x?socket_timeout=y"])
    def test_a_url_that_cannot_be_read(self, desk: Terminal, url: str) -> None:
        desk.environment["QUOTAS_REDIS_URL"] = url
        done = desk("doctor", *ANY_PORT, "--json")
        assert (done.code, done.err) == (1, "")
        assert SECRET not in done.out
        assert "QUOTAS_REDIS_URL" in done.out
        assert not (desk.folder / ".quotas").exists()
        assert "store take" not in said(done)

    def test_one_that_does_not_answer_in_time(self, desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "STORE_S", 0)
        done = desk("doctor", *ANY_PORT, "--json")
        assert done.code == 1
        assert said(done)["store"][-1][1].startswith("not all was looked at: timeout")

    def test_a_private_one_that_has_never_been(self, alone: Terminal) -> None:
        done = alone.good("doctor", *ANY_PORT, "--json")
        found = said(done)
        assert "will be made at the first start" in found["store"][0][1]
        assert found["store take"][0][0] == "ok"
        assert [each.name for each in alone.folder.iterdir()] == ["quotas.yaml"]

    def test_a_private_one_with_clients(self, alone: Terminal) -> None:
        alone.good("clients", "create", "acme", "--plan", "pro")
        found = said(alone.good("doctor", *ANY_PORT, "--json"))
        assert found["clients"] == [("ok", "all 1 looked at, each on a plan that exists")]

    def test_a_data_directory_that_is_a_file(self, alone: Terminal) -> None:
        alone.environment["QUOTAS_DATA_DIR"] = "quotas.yaml"
        done = alone("doctor", *ANY_PORT, "--json")
        assert (done.code, done.err) == (1, "")
        assert "quotas.yaml" in said(done)["store"][-1][1]

    def test_no_valkey_to_start(self, alone: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("quotas.valkey.shutil.which", lambda _: None)
        done = alone("doctor", *ANY_PORT, "--json")
        assert done.code == 1
        assert "no Valkey to start" in said(done)["store"][-1][1]


class TestOptions:
    def test_a_port_that_is_taken(self, desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("quotas.host_health.ASK_S", 0.05)
        with closing(create_server(("127.0.0.1", 0))) as held:
            done = desk("doctor", "--port", str(held.getsockname()[1]), "--json")
        assert (done.code, said(done)["port"][0][0]) == (1, "problem")

    def test_the_admin_port_too(self, desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("quotas.host_health.ASK_S", 0.05)
        with closing(create_server(("127.0.0.1", 0))) as held:
            number = str(held.getsockname()[1])
            desk.environment |= {"QUOTAS_ADMIN_TOKEN": SECRET, "QUOTAS_ADMIN_PORT": number}
            done = desk("doctor", *ANY_PORT, "--json")
        assert (done.code, said(done)["admin port"][0][0]) == (1, "problem")

    def test_workers_and_connections(self, desk: Terminal) -> None:
        done = desk("doctor", *ANY_PORT, "--workers", "64", "--connections", str(1 << 40), "--json")
        found = said(done)
        assert found["workers"][0][1].startswith("64 workers")
        assert found["shared memory"][0][0] == "ok"
        assert found["file descriptors"][0][0] == "problem" or "without a limit" in found["file descriptors"][0][1]
