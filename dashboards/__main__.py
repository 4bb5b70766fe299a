"""Writes the rules and the dashboards, and their copies for the chart."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from dashboards import rules
from dashboards.compare import compare
from dashboards.panels import Look, json_of
from dashboards.place import EVERYWHERE, IN_THE_CHART, Place
from dashboards.rollout import rollout
from dashboards.streams import streams

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "files"
DASHBOARDS = {"streams": streams, "rollout": rollout, "compare": compare}


def files(place: Place = EVERYWHERE, out: Path = HERE) -> dict[Path, str]:
    """The text of each file that is written: for a place, and, into this folder, the chart's as well."""
    look = Look(place.runbooks, place.titles, place.uids, place.tag)
    built = {name: json_of(dashboard(look)) for name, dashboard in DASHBOARDS.items()}
    shown = {name: _dumped(place.renamed(json.loads(text))) for name, text in built.items()}
    written = {out / "rules.yaml": rules.text(place), out / "inhibition.yaml": rules.inhibition(place)}
    written |= {out / f"{name}.json": text for name, text in shown.items()}
    if out == HERE:
        written[CHART / "rules.yaml"] = rules.text(IN_THE_CHART)
        # Without indentation: a ConfigMap, and the annotation that `kubectl apply` keeps of it, are bounded.
        written |= {
            CHART / "dashboards" / f"{name}.json": json.dumps(json.loads(text), ensure_ascii=False) + "\n"
            for name, text in shown.items()
        }
    return written


def _dumped(document: Any) -> str:
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


@click.command()
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A YAML file.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=HERE, help="A folder.")
@click.option("--runbooks", help="Where docs/runbooks is served; a URL.")
@click.option("--selector", help="Label matchers of one Headgate of several.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of each alert.")
def main(
    config: Path | None, out: Path, runbooks: str | None, selector: str | None, labels: Sequence[str]
) -> None:
    """Write the rules and the dashboards. Options take precedence over the file."""
    if bad := [label for label in labels if "=" not in label]:
        raise click.BadParameter(f"{bad[0]}: NAME=VALUE is meant", param_hint="--label")
    try:
        place = EVERYWHERE if config is None else Place.read(config)
    except (ValueError, yaml.YAMLError) as exc:
        raise click.BadParameter(f"{config}: {exc}", param_hint="--config") from None
    place = replace(
        place,
        runbooks=place.runbooks if runbooks is None else runbooks,
        selector=place.selector if selector is None else selector,
        labels={**place.labels, **dict(label.split("=", 1) for label in labels)},
    )
    for path, text in files(place, out).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
