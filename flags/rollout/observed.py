"""The share that requests show to be in force, against the written one. Pure.

Answers are counted in windows, each as large as a comparison needs, so that old answers do not hide what is
wrong now, and do not accuse what was mended.
"""

import math
from dataclasses import dataclass, replace

FEW = 50
"""Expected answers of an arm: with fewer expected, an arm without any proves nothing."""

AT_NOTHING = 20 * FEW
"""Answers of a window at 0 %: enough to see that some proxies stream for one user in a hundred."""

STRAGGLERS = 3
"""Streamed answers at 0 % that are a problem; fewer may have been decided before."""

STRAGGLE_S = 900.0
"""After the share went to 0: answers that settle by then may have been decided before."""


SLIGHT = 0.05
"""Difference from the share that is worth a word; half of the share is, too."""

CHANCE = 3.0
"""Standard deviations that are taken for chance, as if each answer were another user's."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The window under way, and the last that was full."""

    since_s: float = 0.0
    """Unix time since which users get what was written."""
    streamed: int = 0
    """Answers of the stream arm."""
    settled: int = 0
    """Answers of all users."""
    last: tuple[int, int] = (0, 0)
    """Streamed and settled answers of the last full window."""

    def after(self, streamed: int, settled: int, share: int) -> "Observed":
        """The counts with these answers added, at a written share in percent."""
        streamed, settled = self.streamed + streamed, self.settled + settled
        if settled < _full(share):
            return replace(self, streamed=streamed, settled=settled)
        return replace(self, streamed=0, settled=0, last=(streamed, settled))

    def problem(self, share: int) -> str:
        """Return how answers differ from the written share; "" where they do not, or are too few."""
        return _problem(*self.last, share) or _problem(self.streamed, self.settled, share)


def explanation(share: int, streamed: int, settled: int, *, users: int, in_step_s: float) -> str:
    """Return why the stream arm's part of answers differs from its share of users; "" where it hardly does.

    Args:
        share: written, in percent of users.
        streamed: answers of the stream arm in this step.
        settled: of everybody.
        users: so many of the stream arm have asked, at least; 0: not known.
        in_step_s: seconds since the step was entered.
    """
    if not settled:
        return ""
    expected, part = share / 100, streamed / settled
    off = abs(part - expected)
    if off < min(SLIGHT, expected / 2) or not off:
        return ""
    if not share:
        return "of the whole step, also before it went to 0 %"
    if off <= CHANCE * math.sqrt(expected * (1 - expected) / settled):
        return "so few answers may be so by chance"
    if part < expected and in_step_s < STRAGGLE_S:
        return "some of them were decided before this step"
    if not users:
        return "answers are not users: who asks more counts more"
    return f"answers are not users: at least {users:,} users had these {streamed:,} streamed"


def _full(share: int) -> float:
    """Answers of which each arm would be expected to have a few."""
    return AT_NOTHING if share == 0 else 100 * FEW / min(share, 100 - share or share)


def _problem(streamed: int, total: int, share: int) -> str:
    if share == 0:
        return (
            f"{streamed:,} of {total:,} answers since then are of the stream arm: the proxies read another "
            "environment, flag or file"
        ) * (streamed >= STRAGGLERS)
    if not streamed and total * share / 100 >= FEW:
        return (
            f"none of {total:,} answers is one of the stream arm: the proxies read another environment, flag "
            f"or file, or none of their users is in the first {share} %"
        )
    if total == streamed and total * (100 - share) / 100 >= FEW:
        return f"all of {total:,} answers are of the stream arm: the proxies read another share than this"
    return ""
