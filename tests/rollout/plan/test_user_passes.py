"""The simulated bet on who has come to fail far more often: fair without harm, quick where it is great."""

import numpy as np

from flags.rollout.plan import user_passes
from flags.rollout.plan.user_passes import UserPasses
from flags.rollout.plan.user_rollouts import HALF_AFTER
from flags.rollout.verdict.e_processes import Vector
from proxy.observe.users import watched_users

ROLLOUTS, USERS = 200, 60
TIMES = np.linspace(40, 400, 10)


def won(ratio: float, share: float = 0.5) -> Vector:
    """Return the log e-value by rollout and time, of users who ask once in two looks and differ."""
    rng = np.random.default_rng(7)
    asks, fails = np.full((ROLLOUTS, USERS), 0.5), rng.gamma(1.0, 0.01, (ROLLOUTS, USERS))
    history = rng.poisson(400 * fails).astype(float)
    passes = UserPasses(rng, asks, fails, history, np.full((ROLLOUTS, USERS), 400.0))
    prior = np.full((ROLLOUTS, 1), 1.0), np.full((ROLLOUTS, 1), 100.0)
    stream = rng.random((ROLLOUTS, USERS)) < share
    clean, _ = passes.passed(stream, share, prior, 1.0, TIMES)
    _, logs = clean.passed(stream, share, prior, ratio, TIMES)
    return logs


def test_without_harm_the_bet_is_fair() -> None:
    """Its mean stays at 1 or below, and hardly any rollout goes back, up to 1.25 times as many."""
    for ratio in (1.0, 1.25):
        last = np.exp(won(ratio)[:, -1])
        assert last.mean() <= 1 + 3 * last.std() / ROLLOUTS**0.5
        assert (won(ratio).max(axis=1) >= np.log(100)).mean() <= 0.02


def test_great_harm_wins_and_more_time_wins_more() -> None:
    """Eight times as many failures pass the line in most rollouts; twice as many in few."""
    many, twice = (won(ratio) >= np.log(100) for ratio in (8.0, 2.0))

    assert many[:, -1].mean() > 0.9
    assert twice[:, -1].mean() < 0.3
    assert many[:, 0].mean() < many[:, 4].mean()


def test_a_plan_watches_users_as_the_proxies_do() -> None:
    """By the same constants, though neither package imports the other one."""
    theirs = watched_users.TIMES, watched_users.KEPT, watched_users.HALF_AFTER, watched_users.LIMITS
    assert theirs == (user_passes.TIMES, user_passes.KEPT, HALF_AFTER, user_passes.LIMITS)
