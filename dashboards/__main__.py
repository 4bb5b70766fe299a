"""Writes the rules and the dashboards, and their copies for the chart."""

from pathlib import Path

import click

from dashboards import rules
from dashboards.compare import compare
from dashboards.panels import json_of
from dashboards.rollout import rollout
from dashboards.streams import streams

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "files"
DASHBOARDS = {"streams": streams, "rollout": rollout, "compare": compare}


def files(runbooks: str = rules.RUNBOOKS) -> dict[Path, str]:
    """The text of each file that is written."""
    text = rules.text(runbooks)
    written = {place / "rules.yaml": text for place in (HERE, CHART)}
    for name, dashboard in DASHBOARDS.items():
        text = json_of(dashboard(runbooks))
        written |= {place / f"{name}.json": text for place in (HERE, CHART / "dashboards")}
    return written


@click.command()
@click.option("--runbooks", default=rules.RUNBOOKS, help="Where docs/runbooks is served; a URL.")
def main(runbooks: str) -> None:
    """Write the rules and the dashboards."""
    for path, text in files(runbooks).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
