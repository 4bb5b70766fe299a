"""The number of different users in each arm; nothing says who they were."""

import prometheus_client
from prometheus_client import CollectorRegistry

from flags.decision import Arm
from proxy.observe.users.met_users import UserNames, Users


def named(user: str) -> bytes:
    return UserNames(b"key").of(user, None)


def shown(registry: CollectorRegistry, arm: str) -> float | None:
    return registry.get_sample_value("users", {"arm": arm})


def users(max_users: int = 100) -> tuple[Users, CollectorRegistry]:
    registry = CollectorRegistry()
    gauge = prometheus_client.Gauge("users", "A test's", ["arm"], registry=registry)
    return Users({arm: gauge.labels(arm) for arm in (Arm.STREAM, Arm.CONTROL)}, max_users=max_users), registry


def test_users_are_counted_once_each_by_arm() -> None:
    """Coming again changes nothing; users in neither arm are not kept at all."""
    seen, registry = users()

    for number in range(30):
        seen.add(Arm.STREAM, named(f"user-{number % 7}"), "g")
        seen.add(Arm.CONTROL, named(f"user-{number % 5}"), "g")
        seen.add(Arm.REST, named(f"user-{number}"), "g")

    assert (shown(registry, "stream"), shown(registry, "control")) == (7, 5)


def test_users_are_counted_anew_when_the_flag_has_changed() -> None:
    """Those of before had another share. A request of the rest, which has no generation, changes nothing."""
    seen, registry = users()
    seen.add(Arm.STREAM, named("ann"), "g1")
    seen.add(Arm.CONTROL, named("bob"), "g1")
    seen.add(Arm.REST, named("cid"), "")
    assert (shown(registry, "stream"), shown(registry, "control")) == (1, 1)

    seen.add(Arm.STREAM, named("dee"), "g2")

    assert (shown(registry, "stream"), shown(registry, "control")) == (1, 0)


def test_when_one_arm_is_full_neither_grows() -> None:
    """Or the other would seem to have more users than its share."""
    seen, registry = users(max_users=10)

    for number in range(100):
        seen.add(Arm.STREAM, named(f"user-{number}"), "g")
        if number % 2:
            seen.add(Arm.CONTROL, named(f"user-{number}"), "g")

    assert (shown(registry, "stream"), shown(registry, "control")) == (10, 4)


def test_nothing_that_is_kept_of_users_says_who_they_are() -> None:
    """Two keys make different names of the same user, of eight bytes; each process has a key of its own."""
    kept = [names.of("ann", None) for names in (UserNames(), UserNames(), UserNames(b"key"))]

    assert len(set(kept)) == 3
    assert {len(name) for name in kept} == {8}
    assert named("ann") == named("ann") != named("bob")


def test_a_user_of_another_tenant_is_another_user() -> None:
    """And no name can be made that looks like both."""
    names = UserNames()

    assert names.of("ann", None) != names.of("ann", "north")
    assert names.of("ann", "north") == names.of("ann", "north")
    assert names.of("c", "a\nb") != names.of("b\nc", "a")
    assert names.of("c", "a', 'b") != names.of("b', 'c", "a")
