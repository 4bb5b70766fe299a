"""Amazon's framing of streams, `application/vnd.amazon.eventstream`: bytes to events as JSON.

The parser is botocore's, which checks the lengths and checksums.
"""

import struct
from collections.abc import Iterator

import orjson

from proxy.llm.assembly.dialect import Unfaithful

EVENT_STREAM = b"application/vnd.amazon.eventstream"


class AmazonEvents:
    """Bytes to events: each is an object with the event's kind, and in it what came.

    Args:
        max_bytes: of one event.
    """

    def __init__(self, max_bytes: int) -> None:
        # An extra, which settings without Amazon Bedrock do without.
        from botocore.eventstream import EventStreamBuffer, ParserError

        self._buffer = EventStreamBuffer()
        self._errors = (ParserError, struct.error, LookupError, ValueError)
        self._max_bytes = max_bytes
        self._waiting_bytes = 0

    def feed(self, data: bytes) -> list[str]:
        """The events that more of a stream completes. Raises `Unfaithful` for what is none, or too large."""
        self._waiting_bytes += len(data)
        try:
            self._buffer.add_data(data)
            return list(self._events())
        except self._errors:
            raise Unfaithful("an event's frame is broken") from None

    def _events(self) -> Iterator[str]:
        for message in self._buffer:
            self._waiting_bytes -= message.prelude.total_length
            headers = message.headers
            if headers[":message-type"] == "error":
                said = {"message": headers.get(":error-message", "")}
                yield orjson.dumps({headers[":error-code"]: said}).decode()
                continue
            kind = headers[":exception-type" if headers[":message-type"] == "exception" else ":event-type"]
            # Anything but JSON is for the assembler to refuse, as it is.
            yield f"{{{orjson.dumps(kind).decode()}:{message.payload.decode() or '{}'}}}"
        if self._waiting_bytes > self._max_bytes:
            raise Unfaithful("an event is too large")
