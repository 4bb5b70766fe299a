"""What a run shows: its log, the transcript that orders it, and texts while they are made.

Each event of a model's stream comes through here, so this is compiled; a run, which others refer to weakly,
cannot be. Whole texts are `texts.py`'s.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from flags.decision import Decision
from proxy.observe.metrics import RouteMetrics
from proxy.runs.capacity import AnswerBudget, AnswerShare
from proxy.settings.routes import Route
from proxy.text.chunking import Chunker
from proxy.text.event_log import EventLog
from proxy.text.events import Event, Transcript
from proxy.text.live_text import LiveTexts
from proxy.text.regenerated import RegeneratedText
from proxy.text.sections import Parity, Section
from proxy.text.sse import Long

RETRY_MS: Final = (1000, 3000)
"""Bounds of the `retry:` a stream gives, drawn per run so that clients do not all come back at once."""

LIVE_STEP_BYTES: Final = 1024
"""Live text is counted in steps of so many bytes of the log: to count a token costs as much as to log it."""

_NO_PARITY: Final[Mapping[str, Parity]] = {}  # one for all: most runs have none until they end


class ShownTexts:
    """The texts of one run, as far as they are shown.

    Args:
        run_id: of the run.
        decision: of its request.
        route: of its request.
        metrics: of that route.
    """

    __slots__ = (
        "_live_bytes",
        "_live_chars",
        "_loop",
        "_metrics",
        "_most_live_chars",
        "_sections",
        "_source",
        "answer_share",
        "first_content_s",
        "had_content",
        "has_room",
        "is_elsewhere",
        "last_event_at",
        "live",
        "log",
        "parity",
        "regenerated",
        "started_at",
        "transcript",
    )

    def __init__(self, run_id: str, decision: Decision, route: Route, metrics: RouteMetrics) -> None:
        self.log = EventLog(run_id, random.randint(*RETRY_MS))
        self.is_elsewhere = False
        """Whether another replica has taken the run over."""
        self.transcript = Transcript()
        self.live = LiveTexts(_maker(*chunk_chars(decision, route)))
        self.answer_share: AnswerShare = AnswerBudget().share(None)
        """What the source reads of answers is counted here first, until the run's end."""
        self.has_room = True
        """Whether text is shown while it is made."""
        self._live_bytes = 0
        """Of the log, as far as they are counted there."""
        self._live_chars = 0
        self._most_live_chars = int(route.settings.max_answer)
        self._sections: Sequence[Section] = route.sections
        self.parity: Mapping[str, Parity] = _NO_PARITY
        """Stages whose text was made equal to its authority before the end."""
        self.regenerated: dict[str, RegeneratedText] = {}
        """Of stages that were shown by another replica: how far their texts are here."""
        self.had_content = False
        """Whether its first text was another replica's, which has counted it."""
        self.first_content_s: float | None = None
        self._metrics = metrics
        self._source = decision.source
        self._loop = asyncio.get_running_loop()
        self.last_event_at = self.started_at = self._loop.time()

    @property
    def ended(self) -> bool:
        """True if the run adds no more events here."""
        return self.transcript.ended or self.is_elsewhere

    def note_parity(self, stage: str, parity: Parity) -> None:
        self.parity = {**self.parity, stage: parity}

    def begin(self, section: Section) -> None:
        """The stage of a section has begun. The event is added once, however often this is called."""
        if not self.ended and section.stage not in self.transcript.stages:
            index, total = self._sections.index(section), len(self._sections)
            self.say(
                self.transcript.stage_start(section.panel, section.stage, index=index, total_expected=total)
            )

    def stream(self, section: Section, piece: str) -> None:
        """More of a section's text, as it is made. After the section is complete it is not shown."""
        stage, transcript = section.stage, self.transcript
        is_open = transcript.is_open(stage)
        if transcript.ended or self.is_elsewhere or (not is_open and transcript.is_complete(stage)):
            return
        self._live_chars += len(piece)
        is_to_count = self.log.size_bytes - self._live_bytes >= LIVE_STEP_BYTES
        is_over = self._live_chars > self._most_live_chars
        if (is_to_count or is_over or not self.has_room) and not self._may_stream(section):
            return
        if not is_open:
            self.begin(section)
        if self.regenerated and stage in self.regenerated:
            self._compare_with_shown(stage, piece)
        else:
            self.show_chunks(stage, self.live.add(stage, piece, self))

    def _may_stream(self, section: Section) -> bool:
        """True if there is room for more live text. Once there is none, the batch answer has the rest."""
        if self._live_chars > self._most_live_chars:
            self.has_room = False
            return False  # the batch answer itself may not be as long
        if not section.stands_in_answer:
            return True
        more = self.log.size_bytes - self._live_bytes
        if more >= LIVE_STEP_BYTES and self.has_room:
            self.has_room = self.answer_share.take_now(more)
            self._live_bytes += more
        return self.has_room

    def _compare_with_shown(self, stage: str, piece: str) -> None:
        update = self.regenerated[stage].add(piece)
        if update is None:
            return
        del self.regenerated[stage]
        if update.replaces:
            self.note_parity(stage, Parity.REPLACED)
            self.say(self.transcript.replace(stage, update.text))
        else:
            self.show_chunks(stage, self.live.add(stage, update.text, self))

    def show_chunks(self, stage: str, chunks: list[str]) -> None:
        if not chunks:
            return
        now, transcript, log = self._loop.time(), self.transcript, self.log
        for content in chunks:
            panel, index = transcript.grow(stage, content)
            if self.first_content_s is None:
                self._note_first_content(now)
            self.last_event_at = now
            log.append_chunk(panel, stage, content, index, now)

    def say(self, event: Event, known_at: float | None = None, long: Long | None = None) -> None:
        now = self._loop.time()
        self.last_event_at = now
        if self.first_content_s is None and self.transcript.has_content:
            self._note_first_content(now)
        self.log.append(event, now if known_at is None else known_at, long)

    def _note_first_content(self, now: float) -> None:
        if not self.had_content:
            self.first_content_s = now - self.started_at
            self._metrics.first_content[self._source].observe(self.first_content_s)


def chunk_chars(decision: Decision, route: Route) -> tuple[int, int, int]:
    """The sizes of a run's chunks, as `Chunker` has them."""
    chunk = route.settings.chunk
    low, high = decision.chunk_chars or (chunk.min, chunk.max)
    return low, high, max(chunk.max_chunk, high)


@lru_cache(maxsize=64)
def _maker(low: int, high: int, most: int) -> Callable[[], Chunker]:
    """Return a maker of chunkers, for all runs with these sizes; settings and flags say which there are."""
    return partial(Chunker, low, high, most)
