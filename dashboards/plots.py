"""The kinds of panels, drawn from the results of their queries. Not as Grafana draws them."""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from matplotlib import ticker
from matplotlib.axes import Axes

POINTS = 240
"""Steps of a range query, at most."""

NOTHING = 1e-9
"""Smaller values are rounding errors."""

PALETTE = ("#3f7fbf", "#e08214", "#5aae61", "#b2182b", "#8073ac", "#35978f", "#bf812d", "#999999", "#d6604d")
NAMED = {"green": "#4c9a52", "yellow": "#c99700", "red": "#c4302b", "blue": "#3f7fbf", "orange": "#e08214"}
INK, FAINT = "#22252b", "#8a8f98"


@dataclass(frozen=True, slots=True)
class Series:
    """One line, bar or number."""

    name: str
    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]

    @property
    def last(self) -> float:
        """The last value; NaN if there is none."""
        return next((value for value in reversed(self.values) if not math.isnan(value)), math.nan)


@dataclass(frozen=True, slots=True)
class View:
    """A Prometheus, the values of the dashboard's variables, and the time range."""

    http: httpx.Client
    variables: Mapping[str, str]
    until_s: float
    seconds: float

    def series(self, target: Mapping[str, Any]) -> list[Series]:
        """The series of a panel's target."""
        expr = target["expr"]
        for name, value in self.variables.items():
            expr = re.sub(rf"\${name}\b", value, expr)
        answer = self.http.get(
            "/api/v1/query_range",
            params={
                "query": expr,
                "start": self.until_s - self.seconds,
                "end": self.until_s,
                "step": max(1.0, self.seconds / POINTS),
            },
        )
        rows = answer.raise_for_status().json()["data"]["result"]
        return [_series(row, target.get("legendFormat", "")) for row in rows]

    def now(self, target: Mapping[str, Any]) -> list[Series]:
        """The series that still have values at the end."""
        found = self.series(target)
        latest_s = max((one.times[-1] for one in found), default=0.0)
        return [one for one in found if one.times[-1] == latest_s]


def _series(row: Mapping[str, Any], legend: str) -> Series:
    labels = row["metric"]
    name = re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend) or "value"
    return Series(name, labels, [at for at, _ in row["values"]], [float(value) for _, value in row["values"]])


# Numbers.


def formatted(value: float, panel: Mapping[str, Any]) -> str:
    """A number with its unit, in short form."""
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults.get("mappings", ()):
        if (text := mapping["options"].get(f"{value:g}")) is not None:
            return str(text["text"])
    if math.isnan(value):
        return str(defaults.get("noValue", "none"))
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    value = 0.0 if abs(value) < NOTHING else value
    return UNITS.get(defaults["unit"], _plain)(value, defaults.get("decimals"))


def _plain(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def _seconds(value: float, decimals: int | None) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 0.001)):
        if abs(value) >= 2 * size or (unit == "s" and abs(value) >= 1):
            return f"{value / size:.3g} {unit}" if decimals is None else f"{value / size:.{decimals}f} {unit}"
    return "0 s" if not value else f"{value * 1000:.2g} ms"


UNITS: Mapping[str, Callable[[float, int | None], str]] = {
    "s": _seconds,
    "percentunit": lambda value, decimals: f"{_plain(100 * value, decimals)} %",
    "percent": lambda value, decimals: f"{_plain(value, decimals)} %",
    "reqps": lambda value, decimals: f"{_plain(value, decimals)}/s",
    "ops": lambda value, decimals: f"{_plain(value, decimals)}/s",
}


def _colour(panel: Mapping[str, Any], value: float) -> str:
    """The colour of a value, by the panel's thresholds."""
    colour = "text"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return NAMED.get(colour, INK)


def _colours_by_name(panel: Mapping[str, Any]) -> dict[str, str]:
    """Colours that the panel gives to series by their names."""
    return {
        override["matcher"]["options"]: NAMED.get(override["properties"][0]["value"]["fixedColor"], FAINT)
        for override in panel["fieldConfig"].get("overrides", ())
    }


# Kinds of panels.


def _lines(axes: Axes, panel: Mapping[str, Any], view: View) -> None:
    found = [one for target in panel["targets"] for one in view.series(target)]
    own, custom = _colours_by_name(panel), panel["fieldConfig"]["defaults"].get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    colours = [own.get(one.name, PALETTE[at % len(PALETTE)]) for at, one in enumerate(found)]
    if stacked:
        _stack(axes, found, colours)
    else:
        for one, colour in zip(found, colours, strict=True):
            axes.plot(one.times, one.values, color=colour, linewidth=1.2, label=one.name)
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is not None and custom.get("thresholdsStyle"):
            axes.axhline(step["value"], color=NAMED.get(step["color"], INK), linestyle="--", linewidth=0.9)
    _frame(axes, panel, view)
    if "axisSoftMin" in custom:
        low, high = axes.get_ylim()
        nothing = not any(value for one in found for value in one.values if not math.isnan(value))
        high = 1.0 if nothing else high
        axes.set_ylim(-0.02 * high if nothing else min(-0.02 * high, low), high)
    if found:
        legend_of(axes, found)
    else:
        _empty(axes)


def legend_of(axes: Axes, found: Sequence[Series]) -> None:
    """Draw the legend below the axes, in columns; at most twelve entries."""
    handles, names = axes.get_legend_handles_labels()
    most = 12
    names = [textwrap.shorten(name, 34, placeholder="…") for name in names]
    axes.legend(
        handles[:most],
        names[:most],
        loc="upper left",
        bbox_to_anchor=(-0.01, -0.1),
        ncols=min(4, max(1, math.floor(60 / (4 + max(map(len, names)))))) if names else 1,
        frameon=False,
        fontsize=6.5,
        handlelength=1.0,
        columnspacing=1.0,
        labelspacing=0.25,
        borderaxespad=0.2,
    )


def _stack(axes: Axes, found: Sequence[Series], colours: Sequence[str]) -> None:
    times = sorted({at for one in found for at in one.times})
    below = [0.0] * len(times)
    for one, colour in zip(found, colours, strict=True):
        at = {
            when: 0.0 if math.isnan(value) else value
            for when, value in zip(one.times, one.values, strict=True)
        }
        above = [base + at.get(when, 0.0) for base, when in zip(below, times, strict=True)]
        axes.fill_between(times, below, above, color=colour, alpha=0.55, linewidth=0, label=one.name)
        below = above


def _clock(unix_s: float, _: object = None) -> str:
    return datetime.fromtimestamp(unix_s).strftime("%H:%M:%S")


def _frame(axes: Axes, panel: Mapping[str, Any], view: View) -> None:
    axes.set_xlim(view.until_s - view.seconds, view.until_s)
    axes.xaxis.set_major_formatter(_clock)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: formatted(value, panel))
    axes.tick_params(labelsize=6.5, colors=FAINT, length=0)
    axes.grid(color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _figure(axes: Axes, panel: Mapping[str, Any], view: View) -> None:
    named = panel["options"]["textMode"] == "name"
    found = [one for target in panel["targets"] for one in view.now(target)]
    axes.set_axis_off()
    if not found:
        axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=14, color=FAINT)
        return
    for at, one in enumerate(found):
        x = (at + 0.5) / len(found)
        text = one.name if named else formatted(one.last, panel)
        colour = _colours_by_name(panel).get(one.name) or _colour(panel, one.last)
        box = axes.get_window_extent()
        size = min(
            22.0,
            0.42 * box.height * 72 / axes.figure.dpi,
            1.5 * box.width / len(found) / max(5, len(text)) * 72 / axes.figure.dpi,
        )
        axes.text(x, 0.48, text, ha="center", va="center", fontsize=size, color=colour, fontweight="bold")
        if not named and one.name != "value":
            axes.text(x, 0.06, one.name, ha="center", va="center", fontsize=7, color=FAINT)


def _meters(axes: Axes, panel: Mapping[str, Any], view: View) -> None:
    found = [one for target in panel["targets"] for one in view.now(target)]
    axes.set_axis_off()
    if not found:
        _empty(axes)
        return
    axes.set_xlim(0, 1.75)
    axes.set_ylim(max(5, len(found)) - 0.4, -0.6)
    for at, one in enumerate(found):
        full = min(1.0, max(0.0, one.last))
        axes.barh(at, 1, left=0.52, height=0.55, color="#e6e8eb")
        axes.barh(at, full, left=0.52, height=0.55, color=_colour(panel, one.last))
        axes.text(0.49, at, one.name, ha="right", va="center", fontsize=7.5, color=INK)
        axes.text(
            1.55,
            at,
            formatted(one.last, panel),
            ha="left",
            va="center",
            fontsize=7.5,
            color=_colour(panel, one.last),
        )


def _states(axes: Axes, panel: Mapping[str, Any], view: View) -> None:
    found = sorted(
        (one for target in panel["targets"] for one in view.series(target)), key=lambda one: one.times[0]
    )
    own = _colours_by_name(panel)
    step_s = max(1.0, view.seconds / POINTS)
    for at, one in enumerate(found):
        spans = [(at_s, step_s * 1.05) for at_s in one.times]
        axes.broken_barh(spans, (at - 0.38, 0.76), color=own.get(one.name, PALETTE[at % len(PALETTE)]))
    _frame(axes, panel, view)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3))
    axes.yaxis.set_major_locator(ticker.FixedLocator(list(range(len(found)))))
    axes.yaxis.set_major_formatter(ticker.FixedFormatter([one.name for one in found]))
    axes.set_ylim(max(5, len(found)) - 0.4, -0.6)


def _table(axes: Axes, panel: Mapping[str, Any], view: View) -> None:
    organize = next(step for step in panel["transformations"] if step["id"] == "organize")["options"]
    columns = sorted(organize["indexByName"], key=organize["indexByName"].__getitem__)
    keys = [name for name in columns if not name.startswith("Value #")]
    rows: list[dict[str, str]] = []
    for target in panel["targets"]:
        for one in view.now(target):
            own = {key: one.labels.get(key, "") for key in keys if key in one.labels}
            met = [row for row in rows if own.items() <= row.items()]
            if not met:
                met = [own]
                rows.append(own)
            for row in met:
                row[f"Value #{target['refId']}"] = formatted(one.last, panel)
    rows.sort(key=lambda row: row.get(keys[0], ""))
    axes.set_axis_off()
    if not rows:
        _empty(axes)
        return
    heads = [organize["renameByName"].get(name, name) for name in columns]
    height = 1 / (len(rows) + 1.4)
    for at, cells in enumerate([dict(zip(columns, heads, strict=True)), *rows]):
        for column, name in enumerate(columns):
            axes.text(
                (column + 0.02) / len(columns),
                1 - (at + 0.6) * height,
                cells.get(name, ""),
                va="center",
                fontsize=7.5,
                color=FAINT if not at else INK,
                fontweight="bold" if not at else "normal",
            )


def _empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes, fontsize=9, color=FAINT)


KINDS: Mapping[str, Callable[[Axes, Mapping[str, Any], View], None]] = {
    "timeseries": _lines,
    "stat": _figure,
    "bargauge": _meters,
    "state-timeline": _states,
    "table": _table,
}
