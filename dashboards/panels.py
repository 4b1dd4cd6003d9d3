"""The kinds of panels that the dashboards are made of, and how a dashboard lays them out.

Every panel says what it shows (`about`), in which unit, and asks the data source that the dashboard's variable
names. Grafana does not resolve `__inputs` of files that it is provisioned with, so there are none.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
VALUE, NAME, BOTH = (
    shapes.BigValueTextMode.VALUE,
    shapes.BigValueTextMode.NAME,
    shapes.BigValueTextMode.VALUE_AND_NAME,
)
"""What a number's panel shows of each series."""

COLUMNS = 24
"""The width of Grafana's grid, of a whole row."""

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "#8e8e8e"
REQUESTS, SECONDS, SHARE, COUNT, DATE, YES_NO = "reqps", "s", "percentunit", "short", "dateTimeAsIso", "bool_yes_no"

OUTCOMES = {
    "allowed": GREEN,
    "rate_limited": YELLOW,
    "quota_exceeded": ORANGE,
    "never": PURPLE,
    "unauthenticated": BLUE,
    "forbidden": GREY,
    "error": RED,
}
"""One colour for each outcome, wherever it is drawn."""

Panel = timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel
_PALETTE = dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC)
_BY_STEP = dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)

P = TypeVar("P", timeseries.Panel, stat.Panel, bargauge.Panel)
Steps = Sequence[tuple[float, str]]
"""From which value on which colour."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression, and the name of each series it returns, with `{{label}}` for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A panel, and how many of the `COLUMNS` it takes."""

    width: int
    panel: Panel


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels; a full line is followed by the next."""

    title: str
    height: int
    panels: Sequence[Placed]


def lines(  # noqa: PLR0913 # One parameter for each way in which graphs differ.
    width: int,
    title: str,
    unit: str,
    about: str,
    *queries: Query,
    stacked: bool = False,
    steps: Steps = (),
    most: float | None = None,
    dashed: str | None = None,
    colours: Mapping[str, str] | None = None,
) -> Placed:
    """A graph over time, from 0 up. `steps` are drawn as lines, `dashed` is a regular expression of legends."""
    panel = (
        timeseries.Panel()
        .unit(unit)
        .color_scheme(_PALETTE)
        .min(0)
        .line_width(1)
        .show_points(shapes.VisibilityMode.NEVER)
    )
    panel = panel.fill_opacity(60 if stacked else 8)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if steps:
        style = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(style)
    if most is not None:
        panel = panel.max(most)
    if dashed is not None:
        look = {"fill": "dash", "dash": [6, 6]}
        panel = panel.override_by_regexp(dashed, [models.DynamicConfigValue("custom.lineStyle", look)])
    for name, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel = panel.override_by_name(name, [models.DynamicConfigValue("color", fixed)])
    placement = common.VizLegendOptions().placement(shapes.LegendPlacement.BOTTOM).show_legend(show_legend=True)
    panel = panel.legend(placement.display_mode(shapes.LegendDisplayMode.LIST).calcs([]))
    several = common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI)
    panel = panel.tooltip(several.sort(shapes.SortOrder.DESCENDING))
    return Placed(width, _asking(panel.title(title).description(about).datasource(SOURCE), queries, instant=False))


def number(  # noqa: PLR0913 # The same.
    width: int,
    title: str,
    unit: str,
    about: str,
    query: Query,
    *,
    steps: Steps = (),
    base: str | None = None,
    empty: str = "0",
    shows: shapes.BigValueTextMode = VALUE,
) -> Placed:
    """The value now, as text, in the colour of the highest step that it has reached. `empty` stands for no value."""
    panel = stat.Panel().unit(unit).color_scheme(_BY_STEP).no_value(empty).graph_mode(shapes.BigValueGraphMode.NONE)
    panel = panel.color_mode(shapes.BigValueColorMode.VALUE).thresholds(_thresholds(steps, base))
    panel = panel.text_mode(shows).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return Placed(width, _asking(panel.title(title).description(about).datasource(SOURCE), [query], instant=True))


def bars(  # noqa: PLR0913 # The same.
    width: int,
    title: str,
    unit: str,
    about: str,
    query: Query,
    *,
    steps: Steps = (),
    most: float | None = None,
    link: dashboard.DashboardLink | None = None,
) -> Placed:
    """One bar for each series, with its value now. `link` is where a click on a bar leads."""
    panel = (
        bargauge.Panel()
        .unit(unit)
        .color_scheme(_BY_STEP)
        .min(0)
        .no_value("none")
        .orientation(shapes.VizOrientation.HORIZONTAL)
    )
    panel = panel.display_mode(shapes.BarGaugeDisplayMode.BASIC).value_mode(shapes.BarGaugeValueMode.COLOR)
    panel = panel.thresholds(_thresholds(steps)).show_unfilled(show_unfilled=True)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if most is not None:
        panel = panel.max(most)
    if link is not None:
        panel = panel.data_links([link])
    return Placed(width, _asking(panel.title(title).description(about).datasource(SOURCE), [query], instant=True))


def heat_of(width: int, title: str, unit: str, about: str, buckets: str) -> Placed:
    """How many observations fell into each bucket of a histogram, over time."""
    panel = heatmap.Panel().calculate(calculate=False).y_axis(heatmap.YAxisConfig().unit(unit))
    panel = panel.color(
        heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    ).cell_gap(1)
    query = prometheus.Dataquery().expr(buckets).legend_format("{{le}}").format(PromQueryFormat.HEATMAP)
    query = query.range().ref_id("A").datasource(SOURCE)
    # The field's own unit is what the count in a cell is said in.
    panel = panel.title(title).description(about).datasource(SOURCE).unit(COUNT)
    return Placed(width, panel.with_target(query))


def _asking(panel: P, queries: Sequence[Query], *, instant: bool) -> P:
    for ref_id, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(ref_id)
        panel = panel.with_target((target.instant() if instant else target.range()).datasource(SOURCE))
    return panel


def _thresholds(steps: Steps, base: str | None = None) -> dashboard.ThresholdsConfig:
    """Steps above a colour for everything below: by default one that says well, or where there are none, nothing."""
    found = [
        models.Threshold(None, base or (GREEN if steps else BLUE)),
        *(models.Threshold(value, colour) for value, colour in steps),
    ]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def variable(  # noqa: PLR0913 # One parameter for each way in which variables differ.
    name: str, label: str, about: str, query: str, *, every: bool = False, regex: str = ""
) -> dashboard.QueryVariable:
    """A choice among the values of a label; with `every` several may be chosen, and all are at first."""
    asked: dict[str, object] = {"query": query, "refId": name}
    found = dashboard.QueryVariable(name).label(label).description(about).query(asked).datasource(SOURCE)
    found = found.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    found = found.multi(every).include_all(every).regex(regex)
    if every:
        return found.all_value(".*").current(models.VariableOption(True, ["All"], ["$__all"]))  # noqa: FBT003 # As it is.
    return found


def choice(name: str, label: str, about: str, values: Sequence[str], default: str) -> dashboard.CustomVariable:
    """A choice among fixed values."""
    found = dashboard.CustomVariable(name).label(label).description(about).values(",".join(values))
    options = [models.VariableOption(value == default, value, value) for value in values]
    return found.options(options).current(models.VariableOption(True, default, default))  # noqa: FBT003 # As it is.


def link(title: str, about: str, url: str) -> dashboard.DashboardLink:
    """A link to another dashboard, with the time range of this one."""
    found = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url).tooltip(about)
    return found.icon("dashboard").keep_time(keep_time=True)


def board(  # noqa: PLR0913 # What a dashboard has.
    uid: str,
    title: str,
    about: str,
    *,
    variables: Sequence[Builder[models.VariableModel]],
    links: Sequence[Builder[models.DashboardLink]],
    rows: Sequence[Row],
) -> models.Dashboard:
    """A dashboard whose panels stand as its rows have them, each with an id of its own."""
    source = dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    source = source.description("The Prometheus that scrapes the service.")
    found = dashboard.Dashboard(title).uid(uid).description(about).tags(["quotas"]).editable().with_variable(source)
    found = found.tooltip(models.DashboardCursorSync.CROSSHAIR).timezone("browser").time("now-6h", "now").refresh("30s")
    for chosen in variables:
        found = found.with_variable(chosen)
    found = found.links(list(links))
    y, ids = 0, itertools.count(1)
    for row in rows:
        # Grafana's builder places what stands at (0, 0) by itself; only the first title does, and there it belongs.
        at = models.GridPos(h=1, w=COLUMNS, x=0, y=y)
        found = found.with_row(dashboard.Row(row.title).id(next(ids)).grid_pos(at))
        x, y = 0, y + 1
        for placed in row.panels:
            if x + placed.width > COLUMNS:
                x, y = 0, y + row.height
            at = models.GridPos(h=row.height, w=placed.width, x=x, y=y)
            found = found.with_panel(placed.panel.id(next(ids)).grid_pos(at))
            x += placed.width
        y += row.height
    return found.build()


def text(found: models.Dashboard) -> str:
    """The file that Grafana is provisioned with. Its `id` is null: each Grafana gives its own."""
    document = {"id": None, **json.loads(json.dumps(found, cls=JSONEncoder))}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
