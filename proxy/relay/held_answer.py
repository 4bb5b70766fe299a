"""A JSON answer that is held back on its way through the relay, to be sent as events instead.

Only for a client that accepts nothing but events. Any other answer, above all a stream of the upstream's own,
passes as it comes.
"""

from proxy.downstream.bodies import ByteReservation
from proxy.http.headers import BODILESS_STATUS, Headers, is_json
from proxy.relay.answer_copy import CODINGS, coding_of, decoded_in_turns
from proxy.relay.sinks import PassingSink, Sink
from proxy.upstream.client import Answer


class HeldAnswer(PassingSink):
    """Holds a JSON answer back."""

    def __init__(self, to: Sink, max_bytes: int, reservation: ByteReservation) -> None:
        super().__init__(to)
        self._max_bytes = max_bytes
        self._reservation = reservation
        self._head: tuple[int, bytes, Headers] | None = None
        self._kept = bytearray()

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        if _can_be_events(status, headers):
            self._head = status, reason, headers
            self.answer_more(body, last=last)
        else:
            super().answer(status, reason, headers, body, last=last)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        if self._head is None:
            super().answer_more(body, last=last)
            return
        self._kept += body
        if len(self._kept) > self._max_bytes or not self._reservation.take(len(body)):
            self._release(last=last)

    def refuse(self, status: int, detail: str, *, close: bool = False) -> None:
        """A problem; of an answer that is held nobody has seen anything."""
        self._head = None
        super().refuse(status, detail, close=close)

    def cut(self) -> None:
        """Nothing, if the answer is held: a problem can still be sent."""
        if self._head is None:
            super().cut()

    def _release(self, *, last: bool) -> None:
        """Send the answer as it came: it is too long to be held, or there is no room."""
        head, self._head = self._head, None
        assert head is not None, "it is held"
        super().answer(*head, bytes(self._kept), last=last)
        self._kept.clear()
        self._reservation.close()

    @property
    def holds(self) -> bool:
        """True if a JSON answer is held, and nothing was sent to the client."""
        return self._head is not None

    async def whole(self) -> Answer | None:
        """The held answer, whole. None: it cannot be decoded, and has gone out as it came."""
        assert self._head is not None, "it is held"
        status, _, headers = self._head
        body = await decoded_in_turns(
            bytes(self._kept), coding_of(headers), self._max_bytes, self._reservation
        )
        if body is None:
            self._release(last=True)
            return None
        plain = [(name, value) for name, value in headers if name not in _OF_THE_CODED_BODY]
        return Answer(status, [*plain, (b"content-length", b"%d" % len(body))], body)


_OF_THE_CODED_BODY = frozenset({b"content-encoding", b"content-length"})


class KeptBody:
    """A copy of a request's body, up to `max_bytes` and while there is room."""

    def __init__(self, max_bytes: int, reservation: ByteReservation) -> None:
        self._room = max_bytes
        self._reservation = reservation
        self._kept = bytearray()

    def add(self, body: bytes) -> None:
        self._room -= len(body)
        if self._room >= 0 and not self._reservation.take(len(body)):
            self._room = -1
        if self._room >= 0:
            self._kept += body

    @property
    def body(self) -> bytes | None:
        """The whole body; None: it was too long, or there was no room."""
        return bytes(self._kept) if self._room >= 0 else None


def _can_be_events(status: int, headers: Headers) -> bool:
    coding = coding_of(headers)
    has_body = 200 <= status < 300 and status not in BODILESS_STATUS
    return has_body and is_json(headers) and (not coding or coding in CODINGS)
