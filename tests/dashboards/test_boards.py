import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import boards, queries

FOLDER = Path(boards.__file__).parent
PROVISIONING = FOLDER / "provisioning"
each = pytest.mark.parametrize("name", queries.NAMES)


def all_panels() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name}: {panel['title']}")
        for name in queries.NAMES
        for panel in queries.panels(queries.read(name))
    ]


def test_the_files_are_what_their_source_makes() -> None:
    for path, content in boards.files().items():
        assert path.read_text("utf-8") == content, "run `make dashboards`"
    assert set(boards.files()) == set(FOLDER.glob("*.json"))


@each
def test_a_dashboard_is_what_grafana_reads(name: str) -> None:
    document = queries.read(name)
    assert document["id"] is None
    assert document["uid"] == f"quotas-{name}"
    assert len(document["uid"]) <= 40
    assert document["schemaVersion"] == 41
    assert document["title"]
    assert document["description"]
    assert document["tags"] == ["quotas"]
    assert document["editable"], "whoever looks may change a query; what is kept is up to the provider"
    assert "__inputs" not in document
    assert "${DS_" not in json.dumps(document)
    again = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))
    assert again == {key: value for key, value in document.items() if key != "id"}


@each
def test_every_query_asks_the_data_source_that_is_chosen(name: str) -> None:
    document = queries.read(name)
    source, *others = document["templating"]["list"]
    assert (source["type"], source["name"], source["query"]) == ("datasource", "datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in queries.panels(document):
        assert panel["datasource"] == chosen
        for target in panel["targets"]:
            assert target["datasource"] == chosen
    for variable in others:
        assert variable["label"]
        assert variable["description"]
        assert variable["type"] == "custom" or variable["datasource"] == chosen


@each
def test_panels_have_places_of_their_own(name: str) -> None:
    panels = queries.read(name)["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    boxes = [panel["gridPos"] for panel in panels]
    for box in boxes:
        assert box["x"] >= 0
        assert box["w"] > 0
        assert box["h"] > 0
        assert box["x"] + box["w"] <= 24
    for one, two in itertools.combinations(boxes, 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        below = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert beside or below, (one, two)
    last = max(boxes, key=lambda box: box["y"])
    assert sum(box["w"] * box["h"] for box in boxes) == 24 * (last["y"] + last["h"]), "the grid has a hole"


@pytest.mark.parametrize("panel", all_panels())
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(refs) == len(set(refs))
    for target in panel["targets"]:
        assert target["legendFormat"]
        assert target["instant"] is not target["range"]
        assert target["instant"] is (panel["type"] in {"stat", "bargauge"})


@pytest.mark.parametrize("panel", all_panels())
def test_a_number_s_steps_rise(panel: dict[str, Any]) -> None:
    if panel["type"] == "heatmap":
        assert "thresholds" not in panel["fieldConfig"]["defaults"]
        return
    by_step = panel["fieldConfig"]["defaults"]["color"]["mode"] == "thresholds"
    assert by_step is (panel["type"] in {"stat", "bargauge"})
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": [{"value": None}]})["steps"]
    values = [step["value"] for step in steps[1:]]
    assert steps[0]["value"] is None
    assert values == sorted(set(values))


@each
def test_queries_are_about_one_job_and_use_variables_that_exist(name: str) -> None:
    document = queries.read(name)
    known = {variable["name"] for variable in document["templating"]["list"]} | {"__rate_interval", "__range"}
    used = set()
    for asked in queries.asked(name):
        names = set(re.findall(r"\$(\w+)", asked.target.expr))
        assert names <= known, asked
        used |= names
        # A rate over a fixed time is right at one zoom only; numbers that say their time are the exception.
        assert asked.target.instant or not re.search(r"(rate|increase)\([^\[]*\[\d", asked.target.expr), asked
        for metric, labels in queries.selectors(asked.target.expr):
            assert "job" in labels, (metric, asked)
    asking = json.dumps(document["templating"]["list"])
    unused = known - used - set(re.findall(r"\$(\w+)", asking)) - {"datasource"}
    assert unused == set()


@each
def test_links_lead_to_dashboards_and_variables_of_ours(name: str) -> None:
    variables = {
        queries.read(each)["uid"]: {variable["name"] for variable in queries.read(each)["templating"]["list"]}
        for each in queries.NAMES
    }
    document = queries.read(name)
    links = [link["url"] for link in document["links"]]
    assert len(links) == len(queries.NAMES) - 1
    for panel in queries.panels(document):
        links += [link["url"] for link in panel["fieldConfig"]["defaults"].get("links", [])]
    for link in links:
        found = re.match(r"/d/([a-z-]+)\?", link)
        assert found, link
        assert found[1] != document["uid"]
        assert set(re.findall(r"var-(\w+)=", link)) <= variables[found[1]], link


def test_outcomes_have_one_colour_everywhere() -> None:
    seen: dict[str, set[str]] = {}
    for name in queries.NAMES:
        for panel in queries.panels(queries.read(name)):
            for override in panel["fieldConfig"].get("overrides", []):
                for setting in override["properties"]:
                    if setting["id"] == "color":
                        seen.setdefault(override["matcher"]["options"], set()).add(setting["value"]["fixedColor"])
    assert len(seen) >= 7
    assert all(len(colours) == 1 for colours in seen.values()), seen


def test_provisioning_is_what_grafana_reads() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/quotas.yaml").read_text("utf-8"))["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False
    (source,) = yaml.safe_load((PROVISIONING / "datasources/quotas.yaml").read_text("utf-8"))["datasources"]
    assert source["type"] == "prometheus"
    assert len(source["uid"]) <= 40
    # Both are told in the README, because Grafana has no default for a variable that is missing.
    told = (FOLDER / "README.md").read_text("utf-8")
    for text in (provider["options"]["path"], source["url"]):
        assert text.startswith("$")
        assert f"{text[1:]}=" in told
