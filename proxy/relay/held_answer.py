"""A JSON answer that is held back on its way through the relay, to be sent as events instead.

Only for a client that accepts nothing but events. Any other answer, above all a stream of the upstream's own,
passes as it comes.
"""

from proxy.downstream.bodies import ByteReservation
from proxy.http.asgi import ANSWER, Message, Receive, Scope, Send
from proxy.http.headers import BODILESS_STATUS, Headers, is_json
from proxy.relay.answer_copy import CODINGS, coding_of, decoded_in_turns
from proxy.upstream.client import Answer


class HeldAnswer:
    """A `send` for the relay that holds a JSON answer back."""

    def __init__(self, send: Send, max_bytes: int, reservation: ByteReservation) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._reservation = reservation
        self._start: Message | None = None
        self._kept = bytearray()

    def scope(self, scope: Scope) -> Scope:
        """The request's scope for the relay, so that every answer comes in messages."""
        return {name: value for name, value in scope.items() if name != ANSWER}

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _can_be_events(message["status"], message["headers"]):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._kept += message["body"]
            if len(self._kept) > self._max_bytes or not self._reservation.take(len(message["body"])):
                await self._release(more=message["more_body"])

    async def _release(self, *, more: bool) -> None:
        """Send the answer as it came: it is too long to be held, or there is no room."""
        start, self._start = self._start, None
        assert start is not None, "it is held"
        await self._send(start)
        await self._send({"type": "http.response.body", "body": bytes(self._kept), "more_body": more})
        self._kept.clear()
        self._reservation.close()

    @property
    def holds(self) -> bool:
        """True if a JSON answer is held, and nothing was sent to the client."""
        return self._start is not None

    async def answer(self) -> Answer | None:
        """The held answer, whole. None: it cannot be decoded, and has gone out as it came."""
        assert self._start is not None, "it is held"
        headers: Headers = self._start["headers"]
        body = await decoded_in_turns(
            bytes(self._kept), coding_of(headers), self._max_bytes, self._reservation
        )
        if body is None:
            await self._release(more=False)
            return None
        plain = [(name, value) for name, value in headers if name not in _OF_THE_CODED_BODY]
        return Answer(self._start["status"], [*plain, (b"content-length", b"%d" % len(body))], body)


_OF_THE_CODED_BODY = frozenset({b"content-encoding", b"content-length"})


class KeptBody:
    """A `receive` that keeps a copy of a request's body, up to `max_bytes` and while there is room."""

    def __init__(self, receive: Receive, max_bytes: int, reservation: ByteReservation) -> None:
        self._receive = receive
        self._room = max_bytes
        self._reservation = reservation
        self._kept = bytearray()

    async def __call__(self) -> Message:
        message = await self._receive()
        body = message.get("body", b"")
        self._room -= len(body)
        if self._room >= 0 and not self._reservation.take(len(body)):
            self._room = -1
        if self._room >= 0:
            self._kept += body
        return message

    @property
    def body(self) -> bytes | None:
        """The whole body; None: it was too long, or there was no room."""
        return bytes(self._kept) if self._room >= 0 else None


def _can_be_events(status: int, headers: Headers) -> bool:
    coding = coding_of(headers)
    has_body = 200 <= status < 300 and status not in BODILESS_STATUS
    return has_body and is_json(headers) and (not coding or coding in CODINGS)
