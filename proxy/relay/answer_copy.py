"""A bounded copy of a relayed answer, to be read when the answer has gone out. It changes no byte."""

import zlib
from io import BytesIO
from typing import Final

from proxy.downstream.bodies import ByteReservation
from proxy.http.asgi import ANSWER, Message, Scope, Send, WholeAnswer
from proxy.http.headers import Headers, announces_no_body
from proxy.turns import STEP_BYTES, Turns

CODINGS: Final = frozenset({b"gzip", b"deflate"})
"""Content codings that can be undone here."""


class AnswerCopy:
    """A `send` that keeps a copy of the body, up to `max_bytes`, and while `reservation` has room."""

    def __init__(self, send: Send, max_bytes: int, reservation: ByteReservation | None = None) -> None:
        self._send = send
        self._answer: WholeAnswer | None = None
        self._max_bytes = max_bytes
        self._reservation = reservation
        self._kept = bytearray()
        self._coding = b""
        self._is_over = False
        self._announces_no_body = False

    def scope(self, scope: Scope) -> Scope:
        """The request's scope for the relay, so that an answer in one write is copied, too."""
        self._answer = scope.get(ANSWER)
        return scope if self._answer is None else {**scope, ANSWER: self._send_whole}

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
        else:
            self._keep(message["body"])
        await self._send(message)

    def _send_whole(self, status: int, reason: bytes, headers: Headers, body: bytes) -> bool:
        assert self._answer is not None
        if not self._answer(status, reason, headers, body):
            return False  # it comes in messages then
        self._begin(status, headers)
        self._keep(body)
        return True

    def _begin(self, status: int, headers: Headers) -> None:
        self._coding = coding_of(headers)
        self._announces_no_body = announces_no_body(status, headers)

    def _keep(self, body: bytes) -> None:
        if self._is_over:
            return
        fits = len(self._kept) + len(body) <= self._max_bytes
        if fits and (self._reservation is None or self._reservation.take(len(body))):
            self._kept += body
            return
        self._is_over = True  # a part of a body is of no use
        self._kept.clear()
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


def coding_of(headers: Headers) -> bytes:
    """The content coding of an answer; "" if there is none."""
    value = next((value for name, value in headers if name == b"content-encoding"), b"")
    return b"" if value.lower() == b"identity" else value.strip().lower()
