"""Evidence: counts of the requests of each arm that settled between two readings. Pure; it names no person.

Source of the outcomes: `headgate_outcomes_total`, counted once for each request of a route when it settles.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ComparedArm(StrEnum):
    """The arms that are compared. Everybody else is in neither."""

    STREAM = "stream"
    CONTROL = "control"


REST = "rest"
"""Users in neither arm. They are counted, to see what share of all is streamed, and compared with nobody."""

BAD = frozenset({"failed", "truncated"})
"""Outcomes by which a user has no answer, or not all of it."""

GOOD = frozenset({"complete", "recovered", "fell_back"})

ELIGIBLE = GOOD | BAD
"""Outcomes that count when arms are compared."""

APART = frozenset({"client_left", "cancelled", "shutdown"})
"""Shown by arm, and in no comparison: they say nothing about the answer."""


EXPECTED_UNITS = 1 << 20
"""Of expected, or weighed, failures in one failure: they are whole numbers too."""

LIMITS = ("5", "7")
"""Of users who are worse than before, as proxies name them."""


@dataclass(frozen=True, slots=True)
class Tail:
    """A count of all, and of those among them that were over a limit."""

    over: int
    all: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that settled between two readings within one step. Counts are whole and >= 0; an absent one is
    0."""

    since_s: float
    """Unix time of the earlier reading."""
    until_s: float
    """Unix time of the later one."""
    step: int
    """Index of the policy's step that was in force all the time."""
    outcomes: Mapping[tuple[str, int, str], int] = field(default_factory=dict)
    """Requests by arm, user bucket (0 to 15) and outcome; those of REST are all in bucket 0."""
    seconds: Mapping[tuple[str, float], Tail] = field(default_factory=dict)
    """Whole answers that took longer than a limit, by arm and limit in seconds."""
    first_content: Mapping[float, Tail] = field(default_factory=dict)
    """Streams whose first text came later than a limit, by limit in seconds."""
    recoveries: Mapping[str, int] = field(default_factory=dict)
    """Runs that lost their live text beside a call that went on: `recovered`, `fell_back`, `failed`."""
    parity: Mapping[str, int] = field(default_factory=dict)
    """Sections compared with the batch answer, by result."""
    expected: Mapping[tuple[str, int], int] | None = None
    """Failures that users' histories let expect, by arm and user bucket, EXPECTED_UNITS to one. None: a proxy
    does not say so, or the journal is of an older release."""
    weighed: Mapping[tuple[str, int], int] | None = None
    """Failures, by the weights with which they are expected, likewise. None: nothing is weighed."""
    capped: Mapping[str, int] | None = None
    """Failures, of each user at most five an hour at one process, by arm. None: a proxy does not say so, or
    the journal is of an older release."""
    worse: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Users who came to fail far more often than before, by arm and limit; of all arms."""
    slower: Mapping[tuple[str, int], int] | None = None
    """Answers that took longer than is usual for their user, by arm and user bucket. None: nobody says so."""
    drawn: Mapping[str, int] = field(default_factory=dict)
    """Logarithm of how much likelier harm makes the flag's draw of users, by the kind of harm, in units of
    1/EXPECTED_UNITS; the mean of all processes and routes. A level, not a difference. Empty: nobody says."""
    proxies: int = 1
    """How often a user who became worse may be counted: processes, or groups of them that count together; of
    several routes, for each."""
    routes: Mapping[str, "Batch"] = field(default_factory=dict)
    """The outcomes, and what is beside them, of each route, if there are several."""
    users: Mapping[str, int] = field(default_factory=dict)
    """Different users since the share last changed, at least, by arm. A level, not a difference."""

    def total(self, arm: str, outcomes: frozenset[str]) -> int:
        """Requests of one arm with one of these outcomes."""
        return sum(n for (of, _, outcome), n in self.outcomes.items() if of == arm and outcome in outcomes)

    def total_expected(self, arm: str) -> int:
        """Failures that were expected of one arm, in units of 1/EXPECTED_UNITS; 0 where nobody says so."""
        return sum(n for (of, _), n in (self.expected or {}).items() if of == arm)

    def total_weighed(self, arm: str) -> float:
        """Failures of one arm, by the weights with which they are expected."""
        if self.weighed is None:
            return self.total(arm, BAD)
        return sum(n for (of, _), n in self.weighed.items() if of == arm) / EXPECTED_UNITS


def batch_body(batch: Batch) -> dict[str, Any]:
    """The batch as JSON, for `batch_from_body`. Zeros are left out."""
    body = {
        "since_s": batch.since_s,
        "until_s": batch.until_s,
        "step": batch.step,
        "outcomes": [[*key, count] for key, count in sorted(batch.outcomes.items()) if count],
        "seconds": [[*key, tail.over, tail.all] for key, tail in sorted(batch.seconds.items()) if tail.all],
        "first_content": [
            [limit_s, tail.over, tail.all]
            for limit_s, tail in sorted(batch.first_content.items())
            if tail.all
        ],
        "recoveries": {result: count for result, count in sorted(batch.recoveries.items()) if count},
        "parity": {result: count for result, count in sorted(batch.parity.items()) if count},
        "users": dict(sorted(batch.users.items())),
    }
    for name, counts in (("expected", batch.expected), ("weighed", batch.weighed), ("slower", batch.slower)):
        if counts is not None:
            body[name] = [[*key, count] for key, count in sorted(counts.items()) if count]
    if batch.capped is not None:
        body["capped"] = {arm: count for arm, count in sorted(batch.capped.items()) if count}
    if batch.worse:
        body["worse"] = [[*key, count] for key, count in sorted(batch.worse.items())]
    if batch.drawn:
        body["drawn"] = dict(sorted(batch.drawn.items()))
    if batch.proxies != 1:
        body["proxies"] = batch.proxies
    if batch.routes:
        body["routes"] = {name: batch_body(of_route) for name, of_route in sorted(batch.routes.items())}
    return body


def batch_from_body(said: Mapping[str, Any]) -> Batch:
    """The batch that `batch_body` made this of; equal to it in all that is not 0."""
    return Batch(
        since_s=said["since_s"],
        until_s=said["until_s"],
        step=said["step"],
        outcomes={(arm, bucket, outcome): count for arm, bucket, outcome, count in said["outcomes"]},
        seconds={(arm, limit_s): Tail(over, every) for arm, limit_s, over, every in said["seconds"]},
        first_content={limit_s: Tail(over, every) for limit_s, over, every in said["first_content"]},
        recoveries=said["recoveries"],
        parity=said["parity"],
        expected=_by_bucket(said.get("expected")),
        weighed=_by_bucket(said.get("weighed")),
        capped=said.get("capped"),
        worse={(arm, limit): count for arm, limit, count in said.get("worse", ())},
        slower=_by_bucket(said.get("slower")),
        drawn=said.get("drawn", {}),
        proxies=said.get("proxies", 1),
        routes={name: batch_from_body(of_route) for name, of_route in said.get("routes", {}).items()},
        users=said["users"],
    )


def _by_bucket(said: Iterable[tuple[str, int, int]] | None) -> Mapping[tuple[str, int], int] | None:
    return None if said is None else {(arm, bucket): count for arm, bucket, count in said}
