"""The flag's draw explains who came to fail more often only if streaming did it."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from flags.decision import Arm, Decision, Mode, Reason
from proxy.identity import Identity
from proxy.observe.metrics import Metrics
from proxy.observe.users.draws import HARMS, MAX_SHARES, Draws
from proxy.observe.users.histories import CANDIDATES, FORGOTTEN_S
from proxy.observe.users.shared_draws import SharedDraws
from proxy.settings.blocks.route import RouteSettings
from tests.observe.test_watched_users import Kept
from tests.servers.streaming import route

ANN, BOB = b"ann", b"bob"
ANNS = Identity("principal", "ann")
PRIOR = (1.0, 100.0)
"""Users fail once in a hundred requests, some much more often."""

SHARES = (5, 20, 50)
BEFORE = "." * 90 + "x"
LIVES = (
    ("....", "..x.", "x.xxx..x" * 4),
    ("x" * 9, "....", "." * 300),
    ("", "", "xxxxxx"),
    ("." * 50, "", "." * 50),
)
"""What befalls a user at each share: failures (x) and answers (.)."""


def ends(
    draws: Draws | SharedDraws, arm: Arm, generation: str, life: str, user: bytes = ANN, now_s: float = 0.0
) -> None:
    """Requests of a user end."""
    for end in life:
        draws.add(user, now_s, arm, generation, PRIOR, failed=end == "x")


def lived(life: tuple[str, ...], entry: int, others: Arm = Arm.CONTROL) -> Mapping[str, float]:
    """Return the evidence of one user, who comes into the stream arm at this number of a share, or never."""
    draws = Draws()
    ends(draws, Arm.REST, "", BEFORE)
    for number, (share, at_share) in enumerate(zip(SHARES, life, strict=True)):
        draws.begin(f"at {share}", share)
        ends(draws, Arm.STREAM if number >= entry else others, f"at {share}", at_share)
    return draws.evidence


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("harm", HARMS)
def test_whatever_befell_a_user_the_mean_over_the_draw_is_1(life: tuple[str, ...], harm: str) -> None:
    """So the bet is fair for any users, if the stream changes nothing. Whoever never asked since may count as
    drawn at any share: what they add is the same."""
    parts = [*((each - was) / 100 for was, each in pairwise((0, *SHARES))), 1 - SHARES[-1] / 100]
    # Who asks nothing at a share is first seen in the stream arm later.
    means = [part * math.exp(lived(life, entry)[harm]) for entry, part in enumerate(parts)]

    assert sum(means) == pytest.approx(1.0)


@pytest.mark.parametrize("life", LIVES)
def test_those_in_the_rest_say_as_much_as_control(life: tuple[str, ...]) -> None:
    """They might have been drawn, and were not."""
    assert lived(life, len(SHARES), Arm.REST) == lived(life, len(SHARES))


def test_whom_the_flag_leaves_out_is_no_evidence() -> None:
    """Nothing was drawn for such a user, who would else be one that was not drawn."""
    metrics = Metrics(CollectorRegistry(), [RouteSettings.model_validate(route())]).by_route["start"]
    metrics.start_generation("at 50", 50)
    decision = Decision(Mode.BATCH, Arm.REST, "batch", Reason.FLAG_OFF, generation="at 50", share=50)
    for _ in range(60):
        metrics.settle(replace(decision, left_out=True), ANNS, "complete", 0.0, 1.0)
    assert set(metrics.draws.evidence.values()) == {0.0}

    metrics.settle(decision, ANNS, "complete", 0.0, 1.0)
    assert all(metrics.draws.evidence.values())


def test_harm_that_begins_late_is_found_in_users_who_came_in_before() -> None:
    """Who fails only since the latest share. By when they came in, they are rather no harm."""
    evidence = lived(("." * 60, "." * 60, "." * 10 + "x" * 5), 0)

    assert evidence["late"] > math.log(1.5)
    assert evidence["all"] < evidence["late"]


def test_late_harm_begins_anew_at_each_share() -> None:
    """What befell users at a smaller one is no evidence of it, whoever asks again or is forgotten."""
    draws = Draws()
    for user in (ANN, BOB):
        ends(draws, Arm.REST, "", BEFORE, user)
    for number, share in enumerate(SHARES):
        draws.begin(f"at {share}", share)
        assert draws.evidence["late"] == 0.0
        ends(draws, Arm.STREAM, f"at {share}", "xxx")
        assert draws.evidence["late"] > 0.5
        if not number:
            ends(draws, Arm.STREAM, f"at {share}", "xxx", BOB, FORGOTTEN_S)
    ends(draws, Arm.STREAM, f"at {SHARES[0]}", "xxx", BOB, FORGOTTEN_S)
    late = draws.evidence["late"]
    draws.forget(FORGOTTEN_S + 1.0)
    assert len(draws) == 1
    assert (draws.evidence["late"], late) == (
        pytest.approx(0.0),
        pytest.approx(lived(("xxx",) * 3, 0)["late"]),
    )


def test_users_who_fail_since_they_came_in_are_evidence_and_others_are_none() -> None:
    """At 5 % a user who always failed, and fails, says little; one who only fails since then says nearly 20
    times as much."""
    since = lived(("x" * 30, "x" * 10, "x" * 10), 0)
    late = lived(("x" * 30, "x" * 10, "x" * 10), 2)
    usual = lived(("." * 80 + "x", "." * 10, "." * 10), 0)

    assert since["few"] > math.log(10)
    assert late["few"] < math.log(2)
    assert usual["few"] < 0.1


def test_a_bot_is_one_user() -> None:
    """However many requests it makes, and however they end."""
    evidence = lived(("x" * 3000, "x" * 3000, ""), 0)

    assert max(evidence.values()) <= math.log(20) + 1e-9


@pytest.mark.parametrize("kept", [True, False])
def test_four_in_five_failures_of_the_stream_arm_count(kept: bool) -> None:
    """Drawn by chance: with a fourth more failures its users fail as often as others do."""
    draws = SharedDraws(Kept(kept))
    draws.begin("at 5", 5, 0.0)
    ends(draws, Arm.STREAM, "at 5", "x" * 40)

    assert (draws.evidence["few"] > 1) is kept


@pytest.mark.parametrize("number", [1, 7, 40, 5000])
@pytest.mark.parametrize("failed", [True, False])
@pytest.mark.parametrize("began", [True, False])
def test_requests_that_are_alike_may_be_told_at_once(number: int, failed: bool, began: bool) -> None:
    """They say what they would have said one by one."""
    draws, others = Draws(), Draws()
    for each in (draws, others):
        ends(each, Arm.REST, "", BEFORE)
        if began:
            each.begin("at 5", 5)
            ends(each, Arm.STREAM, "at 5", "..x")
    arm, generation = (Arm.STREAM, "at 5") if began else (Arm.REST, "")
    draws.add(ANN, 0.0, arm, generation, PRIOR, failed=failed, requests=number)
    ends(others, arm, generation, ("x" if failed else ".") * number)

    for at in (5, 20):
        for each in (draws, others):
            each.begin(f"at {at}", at)
            ends(each, Arm.STREAM, f"at {at}", "." * 25)
        assert draws.evidence == pytest.approx(others.evidence)
    assert any(draws.evidence.values())


def test_a_share_that_falls_ends_the_rollout() -> None:
    """What befell users in it is forgotten, since the stream arm had it otherwise; what was before is not.
    Requests that were decided then count nowhere."""
    draws = Draws()
    ends(draws, Arm.REST, "", BEFORE)
    draws.begin("a", 10)
    ends(draws, Arm.STREAM, "a", "x" * 30)
    assert draws.evidence["few"] > 1

    draws.begin("none", 0)
    ends(draws, Arm.STREAM, "a", "x" * 30)
    assert set(draws.evidence.values()) == {0.0}
    for generation, share, life in zip("bcd", SHARES, LIVES[0], strict=True):
        draws.begin(generation, share)
        ends(draws, Arm.STREAM, generation, life)
    assert draws.evidence == pytest.approx(lived(LIVES[0], 0))


def test_a_rollout_of_too_many_shares_begins_anew() -> None:
    """What is kept of a user has a bound."""
    draws = Draws()
    for share in range(1, MAX_SHARES + 1):
        draws.begin(f"at {share}", share)
        ends(draws, Arm.STREAM, f"at {share}", "x")
    assert draws.evidence["few"] > 0

    draws.begin("next", MAX_SHARES + 1)
    assert draws.evidence["few"] == 0.0


def test_so_many_users_are_known_and_no_more() -> None:
    """Who is driven out, or not seen for a month, takes along what they added."""
    draws = Draws(max_users=2 * CANDIDATES)
    draws.begin("at 5", 5)
    ends(draws, Arm.STREAM, "at 5", "x" * 30)
    alone = draws.evidence["few"]
    for number in range(1000):
        ends(draws, Arm.STREAM, "at 5", "xx", b"%d" % number, 1.0)

    assert len(draws) == 2 * CANDIDATES
    assert draws.evidence["few"] > alone
    draws.forget(FORGOTTEN_S + 2.0)
    assert len(draws) == 0
    assert draws.evidence["few"] == pytest.approx(0.0, abs=1e-6)


def test_without_harm_a_rollout_of_many_users_is_no_evidence() -> None:
    """200 users who differ, one of whom has a storm of failures."""
    rng = random.Random(4)
    draws = SharedDraws(rng)
    rates = [min(1.0, rng.gammavariate(0.25, 0.04)) for _ in range(200)]
    places = [rng.random() for _ in rates]
    for share in (0, 10, 50):
        draws.begin(f"at {share}", share, 0.0)
        for number, (rate, place) in enumerate(zip(rates, places, strict=True)):
            arm = Arm.STREAM if place < share / 100 else Arm.CONTROL if place >= 1 - share / 100 else Arm.REST
            life = "".join("x" if rng.random() < rate else "." for _ in range(20))
            ends(draws, arm, f"at {share}", life + "x" * 30 * (number == 7), b"%d" % number)

    assert max(draws.evidence.values()) < math.log(100)


def test_the_evidence_is_a_metric() -> None:
    """By harm, and by nothing that says who it is about."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [RouteSettings.model_validate(route())]).by_route["start"]
    metrics.start_generation("at 5", 5)
    decision = Decision(Mode.BATCH, Arm.STREAM, "batch", Reason.ACCEPT, generation="at 5", share=5)
    for _ in range(60):
        metrics.settle(decision, ANNS, "failed", 0.0, 1.0)
    metrics.show_users(0.0)

    shown = registry.get_sample_value("headgate_draw_evidence", {"route": "start", "harm": "few"})
    assert shown is not None
    assert shown > 1
