"""Counts of the questions to each flag, in the form of Unleash's usage metrics. No I/O, no clock."""

from collections import Counter
from datetime import datetime
from typing import Any

from flags.decision import FlagAnswer

MAX_COUNTS = 1000
"""Different answers that are counted until the next report; a flag has two and its variants."""


Counts = Counter[tuple[str, bool, str]]
"""Counts by flag, whether it is on, and variant."""


class Usage:
    """Answers that are not reported yet; none is lost when flags change."""

    def __init__(self) -> None:
        self._counts = Counts()

    def note(self, flag: str, answer: FlagAnswer) -> None:
        key = (flag, answer.enabled, answer.variant)
        if answer.known and (key in self._counts or len(self._counts) < MAX_COUNTS):
            self._counts[key] += 1

    def take(self) -> Counts:
        """All counts, for a report."""
        counts, self._counts = self._counts, Counts()
        return counts

    def put_back(self, counts: Counts) -> None:
        """Keep counts of a report that failed, for the next one."""
        self._counts.update(counts)


def bucket(counts: Counts, since: datetime, until: datetime) -> dict[str, Any]:
    """The counts as the client API's `metrics` has them."""
    flags: dict[str, Any] = {}
    for (flag, enabled, variant), count in counts.items():
        counted = flags.setdefault(flag, {"yes": 0, "no": 0, "variants": {}})
        counted["yes" if enabled else "no"] += count
        if variant:
            counted["variants"][variant] = counted["variants"].get(variant, 0) + count
    return {"start": since.isoformat(), "stop": until.isoformat(), "toggles": flags}
