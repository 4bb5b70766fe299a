"""The few kinds of panels that the dashboards are made of, and what they have in common.

Every panel has a title, a description, a unit, the dashboard's data source, and the runbook of its alert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.variables import IN_NAMESPACE, PODS, Variable

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24

GREEN, YELLOW, RED, GREY, BLUE = "green", "yellow", "red", "text", "blue"
COLOURS = {
    "running": GREEN,
    "paused": YELLOW,
    "rolled_back": RED,
    "killed": RED,
    "none": GREY,
    "advance": GREEN,
    "soak": BLUE,
    "stay": BLUE,
    "hold": YELLOW,
    "roll_back": RED,
    "stream": "orange",
    "control": BLUE,
    "failed": RED,
    "truncated": RED,
    "missing": RED,
}
"""By the name of a series, so that a colour means the same everywhere."""

Panel = Any
"""A builder of the SDK, whose builders have no common type."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression; `legend` is the template of its series' names."""

    expr: str
    legend: str = ""

    def target(self, at: int, *, instant: bool = False, as_table: bool = False) -> prometheus.Dataquery:
        target = prometheus.Dataquery().expr(self.expr).ref_id(chr(ord("A") + at)).datasource(SOURCE)
        if self.legend:
            target = target.legend_format(self.legend)
        target = target.instant() if instant else target.range()
        return target.format(PromQueryFormat.TABLE) if as_table else target


class Looks(TypedDict, total=False):
    """What a panel may say of itself besides its title, its text and its queries."""

    unit: str
    span: int
    height: int
    alert: str
    """The alert whose runbook is linked."""
    lines: Sequence[tuple[float, str]]
    """Thresholds: each value with the colour from there on. Below the first, `below`."""
    below: str
    decimals: int
    named: Sequence[str]
    """Series that have the colour of their name in `COLOURS`."""


def lines(title: str, text: str, *queries: Query, stacked: bool = False, **looks: Unpack[Looks]) -> Panel:
    """Values over time."""
    panel = _with(timeseries.Panel(), title, text, looks, queries)
    panel = (
        panel.legend(
            common.VizLegendOptions()
            .display_mode(shapes.LegendDisplayMode.LIST)
            .placement(shapes.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
        )
        .line_width(1)
        .fill_opacity(30 if stacked else 5)
        .show_points(shapes.VisibilityMode.NEVER)
        .span_nulls(False)
    )
    if "lines" in looks:
        dashed = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(dashed)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    return panel.axis_soft_min(0)


def number(
    title: str,
    text: str,
    *queries: Query,
    says: Mapping[str, str] | None = None,
    shows_name: bool = False,
    **looks: Unpack[Looks],
) -> Panel:
    """One number for each series, as it is now.

    Args:
        title: of the panel.
        text: its description.
        queries: one series each, or few.
        says: words in place of numbers.
        shows_name: the name of the series is what is read, not its number.
        looks: `height` is 4 if it is not here.
    """
    panel = _with(stat.Panel(), title, text, {"height": 4, **looks}, queries, instant=shows_name)
    mode = shapes.BigValueTextMode.NAME if shows_name else shapes.BigValueTextMode.AUTO
    panel = (
        panel.color_mode(
            shapes.BigValueColorMode.BACKGROUND_SOLID if shows_name else shapes.BigValueColorMode.VALUE
        )
        .graph_mode(shapes.BigValueGraphMode.NONE)
        .text_mode(mode)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    if says:
        results = {value: models.ValueMappingResult(text=text) for value, text in says.items()}
        panel = panel.mappings([models.ValueMap(options=results)])
    return panel


def meters(title: str, text: str, *queries: Query, **looks: Unpack[Looks]) -> Panel:
    """Each series as a bar from 0 to 1."""
    panel = _with(bargauge.Panel(), title, text, looks, queries, instant=True)
    return (
        panel.display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .min(0)
        .max(1)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


def states(title: str, text: str, *queries: Query, **looks: Unpack[Looks]) -> Panel:
    """A panel of the states that held, over time."""
    panel = _with(statetimeline.Panel(), title, text, looks, queries)
    return panel.show_value(shapes.VisibilityMode.NEVER).merge_values(True).row_height(0.8)


def rows(
    title: str, text: str, key: Sequence[str], queries: Mapping[str, Query], **looks: Unpack[Looks]
) -> Panel:
    """A table: a row for each value of the `key` labels, a column for each query, called by its name.

    The query without one only brings the labels; the others are joined to it by the first of them.
    """
    panel = _with(table.Panel(), title, text, looks)
    for at, (name, query) in enumerate(queries.items()):
        # A label that two queries give different values would keep Grafana from joining their rows.
        joined = Query(f"max by ({key[0] if name else ', '.join(key)}) ({query.expr})")
        panel = panel.with_target(joined.target(at, instant=True, as_table=True))
    renamed = {f"Value #{chr(ord('A') + at)}": name for at, name in enumerate(queries) if name}
    shown = [*key, *renamed]
    order = {name: at for at, name in enumerate(shown)}
    return (
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="filterFieldsByName", options={"include": {"names": list(shown)}}
            )
        )
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize", options={"renameByName": renamed, "indexByName": order}
            )
        )
    )


def row(span: int, *panels: Panel) -> list[Panel]:
    """Panels beside each other, each so wide."""
    return [panel.span(span) for panel in panels]


def _with(
    panel: Panel, title: str, text: str, looks: Looks, queries: Sequence[Query] = (), *, instant: bool = False
) -> Panel:
    steps = [models.Threshold(value=None, color=looks.get("below", GREEN))]
    steps += [models.Threshold(value=value, color=colour) for value, colour in looks.get("lines", ())]
    panel = (
        panel.title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(looks.get("unit", "short"))
        .span(looks.get("span", 8))
        .height(looks.get("height", 8))
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .no_value("none")
        .overrides([])
    )
    for at, query in enumerate(queries):
        panel = panel.with_target(query.target(at, instant=instant))
    for name in looks.get("named", ()):
        fixed = models.DynamicConfigValue(
            id_val="color", value={"mode": "fixed", "fixedColor": COLOURS[name]}
        )
        panel = panel.override_by_name(name, [fixed])
    if "decimals" in looks:
        panel = panel.decimals(looks["decimals"])
    if "alert" in looks:
        panel = panel.links([_link("Runbook", f"${{runbooks}}/{looks['alert']}.md")])
    return panel


def _link(title: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url).target_blank(True)


# Dashboards.


EVENTS: Mapping[str, tuple[str, str]] = {
    "Step of a rollout": ("blue", f"changes(headgate_rollout_step{{{IN_NAMESPACE}}}[2m]) > 0"),
    "Kill switch turned": ("red", f"max by (job) (changes(headgate_kill_switch{{{PODS}}}[2m])) > 0"),
    "Deploy": (
        "purple",
        f"count by (job, version) (headgate_build_info{{{PODS}}})"
        f" unless count by (job, version) (headgate_build_info{{{PODS}}} offset 2m)",
    ),
    "Restart": ("yellow", f"time() - process_start_time_seconds{{{PODS}}} < 120"),
}
"""The marks in every graph: colour and query. Grafana looks at these once a minute, and joins marks that
follow each other; so each query holds for two."""


@dataclass(frozen=True, slots=True)
class Look:
    """The looks that all dashboards of one place have in common; see `place.py`."""

    runbooks: str
    titles: str = "Headgate: "
    """Before each title."""
    uids: str = "headgate-"
    """Before each UID."""
    tag: str = "headgate"
    """By which they find each other."""


def built(
    name: str,
    text: str,
    variables: Sequence[Variable],
    look: Look,
    parts: Mapping[str, Sequence[Panel]],
    closed: Mapping[str, Sequence[Panel]] | None = None,
) -> models.Dashboard:
    """A dashboard with its parts below each other, each under its title; `closed` ones below, in closed
    rows, so that Grafana runs their queries when somebody opens them."""
    builder = (
        dashboard.Dashboard(f"{look.titles}{name}")
        .uid(f"{look.uids}{name.lower()}")
        .description(text)
        .tags([look.tag])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("30s")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for event, (colour, expr) in EVENTS.items():
        builder = builder.annotation(
            dashboard.AnnotationQuery().name(event).datasource(SOURCE).expr(expr).icon_color(colour)
        )
    for variable in variables:
        builder = builder.with_variable(_chosen(variable))
    builder = builder.with_variable(
        dashboard.TextBoxVariable("runbooks").label("Runbooks").default_value(look.runbooks)
    )
    builder = builder.link(
        dashboard.DashboardLink("Headgate")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([look.tag])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
    for number, (heading, panels) in enumerate(parts.items()):
        builder = builder.with_row(dashboard.Row(heading).id(100 * (number + 1)))
        for at, panel in enumerate(panels, 1):
            builder = builder.with_panel(panel.id(100 * (number + 1) + at))
    for number, (heading, panels) in enumerate((closed or {}).items(), len(parts)):
        row = dashboard.Row(heading).id(100 * (number + 1)).collapsed(True)
        for at, panel in enumerate(panels, 1):
            row = row.with_panel(panel.id(100 * (number + 1) + at))
        builder = builder.with_row(row)
    return builder.build()


def _chosen(variable: Variable) -> dashboard.QueryVariable:
    query = dashboard.QueryVariable(variable.name).label(variable.label).datasource(SOURCE)
    query = query.query(f"label_values({variable.metric}, {variable.of})")
    query = query.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        models.VariableSort.ALPHABETICAL_ASC
    )
    if not variable.many:
        return query
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return query.multi(True).include_all(True).all_value(".*").current(everything)


def json_of(built: models.Dashboard) -> str:
    """The JSON that Grafana reads."""
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(built) + "\n"
