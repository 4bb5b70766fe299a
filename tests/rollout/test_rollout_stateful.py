"""Anything in any order: people, proxies, clocks and deaths. What must never happen does not."""

import asyncio
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flags.errors import FlagAdminError, LeaseLost, RolloutError
from flags.rollout.journal import JournalEntry, JournalReader
from flags.rollout.ledger import Act, EntryKind, RolloutState, fold
from flags.rollout.moves import MoveKind, MoveReason, RolloutPhase
from flags.rollout.replay import differences
from flags.rollout.writing import down
from flags.rollout.writing.file_admin import FileAdmin
from flags.rollout.writing.flag_admin import ManagedFlag
from tests.rollout.rolling import FLAG, Crash, Rolling, Running, flag_file, policy
from tests.simulate.rollouts import QUICK_DISK

POINTS = ("begun", "written", "marked", "committed", "before the flag", "after the flag")
STEPS = (5, 25, 50)
DARK_FIRST = [
    {"share": 0, "at_least": "1m"},
    {"share": 5, "at_least": "3m", "prove": False, "approve": True, "min_samples": 50},
    {"share": 25, "at_least": "3m", "min_samples": 50},
    {"share": 50, "at_least": "3m", "min_samples": 50},
]
"""A dark step, which leaves something over where the rollout ends in it."""

ACTS = (Act.PAUSE, *[Act.RESUME] * 3, *[Act.APPROVE] * 4, *[Act.ADVANCE] * 3, *[Act.ROLL_BACK] * 2)
AGREED = {"begin", "proved", "approved"}
"""Reasons to raise a share."""


class Rollout(RuleBasedStateMachine):
    """One flag, and whatever controller is there for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=QUICK_DISK)))
        self.loop = asyncio.new_event_loop()
        flag_file(directory / "flags.json")
        self.rolling = Rolling(directory, policy(directory))
        self.journaled: list[JournalEntry] = []
        self.ticks: list[dict[str, Any]] = []
        """Of these the bodies of all looks, each read once."""
        self.folded = RolloutState()
        self.running: Running | None = None
        self.process = ExitStack()
        self.said: set[int] = set()
        """Shares that a person has said by setting them."""
        self.by_hand: int | None = None
        """What a person has set since the controller wrote, or accepted what was there."""
        self.was = 0
        """The share before that."""
        self.is_resumed = False
        """A person has said since that it goes on with what was set."""
        self.resume_waits = False
        """Nobody has read it yet: it is for whatever is there when somebody does."""
        self.is_exposed_otherwise = False
        """What decides beside the share is another one since the controller accepted it."""

    def teardown(self) -> None:
        self.every_decision_follows_from_the_journal()
        self.process.close()
        self.loop.close()
        self.stack.close()

    @initialize(share=st.sampled_from([0, *STEPS]), dark=st.booleans())
    def begins(self, share: int, dark: bool) -> None:
        """A rollout that has come so far."""
        if dark:
            self.rolling.policy = policy(self.rolling.directory, steps=DARK_FIRST)
        self.starts()
        assert self.running is not None
        self.loop.run_until_complete(self.running.begin())
        if share:
            self.loop.run_until_complete(self.running.until(share))

    @precondition(lambda self: self.running is None)
    @rule()
    def starts(self) -> None:
        self.rolling.now.passes(200)  # a dead one's lease runs out
        self.running = self.process.enter_context(self.rolling.running())
        assert self.running.controller.state == fold(self.rolling.entries())

    @precondition(lambda self: self.running is not None)
    @rule()
    def stops(self) -> None:
        self.process.close()
        self.running = None

    @precondition(lambda self: self.running is not None and self.state.is_over)
    @rule()
    def new_rollout(self) -> None:
        assert self.running is not None
        try:
            self.loop.run_until_complete(self.running.begin())
            self.by_hand, self.is_exposed_otherwise = None, False
        except RolloutError:
            pass  # somebody has changed the flag so that it must not

    @precondition(lambda self: self.running is not None)
    @rule(
        answers=st.integers(0, 400),
        bad=st.sampled_from([0.5, *[0.1] * 9]),
        brief=st.sampled_from([1, 2, *[0] * 4]),
        ticks=st.sampled_from([1, 2, 8, 16]),
        dies_at=st.sampled_from([*POINTS, *[""] * 20]),
    )
    def looks(self, answers: int, bad: float, brief: int, ticks: int, dies_at: str) -> None:
        """Some minutes of traffic; perhaps the process dies in them, and proxies came and went before."""
        assert self.running is not None
        self.rolling.traffic.brief = brief
        self.rolling.crash_at = lambda reached: reached == dies_at
        for _ in range(ticks):
            if not self.looked(answers, bad):
                break
        self.rolling.crash_at = lambda reached: False

    def looked(self, answers: int, bad: float) -> bool:
        """One look; whether the process is still there after it."""
        assert self.running is not None
        before, brief = len(self.rolling.writes), self.rolling.traffic.brief
        try:
            self.loop.run_until_complete(self.running.ticks(1, answers, stream_bad=bad))
        except (Crash, LeaseLost):
            self.process.close()
            self.running = None
        else:
            self.resume_waits = False
            self.has_counted(brief - self.rolling.traffic.brief)
        finally:
            self.judged(self.rolling.writes[before:])
        if self.running is not None:
            self.is_down_where_it_must_be()
            self.holds_where_somebody_has_changed_something()
        return self.running is not None

    def last_tick(self) -> dict[str, Any]:
        _ = self.entries
        return self.ticks[-1]

    def is_down_where_it_must_be(self) -> None:
        """One look after the kill flag was turned on, nobody streams; nor does anybody after the end."""
        is_there = {each["name"] for each in self.rolling.flags} >= {FLAG, "headgate.kill"}
        if not is_there or self.rolling.refuses_writes:
            return
        kill = next(each for each in self.rolling.flags if each["name"] == "headgate.kill")
        if kill["enabled"] and not self.state.is_over:
            raise AssertionError("the kill flag is on, and the rollout goes on")
        if kill["enabled"] and self.by_hand is None:
            assert self.rolling.share == 0

    def holds_where_somebody_has_changed_something(self) -> None:
        """Until somebody says that it goes on, or it is again as it was written."""
        state, move = self.state, self.last_tick()["move"]
        if state.is_over:
            return
        is_changed = self.by_hand is not None and self.by_hand != state.share
        if is_changed or self.is_exposed_otherwise:
            holds = move["kind"] in (MoveKind.HOLD, MoveKind.ROLL_BACK)
            assert holds or self.is_resumed, move
            self.is_exposed_otherwise = self.is_exposed_otherwise and holds

    def has_counted(self, brief: int) -> None:
        """Each proxy that the last look found gone, if anything counted."""
        batch = self.last_tick()["batch"]
        if batch is not None:
            assert batch["parity"].get("missing", 0) == brief

    def judged(self, written: list[int]) -> None:
        """Check what one look wrote."""
        assert len(written) <= 1, "one step in one look"
        if not written:
            if self.running is not None and self.by_hand is not None and self.accepted():
                assert self.is_resumed or self.by_hand in (0, self.was), "nobody has said that it goes on"
                self.by_hand = None
            return
        [share] = written
        if share == 0:
            self.by_hand = None
            return
        assert self.by_hand is None, "what a person has set is written over"
        last = self.last_tick()
        assert last["move"]["kind"] == MoveKind.ADVANCE
        assert last["move"]["reason"] in AGREED
        is_dark_first = self.rolling.policy.steps[0].share == 0
        steps = (STEPS[0], *STEPS) if is_dark_first else STEPS
        assert share == steps[last["step"] + 1]
        if last["step"] >= 0 and self.rolling.policy.steps[last["step"]].approve:
            assert self.is_agreed_by_a_person(), "nobody has approved it"

    def is_agreed_by_a_person(self) -> bool:
        """True if somebody approved or advanced since the last look that went nowhere."""
        for entry in reversed(self.entries):
            if entry.kind == EntryKind.TICK and entry.body["move"]["kind"] != MoveKind.ADVANCE:
                return False
            is_said = entry.kind == EntryKind.ACT and not entry.body.get("refused")
            if is_said and entry.body["what"] in (Act.APPROVE, Act.ADVANCE):
                return True
        return False

    def accepted(self) -> bool:
        """True if the controller has taken the flag as it is for its own."""
        return any(each["name"] == FLAG for each in self.rolling.flags) and (
            self.state.share == self.rolling.share
        )

    @rule(act=st.sampled_from(ACTS))
    def wants(self, act: Act) -> None:
        if len(list(self.rolling.directory.glob("*.inbox/*"))) < 50:
            self.says(act)
            self.rolling.wants(act)

    def says(self, act: Act) -> None:
        if act is Act.RESUME:
            self.is_resumed = self.resume_waits = True

    @rule(share=st.sampled_from([0, 1, 5, 25, 50, 100]), really=st.integers(1, 4))
    def sets(self, share: int, really: int) -> None:
        """A person, in the file; now and then."""
        if really == 1 and share != self.rolling.share:
            self.is_set(share)

    def is_set(self, share: int) -> None:
        if self.by_hand is None:
            self.was, self.is_resumed = self.rolling.share, self.resume_waits
        self.rolling.set_share(share)
        self.by_hand = share
        self.said.add(share)

    @rule(refused=st.sampled_from([True, *[False] * 4]))
    def writing_is_refused(self, refused: bool) -> None:
        """Reading still works: a right was taken away, or a change waits for approval."""
        self.rolling.refuses_writes = refused

    @precondition(lambda self: self.running is not None and self.rolling.share > 0)
    @rule(killed=st.booleans(), refused=st.booleans(), really=st.integers(1, 2))
    def somebody_goes_back(self, killed: bool, refused: bool, really: int) -> None:
        """And the controller looks, whether it may write by then or not."""
        if really != 1:
            return
        self.rolling.refuses_writes = refused
        if killed:
            self.rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        else:
            self.rolling.wants(Act.ROLL_BACK)
        self.looked(100, 0.1)

    @rule(act=st.sampled_from([Act.RESUME, Act.APPROVE, Act.ADVANCE]), back=st.integers(1, 40))
    def wants_by_an_old_look(self, act: Act, back: int) -> None:
        """By what somebody saw some entries ago."""
        if len(list(self.rolling.directory.glob("*.inbox/*"))) < 50:
            self.says(act)
            self.rolling.wants(act, seen=max(1, self.state.seq - back))

    @precondition(lambda self: self.running is not None)
    @rule(name=st.sampled_from(["headgate.kill", "headgate.streaming"]), really=st.integers(1, 3))
    def a_flag_vanishes_for_a_look(self, name: str, really: int) -> None:
        """Out of the file, and back as it was."""
        if really != 1:
            return
        document = json.loads(self.rolling.path.read_text())
        taken = [(at, each) for at, each in enumerate(document["features"]) if each["name"] == name]
        document["features"] = [each for each in document["features"] if each["name"] != name]
        self.rolling.path.write_text(json.dumps(document))
        self.looked(100, 0.1)
        document = json.loads(self.rolling.path.read_text())
        for at, each in taken:
            document["features"].insert(at, each)
        self.rolling.path.write_text(json.dumps(document))

    @rule(is_other=st.booleans())
    def exposure_is_changed_elsewhere(self, is_other: bool) -> None:
        """Not in the strategy: in what the whole flag gives to whomever it is on for. And back again."""
        if self.running is None or self.state.is_over or self.state.step < 0:
            return
        if not is_other:
            self.is_exposed_otherwise = False
            self.rolling.edit(lambda flag: flag.update(variants=[]))
        elif not self.is_exposed_otherwise:
            self.is_exposed_otherwise, self.is_resumed = True, self.resume_waits
            self.rolling.edit(lambda flag: flag.update(variants=[{"name": "a", "weight": 1000}]))
        self.looked(100, 0.1)

    # Scenes of several steps, which chance alone would hardly put in a row.

    def is_calm(self) -> bool:
        """A rollout is under way, people use it, and nothing disturbs it: it is made so first."""
        if self.running is None:
            self.starts()
        self.rolling.refuses_writes, self.rolling.incident, self.rolling.traffic.problem = False, False, ""
        self.rolling.crash_at = lambda reached: False
        self.rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
        for left in self.rolling.directory.glob("*.inbox/*"):
            left.unlink()
        if not self.state.is_over and (self.by_hand is not None or self.is_exposed_otherwise):
            self.rolling.wants(Act.ROLL_BACK)
        if not self.looked(100, 0.1) or self.running is None:
            return False
        if self.by_hand is not None or self.is_exposed_otherwise or self.state.phase is RolloutPhase.PAUSED:
            if not self.state.is_over:
                self.rolling.wants(Act.ROLL_BACK)
                self.looked(100, 0.1)
            flag_file(self.rolling.path)
            self.by_hand, self.is_exposed_otherwise = None, False
        if self.state.is_over:
            self.loop.run_until_complete(self.running.begin(again=True))
        if not self.rolling.share:
            self.loop.run_until_complete(self.running.until(STEPS[0]))
        return self.running is not None

    @rule(answers=st.integers(100, 400))
    def harm_comes(self, answers: int) -> None:
        """Streams fail and batch does not: everybody goes back to batch within minutes, and stays there."""
        if not self.is_calm():
            return
        for _ in range(20):
            self.looked(answers, 0.9)
        assert self.rolling.share == 0
        assert self.state.phase is RolloutPhase.ROLLED_BACK

    @rule(killed=st.booleans())
    def who_goes_back_waits_for_no_evidence(self, killed: bool) -> None:
        """Prometheus hangs, or says nothing; the share is 0 after the next look all the same."""
        if not self.is_calm():
            return
        self.rolling.traffic.problem = "it does not answer"
        self.rolling.refuses_writes = False
        if killed:
            self.rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        else:
            self.rolling.wants(Act.ROLL_BACK)
        self.looked(0, 0.0)
        assert self.rolling.share == 0

    @rule(share=st.sampled_from([5, 25, 50]))
    def a_kill_ends_it(self, share: int) -> None:
        """By the command; after `unkill` nobody streams, whatever the controller does."""
        if not self.is_calm():
            return
        assert self.running is not None
        self.loop.run_until_complete(down.kill(FileAdmin(self.rolling.path, ManagedFlag(FLAG))))
        assert self.rolling.share == 0
        for _ in range(2):
            self.looked(100, 0.1)
        self.loop.run_until_complete(down.unkill(FileAdmin(self.rolling.path, ManagedFlag(FLAG))))
        for _ in range(3):
            self.looked(100, 0.1)
        assert self.rolling.share == 0
        assert self.state.phase is RolloutPhase.KILLED
        self.rolling.set_share(share)
        self.rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        with pytest.raises(FlagAdminError):
            self.loop.run_until_complete(down.unkill(FileAdmin(self.rolling.path, ManagedFlag(FLAG))))
        self.rolling.set_share(0)
        self.rolling.edit(lambda flag: flag.update(enabled=False), flag=1)

    @rule(act=st.sampled_from([Act.ADVANCE, Act.APPROVE]), by_incident=st.booleans())
    def an_act_of_another_time_has_no_effect(self, act: Act, by_incident: bool) -> None:
        """Given for what was so, and read when it is no longer: nothing advances for it."""
        if not self.is_calm():
            return
        before = self.rolling.share
        self.rolling.incident = by_incident
        self.rolling.traffic.problem = "" if by_incident else "it does not answer"
        self.looked(0, 0.0)
        seen = self.state.seq
        self.rolling.incident, self.rolling.traffic.problem = False, ""
        self.looked(0, 0.0)
        if self.last_tick()["move"]["kind"] == MoveKind.ADVANCE or self.was_so(seen):
            return
        self.rolling.wants(act, seen=seen)
        self.looked(0, 0.0)
        assert self.rolling.share <= before  # harm may be found meanwhile
        assert not self.state.approved
        assert not self.state.overridden

    def was_so(self, seq: int) -> bool:
        """True if the newest look says what the one before this entry said."""
        then = [entry for entry in self.entries if entry.kind == EntryKind.TICK and entry.seq <= seq][-1]
        seen, last = then.body["move"], self.last_tick()["move"]
        return bool((seen["kind"], seen["reason"]) == (last["kind"], last["reason"]))

    @rule(share=st.sampled_from([1, 4, 5, 25, 50, 100]), goes_on=st.booleans())
    def somebody_sets_a_share(self, share: int, goes_on: bool) -> None:
        """It stays as it is, at each look and whatever the evidence, until somebody says that it goes on."""
        if not self.is_calm() or share == self.rolling.share:
            return
        self.is_set(share)
        for _ in range(6):
            self.looked(200, 0.1)
        assert self.rolling.share == share or self.state.is_over  # harm may be found
        is_dark = bool(self.strategy().get("variants"))
        steps = self.rolling.policy.steps
        shares = [step.share_written(self.rolling.policy) for step in steps if (not step.share) == is_dark]
        if not goes_on or self.state.is_over:
            return
        self.wants_now(Act.RESUME)
        assert (self.state.share == share) == (share in shares) or self.state.is_over

    def wants_now(self, act: Act) -> None:
        """A person who has seen the newest look, and a look after it."""
        self.says(act)
        self.rolling.wants(act, seen=self.state.seq)
        self.looked(100, 0.1)

    @rule(dark=st.booleans())
    def a_rollout_of_another_policy(self, dark: bool) -> None:
        """The one before is over, its controller has ended, and nothing of it is in the way."""
        if not self.is_calm():
            return
        self.wants_now(Act.ROLL_BACK)
        self.stops()
        self.rolling.policy = policy(self.rolling.directory, **({"steps": DARK_FIRST} if dark else {}))
        self.starts()
        assert self.running is not None
        self.loop.run_until_complete(self.running.begin())
        self.loop.run_until_complete(self.running.until(STEPS[0]))
        assert self.state.step == 0
        assert bool(self.strategy().get("variants")) == dark

    @rule()
    def what_people_have_made_dark_is_not_begun_with(self) -> None:
        """It would show nobody anything, and the controller must not take from people what they have made."""
        if not self.is_calm():
            return
        assert self.running is not None
        self.wants_now(Act.ROLL_BACK)
        self.stops()
        self.journal_is_away()
        flag_file(self.rolling.path)
        dark = {"name": "dark", "weight": 1000, "weightType": "variable", "stickiness": "userId"}
        self.rolling.edit(lambda flag: flag["strategies"][0].update(variants=[dark]))
        self.starts()
        with pytest.raises(RolloutError, match="dark"):
            self.loop.run_until_complete(self.running.begin(again=True))
        flag_file(self.rolling.path)
        self.loop.run_until_complete(self.running.begin(again=True))

    def journal_is_away(self) -> None:
        """Somebody has moved it, and nothing is known of rollouts any more."""
        self.every_decision_follows_from_the_journal()
        self.journaled, self.ticks, self.folded = [], [], RolloutState()
        self.rolling.policy.journal.rename(self.rolling.directory / f"lost-{self.rolling.now.wall_s}")

    @rule()
    def a_dark_step_leaves_nothing_over(self) -> None:
        """Gone back from in the dark: the next rollout shows what it says that it shows."""
        if not self.is_calm():
            return
        assert self.running is not None
        steps = self.rolling.policy.steps
        if steps[0].share:
            return
        self.rolling.wants(Act.ROLL_BACK)
        self.looked(100, 0.1)
        self.loop.run_until_complete(self.running.begin(again=True))
        for _ in range(40):
            if self.state.step == 0:
                break
            self.looked(100, 0.1)
        self.rolling.edit(lambda flag: flag.update(enabled=True), flag=1)
        self.looked(100, 0.1)
        assert "variants" not in self.strategy() or self.strategy()["variants"] == []
        self.rolling.edit(lambda flag: flag.update(enabled=False), flag=1)
        self.loop.run_until_complete(self.running.begin(again=True))
        self.loop.run_until_complete(self.running.until(STEPS[0]))
        for _ in range(40):
            if self.state.step >= 1:
                break
            self.looked(200, 0.1)
            if self.last_tick()["move"]["reason"] == MoveReason.APPROVAL:
                self.rolling.wants(Act.APPROVE)
        assert self.state.step >= 1
        assert not self.strategy().get("variants")

    def strategy(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rolling.flag["strategies"][0]
        return found

    @precondition(lambda self: self.running is None)
    @rule(really=st.integers(1, 4))
    def journal_is_lost(self, really: int) -> None:
        """Who only starts the controller begins nothing on a flag that it has marked, nor where proxies
        remember streams; a person may."""
        if really != 1:
            return
        self.journal_is_away()
        is_marked = "[headgate " in str(self.rolling.flag["strategies"][0].get("title"))
        share = self.rolling.share
        self.said.add(share)  # which the lost journal proved
        self.starts()
        assert self.running is not None
        if is_marked or self.rolling.traffic.has_streamed:
            with pytest.raises(RolloutError):
                self.loop.run_until_complete(self.running.begin())
        assert self.rolling.share == share
        try:
            self.loop.run_until_complete(self.running.begin(again=True))
        except RolloutError:  # somebody has changed the flag so that it must not: they begin with another
            flag_file(self.rolling.path)
            self.loop.run_until_complete(self.running.begin(again=True))
        self.by_hand, self.is_exposed_otherwise = None, False

    @rule(on=st.sampled_from([True, *[False] * 8]))
    def kills(self, on: bool) -> None:
        self.rolling.edit(lambda flag: flag.update(enabled=on), flag=1)

    @rule(problem=st.sampled_from(["", "", "", "it does not answer"]))
    def answers(self, problem: str) -> None:
        """Prometheus, or nobody."""
        self.rolling.traffic.problem = problem

    @rule(seconds=st.sampled_from([-3600.0, -60.0, 40.0, 7200.0]))
    def clock_is_set(self, seconds: float) -> None:
        self.rolling.now.wall_s += seconds

    @rule(incident=st.sampled_from([True, False, False, False]))
    def incidents(self, incident: bool) -> None:
        self.rolling.incident = incident

    @property
    def entries(self) -> list[JournalEntry]:
        """The journal, of which only what is new is read."""
        with JournalReader.open(self.rolling.policy.journal) as journal:
            new = list(journal.entries(after_seq=self.folded.seq))
        self.journaled += new
        self.ticks += [entry.body for entry in new if entry.kind == EntryKind.TICK]
        self.folded = fold(new, self.folded)
        return self.journaled

    @property
    def state(self) -> RolloutState:
        _ = self.entries
        return self.folded

    def every_decision_follows_from_the_journal(self) -> None:
        """The journal is whole, too."""
        assert differences(self.rolling.entries())[1] == []

    @invariant()
    def the_share_in_force_is_proved_or_said(self) -> None:
        """Never above what the journal decided to write, or a person has set."""
        _ = self.entries
        decided = {tick["intent"]["share"] for tick in self.ticks if tick["intent"] is not None}
        assert self.rolling.share <= max(decided | self.said | {0})

    @invariant()
    def who_must_be_at_nothing_is_there_one_look_after_it_can_be_written(self) -> None:
        """A long time without writing changes nothing; and no look pretends that it was written."""
        if self.running is None or not self.state.down_pending:
            return
        if self.looked(0, 0.0) and not self.rolling.refuses_writes:
            assert not self.state.down_pending
            assert self.rolling.share == 0

    @invariant()
    def what_the_journal_calls_written_is_in_force(self) -> None:
        """The last that was written, or was about to be, is in force, unless somebody else has set
        another."""
        state = self.state
        if self.by_hand is not None or not state.run or state.step < 0:
            return
        shares = {state.share} | ({state.intent.share} if state.intent is not None else set())
        assert self.rolling.share in shares | ({0} if state.is_over else set())

    @invariant()
    def what_is_promised_is_shown(self) -> None:
        """A dark step's part hides no other step."""
        state = self.state
        if self.running is not None and state.step > 0 and self.rolling.share == state.share > 0:
            variants = self.rolling.flag["strategies"][0].get("variants", ())
            assert "dark" not in {variant["name"] for variant in variants} or state.is_over

    @invariant()
    def who_is_rolled_back_is_at_nothing(self) -> None:
        """Once that was written; what a person does later is theirs."""
        state = self.state
        if state.is_over and not state.down_pending:
            assert state.share == 0


TestAnything = Rollout.TestCase
TestAnything.settings = settings(
    max_examples=16,
    stateful_step_count=30,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",  # there the same ones each time; by hand always others
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
