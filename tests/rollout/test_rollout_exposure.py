"""The users who are shown something: what a rollout finds left over, and what a share is worth."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flags.document import parse
from flags.engine import Engine
from flags.errors import RolloutError
from flags.rollout.ledger import Act
from flags.rollout.moves import MoveKind, MoveReason
from flags.rollout.reporting.standing import gap
from tests.rollout.rolling import FLAG, Rolling, Running, Traffic, begun, flag_file, policy, told_to_begin

DARK_FIRST: list[dict[str, Any]] = [
    {"share": 0, "at_least": "1m"},
    {"share": 25, "at_least": "3m", "min_samples": 50},
    {"share": 50, "at_least": "3m", "min_samples": 50},
]
DARK = {"name": "dark", "weight": 1000, "weightType": "variable", "stickiness": "userId"}
THEIRS = {"name": "long", "weight": 1000, "weightType": "variable", "stickiness": "userId"}


@pytest.fixture
def rolling(tmp_path: Path) -> Rolling:
    flag_file(tmp_path / "flags.json")
    return Rolling(tmp_path, policy(tmp_path, steps=DARK_FIRST))


def shown(rolling: Rolling) -> float:
    """Percent of users who are shown something, as the proxies evaluate the file."""
    document = parse(rolling.path.read_bytes())
    engine = Engine(document.state, document.arms)
    answers = [engine.ask(FLAG, {"userId": f"user-{number}"}) for number in range(1000)]
    engine.close()
    return 100 * sum(answer.enabled and answer.variant != "dark" for answer in answers) / len(answers)


async def is_killed(rolling: Rolling, running: Running) -> None:
    rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
    await running.ticks(2)
    rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
    await running.ticks(1)


async def is_rolled_back(rolling: Rolling, running: Running) -> None:
    rolling.wants(Act.ROLL_BACK)
    await running.ticks(2)


async def is_killed_before_it_was_written(rolling: Rolling, running: Running) -> None:
    """The share was lowered by whoever killed it, and so the controller has nothing to write."""
    rolling.set_share(0)
    await is_killed(rolling, running)


@pytest.mark.parametrize("ends", [is_killed, is_rolled_back, is_killed_before_it_was_written])
@pytest.mark.parametrize("variants", [[], [THEIRS]], ids=["no variants", "variants of people"])
async def test_a_rollout_after_a_dark_one_shows_what_it_writes(
    rolling: Rolling, ends: Any, variants: list[dict[str, Any]]
) -> None:
    """The dark step's part of the strategy is taken out again; what people had there is put back."""
    rolling.edit(lambda flag: flag["strategies"][0].update(variants=variants))
    async with told_to_begin(rolling) as running:
        await running.until(25)
        assert shown(rolling) == 0
        await ends(rolling, running)
        await running.begin()
        await running.ticks(1)
        assert shown(rolling) == 0
        while running.controller.state.step < 1:
            await running.ticks(1)

    assert rolling.share == 25
    assert 20 < shown(rolling) < 30
    assert rolling.flag["strategies"][0].get("variants", []) == variants


async def test_after_a_dark_rollout_also_one_without_a_dark_step_is_shown(rolling: Rolling) -> None:
    async with told_to_begin(rolling) as running:
        await running.until(25)
        rolling.set_share(0)
        await is_killed(rolling, running)
    rolling.policy = policy(rolling.directory, steps=DARK_FIRST[1:])
    async with told_to_begin(rolling) as running:
        await running.until(25)

    assert 20 < shown(rolling) < 30


async def test_a_dark_variant_of_somebody_else_is_not_begun_with(rolling: Rolling) -> None:
    """It would hide every step; who put it there takes it away. Whoever only observes may find one."""
    rolling.edit(lambda flag: flag["strategies"][0].update(variants=[DARK]))
    with rolling.running() as running, pytest.raises(RolloutError, match="shown to nobody: remove it"):
        await running.begin()
    rolling.policy = policy(rolling.directory, steps=DARK_FIRST, mode="observe")
    with replace(rolling).running() as running:
        await running.begin()


@pytest.mark.parametrize("variants", [[DARK], [THEIRS]], ids=["dark", "another"])
async def test_a_variant_of_the_whole_flag_is_a_change_by_somebody(
    tmp_path: Path, variants: list[dict[str, Any]]
) -> None:
    """Our strategy has none, and so everybody gets it: held; by a person's word its evidence begins anew."""
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    async with told_to_begin(rolling) as running:
        await running.until(25)
        await running.ticks(2)
        assert running.controller.state.dwelt_s > 0
        rolling.edit(lambda flag: flag.update(variants=variants))
        moves = await running.ticks(3)
        assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
        assert "variants" in moves[-1].detail
        rolling.wants(Act.RESUME)
        await running.ticks(1)
        state = running.controller.state

    assert (state.share, state.dwelt_s) == (25, 0)
    assert state.settled == 400, "more than one look's"
    assert rolling.flag["variants"] == variants


async def test_a_dark_step_ends_where_no_source_has_texts_in_the_dark(tmp_path: Path) -> None:
    """Nothing is compared there, for as long as it lasts; the next step waits for texts all the same."""
    flag_file(tmp_path / "flags.json")
    steps = [{**DARK_FIRST[0], "min_samples": 50}, *DARK_FIRST[1:]]
    traffic = Traffic(source="native", is_dark=True)
    rolling = Rolling(tmp_path, policy(tmp_path, steps=steps), traffic=traffic)
    async with told_to_begin(rolling) as running:
        await running.ticks(6)
        assert running.controller.state.step == 1
        await running.ticks(6)
        [move] = await running.ticks(1)
    assert move.reason is MoveReason.SAMPLES


async def test_a_dark_step_waits_for_texts_where_a_source_has_them(tmp_path: Path) -> None:
    """A tap that takes no tokens has shown nothing."""
    flag_file(tmp_path / "flags.json")
    steps = [{**DARK_FIRST[0], "min_samples": 50}, *DARK_FIRST[1:]]
    rolling = Rolling(tmp_path, policy(tmp_path, steps=steps))
    async with told_to_begin(rolling) as running:
        rolling.traffic.source, rolling.traffic.is_dark = "its tap is dead", True
        moves = await running.ticks(20)
    assert running.controller.state.step == 0
    assert (moves[-1].kind, moves[-1].reason) == (MoveKind.HOLD, MoveReason.SAMPLES)
    assert moves[-1].detail.endswith("0 of 50 answers in the smaller arm, for parity")


async def test_a_share_alone_makes_no_dark_step(rolling: Rolling) -> None:
    """Somebody sets the share that the dark step has, too: users are shown streams, and that is step two."""
    async with told_to_begin(rolling) as running:
        await running.until(50)
        rolling.set_share(25)
        await running.ticks(1)
        rolling.wants(Act.RESUME)
        await running.ticks(1)
        state = running.controller.state
    assert (state.step, state.share, state.is_dark) == (1, 25, False)


async def test_a_resume_of_what_no_step_writes_is_refused(rolling: Rolling) -> None:
    """A share between two steps; and a step's share behind the variant that shows it to nobody."""
    async with told_to_begin(rolling) as running:
        await running.ticks(1)
        for share in (40, 50):
            rolling.set_share(share)
            await running.ticks(1)
            rolling.wants(Act.RESUME)
            [move] = await running.ticks(1)
            act = running.controller.state.last_act
            assert act is not None
            assert "not as one of the steps writes it" in act["refused"]
            assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.FLAG_CHANGED)
    assert running.controller.state.step == 0


WARD = {"contextName": "ward", "operator": "IN", "values": ["a"]}
HALF = {"rollout": "50", "stickiness": "userId", "groupId": "k"}


def on_for(**those: Any) -> dict[str, Any]:
    """A kill flag that is on for some."""
    strategy = {"name": "flexibleRollout", "parameters": {**HALF, "rollout": "100"}, **those}
    return {"enabled": True, "strategies": [strategy]}


CHANGES: dict[str, tuple[int, dict[str, Any], MoveReason, str]] = {
    "the kill flag by a constraint": (
        1,
        on_for(constraints=[WARD]),
        MoveReason.FLAG_CHANGED,
        "does not stop everybody",
    ),
    "the kill flag for half": (
        1,
        on_for(parameters=HALF),
        MoveReason.FLAG_CHANGED,
        "does not stop everybody",
    ),
    "the kill flag gone": (1, {"name": "another"}, MoveReason.FLAG_CHANGED, "can stop nobody"),
    "no strategy": (0, {"strategies": []}, MoveReason.FLAG_UNREADABLE, "it is on for everybody"),
    "the flag gone": (0, {"name": "another"}, MoveReason.FLAG_UNREADABLE, "has no flag"),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_decides_exposure_is_watched_also_where_the_flag_says_nothing(
    tmp_path: Path, what: str
) -> None:
    """All is proved, and nothing is raised; once it is as before, the step's time begins anew."""
    at, change, reason, says = CHANGES[what]
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    async with told_to_begin(rolling) as running:
        await running.until(25)
        await running.ticks(2)
        before = rolling.path.read_text()
        rolling.edit(lambda flag: flag.update(change), flag=at)
        moves = await running.ticks(4)
        rolling.path.write_text(before)
        await running.ticks(1)
        state = running.controller.state

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, reason)}
    assert says in moves[-1].detail
    assert (state.share, state.dwelt_s) == (25, 0)


async def test_a_flag_that_was_changed_while_no_controller_looked_begins_its_step_anew(
    tmp_path: Path,
) -> None:
    """Off for a day, and on again: who was exposed meanwhile is not known. Untouched, the step goes on."""
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))

    async def dwelt_after_a_day() -> float:
        rolling.now.passes(24 * 3600)
        with rolling.running() as running:
            await running.ticks(1)
            return running.controller.state.dwelt_s

    async with told_to_begin(rolling) as running:
        await running.until(25)
        await running.ticks(2)
        before = running.controller.state.dwelt_s
    assert await dwelt_after_a_day() == before > 0
    rolling.edit(lambda flag: flag.update(enabled=False))
    rolling.edit(lambda flag: flag.update(enabled=True))
    assert await dwelt_after_a_day() == 0


@pytest.mark.parametrize("change", [{"constraints": [WARD]}, {"variants": [DARK | {"weight": 500}, THEIRS]}])
async def test_a_strategy_of_the_same_share_differs_where_it_exposes_others(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """The strategy in force is not the written one, though its share is."""
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    async with told_to_begin(rolling) as running:
        await running.until(25)
        assert gap(running.controller.state, running.controller.state.standing) == ""
        rolling.edit(lambda flag: flag["strategies"][0].update(change))
        await running.ticks(1)
        state = running.controller.state

    assert "25 % is decided, and the strategy is not as it was written" in gap(state, state.standing)


# A journal that is lost, and two of them.


async def harmed(rolling: Rolling, running: Running) -> None:
    rolling.traffic.shows_wrong_text()
    await running.ticks(2)


async def under_way(rolling: Rolling, running: Running) -> None:
    """Check that nothing has befallen the rollout."""


@pytest.mark.parametrize("befalls", [harmed, under_way])
async def test_a_rollout_whose_journal_is_lost_needs_a_person_s_word(tmp_path: Path, befalls: Any) -> None:
    """The flag says what was here; nobody is exposed again by whoever only starts the process."""
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    rolling.edit(lambda flag: flag["strategies"][0].update(title="the pilot"))
    async with begun(rolling) as running:
        await befalls(rolling, running)
    share = rolling.share
    rolling.policy.journal.rename(tmp_path / "lost.sqlite")
    with rolling.running() as running:
        with pytest.raises(RolloutError, match=r"rollout r1 of .* was here"):
            await running.begin()
        assert rolling.share == share
        await running.begin(again=True)
        await running.ticks(1)
        await running.until(5)
    assert running.controller.state.run == "r2"
    assert rolling.flag["strategies"][0]["title"].startswith("the pilot [headgate r2 of ")


async def test_an_older_copy_of_the_journal_does_not_go_on_with_a_newer_rollout(tmp_path: Path) -> None:
    """Both stand at the same share. What the copy has proved is of a rollout that is over."""
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    journal, copy = rolling.policy.journal, tmp_path / "copy.sqlite"
    async with told_to_begin(rolling) as running:
        await running.until(25)
    shutil.copy(journal, copy)
    rolling.now.passes(200)
    with rolling.running() as running:
        rolling.wants(Act.ROLL_BACK)
        await running.ticks(1)
        await running.begin()
        await running.until(25)
    shutil.copy(copy, journal)
    rolling.now.passes(200)
    with rolling.running() as running:
        moves = await running.ticks(6)

    assert running.controller.state.run == "r1"
    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
    assert moves[-1].detail.endswith("it is an older copy")
    assert rolling.share == 25


async def test_who_has_lost_journal_and_mark_is_told_what_proxies_remember(tmp_path: Path) -> None:
    """The flag was made anew as well. Answers in the stream arm are of some rollout before."""
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path))
    rolling.traffic.flows(3)
    with rolling.running() as running:
        with pytest.raises(RolloutError, match="counted 3 answers in the stream arm, of which this journal"):
            await running.begin()
        assert rolling.entries() == []
        await running.begin(again=True)
        await running.ticks(1)

    assert rolling.share == 5


async def test_two_controllers_with_journals_of_their_own_find_each_other(tmp_path: Path) -> None:
    """Each on its machine, with its lease, and both at the same share."""
    flag_file(tmp_path / "flags.json")
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    first, second = (
        Rolling(place, policy(place, where={"file": str(tmp_path / "flags.json")})) for place in places
    )
    for rolling in (first, second):
        (rolling.directory / "flags.json").symlink_to(tmp_path / "flags.json")
    with first.running() as one, second.running() as two:
        await one.begin()
        await one.until(5)
        with pytest.raises(RolloutError, match="was here"):
            await two.begin()
        await two.begin(again=True)
        await two.ticks(2)
        moves = await one.ticks(2)

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.FLAG_CHANGED)}
    assert "another controller" in moves[-1].detail
