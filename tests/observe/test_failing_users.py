"""Of one user's failures in an hour the first ones count."""

from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.observe.metrics import Metrics
from proxy.observe.users.failing_users import HOUR_S, MOST_AN_HOUR, FailingUsers
from proxy.settings.blocks.route import RouteSettings
from tests.servers.streaming import route


def test_a_storm_counts_as_a_few_failures_and_again_in_the_next_hour() -> None:
    """However many there are; other users' failures count beside it."""
    users = FailingUsers()

    assert sum(users.counts(b"ann", at) for at in range(2_000)) == MOST_AN_HOUR
    assert users.counts(b"bob", 2_000.0)
    assert sum(users.counts(b"ann", HOUR_S + at) for at in range(2_000)) == MOST_AN_HOUR
    assert len(users) == 1


def test_a_flood_of_names_has_a_bound_and_makes_nobodys_storm_count() -> None:
    """Beyond the bound nobody new counts in this hour; whoever was known goes on."""
    users = FailingUsers(max_users=100)
    assert users.counts(b"ann", 0.0)

    counted = sum(users.counts(name.to_bytes(8), 1.0) for name in range(10_000))

    assert (counted, len(users)) == (99, 100)
    assert sum(users.counts(b"ann", 2.0) for _ in range(100)) == MOST_AN_HOUR - 1
    assert users.counts(b"new", HOUR_S)


def test_users_of_both_arms_count_alike_and_those_of_the_rest_nowhere() -> None:
    """The rule knows no arm, so that what it leaves out is no difference between them."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [RouteSettings.model_validate(route())]).by_route["start"]
    for arm in Arm:
        decision = Decision(Mode.BATCH, arm, "batch", Reason.FLAG_OFF)
        for user in (f"ann of {arm}", f"bob of {arm}"):
            for outcome in ("failed", "complete", "truncated", *["failed"] * 20, "client_left"):
                metrics.settle(decision, Identity("principal", user), outcome, 0.0, 1.0)

    found = {
        arm: registry.get_sample_value("headgate_capped_failures_total", {"route": "start", "arm": arm})
        for arm in Arm
    }
    assert found == {Arm.STREAM: 2 * MOST_AN_HOUR, Arm.CONTROL: 2 * MOST_AN_HOUR, Arm.REST: None}
