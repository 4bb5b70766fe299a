"""The schema of the chart's values and its README: `helm/values.schema.json` and `helm/README.md`.

`settings` and `policy` are Headgate's own models without what the chart sets itself, so that a wrong setting
is refused before anything is installed. A secret must be a reference, since values end up in a ConfigMap.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs.chart_values import Values
from docs.docstrings import docstrings
from docs.tables import blocks, table

CHART = Path(__file__).parents[1] / "helm"

SET_BY_THE_CHART = {
    "Settings": ("listen", "admin", "drain_s"),
    "FlagSettings": ("file",),
    "LlmSettings": ("listen",),
    "Policy": ("journal", "lease", "listen"),
    "Where": ("file",),
    "Evidence": ("pages",),
}
"""`where.file` and `evidence.pages` cannot work here: a ConfigMap is read-only, and pods come and go."""

LEFT_TO_THE_CHART = {"ValkeyLogSettings": ("url",)}
"""Optional, since the chart knows it with `valkey.enabled`."""

REFERENCE = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"


def schema() -> dict[str, Any]:
    """JSON Schema of the values."""
    whole = Values.model_json_schema()
    found = whole["$defs"]
    for _, model in blocks("", Values):
        _describe(model, found.get(model.__name__, {}))
    for block, names in SET_BY_THE_CHART.items():
        for name in names:
            del found[block]["properties"][name]
    for block, names in (SET_BY_THE_CHART | LEFT_TO_THE_CHART).items():
        found[block]["required"] = [name for name in found[block].get("required", ()) if name not in names]
    found["Where"]["required"], found["Evidence"]["required"] = ["unleash"], ["prometheus"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_for_values(whole)}


def _describe(model: type[BaseModel], block: dict[str, Any]) -> None:
    """Put in what is said of each field of a block, where it was not when the model was made."""
    properties = block.get("properties", {})
    for name, text in docstrings(model).items():
        key = model.model_fields[name].alias or name
        if key in properties:
            properties[key] = dict(sorted({"description": text, **properties[key]}.items()))


def _for_values(node: Any) -> Any:
    """A schema for values: secrets by reference, without titles and defaults."""
    match node:
        case {"writeOnly": True}:
            return {"type": "string", "pattern": REFERENCE, "description": "As `${NAME}`, of `secrets`."}
        case {"properties": dict(properties), **rest}:
            named = {name: _for_values(inner) for name, inner in properties.items()}
            return {**_for_values(rest), "properties": named}
        case {"patternProperties": patterns}:
            return {
                "type": "object",
                "patternProperties": _for_values(patterns),
                "additionalProperties": False,
            }
        case dict():
            return {
                name: _for_values(inner) for name, inner in node.items() if name not in {"title", "default"}
            }
        case list():
            return [_for_values(inner) for inner in node]
        case _:
            return node


README = """\
<!-- Written by `make docs` from docs/chart_values.py. Change that, not this page. -->

# Chart

Headgate on Kubernetes (1.30 or later): proxies and, optionally, the controller of a rollout, a way in, and
monitoring. [How to install it](../docs/install.md). `examples/` has values that work:

- [`dev.yaml`](examples/dev.yaml), for trying out: flags from a file, runs in memory, one replica;
- [`production.yaml`](examples/production.yaml): Unleash, a Valkey, replicas by load, the controller,
  Gateway API, the Prometheus Operator, and only the ways in and out that are needed;
- [`openshift.yaml`](examples/openshift.yaml): users and groups that the cluster gives, its router, DNS and
  Prometheus;
- [`existing-services.yaml`](examples/existing-services.yaml): beside an Unleash and an Ingress controller
  that are there already, with the bundled Valkey.

The chart holds no secret: `settings` and `policy` say `${NAME}`, and `secrets` names the Secret of each.
When a Secret changes, restart the pods (`kubectl rollout restart`); when `settings` change they roll by
themselves.
"""


def readme() -> str:
    """The README: each block once, without Headgate's own settings, which have pages of their own."""
    elsewhere = ("settings.", "controller.policy.")
    shown: dict[type[BaseModel], str] = {}
    for path, model in blocks("", Values):
        if not f"{path}.".startswith(elsewhere):
            shown.setdefault(model, path)
    return "\n".join([README, *(line for model, path in shown.items() for line in table(path, model))]) + "\n"


def files() -> dict[Path, str]:
    """The text of each file that is written."""
    text = json.dumps(schema(), indent=1, ensure_ascii=False)
    return {CHART / "values.schema.json": text + "\n", CHART / "README.md": readme()}
