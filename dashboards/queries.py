"""What a dashboard file asks Prometheus, and the same as Grafana would send it for a choice of variables."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAMES = ("overview", "client", "service")


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel. `instant` asks for now, else for the whole range."""

    ref_id: str
    expr: str
    legend: str
    instant: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and where it is asked."""

    dashboard: str
    panel: str
    target: Target


def read(name: str) -> dict[str, Any]:
    """A dashboard as its file has it."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return document


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the titles of rows."""
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def targets(panel: Mapping[str, Any]) -> Iterator[Target]:
    """The queries of a panel."""
    for target in panel["targets"]:
        yield Target(target["refId"], target["expr"], target["legendFormat"], bool(target.get("instant")))


def asked(name: str) -> Iterator[Asked]:
    """Every query of a dashboard, from the top."""
    for panel in panels(read(name)):
        for target in targets(panel):
            yield Asked(name, panel["title"], target)


def filled(expr: str, values: Mapping[str, str]) -> str:
    """The expression with these variables' values, as `$name`. Raises KeyError for a variable that has none."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)


def named(legend: str, labels: Mapping[str, str]) -> str:
    """The name of a series, as Grafana makes it of a legend and the labels."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Metric and labels of every selector of ours in an expression; the labels are those that it compares."""
    for metric, inside in re.findall(r"\b((?:job\w*:)?quotas_\w+(?::\w+)?)\s*(?:\{([^}]*)\})?", expr):
        yield metric, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', inside)))


def groupings(expr: str) -> set[str]:
    """The labels that an expression groups by."""
    return {
        label.strip()
        for inside in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expr)
        for label in inside.split(",")
    }
