"""Writes the rules and the dashboards, and their copies for the chart."""

from collections.abc import Sequence
from pathlib import Path

import click

from dashboards import rules
from dashboards.compare import compare
from dashboards.panels import json_of
from dashboards.place import EVERYWHERE, IN_THE_CHART, RUNBOOKS, Place
from dashboards.rollout import rollout
from dashboards.streams import streams

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "files"
DASHBOARDS = {"streams": streams, "rollout": rollout, "compare": compare}


def files(place: Place = EVERYWHERE) -> dict[Path, str]:
    """The text of each file that is written. The chart's are for each of its releases."""
    written = {
        HERE / "rules.yaml": rules.text(place),
        HERE / "inhibition.yaml": rules.inhibition(),
        CHART / "rules.yaml": rules.text(IN_THE_CHART),
    }
    for name, dashboard in DASHBOARDS.items():
        text = json_of(dashboard(place.runbooks))
        written |= {folder / f"{name}.json": text for folder in (HERE, CHART / "dashboards")}
    return written


@click.command()
@click.option("--runbooks", default=RUNBOOKS, help="Where docs/runbooks is served; a URL.")
@click.option("--selector", default="", help="Label matchers of one Headgate of several.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of each alert.")
def main(runbooks: str, selector: str, labels: Sequence[str]) -> None:
    """Write the rules and the dashboards."""
    if bad := [label for label in labels if "=" not in label]:
        raise click.BadParameter(f"{bad[0]}: NAME=VALUE is meant", param_hint="--label")
    place = Place(runbooks, selector, dict(label.split("=", 1) for label in labels))
    for path, text in files(place).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
