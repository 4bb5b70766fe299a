"""The events of a provider's stream: server-sent events, NDJSON with one a line, or Amazon's frames."""

from codecs import getincrementaldecoder

from proxy.http.headers import Headers
from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.aws.event_stream import EVENT_STREAM, AmazonEvents
from proxy.text.errors import EventTooLarge
from proxy.text.sse import Decoder

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""The longest event of a provider's stream; a picture comes in one event."""

SSE, NDJSON = b"text/event-stream", b"application/x-ndjson"


class StreamEvents:
    """Bytes to events.

    Args:
        media_type: of the stream.
    """

    def __init__(self, media_type: bytes) -> None:
        self._text = getincrementaldecoder("utf-8")()
        self._has_half = False
        """Whether the last bytes are the beginning of a character."""
        self._events = Decoder(max_event_bytes=MAX_EVENT_BYTES) if media_type == SSE else None
        self._frames = AmazonEvents(MAX_EVENT_BYTES) if media_type == EVENT_STREAM else None
        self._line: list[str] = []
        self._line_chars = 0

    def feed(self, data: bytes) -> list[str]:
        """The data of the events that more of a stream completes.

        Raises:
            Unfaithful: an event is too large, or is no Unicode.
        """
        if self._frames is not None:
            return self._frames.feed(data)
        try:
            if self._events is not None:
                if self._has_half or not data.isascii():
                    self._decoded(data)  # the event decoder replaces invalid UTF-8 by U+FFFD
                events = self._events.feed(data)
                return [events[0].data] if len(events) == 1 else [event.data for event in events]
            text = self._decoded(data)
        except UnicodeDecodeError:
            raise Unfaithful("a text is no Unicode") from None
        except EventTooLarge:
            raise Unfaithful("an event is too large") from None
        return self._lines(text)

    def rest(self) -> list[str]:
        """The last line of a stream that has ended, if nothing ended the line. An event of the other formats
        that has no end is none."""
        line = "".join(self._line)
        self._line, self._line_chars = [], 0
        return [line] if line.strip() else []

    def _decoded(self, data: bytes) -> str:
        if data.isascii() and not self._has_half:
            return data.decode("ascii")
        text = self._text.decode(data)
        self._has_half = bool(self._text.getstate()[0])
        return text

    def _lines(self, text: str) -> list[str]:
        first, *others = text.split("\n")
        self._line.append(first)
        self._line_chars += len(first)
        if self._line_chars > MAX_EVENT_BYTES:
            raise Unfaithful("an event is too large")
        if not others:
            return []
        lines = ["".join(self._line), *others[:-1]]
        self._line, self._line_chars = [others[-1]], len(others[-1])
        return [line for line in lines if line.strip()]


def is_stream(headers: Headers, media_type: bytes) -> bool:
    """True if an answer is a stream of this type that can be read here."""
    return media_type_of(headers) == media_type and is_readable(headers)


def is_readable(headers: Headers) -> bool:
    """True if a body is not compressed; no compression was asked for."""
    return dict(headers).get(b"content-encoding", b"identity").strip().lower() == b"identity"


def media_type_of(headers: Headers) -> bytes:
    return dict(headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
