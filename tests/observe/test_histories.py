"""The chance that a user's next request fails, from what this user did before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.observe.metrics import Metrics, RouteMetrics
from proxy.observe.users.histories import (
    CANDIDATES,
    FORGOTTEN_S,
    HOUR_S,
    MOST_REQUESTS,
    UNIT,
    USUAL,
    USUAL_REQUESTS,
    WIDTHS,
    Changes,
    Histories,
    History,
)
from proxy.settings.blocks.route import RouteSettings
from tests.servers.streaming import route

ANN, BOB = b"ann", b"bob"


def known(*, requests: int = 50, failing: int = 10) -> Histories:
    """Ten users who always fail, by turns with ninety who never do, and the forecasts that came true."""
    histories = Histories()
    for _ in range(requests):
        for user in range(100):
            histories.add(b"%d" % user, 0.0, user < failing)
    return histories


def test_where_nothing_is_known_the_same_is_expected_of_everybody() -> None:
    """The share of expected failures is then the share of requests."""
    histories = Histories()

    assert histories.expected(ANN) == histories.expected(BOB) == pytest.approx(USUAL, abs=UNIT)


def test_who_failed_before_is_expected_to_fail_again() -> None:
    """And who never did is not; of a stranger, as much as of all."""
    histories = known()

    assert histories.expected(b"3") > 0.8
    assert histories.expected(b"50") < 0.02
    assert histories.expected(ANN) == pytest.approx(0.1, abs=0.01)


def test_what_came_true_for_nobody_is_trusted_for_nobody() -> None:
    """Each failure is a new user's luck: whoever failed before does no worse than the others."""
    random, histories = np.random.default_rng(3), Histories()
    for _ in range(100):
        for user in range(100):
            histories.add(b"%d" % user, 0.0, bool(random.random() < 0.1))
    expected = [histories.expected(b"%d" % user) for user in range(100)]

    assert max(expected) < 1.5 * min(expected)


def test_forecasts_that_fail_are_no_longer_trusted() -> None:
    """Users change, as those in the control arm show: of all of them nearly the same is expected then."""
    histories = known()
    before = histories.expected(b"3")
    for _ in range(400):
        for user in range(100):
            histories.check(b"%d" % user, 10 <= user < 20)

    assert histories.expected(b"3") < 0.3 < before


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=120))
def test_it_is_what_its_formula_says(requests: list[tuple[int, bool]]) -> None:
    """Of sums that are kept up: the same as from all histories anew, after any requests."""
    histories = Histories()
    n, x = np.zeros(7), np.zeros(7)
    agreed = forecast = 0.0

    def rates() -> tuple[float, np.ndarray]:
        rate = (x.sum() + USUAL * USUAL_REQUESTS) / (n.sum() + USUAL_REQUESTS)
        beyond = ((x - n * rate) ** 2 - n * rate).sum() / max(1e-300, ((n * rate) ** 2).sum())
        weight = 1 / np.clip(beyond if n.any() else 0.0, *WIDTHS)
        return rate, (x + weight) / (n + weight / rate)

    for user, failed in requests:
        rate, own = rates()
        agreed += (failed - rate) * (own[user] - rate)
        forecast += (own[user] - rate) ** 2
        histories.add(b"%d" % user, 0.0, failed)
        n[user] += 1
        x[user] += failed
    rate, own = rates()
    rho = np.clip(agreed / forecast, 0, 1) if forecast > 1e-12 else 0.0

    for user in range(7):
        assert histories.expected(b"%d" % user) == pytest.approx(rate + rho * (own[user] - rate), abs=1e-5)


def test_all_sums_are_exact() -> None:
    """Of many processes, in any order: each chance is a multiple of one number, above 0 and at most 1."""
    histories = known(failing=100)
    for user in (b"3", ANN):
        chance = histories.expected(user)
        assert UNIT <= chance <= 1
        assert (chance / UNIT).is_integer()
    assert Histories().expected(ANN) >= UNIT


def test_a_flood_of_names_drives_out_names_that_asked_once() -> None:
    """Twenty times as many made-up users as there is room for: those who ask again and again stay known."""
    histories = Histories(max_histories=200)
    for _ in range(30):
        for user in range(100):
            histories.add(b"%d" % user, 0.0, user < 10)
    before = [histories.expected(b"%d" % user) for user in range(100)]
    for number in range(4000):
        histories.add(b"made up %d" % number, 1.0, False)
    stayed = sum(histories.expected(b"%d" % user) > 10 * histories.expected(ANN) for user in range(10))

    assert len(histories) == 200
    assert before[0] > 0.5
    assert stayed >= 7


def test_of_the_oldest_the_shortest_is_forgotten() -> None:
    """Room is made by one of the first few, whatever else there is."""
    histories = Histories(max_histories=CANDIDATES)
    for user in range(CANDIDATES):
        histories.add(b"%d" % user, 0.0, True, requests=1 if user == 4 else 50)
    for _ in range(20):
        histories.add(b"0", 0.0, True, requests=1)
    histories.add(ANN, 0.0, False)

    assert len(histories) == CANDIDATES
    assert histories.expected(b"4") == pytest.approx(histories.expected(b"stranger"))
    assert histories.expected(b"5") != histories.expected(b"stranger")


def test_who_is_not_seen_for_thirty_days_is_forgotten() -> None:
    """A user who was seen since is not."""
    histories = known()
    histories.add(b"3", FORGOTTEN_S, True)
    histories.forget(FORGOTTEN_S + 1)

    assert len(histories) == 1
    assert histories.expected(b"3") > histories.expected(b"50") == histories.expected(ANN)


def test_a_clock_that_was_ahead_keeps_nobody_for_longer() -> None:
    """Who was seen by it was seen when it is right again; what is known of the user stays until then."""
    histories, day = known(), 86_400.0
    histories.add(b"3", 400 * day, True)
    before = histories.expected(b"3")

    histories.forget(0.0)
    assert histories.expected(b"3") == before
    histories.forget(FORGOTTEN_S + HOUR_S)
    assert len(histories) == 0


def test_a_long_history_counts_what_was_long_ago_less() -> None:
    """A user who has mended is believed after some thousand requests."""
    histories = known()
    for _ in range(3):
        histories.add(b"3", 0.0, 0, requests=MOST_REQUESTS - 1)

    assert histories.expected(b"3") < 0.1


def test_who_fails_on_purpose_is_expected_to_and_nobody_else() -> None:
    """Of others the same is expected as of their like, and much less."""
    histories = known()
    histories.add(ANN, 0.0, 4000, requests=4000)
    said = [histories.expected(user) for user in (b"50", b"60", ANN)]

    assert said[0] == said[1] < said[2] / 10
    assert said[2] > 0.9


def test_how_users_differ_is_known_as_well_as_they_are() -> None:
    """Nothing of nobody; of ten who always fail among a hundred, a squared coefficient of variation of 9."""
    assert Histories().cv2 == 0
    assert known().cv2 == pytest.approx(9, rel=0.05)
    assert known(failing=100).cv2 == WIDTHS[0]


def test_of_what_is_shared_the_half_that_waits_is_no_part() -> None:
    """Or it would count twice where it is added up: of histories and of how forecasts did."""
    histories = known()
    alone = histories.shared()
    histories.share()
    for _ in range(2):
        histories.add(b"3", 0.0, True, requests=5)
        histories.add(ANN, 7200.0, False)
    histories.check(b"4", 0)
    shared = histories.shared()

    assert set(shared.histories) == set(alone.histories)
    assert (shared.agreed, shared.forecast) == pytest.approx((alone.agreed, alone.forecast))
    waiting = histories.take(1), histories.take(9)
    assert [change.histories for change in waiting] == [[(b"3", 10, 2, 0)], [(ANN, 2, 0, 2)]]
    assert set(histories.shared().histories) - set(alone.histories) == {(b"3", 60, 52, 0), (ANN, 2, 0, 2)}
    assert not histories.take(9)


def test_beginning_again_keeps_what_waits() -> None:
    """The histories that are known elsewhere take the place of all others."""
    histories = known()
    histories.share()
    histories.add(b"3", 7200.0, True)
    for _ in histories.begin_again(Changes([History(b"3", 7, 1, 9), History(BOB, 1, 0, 9)], 0.1, 0.2)):
        histories.expected(b"3")

    assert set(histories) == {(b"3", 8, 2, 9), (BOB, 1, 0, 9)}
    assert histories.take(9).histories == [(b"3", 1, 1, 2)]


class Counted:
    """Requests of one route as they end, and what was expected of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        settings = RouteSettings.model_validate(route())
        self.metrics: RouteMetrics = Metrics(self.registry, [settings]).by_route["start"]

    def end(self, user: str, arm: Arm, outcome: str = "complete", times: int = 1) -> float:
        """Return what was expected of these requests, as it is counted."""
        before = self.total()
        identity = Identity("principal", user)
        for _ in range(times):
            self.metrics.settle(
                Decision(Mode.BATCH, arm, "batch", Reason.FLAG_OFF), identity, outcome, 0.0, 1.0
            )
        return self.total() - before

    def total(self) -> float:
        name = "headgate_expected_failures_total"
        return sum(s.value for family in self.registry.collect() for s in family.samples if s.name == name)


def test_a_request_is_expected_by_what_came_before_it() -> None:
    """Not by how it ends itself: else each failure would be half expected."""
    failing, fine = Counted(), Counted()
    for counted in (failing, fine):
        for number in range(20):
            counted.end(f"user-{number}", Arm.REST, "failed" if number < 2 else "complete", times=20)

    assert failing.end("user-0", Arm.CONTROL, "failed") == fine.end("user-0", Arm.CONTROL, "complete")


@pytest.mark.parametrize("arm", [Arm.STREAM, Arm.CONTROL])
def test_nothing_is_learned_of_users_whose_arm_is_compared(arm: Arm) -> None:
    """Or harm would soon be expected in the one arm; and in the other, all that went wrong since in both."""
    counted = Counted()
    for number in range(20):
        counted.end(f"user-{number}", Arm.REST, "failed" if number < 2 else "complete", times=20)
    known = list(counted.metrics.histories)
    counted.end("user-11", arm, "failed", times=100)

    assert list(counted.metrics.histories) == known


@pytest.mark.parametrize("outcome", ["client_left", "cancelled", "shutdown"])
def test_who_got_no_chance_to_fail_was_not_expected_to(outcome: str) -> None:
    """Only requests that are compared are expected to fail; rest is not compared."""
    counted = Counted()

    assert counted.end("ann", Arm.STREAM, outcome) == 0
    assert counted.end("ann", Arm.REST, "failed") == 0
    assert len(counted.metrics.histories) == 1
