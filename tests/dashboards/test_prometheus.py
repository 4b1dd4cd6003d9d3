"""A real Prometheus scrapes a real service of four workers: every query of every panel and rule has an answer, what it
scraped is what the callers counted, and no counter goes back, also when a worker is killed and replaced.
"""

import math
import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.processes import Serving, until
from prometheus_client.parser import text_string_to_metric_families

from dashboards import queries
from dashboards.prometheus import Series
from dashboards.scene import JOB, WORKERS, Scene, scene
from dashboards.traffic import Event

from .promtool import find
from .test_names import DOCUMENTED

VALUES = {
    "job": JOB,
    "instance": ".*",
    "plan": ".*",
    "client": "acme",
    "limit": ".*",
    "trend": "1h",
    "__range": "10m",
    # What Grafana makes of a scrape each second.
    "__rate_interval": "4s",
}
MAY_BE_EMPTY = {
    "Firing alerts": "an alert waits for five minutes at least",
    "QuotasNotScraped": "it is scraped",
    "QuotasNoChecks": "there are checks",
    "QuotasChecksSlow": "how fast the machine is at the moment is no matter of this test",
    "QuotasIssuerKeysFailing": "a refresh is tried again after half a minute",
    "QuotasIssuerKeysStale": "the same",
    "QuotasReloadFailed": "the plan file is good",
    "QuotasWorkersMissing": "they are all there, or back a moment after",
    "QuotasClientNearLimit": "it is for what is used to 80 % and not to the end",
}
"""Panels and alerts whose queries may return nothing here, and why; every other query returns something."""

ASKED = [
    pytest.param(asked, id=f"{asked.dashboard}: {asked.panel} {asked.target.ref_id}")
    for name in queries.NAMES
    for asked in queries.asked(name)
]
RULES: list[dict[str, Any]] = [
    rule
    for file in sorted((queries.FOLDER / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]


@dataclass(frozen=True)
class Played:
    """The scene after its end, with what was scraped once all callers had their first answers."""

    scene: Scene
    first: Counter[tuple[str, str]]
    first_answered: Counter[tuple[str, str]]
    begun_s: float

    def now(self, expr: str) -> list[Series]:
        return self.scene.prometheus.now(queries.filled(expr, VALUES))


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """Some seconds of traffic through which the store stands still for a while, then some in which a worker dies."""
    find("prometheus")
    begun_s = time.time()
    with tempfile.TemporaryDirectory(prefix="quotas-scene-") as folder, scene(Path(folder)) as playing:
        # Longer than two scrapes, so that Prometheus sees counters rise.
        playing.play(8, [Event(3, playing.stall_store), Event(5.5, playing.resume_store)])
        first, first_answered = scraped(playing), playing.tally.answered.copy()
        assert playing.tally.lost == 0
        until(lambda: len(workers_of(playing)) == WORKERS)
        killed = workers_of(playing)[0]
        playing.play(6, [Event(2, lambda: os.kill(killed, signal.SIGKILL))])
        until(lambda: len(workers_of(playing)) == WORKERS and killed not in workers_of(playing))
        scraped(playing)
        yield Played(playing, first, first_answered, begun_s)


def workers_of(playing: Scene) -> list[int]:
    program = playing.service.program
    return Serving(program.process, program.log, program.log).workers()


def scraped(playing: Scene) -> Counter[tuple[str, str]]:
    """(client, outcome) -> checks, as Prometheus has them from a scrape that began after this call did."""
    asked_s = time.time()
    newest = "min(timestamp(quotas_check_duration_seconds_count))"
    until(lambda: any(series.samples[-1][1] > asked_s for series in playing.prometheus.now(newest)))
    found = playing.prometheus.now("sum by (client, outcome) (quotas_checks_total)")
    counted = {(each.labels["client"], each.labels["outcome"]): int(each.samples[-1][1]) for each in found}
    return Counter({key: value for key, value in counted.items() if value})


@pytest.mark.parametrize("asked", ASKED)
def test_every_query_of_every_panel_has_an_answer(played: Played, asked: queries.Asked) -> None:
    expr = queries.filled(asked.target.expr, VALUES)
    ends_s = time.time()
    found = (
        played.scene.prometheus.now(expr)
        if asked.target.instant
        else played.scene.prometheus.over(expr, played.begun_s, ends_s, 1)
    )
    if asked.panel not in MAY_BE_EMPTY:
        assert any(math.isfinite(value) for series in found for _, value in series.samples), expr
    names = [queries.named(asked.target.legend, series.labels) for series in found]
    assert len(names) == len(set(names)), "two series have one name"
    assert all(names)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.get("record") or rule["alert"]) for rule in RULES])
def test_every_rule_has_an_answer(played: Played, rule: dict[str, Any]) -> None:
    found = played.now(rule["expr"])
    if rule.get("alert") not in MAY_BE_EMPTY:
        assert found, rule["expr"]
    if "record" in rule:
        assert played.now(rule["record"])


def test_rules_are_evaluated_without_a_fault(played: Played) -> None:
    groups = played.scene.prometheus.http.get("/api/v1/rules").json()["data"]["groups"]
    states = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert states == dict.fromkeys((rule.get("record") or rule["alert"] for rule in RULES), "ok")


def test_totals_by_outcome_are_what_callers_counted(played: Played) -> None:
    assert played.first == played.first_answered
    outcomes = {outcome for _, outcome in played.first}
    assert outcomes == {
        "allowed",
        "rate_limited",
        "quota_exceeded",
        "never",
        "unauthenticated",
        "forbidden",
        "error",
    }


def test_totals_hold_through_the_death_of_a_worker(played: Played) -> None:
    """A check whose answer was lost with the worker may have been counted or not; no other may be missing."""
    last, answered = scraped(played.scene), played.scene.tally.answered
    assert answered - last == Counter()
    assert (last - answered).total() <= played.scene.tally.lost
    assert answered.total() > played.first_answered.total()


def test_degraded_answers_are_counted(played: Played) -> None:
    total = sum(series.samples[-1][1] for series in played.now("sum by (mode) (quotas_degraded_total)"))
    assert total == played.scene.tally.degraded > 0


def test_no_counter_goes_back_and_none_is_lost(played: Played) -> None:
    families = list(text_string_to_metric_families(played.scene.service.metrics()))
    names = {
        sample.name
        for family in families
        for sample in family.samples
        if family.type in {"counter", "histogram"} and not sample.name.endswith("_created")
    }
    assert "quotas_checks_total" in names
    assert "quotas_check_duration_seconds_bucket" in names
    (newest,) = played.now("timestamp(quotas_check_duration_seconds_count)")
    scraped_s = newest.samples[-1][1]
    for name in sorted(names):
        for series in played.scene.prometheus.now(f"{name}[10m]", scraped_s):
            values = [value for _, value in series.samples]
            assert values == sorted(values), (name, series.labels)
            assert series.samples[-1][0] == scraped_s, "the series is in the last scrape"


def test_labels_are_what_the_documents_say(played: Played) -> None:
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(played.scene.service.metrics()):
        for sample in family.samples:
            name = family.name + ("_total" if family.type == "counter" else "")
            seen.setdefault(name, set()).update(set(sample.labels) - {"le"})
    for name, labels in seen.items():
        assert labels == DOCUMENTED[name], name
    assert seen.keys() == DOCUMENTED.keys()


def test_a_limit_is_told_once_for_each_client(played: Played) -> None:
    found = played.now("count by (client, limit) (quotas_limit_used_ratio)")
    assert {("acme", "monthly"), ("dora", "monthly")} <= {
        (series.labels["client"], series.labels["limit"]) for series in found
    }
    assert all(series.samples[-1][1] == 1 for series in found)
    assert not any(re.search(r"\bpid=", line) for line in played.scene.service.metrics().splitlines())
