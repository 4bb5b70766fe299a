"""A world for one rollout: users, their requests, proxies that count, a flag, a clock that jumps a minute.

The proxies' counters are as `headgate_outcomes_total` and its like are scraped, with what befalls those:
restarts that begin them at zero, scrapes that are missed, hours in which the upstream fails for everybody.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import mmh3
import numpy as np

from flags.errors import EvidenceError, FlagChanged, ReadingProblem
from flags.rollout.evidence.readings import (
    FIRST_CONTENT_S,
    OUTCOMES,
    PARITY,
    RECOVERIES,
    SETTLED_S,
    Reading,
    Series,
)
from flags.rollout.writing.flag_admin import Flag, Strategy

ROUTE = "simulated"
ARMS = ("stream", "control")
BUCKETS = 16
SHOWN = ("complete", "failed", "fell_back")
DAY_S = 86400.0
SLOW_S = "120.0"
FIRST_S = "5.0"
SETTLE_MIN = 4
"""Minutes from an end to its count: until it settles, is scraped, and is looked at."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth, which the controller has to find out."""

    per_minute: float = 20.0
    users: int = 3000
    failing: float = 0.01
    """Of batch answers."""
    harm: float = 1.0
    """The factor by which streamed answers fail more often."""
    harm_from: int = 0
    """Percent of users from which on it does."""
    fall_back: float = 0.005
    slow: float = 0.01
    zeal: float = 0.0
    """Sigma of the log of users' rates: 0 all alike, 1.5 a few make most of the traffic."""
    fate: float = 0.0
    """The same of users' failures: some have cases that fail more often, in either arm."""
    diurnal: bool = True
    restart_every_s: float = 12 * 3600.0
    missing: float = 0.05
    """Of scrapes."""
    outage_every_s: float = 24 * 3600.0
    outage_s: float = 900.0
    outage_failing: float = 0.3


@dataclass(slots=True)
class Clock:
    """The two faces of a clock."""

    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeFlag:
    """A flag in memory, behind the port of the real ones."""

    strategy: Strategy = field(default_factory=lambda: Strategy("1", 0, "userId", "simulated"))
    event_id: int = 1
    killed: bool = False
    writes: int = 0

    async def problems(self) -> list[str]:
        return []

    async def read(self) -> Flag:
        return Flag(self.strategy, (), True, self.event_id, "controller", self.killed)

    async def write(self, strategy: Strategy, expected: Flag) -> Flag:
        if expected.event_id != self.event_id:
            raise FlagChanged("changed in between")
        self.strategy = strategy
        self.event_id += 1
        self.writes += 1
        return await self.read()

    async def kill(self, on: bool) -> None:
        self.killed = on


class World:
    """Counts, minute by minute. `read` is what the controller reads."""

    def __init__(self, truth: Truth, flag: FakeFlag, clock: Clock, seed: int) -> None:
        self.truth = truth
        self._flag = flag
        self._clock = clock
        self._random = np.random.default_rng(seed)
        self.begun_s = clock.now_s
        self.harmed = 0
        """Failures of streamed answers that batch would not have had."""
        self.latest: Mapping[str, tuple[int, int]] = {}
        """By arm: failed and all of the last minute, for the peers."""
        self._place_users()
        self._keys = _keys()
        self._counters = np.zeros(len(self._keys), dtype=np.int64)
        self._shown = deque([self._counters.copy()] * SETTLE_MIN, maxlen=SETTLE_MIN)
        self._share = -1
        self._restart_due_s = truth.restart_every_s
        self._seen = np.zeros(truth.users, dtype=bool)

    def _place_users(self) -> None:
        truth, random = self.truth, self._random
        names = [f"user-{random.integers(1 << 60)}" for _ in range(truth.users)]
        self._hash = np.array([mmh3.hash(f"simulated:{name}", 0, signed=False) % 100 + 1 for name in names])
        self._bucket = random.integers(0, BUCKETS, truth.users)
        rate = np.exp(random.normal(0, truth.zeal, truth.users)) if truth.zeal else np.ones(truth.users)
        self._rate = rate / rate.sum() * truth.per_minute
        fate = np.exp(random.normal(0, truth.fate, truth.users)) if truth.fate else np.ones(truth.users)
        self._failing = np.minimum(truth.failing * fate / np.average(fate, weights=self._rate), 0.9)

    def pass_minute(self) -> None:
        """Do what happens until the next look."""
        self._clock.now_s += 60.0
        truth, random = self.truth, self._random
        age_s = self._clock.now_s - self.begun_s
        if age_s >= self._restart_due_s:
            self._counters[:] = 0
            self._shown.extend([self._counters.copy()] * SETTLE_MIN)
            self._restart_due_s += truth.restart_every_s * random.uniform(0.5, 1.5)
        share = self._flag.strategy.share
        if share != self._share:
            self._share = share
            self._seen[:] = False
        shown = 0 if self._flag.strategy.variants else share
        busy = 1 + 0.8 * np.sin(2 * np.pi * age_s / DAY_S) if truth.diurnal else 1.0
        outage = age_s % truth.outage_every_s > truth.outage_every_s - truth.outage_s
        counts = random.poisson(self._rate * busy)
        self._seen |= counts > 0
        self.latest = {}
        for arm, who in (
            ("stream", self._hash <= share),
            ("control", self._hash > 100 - min(share, 100 - share)),
        ):
            harm = truth.harm if arm == "stream" and shown and shown >= truth.harm_from else 1.0
            failing = np.minimum(self._failing * harm, 0.95)
            if outage:
                failing = np.full_like(failing, truth.outage_failing)
            self._count(arm, who, counts, failing, streams=arm == "stream" and shown > 0)
            if arm == "stream" and harm > 1 and not outage:
                self.harmed += int(random.binomial(self.latest[arm][0], 1 - 1 / harm))
        self._shown.append(self._counters.copy())

    def _count(
        self, arm: str, who: np.ndarray, counts: np.ndarray, failing: np.ndarray, *, streams: bool
    ) -> None:
        random, truth = self._random, self.truth
        asked = np.where(who, counts, 0)
        failed = random.binomial(asked, failing)
        fell_back = random.binomial(asked - failed, truth.fall_back if streams else 0.0)
        complete = asked - failed - fell_back
        every, bad = int(asked.sum()), int(failed.sum())
        self.latest = {**self.latest, arm: (bad, every)}
        if not every:
            return
        at = self._keys
        for outcome, of in zip(SHOWN, (complete, failed, fell_back), strict=True):
            by_bucket = np.bincount(self._bucket, weights=of, minlength=BUCKETS).astype(np.int64)
            for bucket in np.flatnonzero(by_bucket):
                self._counters[at[OUTCOMES, (ROUTE, arm, str(bucket), outcome)]] += by_bucket[bucket]
        answered = every - bad
        slow = int(random.binomial(answered, truth.slow))
        self._counters[at[SETTLED_S, (ROUTE, arm, "inf")]] += answered
        self._counters[at[SETTLED_S, (ROUTE, arm, SLOW_S)]] += answered - slow
        if streams:
            late = int(random.binomial(every - bad, truth.slow))
            self._counters[at[FIRST_CONTENT_S, (ROUTE, "tap", "inf")]] += every - bad
            self._counters[at[FIRST_CONTENT_S, (ROUTE, "tap", FIRST_S)]] += every - bad - late
            self._counters[at[RECOVERIES, (ROUTE, "source_lost", "fell_back")]] += int(fell_back.sum())
        self._counters[at[PARITY, (ROUTE, "equal")]] += every - bad if arm == "stream" else 0

    async def read(self, now_s: float, before: Reading | None = None) -> Reading:
        if self._random.random() < self.truth.missing:
            raise EvidenceError(ReadingProblem.STALE, "the scrape was missed")
        share = max(self._share, 0)
        users = {
            "stream": int((self._seen & (self._hash <= share)).sum()),
            "control": int((self._seen & (self._hash > 100 - min(share, 100 - share))).sum()),
        }
        counters = {
            Series(metric, "proxy-1", labels): int(self._shown[0][at])
            for (metric, labels), at in self._keys.items()
        }
        return Reading(now_s, counters, {"proxy-1": now_s}, users)


def _keys() -> dict[tuple[str, tuple[str, ...]], int]:
    keys: list[tuple[str, tuple[str, ...]]] = [
        (OUTCOMES, (ROUTE, arm, str(bucket), outcome))
        for arm in ARMS
        for bucket in range(BUCKETS)
        for outcome in SHOWN
    ]
    keys += [(SETTLED_S, (ROUTE, arm, edge)) for arm in ARMS for edge in (SLOW_S, "inf")]
    keys += [(FIRST_CONTENT_S, (ROUTE, "tap", edge)) for edge in (FIRST_S, "inf")]
    keys += [(RECOVERIES, (ROUTE, "source_lost", result)) for result in ("recovered", "fell_back", "failed")]
    keys += [(PARITY, (ROUTE, result)) for result in ("equal", "suffix", "replaced", "unshown", "missing")]
    return {key: at for at, key in enumerate(keys)}
