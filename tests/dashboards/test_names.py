"""What panels and rules read is what the service says of itself, by metric and by label."""

import re

import pytest
import yaml

from dashboards import queries
from dashboards.panels import OUTCOMES
from quotas import answers

ROOT = queries.FOLDER.parent
DOCUMENTED = {
    metric: {label.strip() for label in labels.split(",") if label.strip()}
    for metric, labels in re.findall(
        r"^\| `(quotas_\w+)` \| ([^|]*)\|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
}
"""Metric -> labels; tests/unit/test_docs.py holds the names against the code, test_prometheus.py the labels."""

OF_PROMETHEUS = {"job", "instance"}
UNUSED: dict[str, str] = {}
"""Metrics that no panel and no rule reads, and why that is so."""


def expressions() -> list[str]:
    found = [asked.target.expr for name in queries.NAMES for asked in queries.asked(name)]
    for name in queries.NAMES:
        variables = queries.read(name)["templating"]["list"]
        found += [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    for file in (queries.FOLDER / "rules").glob("*.yml"):
        for group in yaml.safe_load(file.read_text("utf-8"))["groups"]:
            found += [rule["expr"] for rule in group["rules"]]
    return found


def family(metric: str) -> str:
    """The metric whose sample this is."""
    for ending in ("_bucket", "_count", "_sum"):
        if metric.removesuffix(ending) in DOCUMENTED:
            return metric.removesuffix(ending)
    return metric


@pytest.mark.parametrize("expr", expressions())
def test_metrics_and_labels_exist(expr: str) -> None:
    known: set[str] = set(OF_PROMETHEUS)
    selectors = list(queries.selectors(expr))
    assert selectors or "ALERTS" in expr, "nothing of ours is read"
    for metric, labels in selectors:
        if metric.startswith("job"):
            known |= set(metric.partition(":")[0].split("_"))
            continue
        assert family(metric) in DOCUMENTED, metric
        own = DOCUMENTED[family(metric)] | OF_PROMETHEUS | ({"le"} if metric.endswith("_bucket") else set())
        assert labels <= own, (metric, labels - own)
        known |= own
    if "ALERTS" in expr:
        known |= {"alertname", "alertstate"}
    assert queries.groupings(expr) <= known


def test_every_metric_is_used_or_named_as_unused() -> None:
    used = {family(metric) for expr in expressions() for metric, _ in queries.selectors(expr)}
    assert set(DOCUMENTED) - used == set(UNUSED)


def test_legends_name_labels_that_are_there() -> None:
    for name in queries.NAMES:
        for asked in queries.asked(name):
            shown = set(re.findall(r"\{\{(\w+)\}\}", asked.target.legend))
            assert shown <= queries.groupings(asked.target.expr), asked


def test_every_outcome_has_a_colour_and_no_other() -> None:
    assert set(OUTCOMES) == {answers.outcome_of(reason) for reason in (None, *answers.Reason)}
