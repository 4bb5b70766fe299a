"""Dark mode: tokens are taken, timed and compared with the answer, and nobody sees them.

The answer is relayed untouched, as if nothing were beside it: nothing here can change or delay a byte of it.
"""

import asyncio
import logging
import zlib
from collections.abc import Mapping
from typing import Final

from flags.decision import Arm
from proxy.headers import Headers
from proxy.metrics import RouteMetrics
from proxy.relay import Message, Outcome, Passage, Send
from proxy.routes import Route
from proxy.sections import MalformedBody, Parity, Section, compare, extract, parse

logger = logging.getLogger("headgate.dark")

SOURCE: Final = "tap"
"""The one source that needs no call beside the user's own."""

CODINGS: Final = frozenset({b"gzip", b"deflate"})
"""Of an answer that can be read all the same."""


class DarkRun:
    """What a run would have shown of a relayed request; takes a tap's text in its place."""

    def __init__(self, route: Route, metrics: RouteMetrics) -> None:
        self._route = route
        self._metrics = metrics
        self._texts: dict[str, list[str]] = {}
        self._room = int(route.settings.max_answer)
        """Characters of text that may still be kept."""
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_content_s: float | None = None

    def stream(self, section: Section, piece: str) -> None:
        self._room -= len(piece)
        if self._room < 0:
            return
        if self._first_content_s is None:
            self._first_content_s = self._loop.time() - self._started_at
        self._texts.setdefault(section.stage, []).append(piece)

    def finish(self, section: Section) -> None:
        """A text is whole: nothing to do before the answer is here."""

    def withdraw(self, section: Section) -> None:
        self._texts.pop(section.stage, None)

    def settle(self, passage: Passage, copy: "Copy") -> None:
        """The answer has gone out: compare, and count."""
        took_s = self._loop.time() - self._started_at
        authority = self._authority(passage, copy)
        if authority is None:
            return
        for section in self._route.sections:
            shown = self._texts.get(section.stage)
            text = authority.get(section.stage)
            parity, _ = compare("".join(shown) if shown is not None else None, text)
            self._metrics.parity[Parity.MISSING if text is None else parity].inc()
        if self._first_content_s is None:
            logger.warning("no model call came to the model port", extra={"route": self._route.name})
        else:
            self._metrics.first_content[SOURCE].observe(self._first_content_s)
            self._metrics.perceived_wait[SOURCE].observe(self._first_content_s / took_s)
        outcome = "complete" if self._first_content_s is not None else "fell_back"
        self._metrics.runs[Arm.STREAM.value, SOURCE, outcome].inc()

    def _authority(self, passage: Passage, copy: "Copy") -> Mapping[str, str] | None:
        """The texts of the answer; None: it has none that could have been streamed, or none that was kept."""
        if passage.outcome is not Outcome.COMPLETE or not 200 <= passage.status < 300:
            return None
        body = copy.body()
        try:
            return None if body is None else extract(parse(body), self._route.sections)
        except MalformedBody:
            return None


class Copy:
    """A `send` that keeps a copy of the body that goes out, within its bound."""

    def __init__(self, send: Send, max_bytes: int) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._kept = bytearray()
        self._coding = b""
        self._is_over = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._coding = _coding(message["headers"])
        elif len(self._kept) + len(message["body"]) <= self._max_bytes:
            self._kept += message["body"]
        else:
            self._is_over = True
        await self._send(message)

    def body(self) -> bytes | None:
        """What has gone out, decoded; None if it was too long or cannot be read."""
        if self._is_over:
            return None
        if not self._coding:
            return bytes(self._kept)
        if self._coding not in CODINGS:
            return None
        decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header
        try:
            decoded = decoder.decompress(bytes(self._kept), self._max_bytes)
        except zlib.error:
            return None
        return decoded if decoder.eof else None


def _coding(headers: Headers) -> bytes:
    value = next((value for name, value in headers if name == b"content-encoding"), b"")
    return b"" if value.lower() == b"identity" else value.strip().lower()
