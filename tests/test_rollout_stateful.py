"""Anything in any order: people, proxies, clocks and deaths. What must never happen does not."""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flags.errors import LeaseLost, RolloutError
from flags.rollout.ledger import Act, Record, State, fold
from flags.rollout.moves import Kind
from flags.rollout.replay import differences
from tests.rolling import Crash, Rolling, Running, flag_file, policy

POINTS = ("begun", "written", "marked", "committed", "before the flag", "after the flag")
STEPS = (5, 25, 50)
ACTS = (Act.PAUSE, *[Act.RESUME] * 3, *[Act.APPROVE] * 4, *[Act.ADVANCE] * 3, Act.ROLL_BACK)
AGREED = {"begin", "proved", "approved"}
"""Reasons to raise a share."""


class Rollout(RuleBasedStateMachine):
    """One flag, and whatever controller is there for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.loop = asyncio.new_event_loop()
        flag_file(directory / "flags.json")
        self.rolling = Rolling(directory, policy(directory))
        self.running: Running | None = None
        self.process = ExitStack()
        self.by_hand: int | None = None
        """What a person has set since the controller wrote, or accepted what was there."""

    def teardown(self) -> None:
        self.process.close()
        self.loop.close()
        self.stack.close()

    @initialize(share=st.sampled_from([0, *STEPS]))
    def begins(self, share: int) -> None:
        """A rollout that has come so far."""
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
            self.by_hand = None
        except RolloutError:
            pass  # somebody has changed the flag so that it must not

    @precondition(lambda self: self.running is not None)
    @rule(
        answers=st.integers(0, 400),
        bad=st.sampled_from([0.5, *[0.1] * 9]),
        ticks=st.sampled_from([1, 2, 8, 16]),
        dies_at=st.sampled_from([*POINTS, *[""] * 20]),
    )
    def looks(self, answers: int, bad: float, ticks: int, dies_at: str) -> None:
        """Some minutes of traffic; perhaps the process dies in them."""
        assert self.running is not None
        self.rolling.crash_at = lambda reached: reached == dies_at
        for _ in range(ticks):
            before = len(self.rolling.writes)
            try:
                self.loop.run_until_complete(self.running.ticks(1, answers, stream_bad=bad))
            except Crash:
                self.process.close()
                self.running = None
                break
            except LeaseLost:
                self.stops()
                break
            finally:
                self.judged(self.rolling.writes[before:])
        self.rolling.crash_at = lambda reached: False

    def judged(self, written: list[int]) -> None:
        """What one look wrote."""
        assert len(written) <= 1, "one step in one look"
        if not written:
            if self.running is not None and self.accepted():
                self.by_hand = None
            return
        [share] = written
        if share == 0:
            self.by_hand = None
            return
        assert self.by_hand is None, "what a person has set is written over"
        last = [entry.body for entry in self.rolling.entries() if entry.kind == Record.TICK][-1]
        assert last["move"]["kind"] == Kind.ADVANCE
        assert last["move"]["reason"] in AGREED
        assert share == STEPS[last["step"] + 1]

    def accepted(self) -> bool:
        """Whether the controller has taken the flag as it is for its own."""
        return self.state.share == self.rolling.share

    @rule(act=st.sampled_from(ACTS))
    def wants(self, act: Act) -> None:
        if len(list(self.rolling.directory.glob("*.inbox/*"))) < 50:
            self.rolling.wants(act)

    @rule(share=st.sampled_from([0, 1, 5, 25, 50, 100]), really=st.integers(1, 4))
    def sets(self, share: int, really: int) -> None:
        """A person, in the file; now and then."""
        if really == 1 and share != self.rolling.share:
            self.rolling.set_share(share)
            self.by_hand = share

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
    def state(self) -> State:
        return fold(self.rolling.entries())

    @invariant()
    def every_decision_follows_from_the_journal(self) -> None:
        """Which is also a whole one."""
        assert differences(self.rolling.entries())[1] == []

    @invariant()
    def who_is_rolled_back_is_at_nothing(self) -> None:
        """Once that was written; what a person does later is theirs."""
        state = self.state
        if state.is_over and not state.down_pending:
            assert state.share == 0


TestAnything = Rollout.TestCase
TestAnything.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
