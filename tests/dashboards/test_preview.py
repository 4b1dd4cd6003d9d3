import re
from pathlib import Path

import pytest
from PIL import Image

from dashboards import preview, queries
from dashboards.drawing import Line, draw

README = (queries.FOLDER / "README.md").read_text("utf-8")
LARGEST = 300_000
"""Bytes of a picture that a page may have."""


def answers(name: str, values: list[float]) -> dict[int, list[Line]]:
    """Two series for every query of a dashboard: numbers have one sample, graphs two minutes of them."""
    found: dict[int, list[Line]] = {}
    for panel in queries.panels(queries.read(name)):
        kind = panel["type"]
        names = ["0.001", "+Inf"] if kind == "heatmap" else ["allowed", "a limit, a day later"]
        samples = [(1000.0 + second, values[second % len(values)]) for second in range(120)]
        kept = samples[-1:] if kind in {"stat", "bargauge"} else samples
        found[panel["id"]] = [Line(each, kept) for each in names]
    return found


@pytest.mark.parametrize("name", queries.NAMES)
@pytest.mark.parametrize("values", [[0.0, 0.5, 1.5], [float("nan")]], ids=["numbers", "none"])
def test_every_panel_can_be_drawn(tmp_path: Path, name: str, values: list[float]) -> None:
    drawn, empty = tmp_path / "drawn.png", tmp_path / "empty.png"
    document = queries.read(name)
    draw(document, answers(name, values), (1000, 1120), "a test", drawn)
    draw(document, {panel["id"]: [] for panel in queries.panels(document)}, (1000, 1120), "a test", empty)
    with Image.open(drawn) as one, Image.open(empty) as other:
        assert one.size == other.size
        assert one.size[0] > 1000
        assert one.tobytes() != other.tobytes()
    assert drawn.stat().st_size < LARGEST


def test_the_picture_in_the_readme_is_small() -> None:
    (picture,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    file = queries.FOLDER / picture
    assert file.stat().st_size < LARGEST
    with Image.open(file) as image:
        assert image.format == "PNG"


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) >= 6
    for target in targets:
        assert (queries.FOLDER / target).exists(), target


def test_without_prometheus_there_is_no_preview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", ["preview", "--folder", str(tmp_path)])
    assert preview.main() == 1
    assert "apt-get install prometheus" in capsys.readouterr().err
