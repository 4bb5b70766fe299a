"""A copy of an answer that is relayed, to be read when it has gone out. Within a bound; changes no byte."""

import zlib
from typing import Final

from proxy.downstream.bodies import ByteReservation
from proxy.http.asgi import ANSWER, Message, Scope, Send, WholeAnswer
from proxy.http.headers import Headers, says_it_is_empty

CODINGS: Final = frozenset({b"gzip", b"deflate"})
"""Of an answer that can be read all the same."""


class AnswerCopy:
    """A `send` that keeps a copy of the body that goes out, up to `max_bytes`, and while `hold` has room."""

    def __init__(self, send: Send, max_bytes: int, hold: ByteReservation | None = None) -> None:
        self._send = send
        self._answer: WholeAnswer | None = None
        self._max_bytes = max_bytes
        self._hold = hold
        self._kept = bytearray()
        self._coding = b""
        self._is_over = False
        self._says_it_is_empty = False

    def scope(self, scope: Scope) -> Scope:
        """The request's scope for the relay: an answer that is here whole goes past `send`, and by here."""
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
            return False  # it comes in messages
        self._begin(status, headers)
        self._keep(body)
        return True

    def _begin(self, status: int, headers: Headers) -> None:
        self._coding = coding_of(headers)
        self._says_it_is_empty = says_it_is_empty(status, headers)

    def _keep(self, body: bytes) -> None:
        if self._is_over:
            return
        fits = len(self._kept) + len(body) <= self._max_bytes
        if fits and (self._hold is None or self._hold.take(len(body))):
            self._kept += body
            return
        self._is_over = True  # what there is of it is of no use
        self._kept.clear()
        if self._hold is not None:
            self._hold.close()

    @property
    def is_empty(self) -> bool:
        """Whether it has no body, and said so."""
        return self._says_it_is_empty and not self._kept

    @property
    def is_foreign(self) -> bool:
        """Whether its content coding cannot be undone here."""
        return bool(self._coding) and self._coding not in CODINGS

    def body(self) -> bytes | None:
        """What has gone out, decoded; None if it was too long or cannot be read."""
        if self._is_over or self.is_foreign:
            return None
        return decoded(bytes(self._kept), self._coding, self._max_bytes)


def decoded(body: bytes, coding: bytes, max_bytes: int) -> bytes | None:
    """A body without its coding, "" or one of `CODINGS`; None if it is too long or cannot be read."""
    if not coding:
        return body
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header
    try:
        plain = decoder.decompress(body, max_bytes)
    except zlib.error:
        return None
    return plain if decoder.eof else None


def coding_of(headers: Headers) -> bytes:
    """The content coding of an answer; "" if there is none."""
    value = next((value for name, value in headers if name == b"content-encoding"), b"")
    return b"" if value.lower() == b"identity" else value.strip().lower()
