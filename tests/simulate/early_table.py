"""The table of `early` alone: the first answers of each step of whole rollouts, by the real test.

Beside it stands the same test with proxies that do not say how many failures are of the same user
(`headgate_capped_failures_total`), as they did not before: groups of users must do.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from flags.rollout.evidence.evidence import BAD, Batch, ComparedArm
from flags.rollout.policy.guardrails import EarlyGuard, ErrorBudget, Exposure
from flags.rollout.verdict.buckets import BUCKETS
from flags.rollout.verdict.count_tests import EarlyTest
from flags.rollout.verdict.step_context import StepContext
from proxy.observe.users.failing_users import FailingUsers
from tests.simulate.users import EARLY, STEPS

MARGIN = 1.3
"""Times as many answers as the test looks at: by then a step has nearly always all of them."""

RULES = ("groups", "users")
"""The test where only groups of users are known, and where proxies count users."""


@dataclass(frozen=True)
class First:
    """The truth. How often users ask is a gamma distribution, of squared coefficient of variation 2."""

    cv2: float = 1.0
    """Squared coefficient of variation of users' failure rates."""
    ratio: float = 1.25
    """Times as many failures in the stream arm; 0: all of its answers fail."""
    users: int = 400
    per_minute: float = 20.0
    rate: float = 0.01
    heavy: float = 0.0
    """Part of users who have 80 % of the failures; 0: their rates are a gamma distribution."""
    storm: int = 0
    """Failures of one user that come within a minute or, if there are many, an hour."""
    storms: int = 1
    """Users of the stream arm who have such a storm, all in one step."""
    bot: bool = False
    """One user makes half of the traffic."""
    outage: bool = False
    """In 20 minutes of each step three in ten fail, for everybody."""
    processes: int = 1
    """Of proxies, that know nothing of each other; each request comes to any of them."""


@dataclass
class _Events:
    """Answers of one step, in the order of time: by whom, whether of the stream arm, whether failed."""

    minutes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    users: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    stream: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    failed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def with_more(self, more: "_Events") -> "_Events":
        both = {name: np.concatenate([value, vars(more)[name]]) for name, value in vars(self).items()}
        order = np.argsort(both["minutes"], kind="stable")
        return _Events(**{name: value[order] for name, value in both.items()})


class _Rollout:
    def __init__(self, truth: First, seed: Sequence[int]) -> None:
        self._truth, self._random = truth, np.random.default_rng(seed)
        random = self._random
        self._place = random.random(truth.users)
        self._bucket = random.integers(0, BUCKETS, truth.users)
        asks = random.gamma(0.5, 1.0, truth.users)
        if truth.bot:
            asks[0] = asks[1:].sum()
        self._asks = asks * truth.per_minute / asks.sum()
        self._rates = self._rates_of_users()
        self._storm_step = int(random.integers(0, len(STEPS)))

    def _rates_of_users(self) -> NDArray[np.float64]:
        truth, random = self._truth, self._random
        if truth.heavy:
            few = random.random(truth.users) < truth.heavy
            return np.where(few, 0.8 * truth.rate / truth.heavy, 0.2 * truth.rate / (1 - truth.heavy))
        if not truth.cv2:
            return np.full(truth.users, truth.rate)
        return random.gamma(1 / truth.cv2, truth.rate * truth.cv2, truth.users)

    def step(self, step: int) -> Iterator[Batch]:
        """The first answers of a step. Minutes in which none failed are one batch."""
        truth, (share, hours) = self._truth, STEPS[step]
        stream, control = self._place < share / 100, self._place >= 1 - share / 100
        every = self._asks[stream].sum()
        minutes = min(60.0 * hours, MARGIN * int(EARLY["of"]) / every) if every else 1.0
        events = _Events()
        for arm in (stream, control):
            events = events.with_more(self._asked(arm, minutes, in_stream=arm is stream))
        if truth.storm and step == self._storm_step:
            for user in self._random.permutation(np.flatnonzero(stream))[: truth.storms]:
                events = events.with_more(self._storm(int(user), minutes))
        yield from self._batches(step, events)

    def _asked(self, arm: NDArray[np.bool_], minutes: float, *, in_stream: bool) -> _Events:
        truth, random = self._truth, self._random
        users = np.flatnonzero(arm)
        users = np.repeat(users, random.poisson(self._asks[users] * minutes))
        at = random.random(len(users)) * minutes
        chances = self._rates[users]
        if in_stream:
            chances = chances * truth.ratio if truth.ratio else np.ones_like(chances)
        if truth.outage:
            chances = np.where(abs(at - minutes / 2) < 10, np.maximum(chances, 0.3), chances)
        failed = random.random(len(users)) < chances
        return _Events(at, users, np.full(len(users), in_stream), failed)

    def _storm(self, user: int, minutes: float) -> _Events:
        number, random = self._truth.storm, self._random
        lasts = 1.0 if number < 100 else 60.0
        at = random.random() * minutes + random.random(number) * lasts
        return _Events(at, np.full(number, user), np.full(number, True), np.full(number, True))

    def _batches(self, step: int, events: _Events) -> Iterator[Batch]:
        proxies = [FailingUsers() for _ in range(self._truth.processes)]
        ends = np.flatnonzero(np.diff(events.minutes.astype(int), append=np.inf)) + 1
        bad = np.diff(np.concatenate([[0], events.failed.cumsum()])[np.concatenate([[0], ends])]) > 0
        cuts = ends[bad | np.append(bad[1:], True)]
        for minute in np.split(np.arange(len(events.minutes)), cuts):
            outcomes: dict[tuple[str, int, str], int] = defaultdict(int)
            capped: dict[str, int] = defaultdict(int)
            for at in minute.tolist():
                arm = ComparedArm.STREAM if events.stream[at] else ComparedArm.CONTROL
                user, failed = int(events.users[at]), bool(events.failed[at])
                outcomes[arm, int(self._bucket[user]), "failed" if failed else "complete"] += 1
                if failed:
                    proxy = proxies[int(self._random.integers(len(proxies)))]
                    capped[arm] += proxy.counts(user.to_bytes(8), 60.0 * float(events.minutes[at]))
            yield Batch(0.0, 60.0, step, outcomes=dict(outcomes), capped=dict(capped))


@dataclass(frozen=True)
class Found:
    """The step in which the test goes back, and failed answers of the stream arm by then."""

    step: int
    failed: int


_CONTEXT = StepContext(Exposure(1), {}, {}, {}, 1.0)


def found(truth: First, seed: Sequence[int]) -> Mapping[str, Found]:
    """By rule, when it goes back in one rollout."""
    guardrail, rollout = EarlyGuard("early", **EARLY), _Rollout(truth, seed)  # type: ignore[arg-type]
    tests = {rule: EarlyTest(guardrail, ErrorBudget(), ()) for rule in RULES}
    back: dict[str, Found] = {}
    failed = 0
    for step in range(len(STEPS)):
        for test in tests.values():
            test.enter(step, STEPS[step][0])
        for batch in rollout.step(step):
            before, failed = failed, failed + batch.total(ComparedArm.STREAM, BAD)
            for rule, test in tests.items():
                test.add(replace(batch, capped=None) if rule == "groups" else batch)
                if failed > before and test.verdict(_CONTEXT).action is not None:
                    back[rule] = Found(step, failed)
            for rule in back:
                tests.pop(rule, None)
        if not tests:
            break
    return back


_LIKE = {f"CV² {cv2:g}": First(cv2) for cv2 in (0.0, 1.0, 4.0, 10.0)}
_FEW_WHO_FAIL = {
    f"{users:,}, of whom {100 * heavy:.0f} % have 80 % of failures": First(users=users, heavy=heavy)
    for users in (100, 400, 3000)
    for heavy in (0.1, 0.05, 0.02)
}
_STORMS = {
    f"{who} of {storm:,} retries{where}": First(storm=storm, storms=storms, processes=processes)
    for storm in (14, 50, 2000)
    for who, storms, processes, where in (
        ("one user's storm", 1, 1, ""),
        ("one user's storm", 1, 12, ", to 12 processes"),
        ("storms of three users", 3, 1, ""),
    )
}
TRUTHS: Mapping[str, First] = {
    **_LIKE,
    **_FEW_WHO_FAIL,
    **_STORMS,
    "one user's storm of 14 retries at night, 2 a minute": First(storm=14, per_minute=2.0),
    "a bot has half of the traffic, CV² 1": First(bot=True),
    "a bot has half of the traffic, CV² 4": First(4.0, bot=True),
    "outages for all, CV² 4": First(4.0, outage=True),
}
HARMS = {"3 times": 3.0, "10 times": 10.0, "all fail": 0.0}


def simulated(truth: First, rounds: int, seed: int, processes: int) -> list[Mapping[str, Found]]:
    """Return so many rollouts; the same ones each time."""
    seeds = [(seed, number) for number in range(rounds)]
    if processes == 1:
        return [found(truth, each) for each in seeds]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(partial(found, truth), seeds, chunksize=max(1, rounds // 16)))


def _power(back: Sequence[Mapping[str, Found]], rule: str) -> str:
    """The part that goes back at 1 %, by the end of 5 %, and in all."""
    steps = [each[rule].step for each in back if rule in each]
    parts = [sum(step <= last for step in steps) / len(back) for last in (0, 1, len(STEPS))]
    return ", ".join(f"{100 * part:.0f}" for part in parts)


def early_table(rounds: int, seed: int, only: str) -> Table:
    """The table, of rows whose name has `only`. False alarms are of so many rollouts, power of a quarter."""
    table = Table(title=f"early: false alarms of {rounds} rollouts; goes back at 1 %, by 5 %, in all, in %")
    for heading in ("truth", "by", "1.25 times", *HARMS):
        table.add_column(heading, justify="left" if heading == "truth" else "right")
    processes = os.cpu_count() or 1
    for name, truth in TRUTHS.items():
        if only not in f"early, {name}":
            continue
        false = simulated(truth, rounds, seed, processes)
        harmed = [
            simulated(replace(truth, ratio=ratio), max(2, rounds // 4), seed, processes)
            for ratio in HARMS.values()
        ]
        for rule in RULES:
            cells = [
                str(sum(rule in each for each in false)),
                *(_power(back, rule) for back in harmed),
            ]
            table.add_row(f"early, {name}", rule, *cells)
            click.echo(f"early, {name}; {rule}: {cells}", err=True)
    return table
