"""Bytes to events and back. The same bytes give the same events, however they are cut."""

import contextlib
import time
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.text.errors import EventTooLarge
from proxy.text.events import Event, EventType
from proxy.text.sse import HEARTBEAT, Decoder, ServerSentEvent, encode
from tests.golden import FOLDER, OURS, RETRY_MS, RUN, WILD, files, payload, wire

STREAMS = {name: wire(events) for name, events in OURS.items()}
STREAMS |= {f"wild-{name}": stream for name, (stream, _) in WILD.items()}

LIMIT = 1 << 20

nasty_text = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(
        [
            "\r",
            "\n",
            "\r\n",
            "\0",
            "\n\nevent: x\n",
            "data: ",
            "id: 1",
            ":",
            " ",
            "\u2028",
            "\x85",
            "\ufeff",
            "é",
            "😀",
        ]
    )
).map("".join)


def decoded(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = Decoder(max_event_bytes=LIMIT)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    decoder.end()
    return events


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


# What is written


def test_an_event_is_written_as_one_block() -> None:
    """Id, data, blank line; line feeds only; UTF-8 as it is."""
    event = Event(EventType.CONTENT_CHUNK, "chat", "summary", "38.9 °C\n", {"chunk_index": 3})

    assert (
        encode(event, "run:7")
        == (
            "id: run:7\n"
            'data: {"type":"content_chunk","panel":"chat","stage":"summary","content":"38.9 °C\\n",'
            '"metadata":{"chunk_index":3}}\n'
            "\n"
        ).encode()
    )


def test_the_first_event_may_carry_the_retry() -> None:
    """The reconnection time stands inside the block, so that no block is without data."""
    event = Event(EventType.PROGRESS)

    assert encode(event, "run:1", 2500).startswith(b"id: run:1\nretry: 2500\ndata: {")
    assert decoded(encode(event, "run:1", 0))[0].retry == 0


def test_a_heartbeat_is_one_comment_line() -> None:
    """A blank line after it would be an empty message to some clients."""
    assert HEARTBEAT == b": hb\n"
    assert decoded(HEARTBEAT * 1000) == []


@pytest.mark.parametrize("bad", ["", "a\nb", "a\r", "a\0", "a b", "é", "\ud800", "a\x7f", "a\u2028"])
def test_an_id_that_could_forge_a_field_is_refused(bad: str) -> None:
    """An id is what a header can bring back: visible ASCII, and not empty."""
    with pytest.raises(ValueError, match="not an event id"):
        encode(Event(EventType.PROGRESS), bad)


def test_a_negative_retry_is_refused() -> None:
    """Clients read digits only."""
    with pytest.raises(ValueError, match="retry"):
        encode(Event(EventType.PROGRESS), "a", -1)


@pytest.mark.parametrize(
    "event",
    [
        Event(EventType.CONTENT_CHUNK, content="\ud800"),
        Event(EventType.STAGE_START, stage="\udfff"),
        Event(EventType.STREAM_DONE, metadata={"result": "\ud83d"}),
        Event(EventType.PROGRESS, metadata={"elapsed_s": object()}),
    ],
    ids=["content", "stage", "metadata", "no-json"],
)
def test_what_json_in_utf8_cannot_carry_is_refused(event: Event) -> None:
    """A lone surrogate has no UTF-8; it is refused, not replaced."""
    with pytest.raises(ValueError, match="not an event that JSON"):
        encode(event, "a")


@settings(max_examples=300, deadline=None)
@given(panel=nasty_text, stage=nasty_text, content=nasty_text, key=nasty_text, value=nasty_text)
def test_no_text_can_forge_an_event(panel: str, stage: str, content: str, key: str, value: str) -> None:
    """One event goes out, one comes in, and its payload is intact, whatever a model says."""
    event = Event(EventType.CONTENT_CHUNK, panel, stage, content, {key: value})

    block = encode(event, "run:1", 1000)

    assert block.count(b"\n") == 4
    assert not set(block) & set(b"\r\0")
    assert len(block.decode().splitlines()) == 4
    (read,) = decoded(block)
    assert orjson.loads(read.data) == payload(event)
    assert (read.event, read.id, read.retry) == ("message", "run:1", 1000)


@pytest.mark.parametrize("name", OURS)
def test_what_is_written_can_be_read(name: str) -> None:
    """Every golden stream of ours, read by our decoder, is the events that were written."""
    events = decoded(STREAMS[name])

    assert [orjson.loads(event.data) for event in events] == [payload(event) for event in OURS[name]]
    assert [event.id for event in events] == [f"{RUN}:{seq}" for seq in range(1, len(events) + 1)]
    assert [event.retry for event in events] == [RETRY_MS] + [None] * (len(events) - 1)


def test_the_golden_files_are_what_we_write() -> None:
    """The wire is a contract: a change of it is a change of these files, made on purpose."""
    written = {
        path.name: path.read_bytes() for path in FOLDER.glob("*.*") if path.suffix in (".sse", ".json")
    }

    assert written == files()


# What is read


@pytest.mark.parametrize("name", WILD)
def test_a_stream_is_read_as_the_standard_says(name: str) -> None:
    """The examples of the standard, and the places where decoders go wrong."""
    stream, expected = WILD[name]

    assert decoded(stream) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_anywhere_is_the_same_stream(name: str) -> None:
    """Cut in two at every place: inside UTF-8, between CR and LF, inside the mark, inside a field."""
    stream = STREAMS[name]
    whole = decoded(stream)

    for at in range(len(stream) + 1):
        assert decoded(stream[:at], stream[at:]) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_drips_is_the_same_stream(name: str) -> None:
    """Byte by byte, also with empty reads between."""
    stream = STREAMS[name]
    drops = [stream[at : at + 1] for at in range(len(stream))]

    assert decoded(*drops) == decoded(stream)
    assert decoded(*[piece for drop in drops for piece in (drop, b"")]) == decoded(stream)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"\r", b"\n", b"data", b":", b" ", b"a", b"id", b"event", b"retry", b"1", b"\0"])
        | st.sampled_from([b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xf0\x9f\x98\x80", b"\x9f", b"\xe2\x80\xa8"])
        | st.sampled_from([b"data: x\n\n", b"data\r\n\r\n", b"id: 7\r"])
    ).map(b"".join),
    st.lists(st.integers(0, 1000)),
)
def test_any_bytes_cut_anywhere_give_the_same_events(stream: bytes, places: list[int]) -> None:
    """Also bytes that nobody would write."""
    assert decoded(*cut(stream, places)) == decoded(stream)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"data: x\n\n", b"data: ", b"x", b" ", b"\n", b"\r", b":", b"event: e\n", b"id: 7\n"]
        )
        | st.sampled_from([b"retry: 5\n", b"\xef\xbb\xbf", b"\xe2\x82", "é\u2028".encode(), b"\0"])
    ).map(b"".join),
    st.sampled_from([b"", b"data: ", b"data: y"]),
    st.lists(st.sampled_from([b"x", b" ", b"\r", b"\n", b"\xe2", "é".encode()]), max_size=5).map(b"".join),
    st.sampled_from([b"\n\n", b"\n", b"\r\n\r\n", b"\r\r", b"\n\r"]),
)
def test_an_event_that_is_read_alone_is_the_same_event(
    before: bytes, field: bytes, text: bytes, end: bytes
) -> None:
    """From wherever the stream is; what is not taken alone `feed` reads, as if nothing had been asked."""
    one, other = Decoder(max_event_bytes=12), Decoder(max_event_bytes=12)
    for decoder in (one, other):
        with contextlib.suppress(EventTooLarge):
            decoder.feed(before)
    data = field + text + end
    said = one.only(data)

    results = [attempt(other, data), [said] if said is not None else attempt(one, data)]
    assert results[0] == results[1]
    rest = b"\nretry: 9\ndata: z\n\ndata: w\n\n"
    if said is None:
        assert attempt(one, rest) == attempt(other, rest)
    elif results[0] is not None:
        assert one.feed(rest) == other.feed(rest)


def attempt(decoder: Decoder, data: bytes) -> list[str] | None:
    """The data of the events that these bytes complete; None: they are too large."""
    try:
        return [event.data for event in decoder.feed(data)]
    except EventTooLarge:
        return None


def test_a_plain_event_is_read_alone() -> None:
    """As nearly each read of a model's stream is one: else it would be read as slowly as the others."""
    decoder = Decoder(max_event_bytes=LIMIT)
    assert decoder.only('data: {"é": 1}\n\n'.encode()) == '{"é": 1}'
    assert decoder.only(b"data: b\n\n") == "b"


def test_an_event_is_given_as_soon_as_it_ends() -> None:
    """A blank line ends an event; nothing that may follow it is waited for, not even the LF of a CRLF."""
    decoder = Decoder(max_event_bytes=LIMIT)

    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == [ServerSentEvent("a")]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: b\n\n") == [ServerSentEvent("b")]


# What is held


@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 100, b": " + b"x" * 100, b"x" * 100, b"data: xxxxxxxx\n" * 8, b"data\n" * 80],
    ids=["line", "comment", "field", "lines", "empty-lines"],
)
def test_an_event_over_the_limit_is_refused(stream: bytes) -> None:
    """A line, a comment or an event without end does not fill the memory, however it is cut."""
    for size in (1, 7, 1000):
        decoder = Decoder(max_event_bytes=64)
        with pytest.raises(EventTooLarge, match="64 bytes"):
            for start in range(0, len(stream), size):
                decoder.feed(stream[start : start + size])
        with pytest.raises(EventTooLarge):
            decoder.feed(b"\n\ndata: a\n\n")


def test_an_event_of_exactly_the_limit_is_read() -> None:
    """The limit counts the bytes of the line with its field name."""
    assert Decoder(max_event_bytes=10).feed(b"data: 4567\n\n") == [ServerSentEvent("4567")]
    with pytest.raises(EventTooLarge):
        Decoder(max_event_bytes=9).feed(b"data: 4567\n\n")


def test_what_came_before_an_event_over_the_limit_is_not_lost() -> None:
    """The events that were complete stand in the exception, so no cut changes what a viewer gets."""
    decoder = Decoder(max_event_bytes=32)

    with pytest.raises(EventTooLarge) as caught:
        decoder.feed(b"data: a\n\ndata: b\n\ndata: " + b"x" * 100)
    assert caught.value.events == [ServerSentEvent("a"), ServerSentEvent("b")]


def test_a_stream_may_be_longer_than_the_limit() -> None:
    """The limit is of one event: heartbeats, comments, fields and events may go on for ever."""
    decoder = Decoder(max_event_bytes=64)

    events = [event for _ in range(500) for event in decoder.feed(b": hb\n\nid: 1\nretry: 2\ndata: a\n\n")]
    assert len(events) == 500


def test_a_limit_is_positive() -> None:
    """A decoder that may hold nothing could read nothing."""
    with pytest.raises(ValueError, match="positive"):
        Decoder(max_event_bytes=0)


def cost_s(stream: bytes, size: int) -> float:
    decoder = Decoder(max_event_bytes=1 << 24)
    start = time.process_time()
    for at in range(0, len(stream), size):
        decoder.feed(stream[at : at + size])
    return time.process_time() - start


@pytest.mark.parametrize(
    ("unit", "size"),
    [(b"x", 4), (b"data: \n", 4096), (b"data: a\n\n", 4096), (b":\n", 4096)],
    ids=["line", "data-lines", "events", "comments"],
)
def test_reading_costs_linear_time(unit: bytes, size: int) -> None:
    """Eight times the bytes cost some eight times the time, not sixty-four times."""
    short = b"data: " + unit * ((1 << 17) // len(unit))
    long = b"data: " + unit * ((1 << 20) // len(unit))

    assert cost_s(long, size) < 24 * min(cost_s(short, size) for _ in range(3)) + 0.1


def test_ten_megabytes_in_one_line_are_read_in_seconds() -> None:
    """One line of 10 MB in pieces of 64 bytes; at O(n²) it would take minutes."""
    stream = b"data: " + b"x" * 10_000_000 + b"\n\n"

    assert cost_s(stream, 64) < 5
