"""Harm that is in the failures of one route, or in how long answers take, in simulated rollouts."""

from tests.simulate.more_tables import Routes, Slower, routes_backs, slower_holds
from tests.simulate.users import LOOKS

ROLLOUTS = range(4)
"""`make simulate` has many of each case."""


def test_harm_in_one_small_route_is_found_by_its_own_failures() -> None:
    """Ten times as many, in a tenth of the traffic; and 1.25 times in all routes is no harm."""
    harmed = [routes_backs(Routes(10.0, 2), (1, number)) for number in ROLLOUTS]
    unharmed = [routes_backs(Routes(1.25, 2, of_others=1.25), (1, number)) for number in ROLLOUTS]

    assert sum(by_route < LOOKS for _, by_route in harmed) >= 3
    assert all(by_route < together for together, by_route in harmed)
    assert sum(by_route < LOOKS for _, by_route in unharmed) <= 1


def test_answers_that_take_longer_hold_the_rollout_where_users_are_steady() -> None:
    """By 30 %, which no fixed limit sees; as long as ever is none."""
    longer, as_long = (
        [slower_holds(Slower(times, 0.3), (1, number))[0] for number in ROLLOUTS] for times in (1.3, 1.0)
    )

    assert sum(look < LOOKS for look in longer) >= 3
    assert sum(look < LOOKS for look in as_long) <= 1
