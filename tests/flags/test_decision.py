"""The decision on one request: the order of reasons, what a variant may change, no exceptions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flags.decision import (
    KEEPS_THE_ARMS,
    MAX_CHUNK_CHARS,
    Accept,
    Arm,
    Decision,
    FlagAnswer,
    Mode,
    Question,
    Reason,
    decide,
    generation_of,
)

ON = FlagAnswer(known=True, enabled=True)
OFF = FlagAnswer(known=True, enabled=False)
UNKNOWN = FlagAnswer(known=False, enabled=False)
CONTROL = FlagAnswer(known=True, enabled=False, control=True)
DARKLY = FlagAnswer(known=True, enabled=True, variant="dark")
ASKED = Question(
    flag="headgate.streaming",
    source="tap",
    sources=frozenset({"tap", "poll", "batch"}),
    context={"userId": "alice"},
    accept=Accept.EITHER,
)


@dataclass
class Saying:
    """Flags that give one answer, and remember who was asked about."""

    answer: Any = ON
    killed: bool = False
    stale: bool = False
    asked: list[Mapping[str, Any] | None] = field(default_factory=list)

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        self.asked.append(context)
        return self.answer


class Failing:
    """Flags that fail wherever they are touched first: `at` is the attribute that raises."""

    def __init__(self, at: str, error: Exception) -> None:
        self.at, self.error = at, error

    def _touch(self, what: str) -> bool:
        if what == self.at:
            raise self.error
        return False

    @property
    def killed(self) -> bool:
        return self._touch("killed")

    @property
    def stale(self) -> bool:
        return self._touch("stale")

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        self._touch("evaluate")
        return ON


def carrying(payload: str) -> Saying:
    return Saying(FlagAnswer(known=True, enabled=True, variant="quick", payload=payload))


questions = st.builds(
    Question,
    flag=st.text(),
    source=st.text(),
    sources=st.frozensets(st.text()),
    context=st.none() | st.dictionaries(st.text(), st.text()),
    accept=st.sampled_from(Accept),
    breaker_open=st.booleans(),
    overloaded=st.booleans(),
)
payloads = st.text() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda parts: (
        st.lists(parts) | st.dictionaries(st.sampled_from(["source", "chunk", "min", "max", "x"]), parts)
    ),
).map(json.dumps)
answers = st.builds(
    FlagAnswer,
    known=st.booleans(),
    enabled=st.booleans(),
    variant=st.text() | st.just("dark"),
    payload=payloads,
    control=st.booleans(),
) | st.sampled_from([None, "yes", FlagAnswer(True, True, "v", None), FlagAnswer(True, True, "v", [])])  # type: ignore[arg-type]
states = st.builds(Saying, answer=answers, killed=st.booleans(), stale=st.booleans()) | st.builds(
    Failing,
    at=st.sampled_from(["killed", "stale", "evaluate"]),
    error=st.sampled_from([RuntimeError(), OSError(), KeyError(), RecursionError(), MemoryError()]),
)


BY_AN_ENABLED_FLAG = (Reason.FLAG_ON, Reason.ACCEPT, Reason.VARIANT_INVALID, Reason.DARK)


@given(questions, states)
def test_every_question_has_an_answer(question, state):
    """There is always a decision, and one reason only to stream, however the flags fail."""
    decision = decide(question, state)

    assert isinstance(decision, Decision)
    assert decision.mode in (Mode.BATCH, Mode.STREAM)
    assert (decision.mode is Mode.STREAM) == (decision.reason is Reason.FLAG_ON)
    if decision.reason not in KEEPS_THE_ARMS:
        assert (decision.arm is Arm.STREAM) == (decision.reason in BY_AN_ENABLED_FLAG)
    if decision.reason in (Reason.KILLED, Reason.FLAGS_STALE, Reason.NO_IDENTITY, Reason.FLAG_ERROR):
        assert decision.arm is Arm.REST
    assert decision.source == question.source or decision.source in question.sources


STOPS = {
    Reason.KILLED: lambda question, state: (question, replace(state, killed=True)),
    Reason.FLAGS_STALE: lambda question, state: (question, replace(state, stale=True)),
    Reason.BREAKER_OPEN: lambda question, state: (replace(question, breaker_open=True), state),
    Reason.OVERLOADED: lambda question, state: (replace(question, overloaded=True), state),
    Reason.NO_IDENTITY: lambda question, state: (replace(question, context=None), state),
    Reason.FLAG_UNKNOWN: lambda question, state: (question, replace(state, answer=UNKNOWN)),
    Reason.ACCEPT: lambda question, state: (replace(question, accept=Accept.NONE), state),
}
ORDER = list(STOPS)


@given(st.sets(st.sampled_from(ORDER)))
def test_the_first_reason_in_the_order_is_given(present):
    """Kill switch, stale flags, breaker, overload, identity, flag, accept: the first that applies."""
    question, state = ASKED, Saying()
    for reason in present:
        question, state = STOPS[reason](question, state)

    decision = decide(question, state)

    assert decision.reason is min(present, key=ORDER.index, default=Reason.FLAG_ON)


@pytest.mark.parametrize("reason", [reason for reason in ORDER[:5] if reason not in KEEPS_THE_ARMS])
def test_the_flag_is_not_asked_when_the_answer_cannot_matter(reason):
    """An engine is not asked for a request that will not stream anyway, nor count for an arm."""
    question, state = STOPS[reason](ASKED, Saying())

    decide(question, state)

    assert state.asked == []


@pytest.mark.parametrize("reason", sorted(KEEPS_THE_ARMS))
@pytest.mark.parametrize(
    ("answer", "arm"), [(ON, Arm.STREAM), (CONTROL, Arm.CONTROL), (OFF, Arm.REST), (UNKNOWN, Arm.REST)]
)
def test_a_house_that_is_too_busy_leaves_everybody_in_their_arm(reason, answer, arm):
    """Else an upstream that breaks under streams would take its failures out of the comparison."""
    question, state = STOPS[reason](ASKED, Saying(answer))

    decision = decide(question, state)

    assert (decision.mode, decision.arm, decision.reason) == (Mode.BATCH, arm, reason)


def test_a_busy_house_has_no_arm_for_nobody():
    """Without an identity there is nobody to ask about."""
    state = Saying()

    decision = decide(replace(ASKED, overloaded=True, context=None), state)

    assert (decision.arm, decision.reason, state.asked) == (Arm.REST, Reason.OVERLOADED, [])


def test_the_flag_is_asked_once_and_about_the_user():
    """One evaluation a request: it is by far the dearest part of a decision."""
    state = Saying()

    decide(ASKED, state)

    assert state.asked == [{"userId": "alice"}]


@pytest.mark.parametrize(
    ("answer", "accept", "expected"),
    [
        (ON, Accept.EITHER, (Mode.STREAM, Arm.STREAM, Reason.FLAG_ON)),
        (ON, Accept.ONLY_STREAM, (Mode.STREAM, Arm.STREAM, Reason.FLAG_ON)),
        (ON, Accept.NONE, (Mode.BATCH, Arm.STREAM, Reason.ACCEPT)),
        (OFF, Accept.ONLY_STREAM, (Mode.BATCH, Arm.REST, Reason.FLAG_OFF)),
        (OFF, Accept.NONE, (Mode.BATCH, Arm.REST, Reason.FLAG_OFF)),
        (UNKNOWN, Accept.EITHER, (Mode.BATCH, Arm.REST, Reason.FLAG_UNKNOWN)),
        (CONTROL, Accept.EITHER, (Mode.BATCH, Arm.CONTROL, Reason.FLAG_OFF)),
        (CONTROL, Accept.ONLY_STREAM, (Mode.BATCH, Arm.CONTROL, Reason.FLAG_OFF)),
        (CONTROL, Accept.NONE, (Mode.BATCH, Arm.CONTROL, Reason.FLAG_OFF)),
        (DARKLY, Accept.EITHER, (Mode.BATCH, Arm.STREAM, Reason.DARK)),
    ],
)
def test_the_arm_is_the_flags_and_the_mode_is_also_the_clients(answer, accept, expected):
    """A user of the stream arm stays in it when an unchanged client asks for JSON."""
    decision = decide(replace(ASKED, accept=accept), Saying(answer))

    assert (decision.mode, decision.arm, decision.reason) == expected


@pytest.mark.parametrize("at", ["killed", "stale", "evaluate"])
def test_flags_that_fail_are_a_reason(at):
    """A failing engine costs the user the stream, never the answer."""
    decision = decide(ASKED, Failing(at, RuntimeError("engine")))

    assert decision == Decision(Mode.BATCH, Arm.REST, "tap", Reason.FLAG_ERROR)


@pytest.mark.parametrize(
    ("payload", "source", "chunk_chars"),
    [
        ("", "tap", None),
        ("{}", "tap", None),
        ('{"source": "poll"}', "poll", None),
        ('{"chunk": {"min": 5, "max": 10}}', "tap", (5, 10)),
        ('{"chunk": {"min": 1, "max": 200}, "source": "batch"}', "batch", (1, MAX_CHUNK_CHARS)),
    ],
)
@pytest.mark.parametrize("accept", Accept)
def test_a_variant_may_change_the_source_and_the_chunks(payload, source, chunk_chars, accept):
    """Ops compare ways to stream by variants; they hold for the run of an unchanged client as well."""
    decision = decide(replace(ASKED, accept=accept), carrying(payload))

    assert (decision.source, decision.chunk_chars, decision.variant) == (source, chunk_chars, "quick")


@pytest.mark.parametrize(
    "payload",
    [
        "poll",
        "null",
        "[]",
        '"poll"',
        '{"source": "native"}',
        '{"source": ""}',
        '{"source": null}',
        '{"source": ["poll"]}',
        '{"sauce": "poll"}',
        '{"chunk": null}',
        '{"chunk": 5}',
        '{"chunk": {"min": 5}}',
        '{"chunk": {"max": 5}}',
        '{"chunk": {"min": 0, "max": 5}}',
        '{"chunk": {"min": 6, "max": 5}}',
        '{"chunk": {"min": 5, "max": 201}}',
        '{"chunk": {"min": 5.0, "max": 10}}',
        '{"chunk": {"min": 5.0, "max": 10.0}}',
        '{"chunk": {"min": "5", "max": 10}}',
        '{"chunk": {"min": true, "max": 10}}',
        '{"chunk": {"min": 1, "max": true}}',
        '{"chunk": {"min": 5, "max": 10, "mean": 7}}',
        '{"source": "poll"',
        "\ud800",
        "[" * 100_000,
    ],
    ids=lambda payload: ascii(payload[:40]),
)
def test_a_variant_that_makes_no_sense_is_batch_and_says_so(payload):
    """Nothing of a broken variant is applied, the variant is named, and the user still counts for the arm."""
    decision = decide(ASKED, carrying(payload))

    assert decision == Decision(Mode.BATCH, Arm.STREAM, "tap", Reason.VARIANT_INVALID, variant="quick")


@given(payloads)
def test_no_payload_gets_past_the_bounds(payload):
    """The decision names an allowed source, and chunks within 1 to 200, whatever a payload holds."""
    decision = decide(ASKED, carrying(payload))

    least, most = decision.chunk_chars or (1, MAX_CHUNK_CHARS)
    assert decision.source in ASKED.sources
    assert 1 <= least <= most <= MAX_CHUNK_CHARS


@pytest.mark.parametrize("accept", Accept)
@pytest.mark.parametrize("answer", [ON, OFF, CONTROL, DARKLY, FlagAnswer(True, True, "quick", "broken")])
def test_a_decision_says_of_which_generation_its_arm_is(answer, accept):
    """When a share moves, the count of users by arm begins anew."""
    state = Saying(replace(answer, generation="g7"))

    assert decide(replace(ASKED, accept=accept), state).generation == "g7"
    assert decide(replace(ASKED, accept=accept, overloaded=True), state).generation == "g7"


def test_the_generation_of_a_flag_can_be_asked_for_without_anybody():
    """Of flags that fail, or are too old, there is none to be told: what was known stays."""
    state = Saying(replace(OFF, generation="g7", share=5))
    assert generation_of("f", state) == ("g7", 5)
    assert generation_of("f", replace(state, stale=True)) is None
    assert generation_of("f", Failing("evaluate", RuntimeError("engine"))) is None
