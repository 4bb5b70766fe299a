"""The place where rules and dashboards are installed: its labels, and what things are called there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

RUNBOOKS = "https://runbooks.example.org/headgate"
"""The address of `docs/runbooks`; yours is another one: `python -m dashboards --runbooks URL`."""

_SERIES = re.compile(r"(?<![\w:])((?:\w+:)?headgate_\w+(?::\w+)?)(?:\{([^}]*)\})?")

RENAMED = ("cluster", "namespace", "job", "instance")
"""Labels that Prometheus, and not Headgate, gives."""

_ANY = "|".join(RENAMED)
_IN_PROMQL = re.compile(rf"(?<=[{{(,\s])(?:{_ANY})(?=[=,)}}])")
"""In a selector, after `by (`, in a legend; not a variable of Grafana."""

_IN_A_TEXT = re.compile(rf"(?<=labels\.)(?:{_ANY})\b")
"""In the template of an annotation."""

PROMQL = ("expr", "query", "definition", "legendFormat")
"""Keys of JSON and of rules whose text is PromQL, or the name of a series."""


@dataclass(frozen=True, slots=True)
class Place:
    """An installation."""

    runbooks: str = RUNBOOKS
    selector: str = ""
    """Label matchers, such as `namespace="clinic"`. Empty: every Headgate that Prometheus sees."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of each alert: `team`, `cluster`."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of labels that have other names there: `{cluster: k8s_cluster}`. Of these: cluster, namespace, job,
    instance."""
    titles: str = "Headgate: "
    """Before the title of each dashboard."""
    uids: str = "headgate-"
    """Before the UID of each dashboard; with the rest at most 40 characters, as Grafana has it."""
    tag: str = "headgate"
    """Of the dashboards, by which they find each other."""

    @classmethod
    def read(cls, path: Path) -> "Place":
        """From a YAML file of these names. Raises ValueError with what is wrong."""
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(found, dict):
            raise ValueError("must be names with values")
        kinds = {each.name: dict if each.name in ("labels", "names") else str for each in fields(cls)}
        for name, value in found.items():
            if name not in kinds:
                raise ValueError(f"{name} is unknown; there are: {', '.join(kinds)}")
            if not isinstance(value, kinds[name]):
                raise ValueError(f"{name} must be {'a map' if kinds[name] is dict else 'text'}")
        if others := set(found.get("names", ())) - set(RENAMED):
            raise ValueError(f"names: {', '.join(sorted(others))}: of these only: {', '.join(RENAMED)}")
        return cls(**found)

    def renamed(self, told: Any, key: str = "") -> Any:
        """A dashboard or a rule with the labels of this place. `key`: where a part of it stands."""
        if not self.names:
            return told
        if isinstance(told, dict):
            return {name: self.renamed(value, name) for name, value in told.items()}
        if isinstance(told, list):
            return [self.renamed(value, key) for value in told]
        if not isinstance(told, str):
            return told
        places = _IN_PROMQL if key in PROMQL else _IN_A_TEXT
        return places.sub(lambda found: self.names.get(found[0], found[0]), told)

    def scoped(self, expr: str) -> str:
        """PromQL about the series of this place alone."""
        return _SERIES.sub(self._narrowed, expr) if self.selector else expr

    def _narrowed(self, found: re.Match[str]) -> str:
        matchers = ",".join(part for part in (self.selector, found[2]) if part)
        return f"{found[1]}{{{matchers}}}"


EVERYWHERE = Place()

IN_THE_CHART = Place(selector="$selector$")
"""The chart puts its release's own in the place of these words."""
