"""Snapshots for a viewer that fell behind: the text that all events together would have left."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.text.event_log import EventLog, LogEntry
from proxy.text.events import Transcript
from proxy.text.sse import Decoder
from proxy.viewers.catch_up import merged, snapshot

STAGES = ("extraction", "summary", "diagnosis")
TEXT = st.sampled_from(["a", "word ", "38.9 °C ", "\n\n", "🫁", "\u2028"])


class Screen:
    """The screen in front of a reader."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.complete: set[str] = set()
        self.ended = False
        self.cursor = ""

    def read(self, wire: bytes) -> None:
        for event in Decoder(max_event_bytes=1 << 24).feed(wire):
            self.cursor = event.id
            said = json.loads(event.data)
            stage = said["stage"]
            match said["type"]:
                case "stage_start":
                    assert stage not in self.texts
                    self.texts[stage] = ""
                case "content_chunk":
                    assert stage not in self.complete
                    self.texts[stage] += said["content"]
                case "content_replace":
                    self.texts[stage] = said["content"]
                case "stage_complete":
                    assert stage not in self.complete
                    self.complete.add(stage)
                case "stream_done" | "error":
                    self.ended = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Screen) and vars(self) == vars(other)


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    """Any legal run."""
    log, transcript = EventLog("run", 1000), Transcript()
    for _ in range(draw(st.integers(1, 25))):
        stage = draw(st.sampled_from(STAGES))
        moves = ["progress"]
        if stage not in transcript.stages:
            moves.append("start")
        elif transcript.is_open(stage):
            moves += ["chunk", "chunk", "chunk", "replace", "complete"]
        else:
            moves.append("replace")
        match draw(st.sampled_from(moves)):
            case "progress":
                event = transcript.progress(elapsed_s=1, stage_index=None, total_expected=3, eta_s=None)
            case "start":
                event = transcript.stage_start("chat", stage, index=0, total_expected=3)
            case "chunk":
                event = transcript.chunk(stage, draw(TEXT))
            case "replace":
                event = transcript.replace(stage, draw(TEXT))
            case _:
                event = transcript.stage_complete(stage)
        log.append(event, 0.0)
    if draw(st.booleans()):
        log.append(transcript.error("reset", retry_available=True, status=502), 0.0)
    return log


def wire(entries: "list[LogEntry] | tuple[LogEntry, ...]") -> bytes:
    return b"".join(entry.wire for entry in entries)


def after_reading(*wires: bytes) -> Screen:
    screen = Screen()
    for data in wires:
        screen.read(data)
    return screen


@given(logs(), st.data())
def test_merged_events_leave_the_same_text_and_the_same_cursor(log: EventLog, data: st.DataObject) -> None:
    """From wherever a viewer stands."""
    entries = list(log.up_to(len(log)))
    at = data.draw(st.integers(0, len(entries)))

    shown = after_reading(wire(entries[:at]), merged(entries[at:]))

    assert shown == after_reading(wire(entries))


@given(logs(), st.data())
def test_a_snapshot_leaves_the_same_text(log: EventLog, data: st.DataObject) -> None:
    """Nothing that the viewer has heard is said twice; a cursor is given if anything is said."""
    entries = list(log.up_to(len(log)))
    at = data.draw(st.integers(0, len(entries)))

    shown = after_reading(wire(entries[:at]), b"".join(snapshot(entries, at)))

    expected = after_reading(wire(entries))
    assert (shown.texts, shown.complete, shown.ended) == (expected.texts, expected.complete, expected.ended)


def long_log(chunks: int) -> EventLog:
    log, transcript = EventLog("run", 1000), Transcript()
    log.append(transcript.stage_start("chat", "summary", index=0, total_expected=1), 0.0)
    for number in range(chunks):
        log.append(transcript.chunk("summary", f"word {number} "), 0.0)
    return log


def test_chunks_of_a_stage_become_one() -> None:
    """With the id and the index of the last."""
    data = merged(long_log(100).up_to(101))

    start, chunk = Decoder(max_event_bytes=1 << 20).feed(data)
    assert start.id == "run:1"
    assert chunk.id == "run:101"
    assert json.loads(chunk.data)["metadata"] == {"chunk_index": 99}


@pytest.mark.parametrize("at", [0, 1, 50])
def test_a_viewer_cut_within_a_snapshot_comes_back_to_where_it_was(at: int) -> None:
    """Only the last block has an id."""
    log, transcript = long_log(100), Transcript()
    log.append(transcript.stage_start("chat", "next", index=1, total_expected=2), 0.0)
    log.append(transcript.chunk("next", "text"), 0.0)
    data = b"".join(snapshot(log.up_to(103), at))

    blocks = data.split(b"\n\n")[:-1]
    assert [block.startswith(b"id: run:103\n") for block in blocks] == [False] * (len(blocks) - 1) + [True]


def test_a_snapshot_is_small() -> None:
    """A tenth of the events' bytes."""
    log = long_log(1000)
    assert len(b"".join(snapshot(log.up_to(1001), 0))) < len(wire(list(log.up_to(1001)))) / 10
