"""The simulated bet on the flag's draw: what the proxies say of it, fair without harm, and never lost."""

import numpy as np
import pytest

from flags.decision import Arm
from flags.rollout.plan import user_draws
from flags.rollout.plan.user_bets import UserBets, WatchedStep
from flags.rollout.plan.user_draws import UserDraws, added_up
from flags.rollout.plan.user_passes import UserPasses
from flags.rollout.plan.user_rollouts import Population, UserRollouts
from flags.rollout.policy.guardrails import RateRatio
from flags.rollout.verdict.draw_evidence import HARMS as STAKES_OF_HARMS
from flags.rollout.verdict.draw_evidence import LOOKS, time_of
from flags.rollout.verdict.e_processes import Vector
from flags.rollout.verdict.failure_evidence import STAKES
from proxy.observe.users import draws

ROLLOUTS, USERS = 200, 60
PRIOR = np.full((ROLLOUTS, 1), 1.0), np.full((ROLLOUTS, 1), 100.0)
SHORTEST = 400.0
TIMES = np.linspace(40, 400, 10)


def test_a_plan_says_of_a_draw_what_the_proxies_say() -> None:
    """Of users with histories of all kinds, who came in early, late or never, and failed often or once."""
    steps, looks = ((10, 20), (50, 30)), 50
    proxies = draws.Draws()
    place = np.arange(USERS) / USERS
    requests, failed = np.arange(USERS) % 7 * 30, np.arange(USERS) % 7 * (np.arange(USERS) % 3)
    for user in range(USERS):
        for request in range(int(requests[user])):
            proxies.add(bytes([user]), 0.0, Arm.REST, "", (1.0, 100.0), failed=request < failed[user])
    asks = np.ones((1, USERS))
    here = UserDraws(asks, failed[None].astype(float), requests[None].astype(float), len(steps))
    prior = np.ones((1, 1)), np.full((1, 1), 100.0)
    since, at = np.zeros((1, USERS)), 0
    for share, length in steps:
        generation = f"at {share}"
        proxies.begin(generation, share)
        stream, control = place[None] < share / 100, place[None] >= 1 - share / 100
        here = here.entered(stream, share / 100, prior, at, since)
        for look in range(length):
            for user in range(USERS):
                arm = Arm.STREAM if stream[0, user] else Arm.CONTROL if control[0, user] else Arm.REST
                fails = look == length - 1 or (user % 5 == 0 and look % 4 == 0)
                proxies.add(bytes([user]), 0.0, arm, generation, (1.0, 100.0), failed=fails)
                since = since + 0.0
                since[0, user] += fails
        at += length

    said = [float(each[0]) for each in here.evidence(looks, since).values()]

    assert said == pytest.approx(list(proxies.evidence.values()), abs=1e-3)
    assert all(abs(each) > 1 for each in said)


def test_a_plan_bets_on_the_draw_as_the_proxies_do() -> None:
    """By the same constants, though neither package imports the other one; each harm has a stake."""
    assert (draws.HARMS, draws.TRUSTED) == (user_draws.HARMS, user_draws.TRUSTED)
    assert draws.HARMS.keys() == STAKES_OF_HARMS.keys()
    assert sum(STAKES_OF_HARMS.values()) == 1.0


def by_draw(ratio: float) -> list[Vector]:
    """Return the logarithm of what the draw has won, by time of the second of two harmful steps and by
    rollout, of users who ask once in two looks and differ."""
    rng = np.random.default_rng(7)
    shape = (ROLLOUTS, USERS)
    asks, fails, known = np.full(shape, 0.5), rng.gamma(1.0, 0.02, shape), np.full(shape, 400.0)
    history, place = rng.poisson(known * fails).astype(float), rng.random(shape)
    bets = UserBets(UserPasses(rng, asks, fails, history, known), UserDraws(asks, history, known, 2))
    found: list[Vector] = []
    for share in (0.1, 0.5):
        bets = bets.entered(WatchedStep(place < share, share, SHORTEST, PRIOR, ratio), TIMES)
        found = []
        for time in TIMES:
            bets.won(np.array([time]))
            found.append(bets.by_draw - np.log(STAKES.by_draw))
    return found


def test_without_harm_the_bet_on_the_draw_is_fair() -> None:
    """Its mean stays below 1, and hardly any rollout goes back, up to 1.25 times as many."""
    for ratio in (1.0, 1.25):
        won = np.exp(by_draw(ratio)[-1])
        assert won.mean() <= 1 + 3 * won.std() / ROLLOUTS**0.5
        assert (won >= 100).mean() <= 0.02


def test_great_harm_wins_by_the_draw() -> None:
    """Six times as many failures win it in most rollouts, twice as many in fewer than half."""
    six, two = ((by_draw(ratio)[-1] >= np.log(100)).mean() for ratio in (6.0, 2.0))

    assert six > 0.8
    assert two < 0.5


def test_what_a_look_at_the_draw_has_won_stays_and_no_other_time_wins() -> None:
    """At a third of the step, at two, and near its end."""
    logs = by_draw(4.0)

    gains = np.diff(np.exp(logs), axis=0)
    begun = np.sort([TIMES[look <= TIMES][0] for look in (time_of(n) * SHORTEST for n in range(len(LOOKS)))])
    assert (gains >= 0).all()
    assert TIMES[1:][(gains > 0).any(axis=1)].tolist() == begun.tolist()


def test_more_users_than_are_simulated_win_as_their_parts_do_together() -> None:
    """What users add does not depend on others, so rollouts of a part of them are added up."""
    each = np.arange(8.0)[:, None] * np.ones(3)

    assert added_up(each, 1.0) == pytest.approx(each)
    assert (added_up(np.full(4, -np.inf), 1.0) == -np.inf).all()  # of harm that cannot be
    assert added_up(each, 2.5).mean() == pytest.approx(2.5 * each.mean())
    assert added_up(each, 2.5)[5] == pytest.approx(5 + 4 + 3 / 2)


def test_a_plan_for_many_users_bets_on_the_draw() -> None:
    """1,200 of them, and harm that other bets do not find so often. With a wide margin these are alone."""
    found = []
    for margin in (1.25, 1.26):
        many = Population(1200, 40.0, 0.01, 4.0, known_looks=400.0)
        rollouts = UserRollouts(
            np.random.default_rng(1), many, RateRatio("errors", 1.0, margin=margin), 60, [200.0]
        )
        found.append(rollouts.back((0.5, 0.5), 3.0, 200.0, np.log(100), np.ones(60)))

    assert np.isfinite(found[0]).mean() > np.isfinite(found[1]).mean() + 0.1
