"""The texts of a run's sections, and the events that show them.

The transcript makes each event, so that their order is always legal. A text is shown while it is made, or
whole; in the end it is made equal to its authority. Where a whole text comes from, and how the run ends, is
`run.py`'s.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from flags.decision import Decision, Mode
from proxy.observe.metrics import RouteMetrics
from proxy.runs.call import Call
from proxy.runs.capacity import AnswerShare
from proxy.runs.shown import ShownTexts, chunk_chars
from proxy.settings.routes import Route
from proxy.text.chunking import Chunker, split
from proxy.text.event_log import EventLog
from proxy.text.regenerated import RegeneratedText
from proxy.text.sections import Parity, Section, compare
from proxy.text.sse import Long, decode, json_text
from proxy.turns import STEP_BYTES, in_turns

MAX_SECTION_EVENTS = 2000
"""About so many chunks of one text at most; those of a text of over 20,000 characters grow."""

STEP_CHARS = 4096
"""Characters that are cut into words in one step."""


class RunTexts:
    """The texts of one run. Sources call it; viewers read `log`."""

    __slots__ = (
        "_loop",
        "_metrics",
        "_showing",
        "call",
        "decision",
        "id",
        "shown",
    )

    def __init__(self, run_id: str, call: Call, decision: Decision, metrics: RouteMetrics) -> None:
        self.id = run_id
        self.call = call
        self.decision = decision
        self.shown = ShownTexts(run_id, decision, call.route, metrics)
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._showing: asyncio.Lock | None = None
        """See `_whole_texts`; None: no whole text has been shown."""

    @property
    def log(self) -> EventLog:
        return self.shown.log

    @property
    def started_at(self) -> float:
        """The loop's time."""
        return self.shown.started_at

    @property
    def answer_share(self) -> AnswerShare:
        """What the source reads of answers is counted here first, until the run's end."""
        return self.shown.answer_share

    @property
    def is_elsewhere(self) -> bool:
        """True if another replica has taken the run over."""
        return self.shown.is_elsewhere

    @property
    def sections(self) -> Sequence[Section]:
        return self.call.route.sections

    @property
    def route(self) -> Route:
        return self.call.route

    @property
    def has_content(self) -> bool:
        return self.shown.transcript.has_content

    @property
    def ended(self) -> bool:
        """True if the run adds no more events here."""
        return self.shown.ended

    @property
    def _whole_texts(self) -> asyncio.Lock:
        """Held while a whole text is shown, which takes several turns."""
        if self._showing is None:
            self._showing = asyncio.Lock()
        return self._showing

    def go_on_with(self, log: EventLog) -> None:
        """Go on with what another replica has shown."""
        shown, transcript = self.shown, self.shown.transcript
        shown.log = log
        for entry in log.up_to(len(log)):
            transcript.repeat(decode(entry.wire))
        shown.had_content = transcript.has_content
        texts = {stage: transcript.shown(stage) for stage in transcript.stages}
        shown.regenerated = {stage: RegeneratedText(text) for stage, text in texts.items() if text}

    def begin(self, section: Section) -> None:
        """The stage of a section has begun. The event is added once, however often this is called."""
        self.shown.begin(section)

    def is_complete(self, section: Section) -> bool:
        return self.shown.transcript.is_complete(section.stage)

    async def show(self, section: Section, text: str) -> bool:
        """The whole text of a section is known: show it. False if it is an error sentence, which is not.

        The first whole text counts; if a later one differs, the batch answer has the last word.
        """
        if self.call.route.is_failure(text):
            return False
        async with self._whole_texts:
            if not self.ended and not self.is_complete(section):
                shown = self.shown.transcript.shown(section.stage)
                parity, steps = self._made_equal(section, text)
                if shown:
                    self.shown.note_parity(section.stage, parity)
                await in_turns(steps)
        return True

    def stream(self, section: Section, piece: str) -> None:
        """More of a section's text, as it is made. After the section is complete it is not shown."""
        self.shown.stream(section, piece)

    def finish(self, section: Section) -> None:
        """A section's text is whole, as far as its source knows."""
        if not self.shown.has_room and section.stands_in_answer:
            return  # not all of it was shown
        if not self.ended and self.shown.transcript.is_open(section.stage):
            stage, shown = section.stage, self.shown
            if stage in shown.regenerated:
                self._finish_regenerated(section, shown.regenerated[stage].text)
                return
            shown.show_chunks(stage, shown.live.finish(stage))
            shown.say(shown.transcript.stage_complete(stage))

    def _finish_regenerated(self, section: Section, text: str) -> None:
        if not self.route.is_failure(text):
            parity, steps = self._made_equal(section, text)
            self.shown.note_parity(section.stage, parity)
            deque(steps, maxlen=0)  # it is in no words: what was shown is as long, or longer

    def withdraw(self, section: Section) -> None:
        """Forget what was shown of a section: the model makes it once more, from its beginning."""
        stage, shown = section.stage, self.shown
        shown.live.drop(stage)
        if stage in shown.regenerated:
            shown.regenerated[stage].begin_again()
        elif not self.ended and shown.transcript.shown(stage):
            shown.say(shown.transcript.replace(stage, ""))

    def _made_equal(self, section: Section, text: str | None) -> tuple[Parity, Iterator[None]]:
        """Compare what is shown of a section with its whole text, and return the steps that make both equal
        and say that it is complete."""
        if self.ended:
            return Parity.EQUAL, iter(())
        stage, transcript = section.stage, self.shown.transcript
        self.shown.live.drop(stage)
        self.shown.regenerated.pop(stage, None)
        parity, rest = compare(transcript.shown(stage) if stage in transcript.stages else None, text)
        return parity, self._making_equal(section, parity, text, rest)

    def _making_equal(self, section: Section, parity: Parity, text: str | None, rest: str) -> Iterator[None]:
        stage, shown, transcript = section.stage, self.shown, self.shown.transcript
        shown.begin(section)
        if parity is Parity.UNSHOWN or (parity is Parity.SUFFIX and not transcript.is_complete(stage)):
            known_at = self._loop.time()
            for content in self._chunks(rest):
                yield
                if self.ended:
                    return
                shown.say(transcript.chunk(stage, content), known_at)
        elif parity is not Parity.EQUAL:
            yield from self._replacing(stage, text or "")
        if not (self.ended or transcript.is_complete(stage)):
            shown.say(transcript.stage_complete(stage))

    def _replacing(self, stage: str, text: str) -> Iterator[None]:
        long = Long("content", [])
        yield from encoding(text, long.pieces)
        if not self.ended:
            event = self.shown.transcript.replace(stage, text)
            self.shown.say(event._replace(content=""), long=long)

    def _chunks(self, text: str) -> Iterable[str]:
        """The text in words; in one piece for a request that was decided batch."""
        if self.decision.mode is Mode.BATCH:
            return [text] if text else []
        _, high, _ = chunk_chars(self.decision, self.route)
        if len(text) > high * MAX_SECTION_EVENTS:
            # Its words would hold up everybody while they are made into events.
            return split(text, len(text) // MAX_SECTION_EVENTS)
        return _words(Chunker(*chunk_chars(self.decision, self.route)), text)


def _words(chunker: Chunker, text: str) -> Iterator[str]:
    for at in range(0, len(text), STEP_CHARS):
        yield from chunker.feed(text[at : at + STEP_CHARS])
    yield from chunker.flush()


def encoding(text: str, pieces: list[bytes]) -> Iterator[None]:
    """Make a text's JSON in steps."""
    for at in range(0, len(text), STEP_BYTES):
        pieces.append(json_text(text[at : at + STEP_BYTES]))
        yield
