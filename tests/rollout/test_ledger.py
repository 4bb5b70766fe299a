"""The state of a rollout, from its journal alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flags.rollout.ledger import KNOWN_ACTS, Act, EntryKind, RolloutState, fold
from flags.rollout.moves import ControlMode, MoveKind, RolloutPhase
from flags.rollout.reporting.notices import NoticeHistory

_ids = count(1)


@dataclass(frozen=True)
class Line:
    """An entry of a journal."""

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    seq: int = 0
    at_s: float = 0.0


def begin(run: str = "r1") -> Line:
    body = {"run": run, "policy": "p", "base": {}, "event_id": 7, "digest": "as found", "share": 0}
    return Line(EntryKind.BEGIN, body)


def tick(
    kind: MoveKind = MoveKind.SOAK,
    *,
    mode: ControlMode = ControlMode.AUTO,
    step: int | None = None,
    **more: Any,
) -> Line:
    intent = None if step is None else {"step": step, "digest": f"step {step}"}
    move = {"kind": kind, "reason": more.pop("reason", "time"), "detail": ""}
    body = {
        "move": move,
        "intent": intent,
        "dwelt_s": 60.0,
        "no_data": "",
        "situation": {"mode": mode},
        **more,
    }
    return Line(EntryKind.TICK, body)


def written(step: int, share: int, event_id: int = 8) -> Line:
    body = {"step": step, "share": share, "digest": f"step {step}", "event_id": event_id}
    return Line(EntryKind.WRITTEN, body)


def act(what: Act) -> Line:
    return Line(EntryKind.ACT, {"what": what, "by": "somebody", "reason": "so", "id": f"act-{next(_ids)}"})


def numbered(*lines: Line) -> Iterator[Line]:
    for seq, line in enumerate(lines, 1):
        yield replace(line, seq=seq, at_s=60.0 * seq)


def after(*lines: Line) -> RolloutState:
    return fold(numbered(*lines))


def test_a_step_is_in_force_when_it_is_written_and_not_when_it_is_decided():
    """Between the two a controller may die, and the flag is as it was."""
    decided = after(begin(), tick(MoveKind.ADVANCE, step=0))
    assert (decided.step, decided.share) == (-1, 0)
    assert decided.intent is not None and decided.intent.digest == "step 0"

    done = after(begin(), tick(MoveKind.ADVANCE, step=0), written(0, 5))
    assert (done.step, done.share, done.event_id, done.intent) == (0, 5, 8, None)


def test_an_intent_is_forgotten_by_the_next_tick():
    """A controller that decides anew has not written the share, or that would have been journaled."""
    assert after(begin(), tick(MoveKind.ADVANCE, step=0), tick()).intent is None


def test_a_step_begins_with_no_time_and_no_word_of_anybody():
    """An approval or an override is for the step at which it was given."""
    lines = (begin(), written(0, 5), tick(), tick(), act(Act.APPROVE), act(Act.ADVANCE))
    before = after(*lines)
    assert (before.dwelt_s, before.approved, before.overridden) == (120.0, True, True)

    later = after(*lines, tick(MoveKind.ADVANCE, step=1), written(1, 10))
    assert (later.dwelt_s, later.approved, later.overridden) == (0.0, False, False)


def test_what_only_accounts_for_a_change_begins_no_step():
    """The same step with another event of the flag keeps its time."""
    state = after(begin(), written(0, 5), tick(), written(0, 5, event_id=12))

    assert (state.dwelt_s, state.event_id) == (60.0, 12)


def test_a_rollback_is_for_good_when_it_is_decided_and_pending_until_it_is_written():
    """Also where the flag could not be read, so that there was nothing to write yet."""
    decided = after(begin(), written(0, 5), tick(MoveKind.ROLL_BACK))
    assert (decided.phase, decided.down_pending, decided.share) == (RolloutPhase.ROLLED_BACK, True, 5)

    done = after(begin(), written(0, 5), tick(MoveKind.ROLL_BACK), written(0, 0))
    assert (done.phase, done.down_pending, done.share) == (RolloutPhase.ROLLED_BACK, False, 0)


def test_who_only_observes_rolls_nothing_back():
    """It says what it would do, and goes on looking."""
    state = after(begin(), written(0, 5), tick(MoveKind.ROLL_BACK, mode=ControlMode.OBSERVE))

    assert (state.phase, state.down_pending) == (RolloutPhase.RUNNING, False)


@given(st.lists(st.sampled_from(list(Act)), max_size=12))
def test_nothing_a_person_does_undoes_an_end(acts: list[Act]):
    """After a rollback there is only the kill, and after that nothing; another try is another rollout."""
    over = after(begin(), written(0, 5), tick(MoveKind.ROLL_BACK), *map(act, acts))
    assert over.phase is (RolloutPhase.KILLED if Act.KILL in acts else RolloutPhase.ROLLED_BACK)

    again = after(begin(), written(0, 5), tick(MoveKind.ROLL_BACK), *map(act, acts), begin("r2"))
    assert (again.run, again.phase, again.step) == ("r2", RolloutPhase.RUNNING, -1)


def test_an_unkill_gives_nothing_back_but_the_flag():
    """The rollout stays killed: its share is 0, and another one begins at its first step."""
    state = after(begin(), written(0, 5), act(Act.KILL), act(Act.UNKILL))

    assert (state.phase, state.down_pending) == (RolloutPhase.KILLED, True)


@given(st.data())
def test_a_journal_that_is_read_in_parts_says_the_same(data: st.DataObject):
    """A controller may stop reading anywhere."""
    lines = list(
        numbered(
            begin(),
            tick(MoveKind.ADVANCE, step=0),
            written(0, 5),
            act(Act.PAUSE),
            tick(),
            act(Act.RESUME),
            tick(MoveKind.ADVANCE, step=1),
            written(1, 10),
            tick(MoveKind.ROLL_BACK),
            written(1, 0),
        )
    )
    cut = data.draw(st.integers(0, len(lines)))

    assert fold(lines[cut:], fold(lines[:cut])) == fold(lines)


def test_ids_of_acts_are_kept_for_as_many_as_may_wait():
    """An act that is found twice is known; the memory of them is bounded."""
    state = after(begin(), *(act(Act.PAUSE) for _ in range(KNOWN_ACTS + 5)))

    assert len(state.acts) == KNOWN_ACTS


def told(*lines: Line) -> list[tuple[str, str]]:
    state, history, found = RolloutState(), NoticeHistory(page_after_s=150.0), []
    for line in numbered(*lines):
        state = fold([line], state)
        history, notice = history.after(line, state)
        if notice is not None:
            found.append((notice.what, notice.reason))
    return found


def test_a_hold_is_news_once_and_its_end_is_too():
    """Its number of ticks makes no difference; soaking in one way or another is no news."""
    hold = tick(MoveKind.HOLD, reason="frozen")
    lines = (tick(reason="time"), tick(reason="samples"), hold, hold, hold, tick(reason="time"), tick())

    assert told(begin(), *lines) == [("holding", "frozen"), ("resolved", "frozen")]


def test_want_of_data_is_news_when_it_lasts():
    """One scrape that was missed is not."""
    gone = tick(MoveKind.HOLD, reason="no_data", no_data="down")

    assert told(begin(), tick(), gone, tick()) == []
    assert told(begin(), tick(), gone, gone, gone, gone, tick()) == [
        ("holding", "no_data"),
        ("resolved", "no_data"),
    ]


def test_moves_writes_and_acts_are_news():
    """Each with its entry's number, by which whoever gets it twice can tell."""
    lines = (tick(MoveKind.ADVANCE, step=0, reason="begin"), written(0, 5), act(Act.PAUSE))
    back = tick(MoveKind.ROLL_BACK, reason="harm")

    assert told(begin(), *lines, back) == [
        ("written", ""),
        ("act", "pause"),
        ("rolled_back", "harm"),
    ]
