"""Server-sent events: objects to bytes and bytes to objects. No I/O, no clock.

Source: WHATWG HTML 9.2, https://html.spec.whatwg.org/multipage/server-sent-events.html

What is written is narrower than what is read. Eight client libraries disagree about the rest of the standard,
so we write only what all of them read: LF alone, one blank line an event, one `data` line that holds JSON,
`id` before it, and heartbeats that are comments with a single LF.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import orjson

from proxy.text.errors import EventTooLarge
from proxy.text.events import Event, EventType

HEARTBEAT: Final = b": hb\n"
"""Between events only. With a blank line after it, one client delivers an empty message and POSTs again."""

MAX_OPENINGS: Final = 1024
"""Beginnings of events' JSON that are kept: of each stage of the settings a few."""

_LEAST: Final = len(b"data: \n\n")

# JSON may escape any character, and these three end a line for `str.splitlines`, which widespread Python
# clients use to read a stream. Within JSON they can stand nowhere but in a string.
_FOREIGN_LINE_ENDS: Final = (
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
    ("\u0085".encode(), rb"\u0085"),
)


class Long(NamedTuple):
    """A long text of an event, in JSON already: `pieces` of it were made one by one by `json_text`."""

    field: str
    """The field of the event's JSON with an empty text, which marks the place of the long one."""
    pieces: list[bytes]


def json_text(piece: str) -> bytes:
    """A piece of a text as it stands between the quotes of an event's JSON."""
    return one_line(orjson.dumps(piece)[1:-1])


def encode(
    event: Event, event_id: str | None, retry_ms: int | None = None, long: Long | None = None
) -> bytes:
    """One event as one block.

    JSON escapes CR, LF and NUL, so no text can end the `data` line or the block.

    Args:
        event: what to say.
        event_id: visible ASCII, not empty; None for a block after which a client keeps the id it has.
        retry_ms: how long a client should wait before it reconnects; belongs in the first block of a stream.
        long: a text that takes too long to be encoded at once.

    Raises:
        ValueError: the id has other characters; `retry_ms` is negative; the event holds something that is not
            JSON, or a lone surrogate, which has no UTF-8.
    """
    payload = payload_of(event)
    if long is not None:
        # A quote within a text is escaped, so this stands there once.
        before, after = payload.split(b'"%b":""' % long.field.encode())
        payload = b"".join([before, b'"%b":"' % long.field.encode(), *long.pieces, b'"', after])
    if event_id is None:
        return b"data: %b\n\n" % payload
    checked_id = id_bytes(event_id)
    if retry_ms is None:
        return b"id: %b\ndata: %b\n\n" % (checked_id, payload)
    if retry_ms < 0:
        raise ValueError(f"retry is a number of milliseconds: {retry_ms}")
    return b"id: %b\nretry: %d\ndata: %b\n\n" % (checked_id, retry_ms, payload)


def decode(block: bytes) -> Event:
    """The event of a block that `encode` made."""
    fields = orjson.loads(block[block.index(b"data: ") + len(b"data: ") :])
    return Event(
        EventType(fields["type"]), fields["panel"], fields["stage"], fields["content"], fields["metadata"]
    )


def id_bytes(event_id: str) -> bytes:
    """An id that can come back in the header `Last-Event-ID`: visible ASCII. Raises `ValueError`.

    That leaves out CR and LF, which would forge a field, NUL, which makes a client ignore the id, and the
    empty id, which makes it forget the last one.
    """
    is_ascii = event_id.isascii() and event_id.isprintable()
    if not is_ascii or event_id == "" or " " in event_id:
        raise ValueError(f"not an event id: {event_id!r}")
    return event_id.encode()


def payload_of(event: Event) -> bytes:
    """An event's JSON, in one line. Raises `ValueError` as `encode` does."""
    kind, panel, stage, content, metadata = event
    try:
        payload = b'%b"content":%b,"metadata":%b}' % (
            _opening(kind, panel, stage),
            orjson.dumps(content),
            orjson.dumps(metadata),
        )
    except TypeError as exc:
        raise ValueError(f"not an event that JSON in UTF-8 can carry: {exc}") from exc
    return one_line(payload)


@lru_cache(MAX_OPENINGS)
def opening_of_chunk(panel: str, stage: str) -> bytes:
    """The JSON of a `content_chunk` of a stage, up to its text."""
    return _opening(EventType.CONTENT_CHUNK, panel, stage) + b'"content":'


@lru_cache(MAX_OPENINGS)
def _opening(kind: EventType, panel: str, stage: str) -> bytes:
    """The first three fields, which all texts of a stage have in common."""
    return orjson.dumps({"type": kind, "panel": panel, "stage": stage})[:-1] + b","


def one_line(payload: bytes) -> bytes:
    """JSON, with the characters escaped that some clients take for a line's end."""
    if payload.isascii():
        return payload
    for raw, escaped in _FOREIGN_LINE_ENDS:
        payload = payload.replace(raw, escaped)
    return payload


class ServerSentEvent(NamedTuple):
    """An event as a browser would dispatch it: `event` is the type, `id` the last event id of the stream so
    far.

    `retry` is the reconnection time in milliseconds if the stream set one since the event before.
    """

    data: str
    event: str = "message"
    id: str = ""
    retry: int | None = None


class Decoder:
    """Bytes to events, after 9.2.5 and 9.2.6. The same bytes give the same events, however they are cut.

    Args:
        max_event_bytes: the most that is held for one event: its `data` so far plus the line that is not
            finished. Comments between events are not held, so a stream of heartbeats may go on for ever.
            Over it, `feed` raises `EventTooLarge`, and from then on always.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_event",
        "_first_line",
        "_id",
        "_line",
        "_max_event_bytes",
        "_retry",
        "_too_large",
    )

    def __init__(self, *, max_event_bytes: int) -> None:
        if max_event_bytes < 1:
            raise ValueError(f"max_event_bytes is a positive number: {max_event_bytes}")
        self._max_event_bytes = max_event_bytes
        self._too_large = False
        self._first_line = True
        self._after_cr = False
        # bytearray grows by appending in place: joining per feed costs O(n²) on a line sent in drips.
        self._line = bytearray()
        self._data = bytearray()
        self._event = ""
        self._id = ""
        self._retry: int | None = None

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete; raises `EventTooLarge`."""
        events: list[ServerSentEvent] = []
        is_within = self._line or self._data or self._event or self._after_cr or self._too_large
        if not is_within and data.find(b"\r") < 0:  # `in` would first try to read a number
            data = self._take_whole(data, events)
            if not data:
                return events
        # bytes.splitlines cuts at CRLF, LF and CR and nowhere else: 9.2.5, `end-of-line`.
        for piece in self._without_split_crlf(data).splitlines(keepends=True):
            line = piece.rstrip(b"\r\n")
            self._hold(line, events)
            if len(line) < len(piece):
                self._end_line(events)
        return events

    def only(self, data: bytes) -> str | None:
        """The data of the one event that these bytes are, whole and without a name. None: nothing is taken.

        As `feed`, for a third of its cost; most models' reads are so.
        """
        is_within = self._line or self._data or self._event or self._after_cr or self._too_large
        size = len(data)
        if is_within or not _LEAST < size <= self._max_event_bytes + 2 or not data.startswith(b"data: "):
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return None
        end = len(text) - 2
        if text[6] == " " or text.find("\n") != end or text[end + 1] != "\n" or "\r" in text:
            return None
        self._first_line, self._retry = False, None
        return text[6:end]

    @property
    def held_bytes(self) -> int:
        """Bytes of an event that is not complete."""
        return len(self._line) + len(self._data)

    def end(self) -> None:
        """The stream ended. 9.2.6: "If the file ends in the middle of an event, before the final empty line,
        the incomplete event is not dispatched."
        """
        self._line.clear()
        self._forget()

    def _take_whole(self, data: bytes, events: list[ServerSentEvent]) -> bytes:
        """Take the events that stand whole at the beginning; the rest."""
        at, end, most = 0, len(data), self._max_event_bytes + 2
        while at < end and (whole := _WHOLE.match(data, at, at + most)):
            name, value = whole.groups()
            kind = _text(name) if name else "message"
            events.append(ServerSentEvent(value.decode(errors="replace"), kind, self._id, self._retry))
            self._first_line, self._retry, at = False, None, whole.end()
        return data[at:] if at < end else b""

    def _without_split_crlf(self, data: bytes) -> bytes:
        # A CR ends its line at once, so that an event never waits for a byte that may not come; an LF that
        # follows it belongs to it, even if it comes with the next read.
        if not data:
            return data
        rest = data[1:] if self._after_cr and data.startswith(b"\n") else data
        self._after_cr = data.endswith(b"\r")
        return rest

    def _hold(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._too_large or len(self._line) + len(line) + len(self._data) > self._max_event_bytes:
            self._too_large = True
            raise EventTooLarge(self._max_event_bytes, events)
        self._line += line

    def _end_line(self, events: list[ServerSentEvent]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(b"\xef\xbb\xbf")  # 9.2.5: "one leading U+FEFF BOM" may stand there
        if not line:
            self._dispatch(events)
            return
        # 9.2.6: "If the line starts with a colon: ignore the line" holds here too, as no field has that name.
        name, _, value = line.partition(b":")
        if take := _FIELDS.get(name):
            take(self, value.removeprefix(b" "))

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        # 9.2.6: "If the data buffer is an empty string, set the data buffer and the event type buffer to the
        # empty string and return." An event of one empty `data` line is not that: its buffer holds an LF.
        if self._data:
            data = _text(self._data[:-1])
            events.append(ServerSentEvent(data, self._event or "message", self._id, self._retry))
            self._retry = None
        self._forget()

    def _forget(self) -> None:
        self._data.clear()
        self._event = ""

    def _take_data(self, value: bytes) -> None:
        self._data += value
        self._data += b"\n"

    def _take_event(self, value: bytes) -> None:
        self._event = _text(value)

    def _take_id(self, value: bytes) -> None:
        # 9.2.6: "If the field value does not contain U+0000 NULL … Otherwise, ignore the field."
        if b"\0" not in value:
            self._id = _text(value)

    def _take_retry(self, value: bytes) -> None:
        # 9.2.6: "If the field value consists of only ASCII digits". Fifteen of them are 30,000 years, and
        # Python refuses to read some thousands.
        if value.isdigit() and len(value) <= 15:
            self._retry = int(value)


# What nearly each read of a model's stream is, for a fifth of what it costs to read it line by line.
_WHOLE: Final = re.compile(rb"(?:event: ?(.*+)\n)?data: ?([^ \n].*+)\n\n")

_FIELDS: Final[Mapping[bytes, Callable[[Decoder, bytes], None]]] = MappingProxyType(
    {
        b"data": Decoder._take_data,
        b"event": Decoder._take_event,
        b"id": Decoder._take_id,
        b"retry": Decoder._take_retry,
    }
)


def _text(utf8: bytes | bytearray) -> str:
    # 9.2.6: "Streams must be decoded using the UTF-8 decode algorithm", which replaces and never fails. No
    # UTF-8 sequence crosses a line end, so lines decode one by one as they do together.
    return utf8.decode(errors="replace")
