"""One user adds a bounded part to the evidence, once, by what is usual for this user."""

import random

import pytest
from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.observe.metrics import Metrics
from proxy.observe.users.failing_users import MOST_AN_HOUR
from proxy.observe.users.histories import CANDIDATES, FORGOTTEN_S, UNIT
from proxy.observe.users.user_watch import Said, UserWatch
from proxy.observe.users.watched_users import HALF_AFTER, KEPT, LIMITS, QUIET_S, SLOWER, Ended, WatchedUsers
from proxy.settings.blocks.route import RouteSettings
from tests.servers.streaming import route

ANN, BOB = b"ann", b"bob"
ALIKE = (50.0, 5000.0)
"""All users fail once in a hundred requests, as far as is known."""


class Kept(random.Random):
    """Every failure counts, or none."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self._kept = kept

    def random(self) -> float:
        return 0.0 if self._kept else KEPT


DIFFER = (1.0, 100.0)
"""The same, and some fail much more often."""


def watching(*, kept: bool = True) -> UserWatch:
    return UserWatch(lambda arm, limit: None, Kept(kept))


def end(
    users: UserWatch,
    arm: Arm,
    *,
    user: bytes = ANN,
    now_s: float = 0.0,
    prior: tuple[float, float] = ALIKE,
    failed: bool = False,
    seconds: float = 1.0,
    expected: float = 0.01,
) -> Said:
    """A request ends."""
    return users.ended(user, now_s, arm, prior, failed=failed, seconds=seconds, expected=expected)


def passes(
    users: UserWatch,
    arm: Arm,
    ends: str,
    user: bytes = ANN,
    now_s: float = 0.0,
    prior: tuple[float, float] = ALIKE,
) -> list[float]:
    """The limits passed by requests that fail (x) or do not (.)."""
    said = [end(users, arm, user=user, now_s=now_s, prior=prior, failed=each == "x") for each in ends]
    return [limit for each in said for limit in each.passed]


def test_the_more_was_expected_of_a_user_the_less_a_request_weighs() -> None:
    """A bot's requests weigh together as a few users' do; another user's weigh as much as ever."""
    users = watching()
    weights = [end(users, Arm.CONTROL).weight for _ in range(100_000)]

    assert weights[0] == 1.0
    assert weights[round(100 * HALF_AFTER)] == pytest.approx(0.5, abs=0.01)
    assert sum(0.01 * weight for weight in weights) < 8 * HALF_AFTER
    assert all(weight / UNIT == int(weight / UNIT) for weight in weights[:100])
    assert end(users, Arm.CONTROL, user=BOB).weight == 1.0


@pytest.mark.parametrize("arm", list(Arm))
def test_who_comes_to_fail_far_more_often_counts_once_for_each_limit(arm: Arm) -> None:
    """In each arm by the same rule; the hundredth failure is no news."""
    users = watching()

    assert passes(users, arm, "." * 300) == []
    assert passes(users, arm, "x" * 100) == list(LIMITS)
    assert passes(users, arm, "." * 5000 + "x" * 100) == []


def test_failures_of_the_stream_arm_count_by_chance() -> None:
    """So that a fourth more of them is no news; elsewhere all do."""
    assert passes(watching(kept=False), Arm.STREAM, "x" * 100) == []
    assert passes(watching(kept=False), Arm.CONTROL, "x" * 100) == list(LIMITS)


def test_who_always_failed_is_not_worse() -> None:
    """Half of this user's requests fail, before the rollout as well as later."""
    users = watching()

    assert passes(users, Arm.REST, "x." * 500, prior=DIFFER) == list(LIMITS)
    assert passes(users, Arm.STREAM, "x." * 500, now_s=QUIET_S + 1, prior=DIFFER) == []


def test_a_new_rollout_counts_users_anew() -> None:
    """One is new when no arm was compared for a day."""
    users = watching()

    assert passes(users, Arm.STREAM, "x" * 10) == list(LIMITS)
    assert passes(users, Arm.STREAM, "x" * 100, now_s=QUIET_S - 1) == []
    assert passes(users, Arm.STREAM, "." * 9000 + "x" * 100, now_s=2 * QUIET_S) == list(LIMITS)


def test_an_answer_is_slow_by_what_is_usual_for_its_user() -> None:
    """Ten seconds are slow for who has one, and quick for who has twenty."""
    users = watching()
    assert not end(users, Arm.STREAM, seconds=1000.0).slow  # nothing is usual yet
    for _ in range(50):
        end(users, Arm.REST, seconds=1.0)
        end(users, Arm.REST, user=BOB, seconds=20.0)

    assert end(users, Arm.CONTROL, seconds=2 * SLOWER).slow
    assert not end(users, Arm.CONTROL, seconds=2 * SLOWER, failed=True).slow
    assert not end(users, Arm.CONTROL, user=BOB, seconds=10.0).slow
    assert end(users, Arm.STREAM, user=BOB, seconds=22.0 * SLOWER).slow


def test_what_is_usual_is_not_learned_of_users_whose_arm_is_compared() -> None:
    """Or slowness that lasts would become usual."""
    users = watching()
    for _ in range(50):
        end(users, Arm.REST, seconds=1.0)

    assert all(end(users, Arm.STREAM, seconds=2.0).slow for _ in range(500))


def test_so_many_users_are_watched_and_no_more() -> None:
    """And who is not seen for a month is forgotten."""
    users = WatchedUsers(max_users=2 * CANDIDATES)

    def ends(user: bytes, now_s: float) -> None:
        assert not list(users.add(Ended(user, Arm.REST, False, 1, 0.0, 1, 0.0), now_s, ALIKE))

    for _ in range(100):
        ends(ANN, 0.0)
    for number in range(1000):
        ends(b"%d" % number, 1.0)

    assert len(users) == 2 * CANDIDATES
    users.forget(FORGOTTEN_S + 1.0)
    assert len(users) == 2 * CANDIDATES - 1
    users.forget(FORGOTTEN_S + 2.0)
    assert len(users) == 0

    ends(ANN, 400 * 86_400.0)  # by a clock that was ahead
    users.forget(0.0)
    users.forget(FORGOTTEN_S + 1.0)
    assert len(users) == 0


def test_what_users_add_is_counted() -> None:
    """A failure by its weight, the user once, a slow answer."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [RouteSettings.model_validate(route())]).by_route["start"]

    def settle(arm: Arm, outcome: str = "complete", seconds: float = 1.0) -> None:
        decision = Decision(Mode.BATCH, arm, "batch", Reason.FLAG_OFF)
        metrics.settle(decision, Identity("principal", "ann"), outcome, 0.0, seconds)

    for _ in range(100):
        settle(Arm.REST)
    settle(Arm.CONTROL, seconds=2 * SLOWER)
    for _ in range(30):
        settle(Arm.CONTROL, "failed")
    bucket = str(Identity("principal", "ann").bucket)

    def total(name: str, **labels: str) -> float:
        return (
            registry.get_sample_value(
                f"headgate_{name}_total", {"route": "start", "arm": "control", **labels}
            )
            or 0.0
        )

    assert 25 < total("weighed_failures", bucket=bucket) < 30
    assert total("capped_failures") == MOST_AN_HOUR
    assert total("slower", bucket=bucket) == 1
    assert [total("users_worse", limit=f"{limit:g}") for limit in LIMITS] == [1, 1]
