"""The load tests as programs, small: one verdict for real, and what the command refuses."""

import json
import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loadtests.plays import herd
from quotas.limits import Quota, Window
from quotas.windows import window_at

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtests.run", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_overshoot_is_0_over_several_workers(tmp_path: Path) -> None:
    """The same as a million takes in `make soak`: a quota, bursts, rates, alone and together."""
    file = tmp_path / "verdict.json"
    done = run("overshoot", "--takes", "20000", "--workers", "4", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(file.read_text("utf-8"))
    assert verdict["passed"]
    assert verdict["faults"] == []
    assert (verdict["takes"], verdict["overshoot"], verdict["workers"]) == (20_000, 0, 4)
    assert {client["client"]: client["left"] for client in verdict["clients"] if client["exact"]} == {
        "quota": 0,
        "burst": None,
        "both": 0,
    }


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["storm"], "invalid choice: 'storm'"),
        (["herd", "--duration", "5"], "herd has a length of its own"),
        (["steady", "--duration", "0"], "must be between 1 and"),
        (["steady", "--takes", "5"], "--takes is for overshoot"),
        (["all", "--web-port", "8089"], "--web-port is for one of"),
        (["steady", "--workers", "0"], "must be at least 1"),
    ],
)
def test_wrong_use_is_told(words: list[str], what: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert what in done.stderr


@pytest.mark.parametrize("offset_s", [0, 1, 1_799, 3_599])
def test_a_time_zone_that_is_made_has_hours_that_end_when_they_should(tmp_path: Path, offset_s: int) -> None:
    name = f"Made/{offset_s}"
    (tmp_path / "Made").mkdir()
    (tmp_path / name).write_bytes(herd.compiled(offset_s))
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[str(tmp_path), *before])
    try:
        noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
        assert noon.astimezone(zoneinfo.ZoneInfo(name)).utcoffset() == timedelta(seconds=offset_s)
        at_us = round(noon.timestamp()) * 1_000_000
        _, end_us = window_at(Quota(units=1, window=Window.HOUR, timezone=name), at_us)
    finally:
        zoneinfo.reset_tzpath(to=before)
    assert end_us - at_us == (3_600 - offset_s) * 1_000_000
