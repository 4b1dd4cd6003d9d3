"""Draws a dashboard as a picture, in about the way of Grafana: enough to look at every panel without one.

It takes colours, units, stacking, limits of axes and the grid from the dashboard's file, and the values from whoever
asked for them.
"""

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from dashboards.panels import COLUMNS
from dashboards.prometheus import Samples
from dashboards.queries import panels
from dashboards.units import shown

_COLOURS = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "purple": "#b877d9",
}
_PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#37872d", "#fade2a")
_PAGE, _PANEL, _EDGE, _TEXT, _QUIET = "#111217", "#181b1f", "#2a2d33", "#ccccdc", "#8e8e9a"
_COLUMN_IN, _LINE_IN, _HEAD_IN = 0.62, 0.36, 0.7
_DPI = 100
_GAP, _MARGIN = 0.08, 0.12
"""Inches between panels, and around all of them."""

_STEPS_S, _MOST_TICKS = (5, 10, 15, 30, 60, 300), 5
"""Seconds between two marks of the time, and how many of them there may be about."""

MOST_COLOURS = 128
"""Of a picture, so that it is small."""


@dataclass(frozen=True, slots=True)
class Line:
    """A series as a panel shows it: its name, and its samples, of which a panel of numbers has one."""

    name: str
    samples: Samples


Answers = Mapping[int, Sequence[Line]]
"""Panel id -> what its queries returned."""


def draw(document: Mapping[str, Any], answers: Answers, span_s: tuple[float, float], about: str, path: Path) -> None:
    """Draw a dashboard as a PNG. `span_s` is the chosen time, and `about` stands beside the title."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "text.color": _TEXT})
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in document["panels"])
    size = COLUMNS * _COLUMN_IN + 2 * _MARGIN, lines * _LINE_IN + _HEAD_IN + _MARGIN
    figure = Figure(size, _DPI, facecolor=_PAGE)
    figure.text(0.01, 1 - 0.3 / size[1], document["title"], fontsize=15, va="center", weight="bold")
    figure.text(0.99, 1 - 0.3 / size[1], about, fontsize=9, va="center", ha="right", color=_QUIET)
    titled = [panel for panel in document["panels"] if panel["type"] == "row"]
    for row in titled:
        y = (_HEAD_IN + (row["gridPos"]["y"] + 0.55) * _LINE_IN) / size[1]
        figure.text(0.01, 1 - y, f"⌄ {row['title']}", fontsize=10, va="center", weight="bold")
    for panel in panels(document):
        _draw_panel(figure, size, panel, answers[panel["id"]], span_s)
    figure.savefig(path, facecolor=_PAGE)
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(MOST_COLOURS)
    small.save(path, optimize=True)


def _draw_panel(
    figure: Figure,
    size: tuple[float, float],
    panel: Mapping[str, Any],
    found: Sequence[Line],
    span_s: tuple[float, float],
) -> None:
    place = panel["gridPos"]
    left, top = _MARGIN + place["x"] * _COLUMN_IN + _GAP / 2, _HEAD_IN + place["y"] * _LINE_IN + _GAP
    wide, high = place["w"] * _COLUMN_IN - _GAP, place["h"] * _LINE_IN - _GAP

    def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        """Inches from the panel's upper left corner, as shares of the figure from its lower left one."""
        return (left + x) / size[0], 1 - (top + y + h) / size[1], w / size[0], h / size[1]

    x, y, w, h = box(0, 0, wide, high)
    shape = FancyBboxPatch(
        (x, y), w, h, boxstyle="square,pad=0", facecolor=_PANEL, edgecolor=_EDGE, linewidth=0.8, zorder=-1
    )
    shape.set_transform(figure.transFigure)
    figure.add_artist(shape)
    title_x, title_y, _, _ = box(0.12, 0.17, 0, 0)
    figure.text(title_x, title_y, panel["title"], fontsize=9, va="center", weight="bold")
    graph = panel["type"] in {"timeseries", "heatmap"}
    legend_in = 0.26 + 0.19 * _legend_lines(found, wide) if panel["type"] == "timeseries" else 0.28
    sides = (0.75, 0.36, wide - 0.9, high - 0.4 - legend_in) if graph else (0.12, 0.32, wide - 0.24, high - 0.42)
    axes = figure.add_axes(box(*sides), facecolor=_PANEL)
    if not found:
        axes.set_axis_off()
        empty = panel["fieldConfig"]["defaults"].get("noValue", "No data")
        axes.text(0.5, 0.5, empty, ha="center", va="center", color=_QUIET, fontsize=13, transform=axes.transAxes)
        return
    _KINDS[panel["type"]](axes, panel, found)
    if graph:
        _time_axis(axes, span_s)
    if panel["type"] == "timeseries":
        at_x, at_y, _, _ = box(0.1, high - legend_in + 0.1, 0, 0)
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(at_x, at_y),
            bbox_transform=figure.transFigure,
            ncols=_legend_columns(found, wide),
            frameon=False,
            fontsize=7.5,
            handlelength=1.2,
            columnspacing=1.2,
            labelspacing=0.3,
        )


def _legend_lines(found: Sequence[Line], wide: float) -> int:
    return max(1, math.ceil(len(found) / _legend_columns(found, wide)))


def _legend_columns(found: Sequence[Line], wide: float) -> int:
    longest = max((len(line.name) for line in found), default=1)
    return max(1, min(len(found) or 1, int((wide - 0.3) / (0.075 * longest + 0.4))))


def _series(axes: Axes, panel: Mapping[str, Any], found: Sequence[Line]) -> None:
    config = panel["fieldConfig"]
    defaults = config["defaults"]
    custom = defaults["custom"]
    for number, line in enumerate(found):
        style = _style(config, line.name)
        colour = style.get("color") or _PALETTE[number % len(_PALETTE)]
        at = [at_s for at_s, _ in line.samples]
        values = [value for _, value in line.samples]
        if "stacking" not in custom:
            axes.plot(at, values, color=colour, linewidth=1.2, label=line.name, linestyle=style.get("dash", "-"))
    if "stacking" in custom:
        _stack(axes, config, found)
    for step in _steps(defaults)[1:]:
        axes.axhline(step["value"], color=_colour(step["color"]), linewidth=0.9, linestyle=(0, (5, 4)))
    bottom, top = axes.get_ylim()
    axes.set_ylim(defaults.get("min", bottom), defaults.get("max", max(top, 1e-9)))
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, defaults["unit"]))


def _stack(axes: Axes, config: Mapping[str, Any], found: Sequence[Line]) -> None:
    """Series on top of each other; where one has no sample it counts as 0."""
    instants = sorted({at_s for line in found for at_s, _ in line.samples})
    rows = [[dict(line.samples).get(at_s, 0.0) for at_s in instants] for line in found]
    colours = [
        _style(config, line.name).get("color") or _PALETTE[number % len(_PALETTE)] for number, line in enumerate(found)
    ]
    axes.stackplot(
        instants,
        rows,
        colors=colours,
        labels=[line.name for line in found],
        alpha=config["defaults"]["custom"]["fillOpacity"] / 100,
    )


def _time_axis(axes: Axes, span_s: tuple[float, float]) -> None:
    axes.set_xlim(*span_s)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=7, length=0)
    axes.grid(visible=True, color=_EDGE, linewidth=0.6)
    begin_s, end_s = span_s
    step_s = next((step_s for step_s in _STEPS_S if (end_s - begin_s) / step_s <= _MOST_TICKS), _STEPS_S[-1])
    ticks = [at_s for at_s in range(math.ceil(begin_s), int(end_s) + 1) if at_s % step_s == 0]
    axes.set_xticks(ticks, [_clock(at_s) for at_s in ticks])
    for side in axes.spines.values():
        side.set_visible(False)


def _heat(axes: Axes, _: Mapping[str, Any], found: Sequence[Line]) -> None:
    """Buckets of a histogram are cumulative: what is in each is the difference to the one below."""
    buckets = sorted(found, key=lambda line: float(line.name))
    instants = sorted({at_s for line in buckets for at_s, _ in line.samples})
    rows, below = [], [0.0] * len(instants)
    for line in buckets:
        here = [dict(line.samples).get(at_s, 0.0) for at_s in instants]
        rows.append([max(0.0, value - low) for value, low in zip(here, below, strict=True)])
        below = here
    axes.pcolormesh(instants, range(len(rows)), rows, cmap="inferno", shading="nearest")
    names = ["+Inf" if line.name == "+Inf" else shown(float(line.name), "s") for line in buckets]
    axes.set_yticks(range(len(names)), names)


def _numbers(axes: Axes, panel: Mapping[str, Any], found: Sequence[Line]) -> None:
    axes.set_axis_off()
    defaults, mode = panel["fieldConfig"]["defaults"], panel["options"]["textMode"]
    for number, line in enumerate(found):
        value = line.samples[-1][1]
        text = line.name if mode == "name" else shown(value, defaults["unit"])
        y = 1 - (number + 0.5) / len(found)
        colour = _colour(_step_of(defaults, value))
        if mode == "value_and_name":
            axes.text(0.03, y, line.name, va="center", fontsize=10)
            axes.text(0.97, y, text, va="center", ha="right", fontsize=13, color=colour, weight="bold")
        else:
            fits = min(24.0, 260 / max(4, len(text)))
            axes.text(0.5, 0.5, text, va="center", ha="center", fontsize=fits, color=colour, weight="bold")


def _bars(axes: Axes, panel: Mapping[str, Any], found: Sequence[Line]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    most = defaults.get("max") or max(line.samples[-1][1] for line in found) or 1.0
    axes.set_ylim(max(len(found), 5), 0)
    for number, line in enumerate(sorted(found, key=lambda line: -line.samples[-1][1])):
        value = line.samples[-1][1]
        colour = _colour(_step_of(defaults, value))
        axes.text(0.0, number + 0.5, line.name, va="center", fontsize=8.5)
        axes.barh(number + 0.5, 0.5, left=0.32, height=0.62, color=_EDGE)
        axes.barh(number + 0.5, 0.5 * min(1.0, value / most), left=0.32, height=0.62, color=colour)
        axes.text(1.0, number + 0.5, shown(value, defaults["unit"]), va="center", ha="right", fontsize=9, color=colour)


_KINDS: Mapping[str, Callable[[Axes, Mapping[str, Any], Sequence[Line]], None]] = {
    "timeseries": _series,
    "heatmap": _heat,
    "stat": _numbers,
    "bargauge": _bars,
}


def _style(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the overrides of a panel say of a series: `color` and `dash`."""
    found: dict[str, Any] = {}
    for override in config.get("overrides", []):
        matcher = override["matcher"]
        if matcher["id"] == "byName":
            matches = matcher["options"] == name
        else:
            matches = re.search(matcher["options"].strip("/"), name) is not None
        for setting in override["properties"] if matches else []:
            if setting["id"] == "color":
                found["color"] = _colour(setting["value"]["fixedColor"])
            else:  # custom.lineStyle
                found["dash"] = "--"
    return found


def _steps(defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = defaults.get("thresholds", {"steps": [{"value": None, "color": "green"}]})["steps"]
    return steps


def _step_of(defaults: Mapping[str, Any], value: float) -> str:
    """The colour of a value: of the highest step that it has reached."""
    colour = "green"
    for step in _steps(defaults):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return colour


def _colour(name: str) -> str:
    return _COLOURS.get(name, name)


def _clock(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%H:%M:%S")
