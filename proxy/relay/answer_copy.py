"""A bounded copy of a relayed answer, to be read when the answer has gone out. It changes no byte."""

import zlib
from collections.abc import Awaitable
from io import BytesIO
from typing import Final

from proxy.downstream.bodies import ByteReservation
from proxy.http.asgi import Message, Send
from proxy.http.headers import Headers, announces_no_body
from proxy.relay.sinks import PassingSink, Sink
from proxy.turns import STEP_BYTES, Turns

CODINGS: Final = frozenset({b"gzip", b"deflate"})
"""Content codings that can be undone here."""

SHORT_BYTES: Final = 16 * 1024
"""An answer that is read at once, without a task."""


class AnswerCopy(PassingSink):
    """Keeps a copy of the body, up to `max_bytes`, and while `reservation` has room."""

    def __init__(self, to: Sink, max_bytes: int, reservation: ByteReservation | None = None) -> None:
        super().__init__(to)
        self._max_bytes = max_bytes
        self._reservation = reservation
        self._kept: bytes | bytearray = b""
        self._coding = b""
        self._is_over = False
        self._announces_no_body = False

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        self._begin(status, headers)
        self._keep(body)
        super().answer(status, reason, headers, body, last=last)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        self._keep(body)
        super().answer_more(body, last=last)

    def of_messages(self, send: Send) -> Send:
        """A `send` whose answer is copied, too."""

        def copying(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                self._begin(message["status"], message["headers"])
            else:
                self._keep(message["body"])
            return send(message)

        return copying

    def _begin(self, status: int, headers: Headers) -> None:
        self._coding = coding_of(headers)
        self._announces_no_body = announces_no_body(status, headers)

    def _keep(self, body: bytes) -> None:
        if self._is_over:
            return
        fits = len(self._kept) + len(body) <= self._max_bytes
        if fits and (self._reservation is None or self._reservation.take(len(body))):
            if not self._kept:
                self._kept = body  # mostly all of it, which need not be copied
            elif isinstance(self._kept, bytearray):
                self._kept += body
            else:
                self._kept = bytearray(self._kept + body)
            return
        self._is_over = True  # a part of a body is of no use
        self._kept = b""
        if self._reservation is not None:
            self._reservation.close()

    @property
    def is_empty(self) -> bool:
        """True if the answer has no body, and its head says so."""
        return self._announces_no_body and not self._kept

    @property
    def is_foreign(self) -> bool:
        """True if the content coding cannot be undone here."""
        return bool(self._coding) and self._coding not in CODINGS

    def short_body(self) -> bytes | None:
        """The body, decoded, if it has at most `SHORT_BYTES`, and there is nothing else to be said of it."""
        if self._is_over or self.is_foreign or len(self._kept) > SHORT_BYTES:
            return None
        return decoded(bytes(self._kept), self._coding, min(SHORT_BYTES, self._max_bytes))

    async def body(self) -> bytes | None:
        """The body, decoded; None if it was too long, there is no room for it, or it cannot be decoded."""
        if self._is_over or self.is_foreign:
            return None
        return await decoded_in_turns(bytes(self._kept), self._coding, self._max_bytes, self._reservation)


async def decoded_in_turns(
    body: bytes, coding: bytes, max_bytes: int, reservation: ByteReservation | None
) -> bytes | None:
    """A body without its coding, "" or one of `CODINGS`: 16 MB may come out of 15 kB.

    None: it is too long, cannot be decoded, or there is no room for it.
    """
    if not coding:
        return body
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header
    unpacked, size, turns = BytesIO(), 0, Turns()  # gives its content without a copy of all of it
    try:
        for at in range(0, len(body), STEP_BYTES):
            rest = body[at : at + STEP_BYTES]
            while piece := decoder.decompress(rest, STEP_BYTES):
                rest = decoder.unconsumed_tail
                size += len(piece)
                if size > max_bytes or (reservation is not None and not reservation.take(len(piece))):
                    return None
                unpacked.write(piece)
                await turns.breathe()
    except zlib.error:
        return None
    return unpacked.getvalue() if decoder.eof else None


def decoded(body: bytes, coding: bytes, max_bytes: int) -> bytes | None:
    """The same in one step, for a body that is short by its bound."""
    if not coding:
        return body
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header
    try:
        unpacked = decoder.decompress(body, max_bytes + 1)
    except zlib.error:
        return None
    return unpacked if decoder.eof and len(unpacked) <= max_bytes else None


def coding_of(headers: Headers) -> bytes:
    """The content coding of an answer; "" if there is none."""
    value = next((value for name, value in headers if name == b"content-encoding"), b"")
    return b"" if value.lower() == b"identity" else value.strip().lower()
