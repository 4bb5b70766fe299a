"""A viewer's stream, on its way to a client that asks for another format (`dialect=`).

It stands between the viewer and the socket, so that a viewer without one does nothing for it. An answer that
is no stream passes as it is.
"""

import time

import orjson

from proxy.http.accept import asked_dialect
from proxy.http.asgi import Message, Send
from proxy.http.headers import Headers
from proxy.runs.shared import ViewableRun
from proxy.text.events import Event, EventType
from proxy.text.sse import HEARTBEAT, Decoder
from proxy.viewers.formats import FORMATS, StreamFormat

MAX_EVENT_BYTES = 256 * 1024 * 1024
"""Of one event: a text of an answer, which the route's own bounds keep far below."""

_DONE = '{"type":"stream_done"'
"""The beginning of that event's data. The rest may be the whole answer, for which no format has a word."""


def in_format(run: ViewableRun, headers: Headers, query: bytes, send: Send) -> Send | None:
    """Return a `send` that translates a run's events, if the request asks for another format; else None.

    The viewer begins with a snapshot: clients of other formats have no cursor, and read from the beginning.
    Only who has the id of the end has all.
    """
    found = FORMATS.get(asked_dialect(headers, query) or "")
    if found is None:
        return None
    return Translation(send, found(run.id, run.route.name, int(time.time()))).send


class Translation:
    """Sends a viewer's events in another format.

    Args:
        send: of the ASGI request.
        form: for this stream alone.
    """

    def __init__(self, send: Send, form: StreamFormat) -> None:
        self._send = send
        self._format = form
        self._decoder = Decoder(max_event_bytes=MAX_EVENT_BYTES)
        self._is_stream = False

    async def send(self, message: Message) -> None:
        """A replacement for the request's own `send`."""
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            self._is_stream = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
            )
            if self._is_stream:
                message = {**message, "headers": [*headers, *self._format.headers]}
        elif self._is_stream:
            body = self._translated(message.get("body", b""))
            if not body and message.get("more_body", False):
                return
            message = {**message, "body": body}
        await self._send(message)

    def _translated(self, data: bytes) -> bytes:
        if data == HEARTBEAT:
            return data
        return b"".join(self._block(_event(said.data), said.id) for said in self._decoder.feed(data))

    def _block(self, event: Event, event_id: str) -> bytes:
        """The end alone has an id, so that EventSource, which comes back after it, is told to stay away."""
        blocks = self._format.render(event)
        if not blocks or event.type not in (EventType.STREAM_DONE, EventType.ERROR):
            return blocks
        before, gap, last = blocks[:-2].rpartition(b"\n\n")
        return b"%b%bid: %b\n%b\n\n" % (before, gap, event_id.encode(), last)


def _event(data: str) -> Event:
    if data.startswith(_DONE):
        return Event(EventType.STREAM_DONE, "", "", "", {})
    fields = orjson.loads(data)
    return Event(
        EventType(fields["type"]), fields["panel"], fields["stage"], fields["content"], fields["metadata"]
    )
