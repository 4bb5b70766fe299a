"""The texts of a run's sections, and the events that show them.

The transcript makes each event, so that their order is always legal. A text is shown while it is made, or
whole; in the end it is made equal to its authority. Where a whole text comes from, and how the run ends, is
`run.py`'s.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial

from flags.decision import Decision, Mode
from proxy.observe.metrics import RouteMetrics
from proxy.runs.call import Call
from proxy.runs.capacity import AnswerBudget
from proxy.settings.routes import Route
from proxy.text.chunking import Chunker, split
from proxy.text.event_log import EventLog
from proxy.text.events import Event, Transcript
from proxy.text.live_text import LiveTexts
from proxy.text.regenerated import RegeneratedText
from proxy.text.sections import Parity, Section, compare
from proxy.text.sse import Long, decode, json_text
from proxy.turns import STEP_BYTES, in_turns

RETRY_MS = (1000, 3000)
"""Bounds of the `retry:` a stream gives, drawn per run so that clients do not all come back at once."""

MAX_SECTION_EVENTS = 2000
"""About so many chunks of one text at most; those of a text of over 20,000 characters grow."""

LIVE_STEP_BYTES = 1024
"""Live text is counted in steps of so many bytes of the log: to count a token costs as much as to log it."""

STEP_CHARS = 4096
"""Characters that are cut into words in one step."""

_NO_PARITY: Mapping[str, Parity] = {}  # one for all: most runs have none until they end


class RunTexts:
    """The texts of one run. Sources call it; viewers read `log`."""

    __slots__ = (
        "_first_content_s",
        "_had_content",
        "_has_room",
        "_last_event_at",
        "_live",
        "_live_bytes",
        "_live_chars",
        "_loop",
        "_metrics",
        "_most_live_chars",
        "_parity",
        "_regenerated",
        "_showing",
        "_transcript",
        "answer_share",
        "call",
        "decision",
        "id",
        "is_elsewhere",
        "log",
        "started_at",
    )

    def __init__(self, run_id: str, call: Call, decision: Decision, metrics: RouteMetrics) -> None:
        self.id = run_id
        self.call = call
        self.decision = decision
        self.log = EventLog(run_id, random.randint(*RETRY_MS))
        self.is_elsewhere = False
        """Whether another replica has taken the run over."""
        self._metrics = metrics
        self._transcript = Transcript()
        self._live = LiveTexts(_maker(*_chunk_chars(decision, call.route)))
        self.answer_share = AnswerBudget().share(None)
        """What the source reads of answers is counted here first, until the run's end."""
        self._live_bytes = 0
        """Of the log, as far as they are counted there."""
        self._live_chars = 0
        self._most_live_chars = int(call.route.settings.max_answer)
        self._has_room = True
        """Whether text is shown while it is made."""
        self._parity: Mapping[str, Parity] = _NO_PARITY
        """Stages whose text was made equal to its authority before the end."""
        self._regenerated: dict[str, RegeneratedText] = {}
        """Of stages that were shown by another replica: how far their texts are here."""
        self._showing: asyncio.Lock | None = None
        """See `_whole_texts`; None: no whole text has been shown."""
        self._loop = asyncio.get_running_loop()
        self._had_content = False
        """Whether its first text was another replica's, which has counted it."""
        self._first_content_s: float | None = None
        self._last_event_at = self.started_at = self._loop.time()

    @property
    def sections(self) -> Sequence[Section]:
        return self.call.route.sections

    @property
    def route(self) -> Route:
        return self.call.route

    @property
    def has_content(self) -> bool:
        return self._transcript.has_content

    @property
    def ended(self) -> bool:
        """True if the run adds no more events here."""
        return self._transcript.ended or self.is_elsewhere

    @property
    def _whole_texts(self) -> asyncio.Lock:
        """Held while a whole text is shown, which takes several turns."""
        if self._showing is None:
            self._showing = asyncio.Lock()
        return self._showing

    def _note_parity(self, stage: str, parity: Parity) -> None:
        self._parity = {**self._parity, stage: parity}

    def go_on_with(self, log: EventLog) -> None:
        """Go on with what another replica has shown."""
        self.log = log
        for entry in log.up_to(len(log)):
            self._transcript.repeat(decode(entry.wire))
        self._had_content = self._transcript.has_content
        shown = {stage: self._transcript.shown(stage) for stage in self._transcript.stages}
        self._regenerated = {stage: RegeneratedText(text) for stage, text in shown.items() if text}

    def is_complete(self, section: Section) -> bool:
        return self._transcript.is_complete(section.stage)

    def begin(self, section: Section) -> None:
        """The stage of a section has begun. The event is added once, however often this is called."""
        if not self.ended and section.stage not in self._transcript.stages:
            index = self.sections.index(section)
            self._say(
                self._transcript.stage_start(
                    section.panel, section.stage, index=index, total_expected=len(self.sections)
                )
            )

    async def show(self, section: Section, text: str) -> bool:
        """The whole text of a section is known: show it. False if it is an error sentence, which is not.

        The first whole text counts; if a later one differs, the batch answer has the last word.
        """
        if self.call.route.is_failure(text):
            return False
        async with self._whole_texts:
            if not self.ended and not self.is_complete(section):
                shown = self._transcript.shown(section.stage)
                parity, steps = self._made_equal(section, text)
                if shown:
                    self._note_parity(section.stage, parity)
                await in_turns(steps)
        return True

    def stream(self, section: Section, piece: str) -> None:
        """More of a section's text, as it is made. After the section is complete it is not shown."""
        stage, transcript = section.stage, self._transcript
        is_open = transcript.is_open(stage)
        if transcript.ended or self.is_elsewhere or (not is_open and transcript.is_complete(stage)):
            return
        self._live_chars += len(piece)
        is_to_count = self.log.size_bytes - self._live_bytes >= LIVE_STEP_BYTES
        is_over = self._live_chars > self._most_live_chars
        if (is_to_count or is_over or not self._has_room) and not self._may_stream(section):
            return
        if not is_open:
            self.begin(section)
        if self._regenerated and stage in self._regenerated:
            self._compare_with_shown(stage, piece)
        else:
            self._live.add(stage, piece, self)

    def _may_stream(self, section: Section) -> bool:
        """True if there is room for more live text. Once there is none, the batch answer has the rest."""
        if self._live_chars > self._most_live_chars:
            self._has_room = False
            return False  # the batch answer itself may not be as long
        if not section.stands_in_answer:
            return True
        more = self.log.size_bytes - self._live_bytes
        if more >= LIVE_STEP_BYTES and self._has_room:
            self._has_room = self.answer_share.take_now(more)
            self._live_bytes += more
        return self._has_room

    def _compare_with_shown(self, stage: str, piece: str) -> None:
        update = self._regenerated[stage].add(piece)
        if update is None:
            return
        del self._regenerated[stage]
        if update.replaces:
            self._note_parity(stage, Parity.REPLACED)
            self._say(self._transcript.replace(stage, update.text))
        else:
            self._live.add(stage, update.text, self)

    def finish(self, section: Section) -> None:
        """A section's text is whole, as far as its source knows."""
        if not self._has_room and section.stands_in_answer:
            return  # not all of it was shown
        if not self.ended and self._transcript.is_open(section.stage):
            if section.stage in self._regenerated:
                self._finish_regenerated(section, self._regenerated[section.stage].text)
                return
            self._live.finish(section.stage, self)
            self._say(self._transcript.stage_complete(section.stage))

    def _finish_regenerated(self, section: Section, text: str) -> None:
        if not self.route.is_failure(text):
            parity, steps = self._made_equal(section, text)
            self._note_parity(section.stage, parity)
            deque(steps, maxlen=0)  # it is in no words: what was shown is as long, or longer

    def withdraw(self, section: Section) -> None:
        """Forget what was shown of a section: the model makes it once more, from its beginning."""
        self._live.drop(section.stage)
        if section.stage in self._regenerated:
            self._regenerated[section.stage].begin_again()
        elif not self.ended and self._transcript.shown(section.stage):
            self._say(self._transcript.replace(section.stage, ""))

    def _made_equal(self, section: Section, text: str | None) -> tuple[Parity, Iterator[None]]:
        """Compare what is shown of a section with its whole text, and return the steps that make both equal
        and say that it is complete."""
        if self.ended:
            return Parity.EQUAL, iter(())
        stage = section.stage
        self._live.drop(stage)
        self._regenerated.pop(stage, None)
        parity, rest = compare(
            self._transcript.shown(stage) if stage in self._transcript.stages else None, text
        )
        return parity, self._making_equal(section, parity, text, rest)

    def _making_equal(self, section: Section, parity: Parity, text: str | None, rest: str) -> Iterator[None]:
        stage = section.stage
        self.begin(section)
        if parity is Parity.UNSHOWN or (parity is Parity.SUFFIX and not self._transcript.is_complete(stage)):
            known_at = self._loop.time()
            for content in self._chunks(rest):
                yield
                if self.ended:
                    return
                self._say(self._transcript.chunk(stage, content), known_at)
        elif parity is not Parity.EQUAL:
            yield from self._replacing(stage, text or "")
        if not (self.ended or self._transcript.is_complete(stage)):
            self._say(self._transcript.stage_complete(stage))

    def _replacing(self, stage: str, text: str) -> Iterator[None]:
        long = Long("content", [])
        yield from encoding(text, long.pieces)
        if not self.ended:
            event = self._transcript.replace(stage, text)
            self._say(event._replace(content=""), long=long)

    def _chunks(self, text: str) -> Iterable[str]:
        """The text in words; in one piece for a request that was decided batch."""
        if self.decision.mode is Mode.BATCH:
            return [text] if text else []
        _, high, _ = _chunk_chars(self.decision, self.route)
        if len(text) > high * MAX_SECTION_EVENTS:
            # Its words would hold up everybody while they are made into events.
            return split(text, len(text) // MAX_SECTION_EVENTS)
        return _words(Chunker(*_chunk_chars(self.decision, self.route)), text)

    def show_chunks(self, stage: str, chunks: Sequence[str]) -> None:
        now, transcript, log = self._loop.time(), self._transcript, self.log
        for content in chunks:
            panel, index = transcript.grow(stage, content)
            if self._first_content_s is None:
                self._note_first_content(now)
            self._last_event_at = now
            log.append_chunk(panel, stage, content, index, now)

    def _say(self, event: Event, known_at: float | None = None, long: Long | None = None) -> None:
        now = self._loop.time()
        self._last_event_at = now
        if self._first_content_s is None and self._transcript.has_content:
            self._note_first_content(now)
        self.log.append(event, now if known_at is None else known_at, long)

    def _note_first_content(self, now: float) -> None:
        if not self._had_content:
            self._first_content_s = now - self.started_at
            self._metrics.first_content[self.decision.source].observe(self._first_content_s)


def _chunk_chars(decision: Decision, route: Route) -> tuple[int, int, int]:
    """The sizes of a run's chunks, as `Chunker` has them."""
    chunk = route.settings.chunk
    low, high = decision.chunk_chars or (chunk.min, chunk.max)
    return low, high, max(chunk.max_chunk, high)


@lru_cache(maxsize=64)
def _maker(low: int, high: int, most: int) -> Callable[[], Chunker]:
    """Return a maker of chunkers, for all runs with these sizes; settings and flags say which there are."""
    return partial(Chunker, low, high, most)


def _words(chunker: Chunker, text: str) -> Iterator[str]:
    for at in range(0, len(text), STEP_CHARS):
        yield from chunker.feed(text[at : at + STEP_CHARS])
    yield from chunker.flush()


def encoding(text: str, pieces: list[bytes]) -> Iterator[None]:
    """Make a text's JSON in steps."""
    for at in range(0, len(text), STEP_BYTES):
        pieces.append(json_text(text[at : at + STEP_BYTES]))
        yield
