"""The draw of one route's users, of this process or of all that share a store. No I/O.

A user's requests go to several processes, and what befell the user is all of them. So processes that share a
store put what requests say into a log, and all add it in the log's order, whosever it is: all have the same
evidence. It is a level and no count, so nothing is added up of it, and nothing can count twice.

The flag changes at one process sooner than at another one. So a process says, in the log, from what to what
its flag has changed, and the first one that does counts: for the others the flag is there already. A process
that starts, or comes back, with another flag than the log has waits for `SETTLED_S` for the others to say so,
and then says it: all may have begun anew. A flag that is older than the log's last change is not said.

By itself a process adds a request when it ends, by its own flag: without a store, and when the store was
away for long.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flags.decision import Arm
from proxy.observe.users.draws import Draws, KnownDraws
from proxy.observe.users.waiting import MOST_ALIKE, Waiting
from proxy.observe.users.watched_users import KEPT

SETTLED_S = 60.0
"""After so long a process tells the log of a flag that no other one has told of; and again, if need be."""

_NO_USER = b""


class Changed(NamedTuple):
    """One process's flag has changed."""

    before: str
    """Its generation until then, "" for a flag without arms."""
    generation: str
    share: int
    """Percent of users in the stream arm; 0: nobody, or the flag has no arms."""


@dataclass(slots=True)
class Met:
    """Requests of one user that were decided and have ended alike, one after another."""

    user: bytes
    """The user's keyed hash."""
    arm: Arm
    generation: str
    """Of the flag, when the arm was decided."""
    failed: bool
    """They count as failures."""
    requests: int = 1


class DrawBatch(NamedTuple):
    """What one process says, in its order."""

    prior: tuple[float, float]
    """Failures and requests that what it knows of all users is worth."""
    said: Sequence[Met | Changed]


class LoggedDraws(NamedTuple):
    """All that the log says up to one of its entries."""

    changed_s: float
    """Unix time at which the flag changed last."""
    draws: KnownDraws


class SharedDraws:
    """The draw of one route's users.

    Args:
        chance: gives random numbers from 0 to 1.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = random.Random() if chance is None else chance
        self._draws = Draws()
        self._prior = (1.0, 100.0)
        self._alone = True
        self._generation, self._share = "", 0  # of this process's flag
        self._since_s: float | None = None
        """Unix time since which it is so."""
        self._told_s = 0.0
        """Unix time at which the log was told of it."""
        self._changed_s = 0.0
        """Unix time at which the flag changed last, as the log has it."""
        self._waiting: Waiting[Met | Changed] = Waiting(_join)
        """Where there is no room requests count nowhere, whatever their arm."""

    def __len__(self) -> int:
        return len(self._draws)

    @property
    def evidence(self) -> Mapping[str, float]:
        """See `Draws`."""
        return self._draws.evidence

    def begin(self, generation: str, share: int | None, now_s: float) -> None:
        """This is the flag's generation at this process. Say it whenever it may have changed, and often.

        Args:
            share: percent of users in the stream arm; None: the flag has no arms.
            now_s: Unix time.
        """
        if self._since_s is None:
            self._since_s = now_s
        before = self._generation
        if generation != before:
            self._generation, self._share, self._since_s = generation, share or 0, now_s
        elif self._is_unheard(now_s):
            before = self._draws.generation
        else:
            return
        if self._alone:
            self._draws.begin(generation, share)
        else:
            self._told_s = now_s
            self._waiting.add(_NO_USER, Changed(before, generation, self._share))

    def add(
        self,
        user: bytes,
        now_s: float,
        arm: Arm,
        generation: str,
        prior: tuple[float, float],
        *,
        failed: bool,
    ) -> None:
        """A request has ended.

        The same rule holds in all arms, but that `KEPT` of the stream arm's failures count.

        Args:
            now_s: Unix time.
            generation: of the flag, when the arm was decided.
            prior: failures, and requests, that what is known of all users is worth.
        """
        self._prior = prior
        counts = failed and (arm is not Arm.STREAM or self._chance.random() < KEPT)
        if self._alone:
            self._draws.add(user, now_s, arm, generation, prior, failed=counts)
        else:
            self._waiting.add(user, Met(user, arm, generation, counts))

    def share(self) -> None:
        """What is said from now on waits for the log."""
        self._alone = False

    def leave(self, now_s: float) -> None:
        """There is no log now: go on alone, with what has waited. Times are Unix's."""
        self._alone = True
        for said in self._waiting.leave():
            if isinstance(said, Changed):
                self._draws.begin(said.generation, said.share)
            else:
                self._met(said, now_s, self._prior)
        self._draws.begin(self._generation, self._share)

    def take(self, most: int) -> DrawBatch:
        """So much, at most, that was not taken before."""
        return DrawBatch(self._prior, self._waiting.take(most))

    def merge(self, batch: DrawBatch, at_s: float, *, mine: bool) -> Iterator[None]:
        """Add the next batch of the log, in steps. `at_s` is its Unix time, the same for all."""
        if mine:
            self._waiting.arrived(len(batch.said))
        for said in batch.said:
            if isinstance(said, Met):
                self._met(said, at_s, batch.prior)
            elif said.before == self._draws.generation:
                self._draws.begin(said.generation, said.share)
                self._changed_s = at_s
            yield

    def begin_again(self, known: LoggedDraws) -> Iterator[None]:
        """Go by the log, of which this is known; merge what follows. What waits goes on waiting."""
        self._alone = False
        self._waiting.begin_again()  # what the log has of it is merged now
        self._changed_s = known.changed_s
        yield from self._draws.begin_again(known.draws)

    def known(self) -> LoggedDraws:
        """All that was added by now."""
        return LoggedDraws(self._changed_s, self._draws.known())

    def forget(self, now_s: float) -> None:
        """Forget who was not seen for long. Times are Unix's."""
        self._draws.forget(now_s)

    def _is_unheard(self, now_s: float) -> bool:
        """True if it is time to tell the log of a flag that it does not have, and should."""
        if self._alone or self._since_s is None or self._generation == self._draws.generation:
            return False
        return self._since_s > self._changed_s and now_s - max(self._since_s, self._told_s) >= SETTLED_S

    def _met(self, met: Met, now_s: float, prior: tuple[float, float]) -> None:
        self._draws.add(
            met.user, now_s, met.arm, met.generation, prior, failed=met.failed, requests=met.requests
        )


def _join(last: Met | Changed, said: Met | Changed) -> bool:
    if isinstance(last, Changed) or isinstance(said, Changed) or last.requests >= MOST_ALIKE:
        return False
    if (last.arm, last.generation, last.failed) != (said.arm, said.generation, said.failed):
        return False
    last.requests += 1
    return True
