"""Counts of the fields of providers' streams that no table names, and that were kept."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_NAMES = 256
"""Pairs of a provider and a field that are counted. Of further ones only their number is."""


@dataclass(frozen=True, slots=True)
class KeptCounts:
    """Counts of this process."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The number of answers with a field, by provider and field."""

    def note(self, provider: str, names: Iterable[str]) -> None:
        """Count the kept fields of one answer."""
        for name in set(names):
            key = provider, name
            self.answers[key if key in self.answers or len(self.answers) < MAX_NAMES else ("", "")] += 1

    def shown(self) -> list[dict[str, Any]]:
        """The counts for the admin port, the most frequent first. The entry without names counts all beyond
        the bound."""
        return [
            {"provider": provider, "field": name, "answers": count}
            for (provider, name), count in self.answers.most_common()
        ]
