"""The controller: what it writes, when, and what it makes of whatever befalls it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flags.errors import EvidenceError, JournalError, LeaseLost, ReadingProblem, RolloutError
from flags.rollout.evidence.readings import OUTCOMES, Series
from flags.rollout.ledger import Act, EntryKind
from flags.rollout.moves import MoveKind, MoveReason, RolloutPhase
from flags.rollout.replay import differences
from flags.rollout.reporting.notices import Notice
from tests.rollout.rolling import (
    PROXY,
    TICK_S,
    Crash,
    Rolling,
    Running,
    begun,
    flag_file,
    policy,
    told_to_begin,
)
from tests.servers.client import eventually


async def test_a_healthy_rollout_goes_to_its_last_step(rolling: Rolling) -> None:
    """Step by step, each once; then it stays, and every decision can be made again from the journal."""
    async with told_to_begin(rolling) as running:
        await running.until(50)
        last = (await running.ticks(30))[-1]

    assert rolling.writes == [5, 25, 50]
    assert (last.kind, last.reason) == (MoveKind.STAY, MoveReason.COMPLETE)
    decisions, found = differences(rolling.entries())
    assert decisions > 30
    assert found == []


async def test_harm_goes_back_to_nothing_for_good(rolling: Rolling) -> None:
    """Nothing good afterwards changes that; only another rollout may try again."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        move, looks = (await running.ticks(1, stream_bad=0.4))[0], 1
        while move.kind is not MoveKind.ROLL_BACK and looks < 20:
            move, looks = (await running.ticks(1, stream_bad=0.4))[0], looks + 1
        assert rolling.share == 0
        rolling.wants(Act.RESUME)
        rolling.wants(Act.ADVANCE)
        after = []
        for _ in range(30):
            rolling.traffic.rests(400)
            after.append(await running.tick())

        assert {(move.kind, move.reason) for move in after} == {(MoveKind.STAY, MoveReason.ROLLED_BACK)}
        assert rolling.writes == [5, 25, 0]
        await running.begin()
        await running.until(5)
    assert running.controller.state.run == "r2"


async def test_a_text_that_was_shown_wrongly_goes_back_at_once(rolling: Rolling) -> None:
    """One is enough, at the first step, with few samples, and while somebody has paused it."""
    async with begun(rolling) as running:
        rolling.wants(Act.PAUSE)
        await running.ticks(1)
        rolling.traffic.shows_wrong_text()
        [move] = await running.ticks(1)

    assert (move.kind, move.reason) == (MoveKind.ROLL_BACK, MoveReason.HARM)
    assert rolling.share == 0


async def test_time_alone_advances_nothing(rolling: Rolling) -> None:
    """A day without evidence, or with too little of it, leaves the share where it is."""
    async with begun(rolling) as running:
        rolling.wants(Act.APPROVE)
        for _ in range(100):
            await running.tick()
        assert rolling.share == 5
        rolling.traffic.problem = "it does not answer"
        moves = [await running.tick() for _ in range(100)]

    assert {move.reason for move in moves} == {MoveReason.NO_DATA}
    assert rolling.writes == [5]


async def test_hours_without_evidence_do_not_count_as_time_in_the_step(rolling: Rolling) -> None:
    async with begun(rolling) as running:
        dwelt_s = running.controller.state.dwelt_s
        rolling.traffic.problem = "it does not answer"
        for _ in range(60):
            await running.tick()
        rolling.traffic.problem = ""
        await running.tick()
        assert running.controller.state.dwelt_s == dwelt_s


EDITS: dict[str, tuple[Callable[[Rolling], None], MoveReason]] = {
    "lowered": (lambda rolling: rolling.set_share(1), MoveReason.FLAG_LOWERED),
    "raised": (lambda rolling: rolling.set_share(60), MoveReason.FLAG_CHANGED),
    "a second strategy": (
        lambda rolling: rolling.edit(
            lambda flag: flag["strategies"].append({"name": "default", "parameters": {}})
        ),
        MoveReason.FLAG_CHANGED,
    ),
    "other stickiness": (
        lambda rolling: rolling.edit(
            lambda flag: flag["strategies"][0]["parameters"].update(stickiness="sessionId")
        ),
        MoveReason.FLAG_CHANGED,
    ),
    "a constraint": (
        lambda rolling: rolling.edit(
            lambda flag: flag["strategies"][0].update(
                constraints=[{"contextName": "tenant", "operator": "IN", "values": ["a"]}]
            )
        ),
        MoveReason.FLAG_CHANGED,
    ),
    "turned off": (
        lambda rolling: rolling.edit(lambda flag: flag.update(enabled=False)),
        MoveReason.FLAG_CHANGED,
    ),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("paused", [False, True])
async def test_what_a_person_changes_is_held_and_never_written_over(
    rolling: Rolling, edit: str, paused: bool
) -> None:
    """For as long as it is so, whatever the evidence says in favour."""
    change, reason = EDITS[edit]
    async with begun(rolling) as running:
        if paused:
            rolling.wants(Act.PAUSE)
            await running.ticks(1)
        change(rolling)
        as_edited = rolling.flag
        moves = await running.ticks(30)

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, reason)}
    assert rolling.flag == as_edited


async def test_a_lowered_share_that_is_a_step_is_gone_on_from_when_somebody_resumes(rolling: Rolling) -> None:
    """From that step, with its own time and its own proof."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        rolling.set_share(5)
        await running.ticks(2)
        rolling.wants(Act.RESUME, "the ward asked for it, and agrees now")
        await running.ticks(1)
        assert (running.controller.state.share, running.controller.state.step) == (5, 0)
        await running.until(50)

    assert rolling.writes == [5, 25, 25, 50]


async def test_harm_goes_back_even_where_somebody_has_changed_the_flag(rolling: Rolling) -> None:
    """Going down stands before everything. What else they changed stays."""
    async with begun(rolling) as running:
        rolling.set_share(60)
        rolling.traffic.shows_wrong_text()
        await running.ticks(1)

    assert rolling.share == 0


async def test_who_is_exposed_beside_the_rollout_is_said_when_it_goes_back(rolling: Rolling) -> None:
    """A strategy that somebody has put beside it is theirs, so 0 % does not stop it: the way out is named."""
    async with begun(rolling) as running:
        EDITS["a second strategy"][0](rolling)
        rolling.traffic.shows_wrong_text()
        harmed, after = await running.ticks(2)

    assert (harmed.kind, after.kind) == (MoveKind.ROLL_BACK, MoveKind.HOLD)
    for move in (harmed, after):
        assert "`headgate rollout kill`" in move.detail
    assert len(rolling.flag["strategies"]) == 2


async def test_the_kill_flag_ends_the_rollout(rolling: Rolling) -> None:
    """No matter who turned it on; turning it off brings nobody's stream back."""
    async with begun(rolling) as running:
        rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        await running.ticks(2)
        assert running.controller.state.phase is RolloutPhase.KILLED
        assert rolling.share == 0
        rolling.wants(Act.UNKILL)
        rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
        [move] = await running.ticks(1)
        assert move.kind is MoveKind.STAY
        await running.begin()

    assert running.controller.state.run == "r2"


async def test_a_kill_between_two_looks_ends_the_rollout(rolling: Rolling) -> None:
    """The flag is off again when it is looked at, and the proxies say when they found it on. One of before
    the rollout ends nothing."""
    rolling.traffic.killed_s = rolling.now.wall_s - 1
    async with begun(rolling) as running:
        assert running.controller.state.phase is RolloutPhase.RUNNING
        rolling.traffic.killed_s = rolling.now.wall_s + 1
        [move] = await running.ticks(1)
        state = running.controller.state

    assert (state.phase, move.kind, rolling.share) == (RolloutPhase.KILLED, MoveKind.STAY, 0)
    assert state.last_act is not None
    assert state.last_act["by"] == "the kill flag"


async def test_a_wrong_text_of_a_proxy_that_lived_between_two_looks_is_a_wrong_text(rolling: Rolling) -> None:
    """Nobody is at its address any more, and what it showed last is enough."""
    async with begun(rolling) as running:
        rolling.traffic.brief = 1
        [move] = await running.ticks(1)

    assert (move.kind, move.reason, rolling.share) == (MoveKind.ROLL_BACK, MoveReason.HARM, 0)


@pytest.mark.parametrize("killed", [False, True])
async def test_going_back_waits_for_no_evidence(rolling: Rolling, killed: bool) -> None:
    """A Prometheus that hangs keeps nobody who asked for batch in the stream."""
    async with begun(rolling) as running:
        hangs = asyncio.Event()

        async def read(now_s: float, before: object) -> Any:
            await hangs.wait()
            raise EvidenceError(ReadingProblem.ERROR, "no answer")

        rolling.traffic.read = read  # type: ignore[method-assign]
        if killed:
            rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        else:
            rolling.wants(Act.ROLL_BACK)
        looking = asyncio.create_task(running.tick())
        await eventually(lambda: rolling.share == 0)
        assert not looking.done()
        hangs.set()
        assert (await looking).kind is MoveKind.STAY


async def test_going_back_needs_no_journal(rolling: Rolling) -> None:
    """The disk is full, and what somebody asks for cannot be journaled: it is done all the same."""
    async with begun(rolling) as running:
        rolling.disk_is_full = True
        rolling.wants(Act.ROLL_BACK)
        assert running.fence is not None
        with pytest.raises(JournalError, match="full"):
            await running.controller.tick(running.fence)
    assert rolling.share == 0


async def test_a_kill_flag_that_a_person_turns_off_stays_off(rolling: Rolling) -> None:
    """Without a word to the controller: the share is 0 by then, and nothing brings it back."""
    async with begun(rolling) as running:
        rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        await running.ticks(2)
        rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
        await running.ticks(3)

    assert json.loads(rolling.path.read_text())["features"][1]["enabled"] is False
    assert rolling.writes == [5, 0]


async def test_counts_that_no_test_knows_are_no_evidence(rolling: Rolling) -> None:
    """A proxy of a newer version: it holds, and goes on when there is something to go by."""
    async with begun(rolling) as running:
        odd = Series(OUTCOMES, PROXY, ("start", "stream", "0", "half_way"))
        rolling.traffic.counters[odd] = 0
        await running.ticks(1)
        rolling.traffic.counters[odd] = 1
        [move] = await running.ticks(1)
        assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.NO_DATA)
        assert "half_way" in move.detail
        [move] = await running.ticks(1)
        assert move.reason is not MoveReason.NO_DATA


async def test_no_rollout_begins_while_the_kill_flag_is_on(rolling: Rolling) -> None:
    rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
    with rolling.running() as running, pytest.raises(RolloutError, match="unkill"):
        await running.begin()


@pytest.mark.parametrize("edit", ["a second strategy", "other stickiness", "turned off"])
async def test_no_rollout_begins_on_a_flag_that_it_cannot_move(rolling: Rolling, edit: str) -> None:
    """The refusal says which, and nothing is journaled."""
    EDITS[edit][0](rolling)
    with rolling.running() as running, pytest.raises(RolloutError, match=r"headgate\.streaming"):
        await running.begin()
    assert rolling.entries() == []


async def test_an_incident_and_a_freeze_stop_the_way_up_alone(rolling: Rolling) -> None:
    """Nothing advances while the incident is open; harm goes back all the same."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        rolling.incident = True
        moves = await running.ticks(40)
        assert moves[-1].reason is MoveReason.INCIDENT
        rolling.traffic.shows_wrong_text()
        [move] = await running.ticks(1)

    assert move.kind is MoveKind.ROLL_BACK


async def test_observing_writes_nothing(tmp_path: Path) -> None:
    """It says what it would do, and goes by the share that people set."""
    flag_file(tmp_path / "flags.json", 5)
    rolling = Rolling(tmp_path, policy(tmp_path, mode="observe"))
    async with told_to_begin(rolling) as running:
        await running.ticks(40)
        rolling.traffic.shows_wrong_text()
        [move] = await running.ticks(1)

    assert move.kind is MoveKind.ROLL_BACK
    assert (rolling.share, rolling.writes) == (5, [])


async def test_hold_only_asks_where_auto_goes_back(tmp_path: Path) -> None:
    flag_file(tmp_path / "flags.json")
    rolling = Rolling(tmp_path, policy(tmp_path, mode="hold-only"))
    async with begun(rolling) as running:
        rolling.traffic.shows_wrong_text()
        moves = await running.ticks(5)

    assert {(move.kind, move.reason) for move in moves} == {(MoveKind.HOLD, MoveReason.HARM)}
    assert rolling.share == 5


async def test_a_clock_that_is_set_is_noticed(rolling: Rolling) -> None:
    """Forwards or backwards: one look holds, and no time in the step comes of it."""
    async with begun(rolling) as running:
        dwelt_s = running.controller.state.dwelt_s
        for jump_s in (3600.0, -7200.0):
            rolling.now.wall_s += jump_s
            rolling.traffic.flows()
            rolling.now.passes(60)
            fence = await running.lease.acquire()
            assert fence is not None
            move = await running.controller.tick(fence)
            assert move.reason in (MoveReason.CLOCK, MoveReason.NO_DATA)
        assert running.controller.state.dwelt_s == dwelt_s
        running.fence = fence
        await running.ticks(2)
        assert running.controller.state.dwelt_s > dwelt_s


async def test_a_rollback_is_kept_until_the_flag_can_be_written(rolling: Rolling) -> None:
    """The flag cannot be read, harm shows, then it can: it goes to 0 though the evidence is fine by now."""
    async with begun(rolling) as running:
        content = rolling.path.read_bytes()
        rolling.path.write_bytes(b"{")
        rolling.traffic.shows_wrong_text()
        [move] = await running.ticks(1)
        assert move.kind is MoveKind.ROLL_BACK
        rolling.path.write_bytes(content)
        await running.ticks(1)

    assert rolling.share == 0


async def test_a_changed_policy_is_not_gone_on_with(rolling: Rolling) -> None:
    """A rollout is judged by what was agreed on when it began."""
    async with begun(rolling):
        pass
    steps = [{"share": 5, "at_least": "1m"}]
    rolling.policy = policy(rolling.directory, guardrails={"errors": {"harm": 5}}, steps=steps)
    with rolling.running() as running:
        [move] = await running.ticks(1)
        assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.POLICY_CHANGED)
        rolling.traffic.shows_wrong_text()
        [move] = await running.ticks(1)
    assert move.kind is MoveKind.ROLL_BACK
    assert differences(rolling.entries())[1] == []


async def test_an_act_counts_once_though_it_is_found_twice(rolling: Rolling) -> None:
    """A death between journaling it and taking it away makes that happen."""
    async with begun(rolling) as running:
        rolling.wants(Act.PAUSE)
        inbox = next(rolling.directory.glob("*.inbox"))
        [waiting] = inbox.iterdir()
        content = waiting.read_bytes()
        assert running.controller.journal_acts()
        waiting.write_bytes(content)
        assert not running.controller.journal_acts()

    assert [entry.body["what"] for entry in rolling.entries() if entry.kind == EntryKind.ACT][-1] == "pause"
    assert list(inbox.iterdir()) == []


async def test_a_hold_that_comes_and_goes_is_told_a_few_times(rolling: Rolling) -> None:
    """And so is its end; whoever has seen three of them looks at the status."""
    told: list[str] = []

    async def send(notice: Notice) -> bool:
        told.append(notice.what)
        return True

    async with begun(rolling) as running:
        for share in (1, 5) * 12:
            rolling.set_share(share)
            await running.ticks(1)
            await running.controller.send_notices(send)

    assert told.count("holding") == told.count("resolved") == 3


async def test_a_proxy_that_is_missing_is_a_hold_after_a_while(rolling: Rolling) -> None:
    """One dead target among those that answer: as in a deployment at first, and told when it stays."""
    async with begun(rolling) as running:
        rolling.traffic.missing = ("proxy-2",)
        moves = await running.ticks(20)

    assert (moves[0].kind, moves[0].reason) == (MoveKind.SOAK, MoveReason.PROXIES_CHANGE)
    assert (moves[-1].kind, moves[-1].reason) == (MoveKind.HOLD, MoveReason.PROXIES_CHANGE)
    assert "one is missing" in moves[-1].detail


async def test_what_waits_for_twice_its_time_is_a_hold(rolling: Rolling) -> None:
    """Nobody of the stream arm asks for anything, and so the step's three minutes never come to be."""
    async with begun(rolling) as running:
        moves = [await running.tick() for _ in range(9)]

    assert (moves[0].kind, moves[0].reason) == (MoveKind.SOAK, MoveReason.TIME)
    assert (moves[-1].kind, moves[-1].reason) == (MoveKind.HOLD, MoveReason.TIME)


async def test_proxies_that_read_another_flag_are_seen(rolling: Rolling) -> None:
    """Everybody is in neither arm, though a quarter should stream."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        for _ in range(18):
            rolling.traffic.rests(200)
            move = await running.tick()

    assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.NOT_EXPOSED)
    assert "the proxies read another environment" in move.detail


async def test_proxies_that_read_another_flag_after_it_was_complete_are_seen(rolling: Rolling) -> None:
    """A long time without problems hides nothing; once mended, it is no problem any more."""
    async with told_to_begin(rolling) as running:
        await running.until(50)
        before = await running.ticks(30)
        for _ in range(2):
            rolling.traffic.rests(200)
            off = await running.tick()
        after = await running.ticks(2)

    assert before[-1].reason is MoveReason.COMPLETE
    assert (off.kind, off.reason) == (MoveKind.HOLD, MoveReason.NOT_EXPOSED)
    assert "none of 200 answers" in off.detail
    assert after[-1].reason is MoveReason.COMPLETE


@pytest.mark.parametrize("share", [5, 25])
async def test_answers_that_are_streamed_after_the_end_are_seen(rolling: Rolling, share: int) -> None:
    """Not those that were decided before it; and what a person has shown meanwhile is theirs."""
    async with told_to_begin(rolling) as running:
        await running.until(share)
        rolling.wants(Act.ROLL_BACK)
        before = await running.ticks(10)
        for _ in range(10):
            rolling.traffic.rests(200)
            quiet = await running.tick()
        rolling.set_share(share)
        theirs = await running.ticks(20)
        rolling.set_share(0)
        rolling.traffic.rests(200)
        settled = await running.tick()
        for _ in range(20):
            rolling.traffic.rests(200)
            await running.tick()
        after = await running.ticks(2)
        decisions, found = differences(rolling.entries())

    assert {move.reason for move in [*before, quiet]} == {MoveReason.ROLLED_BACK}
    assert {move.reason for move in theirs} == {MoveReason.FLAG_CHANGED}
    assert settled.reason is MoveReason.ROLLED_BACK
    assert (after[-1].kind, after[-1].reason) == (MoveKind.HOLD, MoveReason.NOT_EXPOSED)
    assert "answers since then are of the stream arm" in after[-1].detail
    assert decisions
    assert found == []


async def test_a_share_that_shows_nobody_anything_is_a_hold(rolling: Rolling) -> None:
    """The flag as a whole has got a variant dark: no strategy says so, and its evaluation does."""
    dark = [{"name": "dark", "weight": 1000}]
    rolling.edit(lambda flag: flag.update(variants=dark))
    async with begun(rolling) as running:
        [move] = await running.ticks(1)
        assert (move.kind, move.reason) == (MoveKind.HOLD, MoveReason.NOT_EXPOSED)
        assert running.controller.state.standing is not None
        assert running.controller.state.standing["expected"] == 0


# Acts are for what their givers saw.


async def test_an_advance_that_cannot_act_is_used_up(rolling: Rolling) -> None:
    """Given during an incident: it does not wait for the incident's end."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        rolling.incident = True
        await running.ticks(3)
        rolling.wants(Act.ADVANCE)
        [move] = await running.ticks(1)
        assert move.reason is MoveReason.INCIDENT
        rolling.incident = False
        assert running.controller.state.overridden is False
        [move] = await running.ticks(1, stream_bad=0.1)
    assert move.reason is not MoveReason.APPROVED


async def test_an_approval_acts_when_it_is_asked_for_or_not_at_all(rolling: Rolling) -> None:
    """Nobody approves what they have not seen yet."""
    async with begun(rolling) as running:
        rolling.wants(Act.APPROVE)
        moves = await running.ticks(8)
        assert moves[0].reason is MoveReason.TIME
        assert {move.reason for move in moves[5:]} == {MoveReason.APPROVAL}
        rolling.wants(Act.APPROVE, seen=rolling.entries()[-1].seq)
        [move] = await running.ticks(1)
    assert move.kind is MoveKind.ADVANCE


@pytest.mark.parametrize("harm", [1.5, {"ratio": 1.5, "or_points": 2.0}], ids=str)
async def test_a_service_that_never_fails_goes_on_by_points_alone(tmp_path: Path, harm: Any) -> None:
    """Without failures there is no ratio: without points the step is overdue for ever. The journal replays
    either way."""
    flag_file(tmp_path / "flags.json")
    steps = [
        {"share": 25, "at_least": "3m", "at_most": "10m", "min_samples": 50},
        {"share": 50, "at_least": "3m", "min_samples": 50},
    ]
    rolling = Rolling(tmp_path, policy(tmp_path, steps=steps, guardrails={"errors": {"harm": harm}}))
    async with told_to_begin(rolling) as running:
        moves = await running.ticks(30, stream_bad=0.0, control_bad=0.0)

    goes_on = isinstance(harm, dict)
    assert (MoveReason.PROVED in {move.reason for move in moves}) is goes_on
    assert (moves[-1].reason is MoveReason.OVERDUE) is not goes_on
    assert differences(rolling.entries())[1] == []


async def raised(rolling: Rolling, running: Running) -> None:
    rolling.set_share(50)


async def another_reason(rolling: Rolling, running: Running) -> None:
    rolling.incident = True
    rolling.set_share(25)
    await running.ticks(1)


async def another_rollout(rolling: Rolling, running: Running) -> None:
    rolling.wants(Act.ROLL_BACK)
    await running.ticks(1)
    await running.begin()
    await running.ticks(1)


@pytest.mark.parametrize("befalls", [raised, another_reason, another_rollout])
@pytest.mark.parametrize("act", [Act.RESUME, Act.ADVANCE, Act.APPROVE])
async def test_an_act_whose_grounds_are_gone_is_refused(rolling: Rolling, befalls: Any, act: Act) -> None:
    """It was given at a share of 5 that somebody had set; then something else came."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        rolling.set_share(5)
        await running.ticks(1)
        seen = rolling.entries()[-1].seq
        await befalls(rolling, running)
        step = running.controller.state.step
        rolling.wants(act, seen=seen)
        await running.ticks(2)
        state = running.controller.state

    assert state.last_act is not None
    assert "look again" in state.last_act["refused"]
    assert (state.step, state.share in (50,)) == (step, False)


async def test_what_has_no_effect_says_so(rolling: Rolling) -> None:
    """Paused twice, resumed without need, or acted on what is over."""
    async with begun(rolling) as running:
        for acts, why in (
            ((Act.RESUME,), "nothing to resume"),
            ((Act.PAUSE, Act.PAUSE), "paused already"),
            ((Act.ROLL_BACK, Act.ADVANCE), "the rollout is rolled back"),
        ):
            for act in acts:
                rolling.wants(act)
                await running.ticks(1)
            last = running.controller.state.last_act
            assert last is not None
            assert why in last["refused"]


# Dying.

POINTS = ("begun", "written", "marked", "committed", "before the flag", "after the flag")


async def undisturbed(directory: Path) -> list[int]:
    flag_file(directory / "flags.json")
    rolling = Rolling(directory, policy(directory))
    async with told_to_begin(rolling) as running:
        await running.until(50)
    return rolling.writes


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("occurrence", [1, 2, 7, 13])
async def test_a_death_anywhere_changes_nothing(rolling: Rolling, point: str, occurrence: int) -> None:
    """The next controller is where the last one was, and does the rest: each step is written once."""
    left = occurrence

    def is_here(reached: str) -> bool:
        nonlocal left
        left -= reached == point
        return reached == point and left == 0

    async with told_to_begin(rolling) as running:
        rolling.crash_at = is_here
        with pytest.raises(Crash):
            await running.until(50)
            raise Crash("it came to its end before")
    before = running.controller.state
    rolling.crash_at = lambda reached: False
    with rolling.running() as running:
        state = running.controller.state
        assert state.step - before.step in (0, 1)  # one entry may be journaled that nobody had folded yet
        await running.until(50)

    assert sorted(set(rolling.writes)) == [5, 25, 50]
    raised = [share for at, share in enumerate(rolling.writes) if share not in rolling.writes[:at]]
    assert raised == [5, 25, 50]
    assert differences(rolling.entries())[1] == []


async def test_a_reloaded_controller_knows_the_same(rolling: Rolling) -> None:
    """State and verdicts are functions of the journal, to the last digit."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
        await running.ticks(3)
        before = running.controller.state
        verdicts = running.controller.verdicts
    with rolling.running() as again:
        assert again.controller.state == before
        assert again.controller.verdicts == verdicts


# A disk that is full.


@pytest.mark.parametrize("acts", [(), (Act.PAUSE,)], ids=["", "while somebody wants something"])
async def test_harm_goes_back_though_the_journal_cannot_be_written(
    rolling: Rolling, acts: tuple[Act, ...]
) -> None:
    """The process ends with the error; the next one that can write goes on from the lowered share."""
    async with begun(rolling) as running:
        rolling.disk_is_full = True
        rolling.traffic.shows_wrong_text()
        for act in acts:
            rolling.wants(act)
        rolling.now.passes(TICK_S)
        assert running.fence is not None
        with pytest.raises(JournalError, match="full"):
            await running.controller.tick(running.fence)
    assert rolling.share == 0

    rolling.disk_is_full = False
    with rolling.running() as again:
        moves = await again.ticks(5)

    assert (moves[0].kind, moves[0].reason) == (MoveKind.ROLL_BACK, MoveReason.HARM)
    assert moves[-1].reason is MoveReason.ROLLED_BACK
    assert rolling.share == 0
    assert differences(rolling.entries())[1] == []


@pytest.mark.parametrize("acts", [(), (Act.PAUSE,)], ids=["", "while somebody wants something"])
async def test_a_kill_between_two_looks_needs_no_journal(rolling: Rolling, acts: tuple[Act, ...]) -> None:
    """The share goes to 0 although the journal fails, also while an act waits to be journaled."""
    async with begun(rolling) as running:
        rolling.disk_is_full = True
        rolling.now.passes(TICK_S)
        rolling.traffic.killed_s = rolling.now.wall_s - 1
        for act in acts:
            rolling.wants(act)
        assert running.fence is not None
        with pytest.raises(JournalError, match="full"):
            await running.controller.tick(running.fence)

    assert rolling.share == 0


async def test_nothing_else_is_written_that_the_journal_does_not_have(rolling: Rolling) -> None:
    """No way up."""
    async with begun(rolling) as running:
        await running.ticks(5)
        rolling.wants(Act.APPROVE)
        rolling.disk_is_full = True
        assert running.fence is not None
        for _ in range(5):
            rolling.traffic.flows()
            rolling.now.passes(TICK_S)
            with pytest.raises(JournalError):
                await running.controller.tick(running.fence)

    assert rolling.writes == [5]


# Two controllers.


async def test_who_lost_the_lease_writes_nothing(rolling: Rolling) -> None:
    """A holder that was held up finds another one in its place, and its decision is not carried out."""
    async with begun(rolling) as running:
        rolling.now.passes(1000)
        other = rolling.lease("another machine")
        assert await other.acquire() is not None
        rolling.traffic.shows_wrong_text()
        assert running.fence is not None
        with pytest.raises(LeaseLost):
            await running.controller.tick(running.fence)

    assert rolling.writes == [5]


async def test_replay_finds_a_decision_that_does_not_follow(rolling: Rolling) -> None:
    """Were the journal rewritten with its hashes, its evidence would still say otherwise."""
    async with told_to_begin(rolling) as running:
        await running.until(25)
    entries = rolling.entries()
    at = next(
        i for i, e in enumerate(entries) if e.kind == EntryKind.TICK and e.body["move"]["kind"] == "advance"
    )
    forged = Forged(entries[at], {"move": {"kind": "advance", "reason": "proved", "detail": "trust me"}})

    _, found = differences([*entries[:at], forged, *entries[at + 1 :]])
    assert len(found) == 1
    assert f"entry {entries[at].seq}" in found[0]


class Forged:
    """An entry that says something else."""

    def __init__(self, entry: Any, changes: dict[str, Any]) -> None:
        self.seq, self.at_s, self.kind = entry.seq, entry.at_s, entry.kind
        self.body = json.loads(json.dumps(entry.body | changes))
