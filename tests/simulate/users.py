"""Rollouts among users who differ, a hundred at the price of one: the project's tests, as arrays of looks.

The evidence is that of `flags.rollout.verdict`, by the same formulas over all looks at once; a test compares
the two look by look. What a proxy knows of its users is that of `proxy.observe.users.histories`, once a look.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from flags.rollout.evidence.evidence import EXPECTED_UNITS, LIMITS, Batch
from flags.rollout.policy.guardrails import ErrorBudget
from flags.rollout.verdict.binomial_limits import early_limits
from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.count_tests import NO_WORSE, WORSE
from flags.rollout.verdict.draw_evidence import HARMS as STAKES_OF_HARMS
from flags.rollout.verdict.draw_evidence import LOOKS as AT
from flags.rollout.verdict.e_processes import MOST_LEVERAGE, RatioNull
from flags.rollout.verdict.failure_evidence import AT_MOST, STAKES
from flags.rollout.verdict.rate_evidence import ALL_STEPS_WEIGHT
from proxy.observe.users.draws import HARMS, TRUSTED
from proxy.observe.users.histories import USUAL, USUAL_REQUESTS, WIDTHS
from proxy.observe.users.watched_users import HALF_AFTER, KEPT, TIMES
from tests.simulate.peers import ArgoLike, FlaggerLike

Array = NDArray[np.float64]

LOOK_MIN = 10
LOOK_S = 60.0 * LOOK_MIN
STEPS = ((1, 12), (5, 12), (10, 12), (25, 16), (50, 16))
"""Percent of users, and hours."""
SHARE = np.concatenate([np.full(hours * 6, share) for share, hours in STEPS])
STEP = np.concatenate([np.full(hours * 6, step) for step, (_, hours) in enumerate(STEPS)])
LOOKS = len(SHARE)
BEGINS = [int(np.argmax(np.equal(STEP, step))) for step in range(len(STEPS))]
DRAW_LOOKS = {
    begins + math.ceil(part * (hours * 6 - 1)) - 1: stake / len(STEPS)
    for begins, (_, hours) in zip(BEGINS, STEPS, strict=True)
    for part, stake in AT.items()
}
"""Looks at the draw, of steps whose shortest time is one look less than they last, and their stakes."""
MIN_USERS, MIN_SAMPLES = 20, 200
CLINICS = 20
EARLY = {"rate": 0.02, "of": 200, "alpha": 0.001, "min_users": 3}
"""The defaults of a policy."""


@dataclass(frozen=True)
class Among:
    """The truth. How often users ask is a gamma distribution, of squared coefficient of variation 2."""

    cv2: float = 4.0
    """Squared coefficient of variation of users' failure rates."""
    ratio: float = 1.0
    """Times as many failures in the stream arm, in all."""
    users: int = 400
    per_minute: float = 20.0
    rate: float = 0.01
    heavy: float = 0.0
    """Part of users who have 80 % of the failures; 0: their rates are a gamma distribution."""
    history_h: float = 24.0
    kept: float = 1.0
    """Part of users whose rate is still what it was in their history."""
    new: float = 0.0
    """Part of users without a history."""
    harm_from: int = 0
    """The step, from 0, from which on the stream arm fails more often."""
    few: float = 1.0
    """Part of users who have all of the harm."""
    later: float = 1.0
    """Times as many failures for everybody from the thirteenth hour on."""
    outages: bool = False
    """20 minutes of each day in which three in ten fail, for everybody."""
    clinics: bool = False
    """Each hour in one of 20 clinics three in ten fail."""
    storm: int = 0
    """Failures that one user of the stream arm adds within one look."""
    bot: bool = False
    """One user makes half of the traffic."""


@dataclass
class Rollout:
    """One rollout's counts, by look, arm (stream, control) and bucket, or by look and user."""

    truth: Among
    seed: Sequence[int]
    every: Array = field(init=False)
    bad: Array = field(init=False)
    expected: Array = field(init=False)
    weighed: Array = field(init=False)
    foreseen: Array = field(init=False)
    """Expected failures that nothing weighs."""
    worse: Array = field(init=False)
    """Users who are worse than before, by look, limit, and stream arm or not."""
    users: Array = field(init=False)

    def __post_init__(self) -> None:
        truth, random = self.truth, np.random.default_rng(self.seed)
        place = random.random(truth.users)
        self.arms = np.stack([place < SHARE[:, None] / 100, place >= 1 - SHARE[:, None] / 100])
        self.buckets = np.eye(BUCKETS)[random.integers(0, BUCKETS, truth.users)]
        asks = random.gamma(0.5, 1.0, truth.users)
        if truth.bot:
            asks[0] = asks[1:].sum()
        asks *= truth.per_minute * LOOK_MIN / asks.sum()
        before = self._rates(random)
        now = np.where(random.random(truth.users) < truth.kept, before, self._rates(random))
        self.asked = random.poisson(asks, (LOOKS, truth.users))
        harmed = random.random(truth.users) < truth.few
        ratios = np.where(harmed, 1 + (truth.ratio - 1) / truth.few, 1.0)
        shown = self.arms[0] & (truth.harm_from <= STEP)[:, None]
        chances = np.minimum(1.0, self._base(random, now) * np.where(shown, ratios, 1.0))
        self.failed = random.binomial(self.asked, chances)
        self._storm(random)
        self.past = random.poisson(asks * truth.history_h * 60 / LOOK_MIN) * (
            random.random(truth.users) >= truth.new
        )
        self.past_failed = random.binomial(self.past, before)
        self.chance = self._forecast(self.past, self.past_failed)
        expected = self.asked * self.chance
        compared = self.arms.any(axis=0)
        weight = HALF_AFTER / (HALF_AFTER + _before((expected * compared).cumsum(axis=0)))
        weight = np.round(weight * EXPECTED_UNITS) / EXPECTED_UNITS
        self.every, self.bad, self.expected, self.weighed, self.foreseen = (
            np.stack([(counts * arm) @ self.buckets for arm in self.arms], axis=1)
            for counts in (self.asked, self.failed, expected * weight, self.failed * weight, expected)
        )
        self.counted = np.where(self.arms[0], random.binomial(self.failed, KEPT), self.failed)
        self.worse = self._worse(self.counted, self.past, self.past_failed)
        self.drawn = self._drawn(self.counted, self.past, self.past_failed)
        met = np.stack([np.maximum.accumulate((self.asked > 0) & arm) for arm in self.arms])
        self.users = met.sum(axis=2).min(axis=0)

    def _rates(self, random: np.random.Generator) -> Array:
        truth = self.truth
        if truth.heavy:
            few = random.random(truth.users) < truth.heavy
            return np.where(few, 0.8 * truth.rate / truth.heavy, 0.2 * truth.rate / (1 - truth.heavy))
        if not truth.cv2:
            return np.full(truth.users, truth.rate)
        return np.minimum(1.0, random.gamma(1 / truth.cv2, truth.rate * truth.cv2, truth.users))

    def _base(self, random: np.random.Generator, rates: Array) -> Array:
        truth, look = self.truth, np.arange(LOOKS)
        base = rates * np.where(look >= 72, truth.later, 1.0)[:, None]
        if truth.outages:
            base = np.where((look % 144 >= 142)[:, None], np.maximum(base, 0.3), base)
        if truth.clinics:
            ill = random.integers(0, CLINICS, LOOKS // 6)[look // 6]
            base = np.where(ill[:, None] == np.arange(truth.users) % CLINICS, np.maximum(base, 0.3), base)
        return base

    def _storm(self, random: np.random.Generator) -> None:
        look = random.integers(0, LOOKS)
        there = np.flatnonzero(self.arms[0, look])
        if self.truth.storm and len(there):
            user = random.choice(there)
            self.asked[look, user] += self.truth.storm
            self.failed[look, user] += self.truth.storm

    def _forecast(self, past: NDArray[np.int64], failed: NDArray[np.int64]) -> Array:
        """By look and user, the chance of failure that the user's history gives a request."""
        stream, control = self.arms
        rest = ~stream & ~control
        n, x = (
            first + _before((counts * rest).cumsum(axis=0))
            for first, counts in ((past, self.asked), (failed, self.failed))
        )
        rate = ((x.sum(1) + USUAL * USUAL_REQUESTS) / (n.sum(1) + USUAL_REQUESTS))[:, None]
        usual = n * rate
        beyond = (((x - usual) ** 2 - usual).sum(1) / np.maximum((usual**2).sum(1), 1e-9))[:, None]
        weight = 1 / np.clip(beyond, *WIDTHS)
        self._prior = np.concatenate([weight, weight / rate], axis=1)
        own = (x + weight) / (n + weight / rate) - rate
        shown_none = self.asked * ~stream
        agreed = _before(((self.failed * ~stream - shown_none * rate) * own).sum(1).cumsum())
        forecast = _before((shown_none * own**2).sum(1).cumsum())
        trust = np.clip(agreed / np.maximum(forecast, 1e-12), 0.0, 1.0)
        chances: Array = np.round((rate + trust[:, None] * own) * EXPECTED_UNITS) / EXPECTED_UNITS
        return chances

    def _worse(
        self, counts: NDArray[np.int64], past: NDArray[np.int64], past_failed: NDArray[np.int64]
    ) -> Array:
        """`WatchedUsers.passes`, once a look."""
        stream = self.arms[0]
        requests, failed = past.astype(float), past_failed.astype(float)
        run, run_failed, odds = np.zeros_like(requests), np.zeros_like(requests), np.zeros(self.asked.shape)
        for look in range(LOOKS):
            run, run_failed = run + self.asked[look], run_failed + counts[look]
            x, n = failed + self._prior[look, 0], requests + self._prior[look, 1]
            odds[look] = run_failed * math.log(TIMES) - (x + run_failed) * np.log(
                (n + TIMES * run) / (n + run)
            )
            usual = odds[look] <= 0
            requests, failed = requests + run * usual, failed + run_failed * usual
            run, run_failed = run * ~usual, run_failed * ~usual
        found = []
        for limit in LIMITS:
            passed = np.maximum.accumulate(odds >= float(limit))
            passes = passed & ~_before(passed)
            found.append(np.stack([(passes & stream).sum(1), (passes & ~stream).sum(1)], axis=1))
        return np.stack(found, axis=1)

    def _drawn(
        self, counts: NDArray[np.int64], past: NDArray[np.int64], past_failed: NDArray[np.int64]
    ) -> Mapping[int, Array]:
        """What `Draws` says, by harm, at each look at it."""
        zero = np.zeros((1, self.truth.users))
        asked, failed = (np.concatenate([zero, of.cumsum(0)]) for of in (self.asked, counts))
        stream = self.arms[0]
        entry = np.where(stream.any(0), STEP[stream.argmax(0)], len(STEPS))
        parts = np.diff([0.0, *(share / 100 for share, _ in STEPS), 1.0])[:, None]
        found = {}
        for look in DRAW_LOOKS:
            n, x = asked[look + 1], failed[look + 1]
            rates = []
            for trusted, x0, n0 in (
                (TRUSTED, past_failed + self._prior[look, 0], past + self._prior[look, 1]),
                (1 - TRUSTED, zero[0] + self._prior[look, 0], zero[0] + self._prior[look, 1]),
            ):
                likely = gammaln(x0 + x) - gammaln(x0) + x0 * np.log(n0) - (x0 + x) * np.log(n0 + n)
                rates.append((math.log(trusted) + likely, x0, n0))
            every = np.logaddexp(rates[0][0], rates[1][0])
            begun = BEGINS[: STEP[look] + 1]
            after, failed_after = n - asked[begun], x - failed[begun]
            evidence = []
            for part, times, is_late in HARMS.values():
                logs = [
                    likely - every - (x0 + x) * np.log1p((times - 1) * after / (n0 + n))
                    for likely, x0, n0 in rates
                ]
                ratios = np.ones((len(STEPS) + 1, self.truth.users))
                ratio = np.exp(np.clip(np.logaddexp(*logs) + failed_after * math.log(times), -500, 500))
                ratios[: len(begun)] = 1 - part + part * (ratio[-1] if is_late else ratio)
                adds = np.log(ratios[entry, np.arange(self.truth.users)] / (parts * ratios).sum(0))
                evidence.append(adds.sum())
            found[look] = np.array(evidence)
        return found

    def batches(self) -> list[Batch]:
        """The same, as the controller reads it."""
        return [self._batch(look) for look in range(LOOKS)]

    def _batch(self, look: int) -> Batch:
        cells = [(a, arm, b) for a, arm in enumerate(("stream", "control")) for b in range(BUCKETS)]
        every, bad = self.every[look].astype(int), self.bad[look].astype(int)
        outcomes = {(arm, b, "failed"): int(bad[a, b]) for a, arm, b in cells}
        outcomes |= {(arm, b, "complete"): int(every[a, b] - bad[a, b]) for a, arm, b in cells}
        units = {(arm, b): round(self.expected[look, a, b] * EXPECTED_UNITS) for a, arm, b in cells}
        weighed = {(arm, b): round(self.weighed[look, a, b] * EXPECTED_UNITS) for a, arm, b in cells}
        worse = {
            (arm, limit): int(self.worse[look, at, a])
            for at, limit in enumerate(LIMITS)
            for a, arm in enumerate(("stream", "rest"))
        }
        return Batch(
            look * LOOK_S,
            (look + 1) * LOOK_S,
            int(STEP[look]),
            outcomes=outcomes,
            expected=units,
            weighed=weighed,
            worse=worse,
            drawn=dict(zip(HARMS, self._units(look), strict=True)),
            users=dict.fromkeys(("stream", "control"), int(self.users[look])),
        )

    def _units(self, look: int) -> list[int]:
        return [round(each * EXPECTED_UNITS) for each in self.drawn.get(look, np.zeros(len(HARMS)))]


def _before(sums: Array) -> Array:
    """Sums up to each look, without it."""
    return np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])


def _log_sum(terms: Array, axis: int = -1) -> Array:
    most = terms.max(axis=axis, keepdims=True)
    sums: Array = (most + np.log(np.exp(terms - most).sum(axis=axis, keepdims=True))).squeeze(axis)
    return sums


def _dispersion(bad: Array, every: Array, weights: Array) -> Array:
    """`e_processes.dispersion` of all counts up to each look, whose arrays are by look, arm and bucket."""
    bad, every, weights = (np.cumsum(counts, axis=0) for counts in (bad, every, weights))
    seen, failed, total = weights > 0, bad.sum(2, keepdims=True), every.sum(2, keepdims=True)
    rate = failed / np.maximum(1.0, total)
    expected = weights * failed / np.maximum(weights.sum(2, keepdims=True), 1e-300)
    counts = (seen.sum(2, keepdims=True) > 1) & (rate > 0) & (rate < 1)
    usable = seen & counts
    each = np.where(usable, (bad - expected) ** 2 / np.where(usable, expected * (1 - rate), 1.0), 0.0)
    free = ((seen.sum(2) - 1) * counts[:, :, 0]).sum(1)
    return np.where(free > 0, np.maximum(1.0, each.sum((1, 2)) / np.maximum(free, 1)), 1.0)


def _clustered(bad: Array, every: Array) -> Array:
    """`e_processes.clustered_dispersion` of all counts up to each look, likewise."""
    bad, every = np.cumsum(bad, axis=0), np.cumsum(every, axis=0)
    part = every / np.maximum(1.0, every.sum(2, keepdims=True))
    expected, others = part * bad.sum(2, keepdims=True), 1 - np.minimum(part, MOST_LEVERAGE)
    squares = (((bad - expected) / others) ** 2).sum((1, 2))
    chance = (expected / others).sum((1, 2))
    return np.where(chance > 0, np.maximum(1.0, squares / np.where(chance > 0, chance, 1.0)), 1.0)


def evidence(rollout: Rollout, margin: float = NO_WORSE) -> tuple[Array, Array, Array]:
    """By look, the log e-value of harm by requests alone; by half of the stake on them, and half on expected
    failures that nothing weighs; and by all bets with their stakes."""
    null = RatioNull.at_most(margin)
    every = rollout.every
    found = []
    for bad, weights, times in (
        (rollout.bad, every, 1.0),
        (rollout.bad, rollout.foreseen, 1.0),
        (rollout.bad, every, AT_MOST),
        (rollout.weighed, rollout.expected, 1.0),
    ):
        stream, control = weights.sum(2).T
        known = (stream > 0) & (control > 0)
        share = np.where(known, stream / np.maximum(stream + control, 1e-300), 0.5)
        of_arms = bad.sum(2)
        gains = null.log_increments(of_arms[:, :1], of_arms[:, 1:], share[:, None]) * known[:, None]
        spread = times * _dispersion(bad, every, weights)[:, None]
        if times != 1.0:
            spread = np.maximum(spread, times * _clustered(bad, every)[:, None])
        logs = [math.log(ALL_STEPS_WEIGHT) + _log_sum(gains.cumsum(0) / spread + null.weights)]
        each = math.log((1 - ALL_STEPS_WEIGHT) / len(STEPS))
        for step in range(len(STEPS)):  # of a step that has not begun: 1
            logs.append(
                each + _log_sum((gains * np.equal(STEP, step)[:, None]).cumsum(0) / spread + null.weights)
            )
        found.append(_log_sum(np.stack(logs), axis=0))
    alone, unweighed, by_requests, by_expected = found
    stakes = np.log([STAKES.by_requests, STAKES.by_expected, STAKES.by_users, STAKES.by_draw])[:, None]
    bets = [by_requests, by_expected, _by_users(rollout), _by_draw(rollout)]
    halves = np.logaddexp(alone, unweighed) - math.log(2)
    return alone, halves, _log_sum(stakes + np.stack(bets), axis=0)


def _by_users(rollout: Rollout) -> Array:
    null, share = RatioNull.of_few(), (SHARE / 100)[:, None]
    gains = [null.log_increments(of[:, :1], of[:, 1:], share) for of in rollout.worse.transpose(1, 0, 2)]
    logs = [_log_sum(each.cumsum(0) + null.weights) for each in gains]
    return _log_sum(np.stack(logs), axis=0) - math.log(len(logs))


def _by_draw(rollout: Rollout) -> Array:
    won = np.full(LOOKS, -np.inf)
    for look, evidence in rollout.drawn.items():
        stakes = np.log(DRAW_LOOKS[look] * np.array([STAKES_OF_HARMS[harm] for harm in HARMS]))
        won[look:] = np.logaddexp(won[look:], _log_sum(stakes + evidence))
    return won


def early(rollout: Rollout, *, min_users: int = 3) -> Array:
    """By look, whether the test of the first requests has found harm by then."""
    limits = np.array((0, *early_limits(EARLY["rate"], int(EARLY["of"]), EARLY["alpha"] / 2)))
    null, found = RatioNull.at_most(NO_WORSE), np.zeros(LOOKS, dtype=bool)
    for first, last in [
        (0, LOOKS),
        *((BEGINS[s], BEGINS[s] + hours * 6) for s, (_, hours) in enumerate(STEPS)),
    ]:
        bad, every = (counts[first:last].cumsum(0) for counts in (rollout.bad, rollout.every))
        total = every[:, 0].sum(1).astype(int)
        within = int(np.argmax(total >= EARLY["of"])) + 1 if total[-1] >= EARLY["of"] else len(total)
        bad, every, total = bad[:within], every[:within], total[:within]
        late = np.minimum(np.maximum(0, total - int(EARLY["of"])), np.diff(bad[:, 0].sum(1), prepend=0))
        most = np.sort(bad[:, 0], axis=1)[:, -min_users][:, None]
        counted = np.maximum(0, np.minimum(bad[:, 0], most).sum(1) - late)
        seen = np.minimum(total, int(EARLY["of"]))
        too_many = np.logical_or.accumulate((seen > 0) & (counted >= limits[seen]))
        share = seen / np.maximum(1, seen + every[:, 1].sum(1))
        spread = 1.0
        if min_users > 1:
            own = rollout.bad[first : first + within], rollout.every[first : first + within]
            spread = _dispersion(*own, own[1])[:, None]
        gains = null.log_increments(counted[:, None], bad[:, 1].sum(1)[:, None], share[:, None])
        harm = too_many & (_log_sum(gains / spread + null.weights) >= WORSE)
        found[first:] |= np.logical_or.accumulate(
            np.concatenate([harm, np.repeat(harm[-1:], LOOKS - first - within)])
        )
    return found


@dataclass(frozen=True)
class Back:
    """The look at which each rule goes back; LOOKS: it never does."""

    at: Mapping[str, int]
    harmed: Mapping[str, float]
    """Failures of the stream arm until then that control would not have had."""


RULES = ("by requests", "half by expected", "errors", "early", "Flagger-like", "Argo-like")
"""The first two are rules that `errors` once had, or might have."""

OURS = ("errors", "early")


def backs(truth: Among, seed: Sequence[int]) -> Back:
    """Return when each rule goes back in one rollout. `errors` has the whole budget."""
    rollout = Rollout(truth, seed)
    smaller = rollout.every.sum(2).cumsum(0).min(axis=1)
    enough = (rollout.users >= MIN_USERS) & (smaller >= MIN_SAMPLES)
    line = -math.log(ErrorBudget().roll_back)
    by_requests, halves, all_bets = evidence(rollout)
    at = {
        "by requests": _first(enough & (by_requests >= line)),
        "half by expected": _first(enough & (halves >= line)),
        "errors": _first(enough & (all_bets >= line)),
        "early": _first(early(rollout)),
    }
    at |= _peers(rollout, np.random.default_rng([*seed, 1]))
    harmed = rollout.bad[:, 0].sum(1) * (truth.harm_from <= STEP)
    caused = (harmed * (1 - 1 / truth.ratio)).cumsum()
    return Back(at, {rule: float(caused[min(look, LOOKS - 1)]) for rule, look in at.items()})


def _first(found: NDArray[np.bool_]) -> int:
    return int(np.argmax(found)) if found.any() else LOOKS


def _peers(rollout: Rollout, random: np.random.Generator) -> dict[str, int]:
    """Two rules of others, which look each minute: a look's requests are spread over its minutes."""
    flagger, argo = FlaggerLike(), ArgoLike()
    at = {"Flagger-like": LOOKS, "Argo-like": LOOKS}
    parts = np.full(LOOK_MIN, 1 / LOOK_MIN)
    bad, every = rollout.bad[:, 0].sum(1).astype(int), rollout.every[:, 0].sum(1).astype(int)
    failed, fine = random.multinomial(bad, parts), random.multinomial(every - bad, parts)
    for look in range(LOOKS):
        for x, n in zip(failed[look].tolist(), (failed[look] + fine[look]).tolist(), strict=True):
            flagger.look(x, n)
            argo.look(x, n)
        for rule, peer in (("Flagger-like", flagger), ("Argo-like", argo)):
            if peer.rolled_back:
                at[rule] = min(at[rule], look)
    return at
