"""Dark mode: tokens are taken, timed and compared with the answer, and nobody sees them.

The answer is relayed untouched: nothing here can change or delay a byte of it.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from flags.decision import Arm
from proxy.downstream.bodies import ByteReservation
from proxy.observe.metrics import RouteMetrics
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.result import Outcome, RelayResult
from proxy.settings.routes import Route
from proxy.text.sections import MalformedBody, Parity, Section, compare
from proxy.text.slow_json import texts_of

logger = logging.getLogger("headgate.dark")

SOURCE: Final = "tap"
"""The only source that needs no call besides the user's own."""


class DarkRun:
    """The texts that a run would have shown for a relayed request; a `TapSink`."""

    def __init__(self, route: Route, metrics: RouteMetrics, reservation: ByteReservation) -> None:
        self._route = route
        self._reservation = reservation
        self._metrics = metrics
        self._texts: dict[str, list[str]] = {}
        self._room = int(route.settings.max_answer)
        """Characters of text that may still be kept."""
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._first_content_s: float | None = None
        self.why_silent = ""
        """Why the tap had no call; "" if it had one."""

    def stream(self, section: Section, piece: str) -> None:
        self._room -= len(piece)
        if self._room < 0 or not self._reservation.take(len(piece)):
            self._room = -1
            self._texts.clear()
            self._reservation.close()
            return
        if self._first_content_s is None:
            self._first_content_s = self._loop.time() - self._started_at
        self._texts.setdefault(section.stage, []).append(piece)

    def finish(self, section: Section) -> None:
        """Ignored: texts are compared once the answer is there."""

    def withdraw(self, section: Section) -> None:
        self._texts.pop(section.stage, None)

    async def settle(self, relayed: RelayResult, copy: AnswerCopy) -> None:
        """The answer has gone out: compare, and count."""
        took_s = self._loop.time() - self._started_at
        authority = await self._authority(relayed, copy)
        if authority is None or self._room < 0:
            return  # a text with a gap is another one
        for section in self._route.sections:
            if not section.stands_in_answer:
                continue
            shown = self._texts.get(section.stage)
            text = authority.get(section.stage)
            parity, _ = compare("".join(shown) if shown is not None else None, text)
            self._metrics.parity[Parity.MISSING if text is None else parity].inc()
        if self.why_silent:
            logger.warning("source lost", extra={"route": self._route.name, "why": self.why_silent})
        if self._first_content_s is not None:
            self._metrics.first_content[SOURCE].observe(self._first_content_s)
            self._metrics.perceived_wait[SOURCE].observe(self._first_content_s / took_s)
        outcome = "complete" if self._first_content_s is not None else "fell_back"
        self._metrics.runs[Arm.STREAM.value, SOURCE, outcome].inc()

    async def _authority(self, relayed: RelayResult, copy: AnswerCopy) -> Mapping[str, str] | None:
        """The texts of the answer. None: no text could have been streamed, or the copy was not kept."""
        if relayed.outcome is not Outcome.COMPLETE or not 200 <= relayed.status < 300:
            return None
        body = await copy.body()
        try:
            return None if body is None else await texts_of(body, self._route.sections)
        except MalformedBody:
            return None
