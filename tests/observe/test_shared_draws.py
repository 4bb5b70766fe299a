"""Processes that share the draw have the evidence of one, whichever of them a user's requests go to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flags.decision import Arm
from proxy.observe.users.shared_draws import SETTLED_S, SharedDraws
from proxy.replicas.histories.draw_records import DrawMemory
from tests.observe.test_watched_users import Kept

ANN, BOB = b"ann ....", b"bob ...."
USERS = {ANN: 2, BOB: 10, b"cy  ....": 30, b"dee ....": 60, b"eve ....": 99}
"""By hash, the percent below which the flag's share leaves the user out of the stream arm."""

SHARES = (0, 5, 20, 50)
GENERATIONS = ("", "at 5", "at 20", "at 50")
PRIOR = (1.0, 100.0)
LAST = len(SHARES) - 1


def arm_of(place: int, share: int) -> Arm:
    if place < share:
        return Arm.STREAM
    return Arm.CONTROL if place >= 100 - share else Arm.REST


@dataclass
class Process:
    """One process. It shares when it is told to."""

    draws: SharedDraws = field(default_factory=lambda: SharedDraws(Kept(True)))
    flag: int = 0
    read: int = 0

    def __post_init__(self) -> None:
        self.memory = DrawMemory("start", self.draws)

    def end(self, user: bytes, flag: int, *, failed: bool) -> None:
        arm = arm_of(USERS[user], SHARES[flag])
        self.draws.add(user, 0.0, arm, GENERATIONS[flag], PRIOR, failed=failed)

    def begin(self, flag: int, now_s: float = 0.0) -> None:
        self.flag = flag
        self.draws.begin(GENERATIONS[flag], SHARES[flag], now_s)


class Log:
    """The log in the store, and those who share it."""

    def __init__(self, number: int) -> None:
        self.batches: list[tuple[Process, bytes, float]] = []
        self.now_s = 0.0
        self.processes = [self.started() for _ in range(number)]

    def started(self) -> Process:
        """A process that starts, with the sum of all batches so far."""
        process = Process(read=len(self.batches))
        process.draws.share()
        batches = [(batch, at_s) for _, batch, at_s in self.batches]
        for _ in process.memory.begin_again(process.memory.folded(b"", batches, 0.0)):
            pass
        return process

    def share(self, process: Process) -> None:
        if batch := process.memory.take():
            self.batches.append((process, batch, self.now_s))
        for writer, batch, at_s in self.batches[process.read :]:
            for _ in process.memory.merge(batch, at_s, mine=writer is process):
                pass
        process.read = len(self.batches)

    def share_all(self) -> None:
        for process in (*self.processes, *self.processes):
            self.share(process)


Event = tuple[Literal["good", "bad", "rise", "share"], int, bytes, int]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("good", "good", "good", "bad", "bad", "rise", "share")),
        st.integers(0, 1),
        st.sampled_from(sorted(USERS)),
        st.sampled_from((1, 3, 40)),
    ),
    max_size=60,
)


class Story:
    """Events at two processes that share, and the same at one."""

    def __init__(self) -> None:
        self.log, self.alone = Log(2), Process()

    def end(self, number: int, user: bytes, times: int, *, failed: bool) -> None:
        process = self.log.processes[number]
        for each in (process, self.alone):
            for _ in range(times):
                each.end(user, process.flag, failed=failed)

    def rise(self, number: int) -> None:
        """A process sees the next share of the flag; the one process when any does."""
        process = self.log.processes[number]
        process.begin(min(process.flag + 1, LAST))
        self.alone.begin(max(self.alone.flag, process.flag))

    def happen(self, events: Sequence[Event]) -> None:
        for what, number, user, times in events:
            if what == "share":
                self.log.share(self.log.processes[number])
            elif what == "rise":
                self.rise(number)
            else:
                self.end(number, user, times, failed=what == "bad")


@settings(max_examples=60, deadline=None)
@example([], [("bad", 0, ANN, 3), ("rise", 1, ANN, 1), ("bad", 1, ANN, 3), ("share", 1, ANN, 1)])
@given(EVENTS, EVENTS)
def test_users_of_two_processes_give_the_evidence_of_one(
    before: Sequence[Event], events: Sequence[Event]
) -> None:
    """Whenever they share, and though one sees a new share of the flag sooner than the other. A process that
    starts later has it, too."""
    story = Story()
    story.happen([event for event in before if event[0] != "rise"])
    story.log.share_all()
    for number in (0, 1):
        story.rise(number)
    story.happen(events)
    for number in (0, 1) * LAST:
        story.rise(number)
    story.log.share_all()
    story.log.processes.append(story.log.started())
    for user in USERS:
        story.end(0, user, 1, failed=True)  # what each adds is reckoned anew
    story.log.share_all()
    evidence = story.alone.draws.evidence

    for process in story.log.processes:
        assert process.draws.evidence == pytest.approx(evidence, abs=1e-9)
    assert len({process.memory.known() for process in (*story.log.processes, story.log.started())}) == 1
    assert any(abs(units) > 0.01 for units in evidence.values())


def of_a_rollout() -> Story:
    """Two processes, whose rollout has evidence."""
    story = Story()
    for number in (0, 1, 0, 1):
        story.rise(number)
    for number in (0, 1):
        story.end(number, ANN, 10, failed=True)
    story.log.share_all()
    assert story.alone.draws.evidence["few"] > 1
    return story


def test_a_process_that_starts_with_an_old_flag_ends_no_rollout() -> None:
    """It waits for the others to say that the flag has changed."""
    story = of_a_rollout()
    evidence = story.alone.draws.evidence
    story.log.processes.append(late := story.log.started())
    for flag in (1, 2):
        late.begin(flag, 1.0)
        for process in story.log.processes:
            process.begin(2, 1.0 + SETTLED_S)
        story.log.share_all()

    for process in story.log.processes:
        assert process.draws.evidence == pytest.approx(evidence)


def test_a_process_whose_flag_stays_behind_ends_no_rollout() -> None:
    """What it has is older than what the others said."""
    story = of_a_rollout()
    story.log.now_s = 10.0
    story.rise(1)
    story.end(1, ANN, 10, failed=True)
    for now_s in (10.0, 10.0 + SETTLED_S, 10.0 + 2 * SETTLED_S):
        story.log.share_all()
        story.log.processes[0].begin(2, now_s)

    for process in story.log.processes:
        assert process.draws.evidence == pytest.approx(story.alone.draws.evidence)


def test_processes_that_all_begin_anew_with_another_flag_go_by_it() -> None:
    """The log is told after a while, by as many as there are, and once is enough."""
    log = of_a_rollout().log
    log.processes = [log.started(), log.started()]
    for now_s in (1.0, SETTLED_S, SETTLED_S + 1.0):
        for process in log.processes:
            process.begin(1, now_s)
        log.share_all()
        shown = {tuple(process.draws.evidence.values()) for process in log.processes}
        assert (shown == {(0.0, 0.0, 0.0)}) is (now_s > SETTLED_S)
    for process in log.processes:
        process.end(ANN, 1, failed=True)
    log.share_all()

    assert all(process.draws.evidence["few"] > 0 for process in log.processes)


def test_a_process_that_goes_on_alone_has_lost_nothing_and_goes_by_its_own_flag() -> None:
    """What has waited counts once; and when the log is back, what that says."""
    story = of_a_rollout()
    one, other = story.log.processes
    known = other.draws.evidence
    story.end(0, BOB, 3, failed=True)
    one.draws.leave(0.0)
    assert one.draws.evidence == pytest.approx(story.alone.draws.evidence)
    assert one.draws.evidence != known
    one.begin(0)
    assert set(one.draws.evidence.values()) == {0.0}
    late = story.log.started()
    late.begin(1)
    story.log.share(late)
    assert late.draws.evidence == known
    late.draws.leave(0.0)
    assert set(late.draws.evidence.values()) == {0.0}

    for _ in one.memory.begin_again(other.memory.known()):
        pass
    assert one.draws.evidence == known
