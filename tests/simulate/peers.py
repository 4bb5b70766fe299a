"""Two rules of others, as the examples of their documentation set them, on the same traffic.

Flagger: `interval: 1m`, `threshold: 5`, `request-success-rate` of at least 99 % in the last minute; failed
checks add up over the whole run, and a minute without traffic is one.
Argo Rollouts: `interval: 5m`, `failureLimit: 3`, success rate of at least 95 % in the last five minutes; an
empty answer is no failure. Either goes back to 0 for good. For comparison alone: it is not their best tuning.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass
class FlaggerLike:
    """Looks each minute."""

    failed_checks: int = 0
    rolled_back: bool = False

    def look(self, bad: int, every: int) -> None:
        if every == 0 or (every - bad) / every < 0.99:
            self.failed_checks += 1
        self.rolled_back = self.rolled_back or self.failed_checks >= 5


@dataclass
class ArgoLike:
    """Looks each fifth minute."""

    failures: int = 0
    rolled_back: bool = False
    _minutes: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=5))
    _looked: int = 0

    def look(self, bad: int, every: int) -> None:
        self._minutes.append((bad, every))
        self._looked += 1
        if self._looked % 5:
            return
        bad, every = (sum(column) for column in zip(*self._minutes, strict=True))
        if every and (every - bad) / every < 0.95:
            self.failures += 1
        self.rolled_back = self.rolled_back or self.failures > 3
