"""Evidence by the flag's draw of users, looked at now and then: a sum that only grows. Pure.

The proxies' likelihood ratio has a mean of 1 at any time that is fixed beforehand, and it may rise and fall:
the draw is over, and what befalls users goes on. So it is no e-process, and the largest of many looks proves
nothing. But each of some looks can have a part of the stake. What they win is added up, and never lost again.
The sum only grows, and its mean in the end is at most 1: it reaches 1/alpha with a chance of at most alpha.
"""

import math
from collections.abc import Mapping, Sequence

from flags.rollout.evidence.evidence import EXPECTED_UNITS, Batch
from flags.rollout.verdict.rate_evidence import log_sum

LOOKS = {0.33: 0.15, 0.66: 0.2, 0.98: 0.4}
"""Parts of the step's stake by the times of looks, as parts of the shortest time in a step. There are looks
at twice that time, too, and whenever it has doubled again: each has half of the stake that is left."""

HARMS: Mapping[str, float] = {"few": 0.3, "all": 0.2, "late": 0.5}
"""Parts of the stake by what the proxies think that streaming may do: to few users, and to all of them, since
they came in; to all since the latest share."""

SHORTEST_S = 600.0
"""Where a policy has a step that may be shorter."""


class DrawEvidence:
    """What looks have won so far.

    Args:
        at_least_s: the shortest time in each step. Steps have the same part of the stake.
    """

    def __init__(self, at_least_s: Sequence[float]) -> None:
        self._at_least_s = at_least_s
        self._looks = [0] * len(at_least_s)
        self.log = -math.inf
        """The logarithm of all that was won; minus infinity before the first look."""
        self.enter(0)

    def enter(self, step: int) -> None:
        """Begin a step. One that comes back goes on with the looks that are left."""
        self._step = step
        self._since_s: float | None = None

    def add(self, batch: Batch) -> None:
        """Look, if it is time."""
        if self._since_s is None:
            self._since_s = batch.since_s
        shortest_s = max(SHORTEST_S, self._at_least_s[self._step])
        while batch.until_s - self._since_s >= time_of(self._looks[self._step]) * shortest_s:
            of_look = stake_of(self._looks[self._step]) / len(self._looks)
            found = [
                math.log(of_look * stake) + batch.drawn.get(harm, 0) / EXPECTED_UNITS
                for harm, stake in HARMS.items()
            ]
            self.log = log_sum([self.log, *found])
            self._looks[self._step] += 1


def time_of(look: int) -> float:
    """Return when a step has this look, in parts of its shortest time."""
    return [*LOOKS][look] if look < len(LOOKS) else 2.0 ** (look - len(LOOKS) + 1)


def stake_of(look: int) -> float:
    """Return the part of the step's stake that this look has."""
    if look < len(LOOKS):
        return [*LOOKS.values()][look]
    return (1 - sum(LOOKS.values())) * 0.5 ** (look - len(LOOKS) + 1)
