"""The results as a picture: what is compared, as ratios, because only they mean something on another machine."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from loadtests.bench.cases import BASELINES, CLIENTS_FIRST, MILLIONS, Server
from loadtests.bench.results import Results
from loadtests.bench.rounds import Measured
from loadtests.bench.takes import LEAST

_OURS, _OTHERS, _STORE, _TEXT, _QUIET = "#2f6fb7", "#9aa5b1", "#e0a458", "#22262b", "#6b7480"
_SIZE_IN, _DPI = (11, 7.4), 110
_COLOURS = 96
"""Of the picture, so that it is small."""


def draw(results: Results, about: str, path: Path) -> None:
    """Draw four panels into a PNG. `about` stands below the title."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "text.color": _TEXT})
    figure = Figure(_SIZE_IN, _DPI, facecolor="white")
    figure.text(0.02, 0.965, "What a check costs", fontsize=15, weight="bold", va="center")
    figure.text(0.02, 0.928, about, fontsize=8.5, color=_QUIET, va="center")
    places = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.2, right=0.975, top=0.86, bottom=0.075, hspace=0.42, wspace=0.3)
    baselines = results.groups.get(BASELINES.name, [])
    _rates(places[0][0], baselines)
    _costs(places[0][1], baselines)
    _limits(places[1][0], results)
    _clients(places[1][1], [*results.groups.get(CLIENTS_FIRST, []), *results.groups.get(MILLIONS.name, [])[1:]])
    figure.savefig(path, facecolor="white", format="png")
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(_COLOURS)
    small.save(path, format="png", optimize=True)


def _rates(axes: Axes, measured: Sequence[Measured]) -> None:
    """Requests a second, where the bare app has 1."""
    _title(axes, "requests a second, bare app = 1")
    if not measured:
        return
    values = [each.rate / measured[0].rate for each in measured]
    bars = axes.barh(range(len(measured)), values, color=[_colour(each) for each in measured], height=0.66)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    _names(axes, [each.case.name for each in measured], max(values))


def _costs(axes: Axes, measured: Sequence[Measured]) -> None:
    """CPU of the server and of Redis, where the bare app has 1."""
    _title(axes, "CPU per request, bare app = 1")
    spent = [each.median(lambda round_: round_.server_us) for each in measured]
    if not measured or not spent[0] or None in spent:
        return
    server = [(value or 0) / spent[0] for value in spent]
    store = [(each.median(lambda round_: round_.store_us) or 0) / spent[0] for each in measured]
    axes.barh(range(len(measured)), server, color=[_colour(each) for each in measured], height=0.66)
    bars = axes.barh(range(len(measured)), store, left=server, color=_STORE, height=0.66, label="Redis")
    axes.bar_label(
        bars, [f"{a:.1f} + {b:.1f}" if b else f"{a:.1f}" for a, b in zip(server, store, strict=True)], padding=3
    )
    axes.legend(loc="lower right", frameon=False)
    _names(axes, [each.case.name for each in measured], 1.2 * max(a + b for a, b in zip(server, store, strict=True)))


def _limits(axes: Axes, results: Results) -> None:
    """Redis CPU of a take by the number of limits, where the least script has 1."""
    _title(axes, "Redis CPU by number of limits, least script = 1")
    found = results.takes.limits_us
    least = results.takes.script_us[LEAST]
    axes.plot(list(found), [value / least for value in found.values()], color=_OURS, marker="o")
    axes.set_ylim(bottom=0)
    axes.set_xticks(list(found))
    _frame(axes)


def _clients(axes: Axes, measured: Sequence[Measured]) -> None:
    """Checks a second by the number of clients, where the fewest have 1."""
    _title(axes, "checks a second by clients, the fewest = 1")
    if not measured:
        return
    values = [each.rate / measured[0].rate for each in measured]
    bars = axes.barh(range(len(measured)), values, color=_OURS, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    _names(axes, [each.case.name for each in measured], max(values))


def _names(axes: Axes, names: Sequence[str], most: float) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * most)
    _frame(axes)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left", weight="bold", pad=8)


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_QUIET, labelcolor=_TEXT)


def _colour(measured: Measured) -> str:
    return _OURS if measured.case.server is Server.QUOTAS else _OTHERS
