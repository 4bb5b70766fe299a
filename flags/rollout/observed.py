"""What requests say of the share that is in force, against the one that was written. Pure.

Answers are counted in windows, each as large as it takes to tell: what was right until an hour ago says
nothing of now, nor does what was wrong until it was mended.
"""

import math
from dataclasses import dataclass, replace

FEW = 50
"""Answers of an arm that would be expected: with fewer, none of them says nothing."""

AT_NOTHING = 20 * FEW
"""Answers of a window at 0 %: where other proxies show a hundredth, some of so many tell."""

STRAGGLERS = 3
"""Streamed answers at 0 %, of which fewer may have been decided before."""

STRAGGLE_S = 900.0
"""After the share went to 0: what settles by then may have been decided before it."""


SLIGHT = 0.05
"""So much of all, or half of the share, is worth a word."""

CHANCE = 3.0
"""Standard deviations by which answers may differ, if each were another user's."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The window under way, and the last that was full."""

    since_s: float = 0.0
    """Unix time since which users get what was written."""
    streamed: int = 0
    """Answers of the stream arm."""
    settled: int = 0
    """Of everybody."""
    last: tuple[int, int] = (0, 0)
    """Both of the last full one."""

    def after(self, streamed: int, settled: int, share: int) -> "Observed":
        """With so many more answers, at a written share in percent."""
        streamed, settled = self.streamed + streamed, self.settled + settled
        if settled < _full(share):
            return replace(self, streamed=streamed, settled=settled)
        return replace(self, streamed=0, settled=0, last=(streamed, settled))

    def problem(self, share: int) -> str:
        """How they differ from the written share; "" where they do not, or are too few to say."""
        return _problem(*self.last, share) or _problem(self.streamed, self.settled, share)


def explanation(share: int, streamed: int, settled: int, *, users: int, in_step_s: float) -> str:
    """Why the stream arm's part of the answers is another than its share of users; "" where it is hardly so.

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


def _problem(streamed: int, every: int, share: int) -> str:
    if share == 0:
        return (
            f"{streamed:,} of {every:,} answers since then are of the stream arm: the proxies read another "
            "environment, flag or file"
        ) * (streamed >= STRAGGLERS)
    if not streamed and every * share / 100 >= FEW:
        return (
            f"none of {every:,} answers is one of the stream arm: the proxies read another environment, flag "
            f"or file, or none of their users is in the first {share} %"
        )
    if every == streamed and every * (100 - share) / 100 >= FEW:
        return f"all of {every:,} answers are of the stream arm: the proxies read another share than this"
    return ""
