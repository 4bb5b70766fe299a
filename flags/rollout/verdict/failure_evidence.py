"""Evidence that failures are harm, though users differ: four bets, and each of them by route too. Pure.

* By requests: failures against the arms' shares of requests.
* By expected failures: against the arms' shares of what users' histories let expect, weighed.
* By users: which arm has the users who came to fail far more often than before.
* By the draw: how much likelier harm makes it that the flag drew for the stream arm whom it did.

The evidence is the mean of what the bets have won, weighted by their stakes. That is an e-value, and no bet
can hide what another one has won.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flags.rollout.evidence.evidence import BAD, ELIGIBLE, LIMITS, Batch, ComparedArm
from flags.rollout.policy.guardrails import Exposure, RateRatio
from flags.rollout.verdict.buckets import BUCKETS, ROWS, by_bucket
from flags.rollout.verdict.draw_evidence import DrawEvidence
from flags.rollout.verdict.e_processes import RatioNull, clustered_dispersion, dispersion
from flags.rollout.verdict.rate_evidence import HarmEvidence, log_sum
from flags.rollout.verdict.step_context import SampleSize

AT_MOST = 30 / 20.6
"""A factor: times the estimate, which has 30 degrees of freedom (2 arms of 16 groups), it is an upper bound
of how much users differ, with 90 %. Where there is the sharper bet by expected failures, it divides the one
by requests: that one has most of the false alarms, at a time when the few failures so far show little of how
users differ."""

BY_USERS_MARGIN = 1.25
"""The most that is no harm to the bet by users: proxies count so many fewer failures of the stream arm."""

ALL_ROUTES = 0.5
"""The stake on all routes together, where there are several; they share the rest."""


@dataclass(frozen=True, slots=True)
class Stakes:
    """Parts of the stake. They add up to 1."""

    by_requests: float
    by_expected: float
    by_users: float
    by_draw: float


STAKES = Stakes(0.05, 0.25, 0.15, 0.55)

STAKES_UNDRAWN = Stakes(0.1, 0.5, 0.4, 0.0)
"""With proxies that say nothing of the draw, as they did before."""

STAKES_UNWEIGHED = Stakes(0.5, 0.5, 0.0, 0.0)
"""With proxies that say what they expect and weigh nothing, as they did before."""


class FailureEvidence:
    """Evidence of harm by all failures, and by those of each route."""

    def __init__(self, rail: RateRatio, steps: Sequence[Exposure]) -> None:
        self._made_of = rail, steps
        self._whole = _Bets(rail, steps)
        self._by_route: dict[str, _Bets] = {}
        self._entered = 0, 50

    @property
    def uses_histories(self) -> bool:
        """True once users' own histories are in it."""
        return self._whole.has_begun

    def enter(self, step: int, share: int) -> None:
        """Begin a step, in which the flag has this share in percent."""
        self._entered = step, share
        for bets in (self._whole, *self._by_route.values()):
            bets.enter(step, share)

    def add(self, batch: Batch) -> None:
        """Add a batch. Routes are those of the first one: which they are does not depend on what failed."""
        if not self._by_route and self._whole.is_new:
            self._by_route = {name: _Bets(*self._made_of) for name in batch.routes}
            self.enter(*self._entered)
        self._whole.add(batch)
        for name, bets in self._by_route.items():
            if name in batch.routes:
                bets.add(batch.routes[name])

    def log(self, exposure: Exposure) -> float:
        """The logarithm of the e-value. A route counts once it has users and answers enough."""
        if not self._by_route:
            return self._whole.log()
        each = math.log((1 - ALL_ROUTES) / len(self._by_route))
        routes = [
            each + (bets.log() if bets.size.suffice(exposure) else 0.0) for bets in self._by_route.values()
        ]
        return log_sum([math.log(ALL_ROUTES) + self._whole.log(), *routes])


class _Bets:
    def __init__(self, rail: RateRatio, steps: Sequence[Exposure]) -> None:
        no_harm = RatioNull.at_most(rail.margin)
        self._by_requests = _Compared(no_harm, len(steps))
        self._by_expected = _Compared(no_harm, len(steps))
        thinned = rail.margin <= BY_USERS_MARGIN
        self._by_users = _ByUsers() if thinned else None
        self._by_draw = DrawEvidence([step.at_least_s for step in steps]) if thinned else None
        self._stakes = STAKES_UNWEIGHED
        # Bad answers, all answers, expected failures and weighed ones, in all batches and in those that say
        # what is expected.
        self._all, self._foreseen = np.zeros((2, 4, len(ROWS), BUCKETS))
        self._users = dict.fromkeys(ComparedArm, 0)
        self.is_new, self.has_begun = True, False

    @property
    def size(self) -> SampleSize:
        """Answers and users of the smaller arm."""
        return SampleSize(int(self._all[1].sum(axis=1).min()), min(self._users.values()))

    def enter(self, step: int, share: int) -> None:
        self._by_requests.enter(step)
        self._by_expected.enter(step)
        if self._by_users is not None:
            self._by_users.share = share / 100
        if self._by_draw is not None:
            self._by_draw.enter(step)

    def add(self, batch: Batch) -> None:
        self.is_new = False
        counts = by_bucket(batch)
        self._all += counts
        for arm in ComparedArm:
            self._users[arm] = max(self._users[arm], batch.users.get(arm, 0))
        self._by_requests.add(_of_arms(batch, expected=False))
        if self._by_draw is not None:
            self._by_draw.add(batch)
        if batch.expected is None:
            return
        if not self.has_begun and batch.weighed is not None:
            self._stakes = STAKES if batch.drawn else STAKES_UNDRAWN
        self.has_begun = True
        self._foreseen += counts
        self._by_expected.add(_of_arms(batch, expected=True))
        if self._by_users is not None:
            self._by_users.add(batch)

    def log(self) -> float:
        spread = dispersion(self._all[0], self._all[1])
        if not self.has_begun:
            return self._by_requests.log(spread)
        bad, every, expected = self._foreseen[3], self._foreseen[1], self._foreseen[2]
        if self._stakes.by_draw:
            spread = max(spread, clustered_dispersion(self._all[0], self._all[1]))
        bets = [
            (self._stakes.by_requests, self._by_requests.log(AT_MOST * spread)),
            (self._stakes.by_expected, self._by_expected.log(dispersion(bad, every, expected))),
            (self._stakes.by_users, 0.0 if self._by_users is None else self._by_users.log()),
            (self._stakes.by_draw, 0.0 if self._by_draw is None else self._by_draw.log),
        ]
        return log_sum([math.log(stake) + winnings for stake, winnings in bets if stake])


def _of_arms(batch: Batch, *, expected: bool) -> dict[ComparedArm, tuple[float, float]]:
    """Of each arm, failures, and that of which the arms have shares."""
    if expected:
        return {arm: (batch.total_weighed(arm), batch.total_expected(arm)) for arm in ComparedArm}
    return {arm: (batch.total(arm, BAD), batch.total(arm, ELIGIBLE)) for arm in ComparedArm}


class _Compared:
    """Failures of the stream arm against those of control, by their shares of something."""

    def __init__(self, no_harm: RatioNull, steps: int) -> None:
        self._no_harm = no_harm
        self._evidence = HarmEvidence(no_harm, steps)
        self._pending = dict.fromkeys(ComparedArm, (0.0, 0.0))

    def enter(self, step: int) -> None:
        self._evidence.enter(step)
        self._pending = dict.fromkeys(ComparedArm, (0.0, 0.0))

    def add(self, counted: dict[ComparedArm, tuple[float, float]]) -> None:
        # While one arm is empty, the arm of an event says nothing: the event waits until the other arm has
        # requests too. When that is depends on who asks and not on what they get, so it selects no evidence.
        self._pending = {
            arm: (bad + counted[arm][0], total + counted[arm][1])
            for arm, (bad, total) in self._pending.items()
        }
        (bad, total), (control_bad, control_total) = (self._pending[arm] for arm in ComparedArm)
        if not (total and control_total):
            return
        self._evidence.add(self._no_harm.log_increments(bad, control_bad, total / (total + control_total)))
        self._pending = dict.fromkeys(ComparedArm, (0.0, 0.0))

    def log(self, spread: float) -> float:
        return self._evidence.log(spread)


class _ByUsers:
    """Users who came to fail far more often than before: one e-process for each limit, and their mean.

    Whichever way users differ, and whatever befalls everybody: if there is no harm, nobody's failures depend
    on the arm. So of each user who passes a limit it is chance, by the flag's share, whether the stream arm
    has this user. A user passes a limit once, so these are draws that do not depend on each other, and the
    bet is fair exactly. Proxies count only 1/1.25 of the failures of the stream arm: with up to 1.25 times as
    many its users pass no sooner than they would elsewhere.
    """

    def __init__(self) -> None:
        self._no_harm = RatioNull.of_few()
        self._evidence = {limit: self._no_harm.e_process() for limit in LIMITS}
        self._proxies = 1
        self.share = 0.5

    def add(self, batch: Batch) -> None:
        self._proxies = max(self._proxies, batch.proxies)
        for limit, evidence in self._evidence.items():
            of_limit = {arm: count for (arm, at), count in batch.worse.items() if at == limit}
            stream = of_limit.pop(ComparedArm.STREAM, 0)
            evidence.logs += self._no_harm.log_increments(stream, sum(of_limit.values()), self.share)

    def log(self) -> float:
        # Processes that share the users may each count the same one: so many draws are then one.
        logs = [evidence.log(self._proxies) for evidence in self._evidence.values()]
        return log_sum(logs) - math.log(len(logs))
