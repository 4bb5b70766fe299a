"""Draws a dashboard's own JSON from a Prometheus, for the documentation. It is not Grafana, and says so.

Panels lie where their `gridPos` says, and their queries are run; `plots` knows their kinds.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import httpx
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dashboards.plots import FAINT, INK, KINDS, View

COLUMNS, INCHES, ROW = 24, 18.0, 0.34
GROUND, PAPER = "#f4f5f7", "#ffffff"
NOTE = (
    "Not rendered by Grafana: drawn from the dashboard's JSON and its queries' results by dashboards/draw.py"
)


def all_panels(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows and panels, also those in closed rows."""
    return [each for panel in document["panels"] for each in (panel, *panel.get("panels", ()))]


def drawn(document: Mapping[str, Any], view: View) -> Figure:
    """All panels of a dashboard, at their positions; closed rows are drawn as if they were open."""
    panels = all_panels(document)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 2
    figure = Figure(figsize=(INCHES, rows * ROW), dpi=80, facecolor=GROUND)
    height = rows * ROW

    def place(at: Mapping[str, int], *, left: float, bottom: float, right: float, top: float) -> Any:
        """A position as shares of the figure, with margins in inches."""
        x, width = at["x"] / COLUMNS * INCHES + left, at["w"] / COLUMNS * INCHES - left - right
        y = height - (at["y"] + 2 + at["h"]) * ROW + bottom
        return x / INCHES, y / height, width / INCHES, (at["h"] * ROW - bottom - top) / height

    figure.text(
        0.008, 1 - 0.3 / height, document["title"], fontsize=15, fontweight="bold", color=INK, va="center"
    )
    figure.text(0.992, 1 - 0.3 / height, NOTE, fontsize=8, color=FAINT, ha="right", va="center")
    for panel in panels:
        at = panel["gridPos"]
        if panel["type"] == "row":
            x, y, _, tall = place(at, left=0.12, bottom=0, right=0, top=0)
            figure.text(
                x, y + tall / 2, panel["title"], fontsize=11, fontweight="bold", color=INK, va="center"
            )
            continue
        x, y, wide, tall = place(at, left=0.05, bottom=0.05, right=0.05, top=0.05)
        box = FancyBboxPatch(
            (x, y),
            wide,
            tall,
            boxstyle="square,pad=0",
            facecolor=PAPER,
            edgecolor="#dcdee2",
            linewidth=0.7,
            transform=figure.transFigure,
            zorder=-1,
        )
        figure.add_artist(box)
        figure.text(
            x + 0.1 / INCHES,
            y + tall - 0.17 / height,
            panel["title"],
            fontsize=8.5,
            fontweight="bold",
            color=INK,
            va="center",
        )
        axes = figure.add_axes(place(at, **MARGINS[panel["type"]]), facecolor="none")
        KINDS[panel["type"]](axes, panel, view)
    return figure


_ROOM = {"left": 0.2, "bottom": 0.15, "right": 0.2, "top": 0.4}
MARGINS: Mapping[str, Mapping[str, float]] = {
    "timeseries": {"left": 0.7, "bottom": 0.72, "right": 0.25, "top": 0.42},
    "state-timeline": {"left": 0.95, "bottom": 0.4, "right": 0.25, "top": 0.42},
    "stat": _ROOM,
    "bargauge": _ROOM,
    "table": _ROOM,
}


def draw(dashboard: Path, picture: Path, view: View) -> None:
    """Draw a dashboard's JSON file as a picture file."""
    figure = drawn(json.loads(dashboard.read_text(encoding="utf-8")), view)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def view_of(http: httpx.Client, seconds: float, rate_s: float, chosen: Mapping[str, str]) -> View:
    """The last `seconds`; variables that `chosen` does not have match everything."""
    everything = dict.fromkeys(("cluster", "namespace", "job", "pod", "route", "controller"), ".*")
    windows = {"__rate_interval": f"{rate_s:.0f}s", "__range": f"{seconds:.0f}s"}
    return View(http, {**everything, **windows, **chosen}, time.time(), seconds)


@click.command()
@click.argument("dashboard", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--prometheus", required=True, help="Its URL.")
@click.option("--seconds", default=21600.0, show_default=True, help="So far back.")
@click.option("--rate", "rate_s", default=60.0, show_default=True, help="Seconds for $__rate_interval.")
def main(dashboard: Path, picture: Path, prometheus: str, seconds: float, rate_s: float) -> None:
    """Draw a DASHBOARD's JSON as a PICTURE."""
    with httpx.Client(base_url=prometheus) as http:
        draw(dashboard, picture, view_of(http, seconds, rate_s, {}))


if __name__ == "__main__":
    main()
