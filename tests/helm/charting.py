"""The chart, rendered by Helm's own engine, for tests. No cluster is asked."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
KUBERNETES = ("1.30", "1.34", "1.37")
"""The first that the chart is for, and up to the newest that there are schemas for."""

FOREIGN = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
"""Not Kubernetes's own: what the chart uses of them is in tests/crds."""

RELEASE, NAMESPACE = "headgate", "clinic"


class _Once(yaml.CSafeLoader):
    """A name that stands twice is an error: Kubernetes would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), f"stands twice in line {node.start_mark.line + 1}: {names}"
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects that would be installed."""

    objects: tuple[dict[str, Any], ...]
    notes: str

    def one(self, kind: str, name: str = RELEASE) -> dict[str, Any]:
        """The only object of this kind and name."""
        (found,) = (each for each in self.objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
        return found

    def kinds(self) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in self.objects}

    def deployments(self) -> Iterator[dict[str, Any]]:
        return (each for each in self.objects if each["kind"] == "Deployment")


def values_of(example: str, **changes: Any) -> dict[str, Any]:
    """An example's values, with others in the place of some: `a__b=1` is `{a: {b: 1}}`."""
    values: dict[str, Any] = yaml.load((CHART / "examples" / f"{example}.yaml").read_text(), Loader=_Once)
    return changed(values, {name.replace("__", "."): value for name, value in changes.items()})


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with each value at its path, `a.b.0.c`."""
    copy: dict[str, Any] = deepcopy(dict(values))
    for path, value in changes.items():
        *outer, last = path.split(".")
        place: Any = copy
        for name in outer:
            place = place[int(name)] if name.isdecimal() else place.setdefault(name, {})
        place[last] = value
    return copy


def render(values: Mapping[str, Any]) -> Rendered:
    """Raises helm_python.HelmError where Helm would refuse to install."""
    with Chart.load(str(CHART)) as chart:
        files = chart.render(dict(values), name=RELEASE, namespace=NAMESPACE)
    objects = [
        found
        for path, text in files.items()
        if path.endswith(".yaml")
        for found in yaml.load_all(text, Loader=_Once)
        if found
    ]
    (notes,) = (text for path, text in files.items() if path.endswith("NOTES.txt"))
    return Rendered(tuple(objects), notes)


def taken_by_kubernetes(found: Mapping[str, Any], version: str) -> None:
    """Raises where this version would refuse an object. Strictly: a name it does not know is a mistake."""
    # Not above: the grammars that they make of all kinds of addresses take each process a second.
    import jsonschema
    import kubernetes_validate

    if found["kind"] in FOREIGN:
        schema = json.loads((Path(__file__).parent / "crds" / f"{found['kind']}.json").read_text())
        jsonschema.validate(found, schema)
    else:
        kubernetes_validate.validate(found, version, strict=True)


def container(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """The only one of a Deployment's pods."""
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)
