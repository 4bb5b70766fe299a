"""Writes what the Python here says: the rules and the dashboards, and their copies for the chart."""

from pathlib import Path

import click

from dashboards import rules

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "files"


def files(runbooks: str = rules.RUNBOOKS) -> dict[Path, str]:
    """Everything that is written, by where it lies."""
    return {place / "rules.yaml": rules.text(runbooks) for place in (HERE, CHART)}


@click.command()
@click.option("--runbooks", default=rules.RUNBOOKS, help="Where docs/runbooks is served; a URL.")
def main(runbooks: str) -> None:
    """Write the rules and the dashboards."""
    for path, text in files(runbooks).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
