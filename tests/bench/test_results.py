import http.client
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from loadtests.bench import __main__ as bench
from loadtests.bench import accounts, cases, chart, gateway, report, results, rounds, servers, stages, takes
from loadtests.bench.cases import BASELINES, MILLIONS, NUMBER_OF_LIMITS, Case, Group, Server
from loadtests.bench.gateway import Added, Took
from loadtests.bench.generators import Bundled
from loadtests.bench.results import Results
from loadtests.bench.rounds import Load, Measured, Round
from loadtests.bench.takes import Takes

ROOT = Path(__file__).parents[2]
LOAD = Load(Bundled(), 1, 1)
TAKES = Takes(
    {"the least script": 2.0, "a take": 4.0, "a take without a history": 3.5},
    {1: 3.0, 2: 4.0, 4: 6.0, 8: 10.0},
    {"state": 208, "key": 501},
)


NGINX = [
    (Took(100, 1000, 500), Took(300, 2500, 490)),
    (Took(100, 1000, 505), Took(200, 3500, 495)),
    (Took(200, 2000, 510), Took(250, 3000, 500)),
]


def measured(case: Case, *rounds_: Round) -> Measured:
    return Measured(case, list(rounds_), 1 << 20, 2 << 20)


def made_up(*, million: bool = True, added: Added | None = None) -> Results:
    """Ours has 0.8 of the bare app's rate, for 1.1 of its CPU, ten times limits and 20 times it when it tells."""
    rates = {Server.BARE: (1000.0, 10.0), Server.QUOTAS: (800.0, 11.0), Server.LIMITS: (80.0, 90.0)}
    rates |= {Server.LIMITS_TELLING: (40.0, 180.0)}
    baselines = [measured(each, Round(*rates[each.server])) for each in BASELINES.cases if each.server in rates]
    groups = {
        BASELINES.name: baselines,
        NUMBER_OF_LIMITS.name: [measured(each, Round(1, 1, 1, 1.0, 0.001)) for each in NUMBER_OF_LIMITS.cases],
    }
    if million:
        groups[MILLIONS.name] = [
            measured(each, Round(rate)) for each, rate in zip(MILLIONS.cases, (100, 80, 90), strict=True)
        ]
    return Results(groups, TAKES, added)


def test_the_budget_says_what_is_met_and_what_is_missed() -> None:
    rows = results.budget(made_up(added=Added(1000, 500, NGINX, "wrk")))
    assert [(row.value, row.standing) for row in rows] == [
        (0.8, "met"),
        (10, "met"),
        (20, "met"),
        (1.1, "missed"),
        (2, "met"),
        (pytest.approx(1), "met"),
        (1, "met"),
        (0.8, "missed"),
        (208, "met"),
        (501, "missed"),
        (1.5, "met"),
    ]


def test_a_table_tells_of_nginx_and_of_others() -> None:
    found = made_up(added=Added(1000, 500, NGINX, "wrk"))
    lines = list(report.text(cases.groups(quick=False, million=True, node=True), found, LOAD))
    assert "  median     0.10     0.25     0.10" in lines
    assert "  p99        1.00     3.00     1.50" in lines
    assert "  load: wrk; 98% to 102% of that rate came" in lines
    assert lines[1] == "nobody can tell what else ran on the machine"
    assert "OFF" not in report.others(replace(found, others=0.05))
    assert "THESE FIGURES ARE OFF" in report.others(replace(found, others=0.5))


@pytest.mark.parametrize("came", [460, 540])
def test_a_table_tells_when_another_rate_came(came: float) -> None:
    found = made_up(added=Added(1000, 500, [(Took(1, 1, 500), Took(1, 1, came))], "wrk"))
    lines = list(report.text(cases.groups(quick=False, million=True, node=True), found, LOAD))
    assert sum("TOO FAR OFF" in line for line in lines) == 1


def test_what_was_not_measured_is_neither() -> None:
    rows = results.budget(made_up(million=False))
    assert [row.what for row in rows if row.standing == "not measured"] == [
        "checks/s with 1,000,000 clients, against 1,000",
        "p99 that the check adds in nginx, at half of full load",
    ]


def test_a_look_up_for_each_check_is_missed() -> None:
    found = made_up()
    found.groups[NUMBER_OF_LIMITS.name][2].rounds[:] = [Round(1, 1, 1, 1.0, 0.5)]
    (row,) = (row for row in results.budget(found) if row.what.startswith("commands"))
    assert (row.value, row.standing) == (1.5, "missed")


def test_medians_leave_out_what_was_not_measured() -> None:
    each = measured(cases.OURS, Round(1, None), Round(9, 4.0), Round(3, 2.0))
    assert each.rate == 3
    assert each.median(lambda round_: round_.server_us) == 3
    assert each.median(lambda round_: round_.store_us) is None


def test_a_small_run_is_told_as_table_json_and_chart(tmp_path: Path) -> None:
    """The real servers, in one short round of a few clients."""
    told: list[str] = []
    small = Group(
        BASELINES.name,
        "small",
        (Case(name="bare ASGI app", server=Server.BARE), Case(name=cases.OURS.name, clients=20)),
    )
    found = rounds.measure(small, LOAD, told.append)
    assert told[-1] == "baselines: round 1 of 1"
    bare, ours = found
    assert bare.rounds[0].scripts is None
    assert ours.rounds[0].scripts == pytest.approx(1, abs=0.01)
    assert ours.rounds[0].lookups == pytest.approx(0, abs=0.01)
    if Path("/proc").exists():
        assert all(each.server_bytes and each.median(lambda round_: round_.server_us) for each in found)
        assert ours.store_bytes
        assert ours.median(lambda round_: round_.store_us)
    all_found = Results({small.name: found}, TAKES, None)
    lines = list(report.text([small], all_found, LOAD))
    assert any(line.startswith("quotas, hot road") for line in lines)
    assert lines[0].startswith("load: bundled asyncio client")
    document = report.document(all_found, LOAD)
    assert document["groups"]["baselines"][1]["rounds"][0]["rate"] == ours.rate
    assert len(document["budget"]) == 11
    chart.draw(all_found, report.about(LOAD), tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as drawn:
        assert drawn.size == (1210, 814)
        assert len(drawn.getcolors() or ()) > 4, "something is drawn"


def test_a_chart_of_everything(tmp_path: Path) -> None:
    chart.draw(made_up(), "made up", tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as drawn:
        assert drawn.format == "PNG"


def test_a_quick_run_has_fewer_clients() -> None:
    full = cases.groups(quick=False, million=True, node=True)
    quick = cases.groups(quick=True, million=False, node=False)
    assert max(case.clients for group in full for case in group.cases) == 1_000_000
    assert max(case.clients for group in quick for case in group.cases) == 10_000
    assert {case.clients for case in full[0].cases} == {10_000}
    assert all(case.server is not Server.FASTIFY for group in quick for case in group.cases)
    for group in (*full, *quick):
        assert len({case.name for case in group.cases}) == len(group.cases)
        assert all(f"{case.clients:,}" in case.name for case in group.cases if "clients" in case.name)


def test_one_group_alone_is_measured_without_nginx(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure(group: Group, load: Load, _say: object) -> list[Measured]:
        asked.append(f"{group.name}, {load.rounds} rounds")
        return [measured(case, Round(1)) for case in group.cases]

    monkeypatch.setattr(rounds, "measure", measure)
    monkeypatch.setattr(takes, "measure", lambda _: TAKES)
    monkeypatch.setattr(sys, "argv", ["bench", "--group", "million", "--rounds", "15"])
    assert bench.main() == 0
    assert asked == ["million, 15 rounds"]
    said = capsys.readouterr().out
    assert "1,000,000 clients, uniform" in said
    assert re.search("checks/s with 1,000,000 clients, against 1,000 .* met", said)
    assert re.search("in nginx.* not measured", said)


def test_nginx_asks_or_does_not(tmp_path: Path) -> None:
    """Without a key the one is 401 and the other passes."""
    tmp_path.chmod(0o755)
    case = Case(name="nginx", clients=5)
    with (
        servers.started(case, tmp_path / "service") as (serving, walk),
        gateway.gateways(tmp_path, serving.port) as ports,
    ):
        assert [status(port) for port in ports] == [401, 200]
        assert gateway.took(LOAD, ports[1], walk, 50, 0).p99_us > 0


def status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


STACKS = """\
main (run.py:1);data_received (quotas/hot_road.py:70);epoll_pwait (libc.so.6) 100
main (run.py:1);data_received (quotas/hot_road.py:70);write (libc.so.6) 7
main (run.py:1);data_received (quotas/pipe.py:70);string2ll (read.c:3) 5
main (run.py:1);told (quotas/checks.py:230);_observe (quotas/metrics.py:3) 4
main (run.py:1);told (quotas/checks.py:230);Py_DECREF (object.h:537) 3
main (run.py:1);told (quotas/checks.py:230);gc_collect_main (libpython3.11.so.1.0) 2
main (run.py:1);elsewhere (other.py:1) 1
"""


def test_a_look_belongs_to_the_innermost_stage() -> None:
    assert stages.counts(STACKS) == {
        stages.KERNEL: 7,
        "pipe to Redis: packing, sending, parsing": 5,
        "metrics and last use": 4,
        "check: plan, decision, answer": 3,
        stages.GARBAGE: 2,
        stages.REST: 1,
    }


def test_every_file_of_a_stage_exists() -> None:
    """A file that is called otherwise now would count as something else."""
    for file in (file for files in stages.STAGES.values() for file in files if file.startswith("quotas/")):
        assert (ROOT / f"{file}.py").exists(), file


@pytest.mark.skipif(not Path("/proc").exists(), reason="there are no process accounts")
def test_accounts_are_of_a_process_and_its_children() -> None:
    inner = "sum(range(10**7)); print(1, flush=True); input()"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"1\n"
        pids = accounts.tree(process.pid)
        assert len(pids) == 2
        used = accounts.cpu_us(pids)
        alone = accounts.cpu_us([process.pid])
        assert used is not None
        assert alone is not None
        assert used > alone > 0
        assert (accounts.peak_bytes(pids) or 0) > (accounts.peak_bytes([process.pid]) or 0) > 1 << 20
        process.stdin.write(b"\n")
    assert accounts.cpu_us(pids) is None
    assert accounts.cpu_us([]) is None
    assert 0 <= (accounts.busy() or 0) <= 1


def run(*words: str, path: str = os.environ["PATH"]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtests.bench", *words]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    assert run("--rounds", "0").returncode == 2
    helped = run("--help")
    assert helped.returncode == 0
    assert "--million" in helped.stdout
    done = run("--generator", "wrk", path=str(tmp_path))
    assert done.returncode == 1
    assert "no figures: wrk is not installed" in done.stderr
