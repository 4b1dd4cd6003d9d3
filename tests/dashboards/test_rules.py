import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import conventions, queries

from .promtool import find

RULES = queries.FOLDER / "rules"
README = (queries.FOLDER / "README.md").read_text("utf-8")
FILES = sorted(RULES.glob("*.yml"))
TESTS = sorted((RULES / "tests").glob("*.yml"))
SEVERITIES = {"critical", "warning", "info"}


def rules() -> list[dict[str, Any]]:
    return [
        rule for file in FILES for group in yaml.safe_load(file.read_text("utf-8"))["groups"] for rule in group["rules"]
    ]


ALERTS = [pytest.param(rule, id=rule["alert"]) for rule in rules() if "alert" in rule]


def run(*words: str | Path) -> str:
    done = subprocess.run(
        [find("promtool"), *words], capture_output=True, text=True, timeout=60, check=False, cwd=queries.FOLDER
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    assert run("check", "rules", *FILES).count("SUCCESS") == len(FILES)
    assert f"{len(FILES)} rule files found" in run("check", "config", "prometheus.yml")


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_rules_do_what_their_tests_say(file: Path) -> None:
    assert "SUCCESS" in run("test", "rules", file)


def test_every_rule_has_a_test() -> None:
    cases = [case for file in TESTS for case in yaml.safe_load(file.read_text("utf-8"))["tests"]]
    fired = {each["alertname"] for case in cases for each in case.get("alert_rule_test", []) if each["exp_alerts"]}
    silent = {each["alertname"] for case in cases for each in case.get("alert_rule_test", []) if not each["exp_alerts"]}
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert fired == alerts
    assert silent == alerts, "each has a moment at which it does not fire yet"
    asked = " ".join(each["expr"] for case in cases for each in case.get("promql_expr_test", []))
    for rule in rules():
        assert "alert" in rule or rule["record"] in asked, rule


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Quotas")
    assert re.fullmatch(r"\d+[mh]", alert["for"])
    assert alert["labels"]["severity"] in SEVERITIES
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert not alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["description"].endswith(".")
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert file == "dashboards/README.md"
    headings = re.findall(r"^### (\w+)$", README, re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert alert["alert"] in headings


def test_every_runbook_is_of_an_alert() -> None:
    assert re.findall(r"^### (\w+)$", README, re.MULTILINE) == [rule["alert"] for rule in rules() if "alert" in rule]


def test_recorded_names_say_their_level() -> None:
    for rule in rules():
        if "record" in rule:
            level, metric, operation = rule["record"].split(":")
            assert operation
            by = re.search(r"by \(([^)]*)\)", rule["expr"])
            assert by
            grouped = {label.strip() for label in by[1].split(",")} - {"le"}
            assert set(level.split("_")) == grouped, rule["record"]
            assert metric.removesuffix("_refused").removesuffix("_failing").startswith("quotas"), rule["record"]


def test_alerts_read_recorded_names_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        for name in re.findall(r"\bjob\w*:\w+:\w+", rule["expr"]):
            assert name in recorded, rule


def test_the_line_in_graphs_is_the_alert_s_threshold() -> None:
    (slow,) = (rule for rule in rules() if rule.get("alert") == "QuotasChecksSlow")
    assert float(slow["expr"].rpartition(">")[2]) == conventions.BUDGET_S


def test_outcomes_of_limits_are_the_same_in_rules_and_graphs() -> None:
    (ratio,) = (rule for rule in rules() if rule.get("record") == "job_plan:quotas_refused:ratio_rate5m")
    assert conventions.REFUSED in ratio["expr"]
