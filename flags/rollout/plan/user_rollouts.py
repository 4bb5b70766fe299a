"""Rollouts among users who differ, and when the test of errors stops. Pure.

The verdict sees users as counts of 16 groups in each arm, and what their histories let expect. So many
rollouts are simulated at once, as arrays: users are drawn once, with a history each; a step is looked at on a
grid of times, each a seventh later. The evidence is that of `verdict.failure_evidence`. Its bets on users who
are worse than before, on a coarser grid, and on the flag's draw look at users one by one (`user_bets`). More
than `MOST_USERS` users are several times as many: what such a part of them says is simulated, and added up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flags.rollout.plan.stopping_times import NEVER, Generator, StoppingRule
from flags.rollout.plan.user_bets import UserBets, WatchedStep
from flags.rollout.plan.user_draws import UserDraws
from flags.rollout.plan.user_passes import UserPasses
from flags.rollout.policy.guardrails import RateRatio
from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.e_processes import JointNull, RatioNull, Vector
from flags.rollout.verdict.failure_evidence import AT_MOST, BY_USERS_MARGIN, STAKES
from flags.rollout.verdict.rate_evidence import ALL_STEPS_WEIGHT

Shares = tuple[float, float]
"""The parts of users in the stream arm and in its control, 0 to 1."""

MOST_USERS = 400
"""Users that are simulated. Of more, groups differ as much less as these would: their CV² is divided. One by
one so many are looked at, each of whom asks as often, and several rollouts of them are one of all users."""

ASK_SHAPE = 0.5
"""Of the gamma distribution of how often users ask: some much more than others (CV² 2)."""

WIDTHS = (0.02, 50.0)
"""Bounds of what the proxies take for the CV² of users' rates, as the proxies' `histories` has them."""

GROWTH = 1.15
"""From one point of the grid to the next."""

COARSER = 3
"""Points of the grid from one to the next at which users are looked at one by one."""

FEWEST_LOOKS = 8.0
"""The first of these; and in a clean step there are `CLEAN_LOOKS` of them."""

CLEAN_LOOKS = 6

BLOCK = 12
"""Points of the grid that are simulated at a time, with the weights that users have in their middle."""

HALF_AFTER = 2.0
"""Expected failures of a user after which a request weighs half, as the proxies' `watched_users` has it."""


@dataclass(frozen=True, slots=True)
class Population:
    """The users of a policy's routes."""

    users: int
    per_look: float
    """Requests of all of them between two looks."""
    rate: float
    """Of failures, 0 to 1."""
    cv2: float
    """Squared coefficient of variation of users' rates of failure."""
    known_looks: float
    """For how long the proxies have their histories; 0: they do not say what they expect."""


@dataclass
class UserRollouts:
    """Many rollouts of one population, from their first step on. Steps are entered in order."""

    rng: Generator
    population: Population
    rail: RateRatio
    rollouts: int
    at_least: Sequence[float]
    """The shortest time in each step of the policy, in looks."""
    together: float = 1.0
    """How many rollouts of this population are one of all users, where users are looked at one by one."""

    def __post_init__(self) -> None:
        of, rng = self.population, self.rng
        users = max(2, min(of.users, MOST_USERS))
        cv2 = of.cv2 * users / max(of.users, users)
        shape = (self.rollouts, users)
        self._place = rng.random(shape)
        self._bucket = rng.integers(0, BUCKETS, shape)
        asks = rng.gamma(ASK_SHAPE, 1.0, shape)
        self._asks = asks / asks.sum(axis=1, keepdims=True) * of.per_look
        rates = rng.gamma(1 / cv2, of.rate * cv2, shape) if cv2 else np.full(shape, of.rate)
        self._fails = np.minimum(1.0, rates)
        self._n, self._x = np.zeros(shape), np.zeros(shape)
        self._agreed, self._forecast = np.zeros((2, self.rollouts, 1))
        self._met = np.zeros(shape)
        """Failures that were expected of each user in a compared arm."""
        self._null = RatioNull.at_most(self.rail.margin)
        self._before = _Counts.none(self.rollouts, 1)
        self._all_steps = np.zeros((2, self.rollouts, len(self._null.weights)))
        self._step_logs: list[Vector] = []
        for _ in range(2):  # the second half is forecast by the first
            self._learn(of.known_looks / 2, np.ones(shape, bool), np.ones(shape, bool))
        self._bets, self._part = None, None
        if of.users > MOST_USERS:
            part = replace(of, users=MOST_USERS, per_look=of.per_look * MOST_USERS / of.users)
            own = np.random.default_rng(of.users)
            self._part = UserRollouts(
                own, part, self.rail, self.rollouts, self.at_least, of.users / MOST_USERS
            )
        elif of.known_looks and self.rail.margin <= BY_USERS_MARGIN:
            self._bets = UserBets(
                UserPasses(rng, self._asks, self._fails, self._x, self._n, self.together),
                UserDraws(self._asks, self._x, self._n, len(self.at_least), self.together),
            )

    def pass_step(self, shares: Shares, looks: float) -> None:
        """Pass a clean step that takes so long."""
        if self._part is not None:
            self._part.pass_step(shares, looks)
        if self._bets is not None:
            self._bets = self._bets.entered(
                self._watched(shares, 1.0), np.linspace(0.0, looks, CLEAN_LOOKS + 1)[1:]
            )
            self._bets.won(np.array([looks]))
        counts = self._counts(self._groups(shares, 1.0, looks / 2), np.array([0.0, looks]))
        gains = self._harm_gains(counts)[:, :, 0]
        self._all_steps += gains
        self._before = self._before + counts
        spread = self._spreads(self._before)[:, :, 0]
        self._step_logs.append(_log_sum(gains / spread[:, :, None] + self._null.weights))
        stream, control = self._arms(shares)
        self._met += self._asks * self._chance * looks * (stream | control)
        self._learn(looks, ~stream & ~control, ~stream)

    def back(self, shares: Shares, ratio: float, until: float, threshold: float, ready: Vector) -> Vector:
        """Return the look at which each rollout goes back whose streams fail so many times as often from this
        step on; NEVER where it does not. See `_stopped`."""
        rule = StoppingRule(threshold, ready, until, np.ones_like(ready))
        by_users = self._by_users(shares, ratio, until)

        def evidence(summed: Vector, spread: Vector, times: Vector) -> Vector:
            return self._harm(summed, spread, by_users(times))

        return self._stopped(shares, ratio, rule, self._harm_gains, evidence)

    def _by_users(self, shares: Shares, ratio: float, until: float) -> Callable[[Vector], Vector | float]:
        """Return what the bets by users and by the draw have won with their stakes at these times, as a log
        by rollout and time. Times are asked for in order."""
        if self._part is not None:
            return self._part._by_users(shares, ratio, until)
        if self._bets is None:
            return lambda times: math.log(STAKES.by_users)
        grid = _grid(until)[1:]
        grid = np.unique(np.append(grid[grid >= FEWEST_LOOKS][::COARSER], until))
        return self._bets.entered(self._watched(shares, ratio), grid).won

    def _watched(self, shares: Shares, ratio: float) -> WatchedStep:
        """The step that is next."""
        shortest = self.at_least[len(self._step_logs)]
        return WatchedStep(self._arms(shares)[0], shares[0], shortest, self._prior, ratio)

    def safe(self, shares: Shares, until: float, threshold: float, ready: Vector) -> Vector:
        """Return the look at which each rollout of a clean build is shown to be safe in this step."""
        null = JointNull.at_least(self.rail.harm, self.rail.or_points)
        most = AT_MOST if self.population.known_looks else 1.0  # of the bet on harm by requests alone

        def gains(counts: _Counts) -> Vector:
            every, bad = counts.every.sum(axis=3), counts.bad.sum(axis=3)
            # Where an arm is empty, the verdict waits; here the other one's requests are lost.
            known = (every > 0).all(axis=2, keepdims=True)
            good = np.where(known, every - bad, 1.0)
            found = null.log_increments(bad[..., :1], good[..., :1], bad[..., 1:], good[..., 1:])
            found[~known[..., 0]] = 0.0
            return found

        def evidence(summed: Vector, spread: Vector, times: Vector) -> Vector:
            return _log_sum(summed / (spread[0] / most) + null.weights)

        rule = StoppingRule(threshold, ready, until, np.ones_like(ready))
        return self._stopped(shares, 1.0, rule, gains, evidence)

    def _stopped(
        self,
        shares: Shares,
        ratio: float,
        rule: StoppingRule,
        gains: Callable[["_Counts"], Vector],
        evidence: Callable[[Vector, Vector, Vector], Vector],
    ) -> Vector:
        """Return the look at which each rollout's evidence suffices, sought block by block of the grid."""
        edges = _grid(rule.until)
        points = len(edges) - 1
        before = self._before
        found, summed = np.full(self.rollouts, NEVER), np.zeros(1)
        for begin in range(0, points, BLOCK):
            times = edges[begin : begin + BLOCK + 1]
            counts = self._counts(self._groups(shares, ratio, float(times.mean())), times)
            so_far = counts.cumulative(before)
            sums = gains(counts).cumsum(axis=-2) + summed
            enough = evidence(sums, self._spreads(so_far)[..., None], times[1:]) >= rule.threshold
            found = np.minimum(found, _first(times, enough, rule.not_before))
            if (found < NEVER).all():
                break
            before, summed = so_far.last(), sums[..., -1:, :]
        return found

    def _harm(self, gains: Vector, spread: Vector, by_users: Vector | float) -> Vector:
        """Return the log of the mean of all bets, by requests each over all steps and in each; by rollout and
        time. `by_users` has the other ones."""
        each = (1 - ALL_STEPS_WEIGHT) / len(self.at_least)
        all_steps = _log_sum((self._all_steps[:, :, None] + gains) / spread + self._null.weights)
        logs = math.log(ALL_STEPS_WEIGHT) + all_steps
        logs = np.logaddexp(logs, math.log(each) + _log_sum(gains / spread + self._null.weights))
        for before in self._step_logs:
            logs = np.logaddexp(logs, math.log(each) + before[..., None])
        waiting = each * (len(self.at_least) - 1 - len(self._step_logs))
        if waiting > 0:
            logs = np.logaddexp(logs, math.log(waiting))
        if not self.population.known_looks:
            alone: Vector = logs[0]
            return alone
        bets = np.logaddexp(math.log(STAKES.by_requests) + logs[0], math.log(STAKES.by_expected) + logs[1])
        all_bets: Vector = np.logaddexp(bets, by_users)
        return all_bets

    def users_harmed(self, shares: Shares, ratio: float, looks: Vector) -> Vector:
        """Return how many users have met a failure that the build caused by then, for each rollout."""
        if self._part is not None:
            part: Vector = self._part.users_harmed(shares, ratio, looks)
            return part * self.population.users / MOST_USERS
        harm = np.minimum(1.0, ratio * self._fails) - self._fails
        caused = self._asks * harm * (self._place < shares[0])
        hit: Vector = -np.expm1(-caused * looks[:, None]).sum(axis=1)
        return np.minimum(hit, self.population.users)

    def _arms(self, shares: Shares) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return self._place < shares[0], self._place >= 1 - shares[1]

    def _learn(self, looks: float, rest: NDArray[np.bool_], shown_none: NDArray[np.bool_]) -> None:
        """Requests of those in the rest make history; those that were shown no live text test forecasts."""
        asked = self.rng.poisson(self._asks * looks * shown_none)
        failed = self.rng.binomial(asked, self._fails)
        rate = self._usual
        own = self._own(rate)
        self._agreed += ((failed - asked * rate) * own).sum(axis=1, keepdims=True)
        self._forecast += (asked * own**2).sum(axis=1, keepdims=True)
        self._n += asked * rest
        self._x += failed * rest
        rate = self._usual
        trust = np.clip(self._agreed / np.maximum(self._forecast, 1e-12), 0.0, 1.0)
        self._chance = rate + trust * self._own(rate)

    @property
    def _usual(self) -> Vector:
        rate: Vector = (self._x.sum(1, keepdims=True) + 1) / (self._n.sum(1, keepdims=True) + 100)
        return rate

    def _own(self, rate: Vector) -> Vector:
        """By how much the rate of a user's history differs from the usual rate."""
        usual = self._n * rate
        beyond = ((self._x - usual) ** 2 - usual).sum(1, keepdims=True)
        weight = 1 / np.clip(beyond / np.maximum((usual**2).sum(1, keepdims=True), 1e-9), *WIDTHS)
        self._prior = weight, weight / rate
        own: Vector = (self._x + weight) / (self._n + weight / rate) - rate
        return own

    def _groups(self, shares: Shares, ratio: float, look: float) -> tuple[Vector, Vector, Vector, Vector]:
        """Return how often each group of each arm asks, its rate of failure, what a failure weighs then, and
        the weighed rate that is expected. `look` is of the step."""
        weight = HALF_AFTER / (HALF_AFTER + self._met + self._asks * self._chance * look)
        harmed = np.where(self._arms(shares)[0], np.minimum(1.0, ratio * self._fails), self._fails)
        asks, expects, fails, weighs = self._by_group(
            shares, *(self._asks * part for part in (1.0, self._chance * weight, harmed, harmed * weight))
        )
        some = np.maximum(asks, 1e-300)
        rates = np.minimum(1.0, fails / some), weighs / np.maximum(fails, 1e-300), expects / some
        return asks[:, None], rates[0][:, None], rates[1][:, None], rates[2][:, None]

    def _counts(self, groups: tuple[Vector, Vector, Vector, Vector], times: Vector) -> "_Counts":
        """Draw the counts between each two of these times, by arm and group."""
        asks, fails, weighs, expects = groups
        every = self.rng.poisson(asks * np.diff(times)[None, :, None, None])
        bad = self.rng.binomial(every, np.broadcast_to(fails, every.shape)).astype(float)
        return _Counts(every.astype(float), bad, bad * weighs, every * expects)

    def _by_group(self, shares: Shares, *of: Vector) -> list[Vector]:
        """Return the sums of each of these over users, by rollout, arm and group."""
        stream, control = self._arms(shares)
        shape = (self.rollouts, 2, BUCKETS)
        cells = math.prod(shape)  # and one for those in neither arm
        row = np.arange(self.rollouts)[:, None] * 2 + control
        cell = np.where(stream | control, row * BUCKETS + self._bucket, cells).ravel()
        return [
            np.bincount(cell, each.ravel(), cells + 1)[:cells].astype(float).reshape(shape) for each in of
        ]

    def _harm_gains(self, counts: "_Counts") -> Vector:
        """Return by bet, rollout and time, what each alternative gains: by requests, by what was expected."""
        found = []
        for bad, weights in ((counts.bad, counts.every), (counts.weighed, counts.expected)):
            failed = bad.sum(axis=3)
            stream, control = weights.sum(axis=3).transpose(2, 0, 1)
            known = (stream > 0) & (control > 0)
            share = np.where(known, stream / np.maximum(stream + control, 1e-300), 0.5)[..., None]
            gains = self._null.log_increments(failed[:, :, :1], failed[:, :, 1:], share)
            found.append(gains * known[..., None])
        return np.stack(found)

    def _spreads(self, counts: "_Counts") -> Vector:
        """Return by bet, rollout and time, what divides the evidence."""
        of_requests = _dispersion(counts.bad, counts.every, counts.every)
        most = AT_MOST if self.population.known_looks else 1.0
        return np.stack([most * of_requests, _dispersion(counts.weighed, counts.every, counts.expected)])


@dataclass(frozen=True, slots=True)
class _Counts:
    """By rollout, time, arm (stream, control) and group."""

    every: Vector
    bad: Vector
    weighed: Vector
    """Failures, by the weights of their users."""
    expected: Vector
    """Likewise."""

    @classmethod
    def none(cls, rollouts: int, times: int) -> "_Counts":
        return cls(*np.zeros((4, rollouts, times, 2, BUCKETS)))

    @property
    def _all(self) -> tuple[Vector, Vector, Vector, Vector]:
        return self.every, self.bad, self.weighed, self.expected

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(*(mine + its for mine, its in zip(self._all, other._all, strict=True)))

    def last(self) -> "_Counts":
        return _Counts(*(each[:, -1:] for each in self._all))

    def cumulative(self, before: "_Counts") -> "_Counts":
        return _Counts(*(each.cumsum(axis=1) for each in self._all)) + before


def _dispersion(bad: Vector, every: Vector, weights: Vector) -> Vector:
    """`e_processes.dispersion`, of many at once."""
    seen = weights > 0
    failed, total = bad.sum(3, keepdims=True), every.sum(3, keepdims=True)
    rate = failed / np.maximum(1.0, total)
    usable = seen & (seen.sum(3, keepdims=True) > 1) & (rate > 0) & (rate < 1)
    expected = weights * failed / np.maximum(weights.sum(3, keepdims=True), 1e-300)
    each = (bad - expected) ** 2 / np.where(usable, expected * (1 - rate), 1.0)
    pearson = np.where(usable, each, 0.0).sum((2, 3))
    free = np.where(usable.any(3), seen.sum(3) - 1, 0).sum(2)
    return np.where(free > 0, np.maximum(1.0, pearson / np.maximum(free, 1)), 1.0)


def _grid(until: float) -> Vector:
    """Times in looks, from 0 to `until`."""
    points = 1 + math.ceil(math.log(max(1.0, until)) / math.log(GROWTH))
    return np.concatenate([[0.0], np.minimum(until, GROWTH ** np.arange(points))])


def _first(edges: Vector, enough: NDArray[np.bool_], ready: Vector) -> Vector:
    """Return the middle of the gap in which the evidence first suffices; NEVER: it does not."""
    reached = enough & (edges[1:] >= ready[:, None])
    middle = np.sqrt(edges[1:] * np.maximum(1.0, edges[:-1]))[reached.argmax(axis=1)]
    found: Vector = np.where(reached.any(axis=1), np.maximum(middle, ready), NEVER)
    return found


def _log_sum(terms: Vector) -> Vector:
    most = terms.max(axis=-1, keepdims=True)
    sums: Vector = (most + np.log(np.exp(terms - most).sum(axis=-1, keepdims=True)))[..., 0]
    return sums
