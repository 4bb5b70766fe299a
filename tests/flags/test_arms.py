"""The arms: Unleash's own hash, arms that never overlap and only grow, like compared with like."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flags.arms import bucket_of, first_of_control
from flags.decision import Arm
from flags.document import Document, parse
from flags.engine import Engine
from flags.errors import FlagDocumentError

FLAG = "headgate.streaming"
GROUP = "the-group"
USERS = [f"user-{number}" for number in range(2000)]
LANDS = ("de", "fr")
GERMANS = [{"contextName": "country", "operator": "IN", "values": ["de"]}]


def gradual(share: int = 30, **more: Any) -> dict[str, Any]:
    """A strategy; a parameter that is None is left out."""
    parameters = {
        "rollout": str(share),
        "stickiness": "userId",
        "groupId": GROUP,
        **more.pop("parameters", {}),
    }
    kept = {name: value for name, value in parameters.items() if value is not None}
    return {"name": "flexibleRollout", "parameters": kept, **more}


def flag(*strategies: Any, **more: Any) -> dict[str, Any]:
    return {"name": FLAG, "enabled": True, "strategies": list(strategies), **more}


def parsed(*features: Any, **more: Any) -> Document:
    document = {"version": 2, "features": list(features), **more}
    return parse(json.dumps(document).encode())


@contextmanager
def engine(*features: Any, **more: Any) -> Iterator[Engine]:
    document = parsed(*features, **more)
    made = Engine(document.state, document.arms)
    try:
        yield made
    finally:
        made.close()


def test_a_flag_says_whom_its_share_is_of_and_what_part_is_dark() -> None:
    """A share of constrained users is none of all users, and a dark part of the stream arm sees nothing."""
    quarter = [{"name": "dark", "weight": 250}, {"name": "quick", "weight": 750}]
    found = {}
    for name, strategy in {
        "plain": gradual(),
        "dark": gradual(variants=[{"name": "dark", "weight": 1000}]),
        "partly": gradual(variants=quarter),
        "targeted": gradual(constraints=GERMANS),
    }.items():
        with engine(flag(strategy)) as made:
            found[name] = made.found(FLAG, enabled=True)

    assert {name: (each.dark, each.targeted) for name, each in found.items()} == {
        "plain": (0, False),
        "dark": (1, False),
        "partly": (0.25, False),
        "targeted": (0, True),
    }
    assert {(each.share, each.control) for each in found.values()} == {(30, 30)}
    with engine(flag(gradual(), variants=[{"name": "dark", "weight": 1000}])) as made:
        assert made.found(FLAG, enabled=True).dark == 1
        assert not made.found("another", enabled=False).known


def arms(made: Engine, **properties: str) -> dict[str, Arm]:
    return {user: made.ask(FLAG, {"userId": user, "properties": properties}).arm for user in USERS}


# The hash


@pytest.mark.parametrize(
    ("group", "user", "bucket"),
    [("gr1", "123", 73), ("groupX", "999", 25), ("AB12A", "174", 14)],
)
def test_a_bucket_is_unleashs_own(group, user, bucket):
    """The values that Unleash's SDKs agree on."""
    assert bucket_of(group, user) == bucket


@pytest.mark.parametrize(("user", "enabled"), [("174", True), ("499", False)])
def test_the_client_specification_agrees(user, enabled):
    """Its gradual rollout of 10 % enables 174 and does not enable 499."""
    assert (bucket_of("Feature.flexibleRollout.10", user) <= 10) == enabled


@pytest.mark.parametrize("group", [GROUP, "", None, "Gruppe Ü"])
def test_the_engine_enables_exactly_the_buckets_up_to_the_share(group):
    """10,000 random users: the engine's answer at a share is that of the bucket; no group is the flag's."""
    seeded = random.Random(7)
    users = [f"{seeded.getrandbits(64):x}-é" for _ in range(10_000)]
    share = seeded.randint(1, 99)

    with engine(flag(gradual(share, parameters={"groupId": group}))) as made:
        enabled = {user for user in users if made.ask(FLAG, {"userId": user}).enabled}

    used = FLAG if group is None else group
    assert enabled == {user for user in users if bucket_of(used, user) <= share}
    assert enabled


# The arms


def test_a_larger_share_only_adds_to_the_stream_arm():
    """100,000 users in the hundred buckets: whoever has streams keeps them, and no arm meets the other."""
    buckets = Counter(bucket_of(GROUP, f"user-{number}") for number in range(100_000))

    assert set(buckets) == set(range(1, 101))
    for share in range(101):
        stream, control = set(range(1, share + 1)), set(range(first_of_control(share), 101))
        assert stream <= set(range(1, share + 2))
        assert not stream & control
        assert len(control) == min(share, 100 - share)


@pytest.mark.parametrize("share", [0, 1, 30, 50, 70, 100])
def test_control_is_as_large_as_the_stream_arm_while_there_is_room(share):
    """The engine's arms: the lowest and the highest buckets, and everybody else in neither."""
    with engine(flag(gradual(share))) as made:
        found = arms(made)

    control = min(share, 100 - share)
    for user, arm in found.items():
        bucket = bucket_of(GROUP, user)
        expected = Arm.STREAM if bucket <= share else Arm.CONTROL if bucket > 100 - control else Arm.REST
        assert arm is expected


@given(st.integers(0, 99), st.sampled_from(USERS))
def test_nobody_moves_from_one_arm_to_the_other_before_half(share, user):
    """Up to 50 % both arms only grow; beyond, control gives its lowest buckets to the stream arm."""
    bucket = bucket_of(GROUP, user)
    was_stream, was_control = bucket <= share, bucket >= first_of_control(share)
    is_stream, is_control = bucket <= share + 1, bucket >= first_of_control(share + 1)

    assert is_stream or not was_stream
    assert is_control or not was_control or share >= 50
    assert not (is_stream and is_control)


def test_who_a_constraint_leaves_out_is_in_no_arm():
    """Only users whom a larger share would reach are compared with those it has reached."""
    with engine(flag(gradual(50, constraints=GERMANS))) as made:
        assert set(arms(made, country="de").values()) == {Arm.STREAM, Arm.CONTROL}
        assert set(arms(made, country="fr").values()) == {Arm.REST}
        assert set(arms(made).values()) == {Arm.REST}


def test_who_a_segment_leaves_out_is_in_no_arm():
    """Segments stand beside the flags, and count like constraints."""
    segments = [{"id": 7, "constraints": GERMANS}]
    with engine(flag(gradual(50, segments=[7])), segments=segments) as made:
        assert set(arms(made, country="de").values()) == {Arm.STREAM, Arm.CONTROL}
        assert set(arms(made, country="fr").values()) == {Arm.REST}


def test_who_a_parent_flag_leaves_out_is_in_no_arm():
    """A flag that depends on one that is off is off for everybody, so there is nobody to compare."""
    parent = {"name": "parent", "enabled": False, "strategies": [{"name": "default", "parameters": {}}]}
    with engine(flag(gradual(50), dependencies=[{"feature": "parent"}]), parent) as made:
        assert set(arms(made).values()) == {Arm.REST}


def test_of_the_rest_it_is_known_whom_the_flag_leaves_out():
    """For them no arm was drawn, at no share."""
    with engine(flag(gradual(10, constraints=GERMANS))) as made:
        asked = {
            land: [made.ask(FLAG, {"userId": user, "country": land}) for user in USERS] for land in LANDS
        }

    assert {answer.left_out for answer in asked["de"]} == {False}
    assert {answer.arm for answer in asked["de"]} == set(Arm)
    assert {(answer.left_out, answer.arm) for answer in asked["fr"]} == {(True, Arm.REST)}


@pytest.mark.parametrize("share", [0, 1, 50, 99])
@pytest.mark.parametrize("group", [GROUP, None, ""])
def test_an_untargeted_flag_leaves_nobody_out(share: int, group: str | None):
    """So that the engine need not be asked: it says the same of each user."""
    users = [*USERS[:200], " ", "0", "é 😀", "a" * 5000, "\x00"]
    nobody: list[Any] = []
    strategy = gradual(share, parameters={"groupId": group}, constraints=nobody, segments=nobody)
    with engine(flag(strategy, dependencies=nobody)) as made:
        for user in users:
            placed = made.placed(FLAG, {"userId": user, "country": "fr"})
            assert placed is not None and placed.eligible
            assert not made.ask(FLAG, {"userId": user, "country": "fr"}).left_out


def test_a_user_without_an_id_is_in_no_arm():
    """There is nothing to hash."""
    with engine(flag(gradual(50))) as made:
        assert {made.ask(FLAG, who).arm for who in (None, {}, {"userId": ""}, {"sessionId": "s"})} == {
            Arm.REST
        }


@pytest.mark.parametrize("enabled", [True, False])
def test_a_flag_that_is_off_has_no_arms(enabled):
    """And no generation of arms."""
    with engine(flag(gradual(50), enabled=enabled)) as made:
        assert (set(arms(made).values()) != {Arm.REST}) == enabled
        assert (made.ask(FLAG, None).generation != "") == enabled


def test_the_hidden_flag_is_nobodys_to_ask_for():
    """It is not among the names, and asking for it is asking for a flag that is not there."""
    with engine(flag(gradual(50))) as made:
        assert made.names == {FLAG}
        assert not made.ask(f"{FLAG} eligible", {"userId": "ann"}).known


def test_no_flag_can_have_the_hidden_ones_name():
    """A file that tries is refused, by Unleash's own rule for names."""
    with pytest.raises(FlagDocumentError, match="name is missing or not"):
        parsed({**flag(gradual(50)), "name": f"{FLAG} eligible"})


DEFAULT = {"name": "default", "parameters": {}}


@pytest.mark.parametrize(
    ("strategies", "why"),
    [
        ([gradual(50), DEFAULT], "more than one strategy"),
        ([gradual(50), gradual(10)], "more than one strategy"),
        ([gradual(50, parameters={"stickiness": "sessionId"})], "stickiness is not userId"),
        ([gradual(50, parameters={"stickiness": "default"})], "stickiness is not userId"),
        ([gradual(50, parameters={"stickiness": None})], "stickiness is not userId"),
        ([{"name": "gradualRolloutUserId", "parameters": {"percentage": "50"}}], "deprecated"),
    ],
)
def test_a_flag_that_cannot_be_compared_says_why(strategies, why):
    """It works, without a control arm, and the log says what to write instead."""
    document = parsed(flag(*strategies))
    with engine(flag(*strategies)) as made:
        assert set(arms(made).values()) <= {Arm.STREAM, Arm.REST}

    assert document.arms == {}
    [said] = [warning for warning in document.warnings if "no control arm" in warning]
    assert said.startswith(f"{FLAG}: ")
    assert why in said


@pytest.mark.parametrize(
    "strategies", [[], [DEFAULT], [{"name": "userWithId", "parameters": {"userIds": "a"}}]]
)
def test_a_flag_without_a_share_has_no_arms_to_speak_of(strategies):
    """A switch, or a list of users: nobody misses the control arm."""
    assert parsed(flag(*strategies)).warnings == ()


# The generation


def generation(*strategies: Any, **more: Any) -> str:
    return parsed(flag(*strategies, **more)).arms[FLAG].generation


@pytest.mark.parametrize(
    "changed",
    [
        gradual(31),
        gradual(30, parameters={"groupId": "another"}),
        gradual(30, constraints=GERMANS),
        gradual(30, segments=[7]),
        gradual(30, variants=[{"name": "dark", "weight": 1000}]),
    ],
)
def test_a_strategy_that_decides_otherwise_is_another_generation(changed):
    """Users are counted anew: those of before had something else, or were others."""
    assert generation(changed) != generation(gradual(30))


def test_what_is_said_for_people_alone_is_no_other_generation():
    """A new title moves nobody, and neither does writing the share as a number."""
    same = gradual(30, title="Ward 7", id="x", sortOrder=3)
    as_number = gradual(30, parameters={"rollout": 30})

    assert {generation(same), generation(as_number)} == {generation(gradual(30))}
