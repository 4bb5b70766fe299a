"""The place where rules are installed: the Headgate that they are about, and the labels of their alerts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

RUNBOOKS = "https://runbooks.example.org/headgate"
"""The address of `docs/runbooks`; yours is another one: `python -m dashboards --runbooks URL`."""

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
