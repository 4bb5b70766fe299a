"""The grammar of events. The oracle is a regular expression for each stage, not our table."""

import itertools
import re
import time
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.text.errors import IllegalEvent
from proxy.text.events import HASHED_CHARS, Event, EventType, Transcript
from proxy.text.sse import payload_of

DIGEST = sha256(b"{}").hexdigest()

LETTERS = {
    EventType.STAGE_START: "s",
    EventType.CONTENT_CHUNK: "c",
    EventType.CONTENT_REPLACE: "r",
    EventType.STAGE_COMPLETE: "k",
}
BEGUN = re.compile(r"s[cr]*(kr*)?")
FINISHED = re.compile(r"s[cr]*kr*")


def is_legal(events: list[Event]) -> bool:
    """True if a viewer may read these events, judged from the events alone."""
    if any(event.terminal for event in events[:-1]):
        return False
    stages: dict[str, str] = {}
    for event in events:
        if event.stage:
            stages[event.stage] = stages.get(event.stage, "") + LETTERS[event.type]
    done = bool(events) and events[-1].type is EventType.STREAM_DONE
    return all((FINISHED if done else BEGUN).fullmatch(said) for said in stages.values())


SAY: dict[str, Callable[[Transcript, str], Event]] = {
    "start": lambda said, stage: said.stage_start("chat", stage, index=0, total_expected=2),
    "chunk": lambda said, stage: said.chunk(stage, "wörd "),
    "replace": lambda said, stage: said.replace(stage, "other"),
    "complete": lambda said, stage: said.stage_complete(stage),
    "progress": lambda said, _: said.progress(elapsed_s=1.5, stage_index=0, total_expected=2, eta_s=9.0),
    "error": lambda said, _: said.error("x", retry_available=False, status=502),
    "done": lambda said, _: said.done(status=200, source="tap", recovered=False, sha256=DIGEST),
}
TYPES = {
    "start": EventType.STAGE_START,
    "chunk": EventType.CONTENT_CHUNK,
    "replace": EventType.CONTENT_REPLACE,
    "complete": EventType.STAGE_COMPLETE,
    "progress": EventType.PROGRESS,
    "error": EventType.ERROR,
    "done": EventType.STREAM_DONE,
}


def said_of(transcript: Transcript) -> tuple[object, ...]:
    """All that a transcript lets one see of itself."""
    stages = transcript.stages
    return (
        repr(transcript),
        transcript.ended,
        transcript.has_content,
        stages,
        [
            (transcript.shown(stage), transcript.is_open(stage), transcript.is_complete(stage))
            for stage in stages
        ],
    )


def would_be(name: str, stage: str) -> Event:
    """The event that was asked for, as far as the oracle looks at it."""
    about_the_run = name in ("progress", "error", "done")
    return Event(TYPES[name], stage="" if about_the_run else stage)


@pytest.mark.parametrize("first", SAY)
def test_an_order_is_said_if_and_only_if_it_is_legal(first: str) -> None:
    """Every sequence of five calls about one stage: what the oracle allows is said, the rest is refused."""
    for rest in itertools.product(SAY, repeat=4):
        transcript = Transcript()
        events: list[Event] = []
        for name in (first, *rest):
            attempt(transcript, events, name, "one", SAY[name])


def attempt(
    transcript: Transcript,
    events: list[Event],
    name: str,
    stage: str,
    say: Callable[[Transcript, str], Event],
) -> None:
    """Say it if the oracle allows it; else see it refused, and nothing changed."""
    if is_legal([*events, would_be(name, stage)]):
        events.append(say(transcript, stage))
        return
    before = said_of(transcript)
    with pytest.raises(IllegalEvent):
        say(transcript, stage)
    assert said_of(transcript) == before


STAGES = st.sampled_from(["one", "two", "three"])


class AnyCalls(RuleBasedStateMachine):
    """Any calls, on several stages, with any text: the events are legal and agree with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.transcript = Transcript()
        self.events: list[Event] = []

    @rule(name=st.sampled_from(sorted(SAY)), stage=STAGES)
    def say(self, name: str, stage: str) -> None:
        attempt(self.transcript, self.events, name, stage, SAY[name])

    @rule(stage=STAGES, text=st.text(min_size=1))
    def chunk(self, stage: str, text: str) -> None:
        attempt(self.transcript, self.events, "chunk", stage, lambda said, stage: said.chunk(stage, text))

    @rule(stage=STAGES, text=st.text())
    def replace(self, stage: str, text: str) -> None:
        attempt(self.transcript, self.events, "replace", stage, lambda said, stage: said.replace(stage, text))

    @invariant()
    def the_events_are_legal(self) -> None:
        assert is_legal(self.events)
        assert self.transcript.ended == any(event.terminal for event in self.events)

    @invariant()
    def who_repeats_the_events_stands_where_they_end(self) -> None:
        repeated = Transcript()
        for event in self.events:
            repeated.repeat(event)
        assert said_of(repeated) == said_of(self.transcript)

    @invariant()
    def a_viewer_reads_what_the_transcript_says(self) -> None:
        for stage, (text, chunks, digests) in self.read().items():
            assert self.transcript.shown(stage) == text
            assert chunks == list(range(len(chunks)))
            assert all(digests)

    @invariant()
    def partial_means_that_text_was_shown(self) -> None:
        assert self.transcript.has_content == any(event.content for event in self.events if event.stage)
        errors = [event for event in self.events if event.type is EventType.ERROR]
        assert all(error.metadata["partial"] == self.transcript.has_content for error in errors)

    def read(self) -> dict[str, tuple[str, list[object], list[bool]]]:
        """Stage to text, chunk indices, and whether each digest was that of the text at its time."""
        stages: dict[str, tuple[str, list[object], list[bool]]] = {}
        for event in self.events:
            text, chunks, digests = stages.get(event.stage, ("", [], []))
            if event.type is EventType.CONTENT_CHUNK:
                text += event.content
                chunks = [*chunks, event.metadata["chunk_index"]]
            if event.type is EventType.CONTENT_REPLACE:
                text = event.content
            if (digest := event.metadata.get("sha256")) and event.stage:
                digests = [*digests, digest == sha256(text.encode()).hexdigest()]
                digests += [event.metadata.get("chars", len(text)) == len(text)]
            if event.stage:
                stages[event.stage] = (text, chunks, digests)
        return stages


AnyCalls.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_no_calls_in_any_order_say_something_illegal = AnyCalls.TestCase


def opened() -> Transcript:
    transcript = Transcript()
    transcript.stage_start("reasoning", "extraction", index=1, total_expected=4)
    return transcript


def test_a_stage_start_says_its_place() -> None:
    """A viewer knows the panel, the index and how many stages to expect before any text."""
    event = Transcript().stage_start("reasoning", "extraction", index=1, total_expected=4)

    assert event == Event(
        EventType.STAGE_START, "reasoning", "extraction", metadata={"index": 1, "total_expected": 4}
    )


def test_a_chunk_says_its_number_in_its_stage() -> None:
    """Chunks are counted for each stage by itself, and go to the panel of the stage."""
    transcript = opened()
    transcript.stage_start("chat", "summary", index=2, total_expected=4)
    transcript.chunk("extraction", "a")

    first, second = transcript.chunk("summary", "b"), transcript.chunk("extraction", "c")

    assert first == Event(EventType.CONTENT_CHUNK, "chat", "summary", "b", {"chunk_index": 0})
    assert second == Event(EventType.CONTENT_CHUNK, "reasoning", "extraction", "c", {"chunk_index": 1})


def test_what_is_complete_is_proved_by_a_digest() -> None:
    """The digest is of the UTF-8 of all that was shown; characters are code points."""
    transcript = opened()
    transcript.chunk("extraction", "38.9 ")
    transcript.chunk("extraction", "°C 😀")

    event = transcript.stage_complete("extraction")

    assert event.metadata == {"sha256": sha256("38.9 °C 😀".encode()).hexdigest(), "chars": 9}
    assert (event.panel, event.content) == ("reasoning", "")


def test_text_that_replaces_is_what_is_shown_from_then_on() -> None:
    """After a replacement more text is added to the new one, and the digest is of the new one."""
    transcript = opened()
    transcript.chunk("extraction", "39")

    event = transcript.replace("extraction", "38")
    transcript.chunk("extraction", ".9")

    assert event.metadata == {"sha256": sha256(b"38").hexdigest()}
    assert transcript.shown("extraction") == "38.9"
    assert transcript.stage_complete("extraction").metadata["sha256"] == sha256(b"38.9").hexdigest()


def test_a_long_text_in_pieces_has_the_digest_of_the_whole() -> None:
    """However many pieces are hashed at a time, and whenever the text is asked for in between."""
    pieces = ["°" * size for size in (1, HASHED_CHARS - 1, 1, HASHED_CHARS, 5, 3 * HASHED_CHARS + 1, 7, 2)]
    for asked in range(1 << len(pieces)):
        transcript = Transcript()
        transcript.stage_start("chat", "summary", index=0, total_expected=1)
        for number, piece in enumerate(pieces):
            transcript.chunk("summary", piece)
            if asked >> number & 1:
                assert transcript.shown("summary") == "".join(pieces[: number + 1])

        metadata = transcript.stage_complete("summary").metadata
        text = "".join(pieces)
        assert metadata == {"sha256": sha256(text.encode()).hexdigest(), "chars": len(text)}


def test_a_finished_stage_can_still_be_corrected() -> None:
    """The authority may come after the stage was closed, and the authority is right."""
    transcript = opened()
    transcript.stage_complete("extraction")

    transcript.replace("extraction", "38.9")

    assert transcript.shown("extraction") == "38.9"
    assert transcript.is_complete("extraction")


def test_a_run_with_an_open_stage_cannot_be_done() -> None:
    """A run that looks complete is complete."""
    transcript = opened()

    with pytest.raises(IllegalEvent, match="stream_done while stage 'extraction' is OPEN"):
        transcript.done(status=200, source="tap", recovered=False, sha256=DIGEST)
    assert not transcript.ended


def test_an_error_may_come_at_any_time() -> None:
    """A run may break before its first word, in a stage, and after the last."""
    fresh, open_, closed = Transcript(), opened(), opened()
    closed.stage_complete("extraction")

    for transcript in (fresh, open_, closed):
        event = transcript.error("upstream_reset", retry_available=True, status=502, content="Sorry.")
        assert event.content == "Sorry."
        assert event.metadata == {
            "error_code": "upstream_reset",
            "retry_available": True,
            "partial": False,
            "status": 502,
        }


@pytest.mark.parametrize("name", SAY)
@pytest.mark.parametrize("end", ["error", "done"])
def test_nothing_is_said_after_the_end(name: str, end: str) -> None:
    """Exactly one terminal event, and it is the last."""
    transcript = Transcript()
    assert SAY[end](transcript, "").terminal

    with pytest.raises(IllegalEvent):
        SAY[name](transcript, "one")


def test_what_is_not_known_is_not_said() -> None:
    """A progress event without an estimate has no field for one."""
    transcript = Transcript()

    known = transcript.progress(elapsed_s=8.0, stage_index=1, total_expected=4, eta_s=22.5)
    unknown = transcript.progress(elapsed_s=9.0, stage_index=None, total_expected=4, eta_s=None)

    assert known.metadata == {"elapsed_s": 8.0, "stage_index": 1, "total_expected": 4, "eta_s": 22.5}
    assert unknown.metadata == {"elapsed_s": 9.0, "total_expected": 4}


def test_whole_numbers_stay_whole() -> None:
    """Beside one that is not, too: `1`, and not `1.0`, for clients that tell one from the other."""
    said = Transcript().progress(elapsed_s=8.0, stage_index=1, total_expected=4, eta_s=22.5)

    assert payload_of(said).endswith(b'{"elapsed_s":8.0,"total_expected":4,"stage_index":1,"eta_s":22.5}}')


def test_the_end_can_carry_the_batch_answer() -> None:
    """`result` is there only if the route sends it; an empty one is one."""
    bare = Transcript().done(status=200, source="tap", recovered=True, sha256=DIGEST)
    whole = Transcript().done(status=200, source="tap", recovered=True, sha256=DIGEST, result="")

    assert bare.metadata == {"status": 200, "source": "tap", "recovered": True, "sha256": DIGEST}
    assert whole.metadata == {**bare.metadata, "result": ""}


def test_an_empty_chunk_is_refused() -> None:
    """A content event has content."""
    transcript = opened()

    with pytest.raises(IllegalEvent):
        transcript.chunk("extraction", "")
    assert transcript.chunk("extraction", "a").metadata == {"chunk_index": 0}


def test_a_stage_has_a_name() -> None:
    """The empty stage is the whole run."""
    with pytest.raises(IllegalEvent):
        Transcript().stage_start("chat", "", index=0, total_expected=1)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ud83d \ude00"])
def test_text_that_has_no_utf8_is_refused(text: str) -> None:
    """A lone surrogate cannot be sent in any event, and the refusal changes nothing."""
    transcript = opened()
    before = said_of(transcript)

    says: list[Callable[[], Event]] = [
        lambda: transcript.stage_start("chat", text, index=0, total_expected=1),
        lambda: transcript.stage_start(text, "summary", index=0, total_expected=1),
        lambda: transcript.chunk("extraction", text),
        lambda: transcript.replace("extraction", text),
        lambda: transcript.error(text, retry_available=False, status=500),
        lambda: transcript.error("x", retry_available=False, status=500, content=text),
        lambda: Transcript().done(status=200, source="tap", recovered=False, sha256="", result=text),
    ]
    for say in says:
        with pytest.raises(IllegalEvent, match="surrogate"):
            say()
    assert said_of(transcript) == before


def test_a_stage_that_never_began_shows_nothing() -> None:
    """One may ask about any stage."""
    transcript = opened()

    assert transcript.shown("summary") == ""
    assert not transcript.is_open("summary")
    assert not transcript.is_complete("summary")
    assert transcript.stages == ("extraction",)
    assert repr(transcript) == "<Transcript RUNNING {extraction: OPEN}>"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_looking_at_the_text_does_not_change_it(texts: list[str]) -> None:
    """The text is the chunks', whether one looks after each of them or never."""
    looked, unlooked = opened(), opened()

    for text in texts:
        looked.chunk("extraction", text)
        looked.shown("extraction")
        unlooked.chunk("extraction", text)

    assert looked.shown("extraction") == unlooked.shown("extraction") == "".join(texts)
    assert looked.stage_complete("extraction") == unlooked.stage_complete("extraction")


def test_a_long_answer_in_words_costs_linear_time() -> None:
    """Ten times the chunks cost some ten times the time, not a hundred times."""

    def cost_s(chunks: int) -> float:
        transcript = opened()
        start = time.process_time()
        for _ in range(chunks):
            transcript.chunk("extraction", "word ")
        transcript.stage_complete("extraction")
        assert len(transcript.shown("extraction")) == 5 * chunks
        return time.process_time() - start

    short_s = min(cost_s(10_000) for _ in range(3))
    assert cost_s(100_000) < 30 * short_s + 0.1
