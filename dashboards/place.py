"""Where rules are installed: which of several Headgates they are about, and what labels their alerts have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

RUNBOOKS = "https://runbooks.example.org/headgate"
"""Where `docs/runbooks` is served; yours is another place: `python -m dashboards --runbooks URL`."""

_SERIES = re.compile(r"(?<![\w:])((?:\w+:)?headgate_\w+(?::\w+)?)(?:\{([^}]*)\})?")


@dataclass(frozen=True, slots=True)
class Place:
    """An installation."""

    runbooks: str = RUNBOOKS
    selector: str = ""
    """Label matchers, such as `namespace="clinic"`. Empty: every Headgate that Prometheus sees."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of each alert: `team`, `cluster`."""

    def scoped(self, expr: str) -> str:
        """PromQL about the series of this place alone."""
        return _SERIES.sub(self._narrowed, expr) if self.selector else expr

    def _narrowed(self, found: re.Match[str]) -> str:
        matchers = ",".join(part for part in (self.selector, found[2]) if part)
        return f"{found[1]}{{{matchers}}}"


EVERYWHERE = Place()

IN_THE_CHART = Place(selector="$selector$")
"""The chart puts its release's own in the place of these words."""
