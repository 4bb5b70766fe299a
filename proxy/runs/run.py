"""A run: one execution of one upstream request, with an append-only log of events.

It says what happens (through its transcript, so that nothing illegal can be said) and how it ended. It
asks nobody: sources tell it what they know.
"""

import asyncio
import hashlib
import logging
import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from flags.decision import Decision, Mode
from proxy.downstream.bodies import ByteReservation
from proxy.errors import Fault, UpstreamError
from proxy.http.headers import announces_no_body
from proxy.identity import Identity
from proxy.observe.labels import FaultPhase
from proxy.observe.metrics import RouteMetrics
from proxy.relay.outcomes import OF_STRANGERS
from proxy.runs.recovery import retry_available
from proxy.settings.routes import Route
from proxy.text.chunking import Chunker, split
from proxy.text.crowded import texts_of
from proxy.text.event_log import EventLog
from proxy.text.events import Event, Transcript
from proxy.text.live_text import LiveTexts
from proxy.text.regenerated import RegeneratedText
from proxy.text.sections import MalformedBody, Parity, Section, compare
from proxy.text.sse import Long, decode, json_text
from proxy.turns import STEP_BYTES, in_turns
from proxy.upstream.client import Answer, Request

logger = logging.getLogger("headgate.runs")

RETRY_MS = (1000, 3000)
"""Bounds of the `retry:` a stream gives, drawn per run so that clients do not all come back at once."""

MAX_SECTION_EVENTS = 2000
"""About so many chunks of one text at most; those of a text of over 20,000 characters grow."""

STEP_CHARS = 4096
"""Of a text that is cut into words."""

MAX_STATUS = 599
"""As in the relay: uvicorn has no status line beyond it, and RFC 9110 15 no class."""


CANCELLED = "cancelled"
SHUTDOWN = "shutdown"
"""Ends of a run that are no failures of the upstream; their `error_code` and their outcome."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has no complete answer. `code` is a `Fault`, `CANCELLED` or `SHUTDOWN`."""

    code: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Call:
    """What a run executes: the client's request, made ready for the upstream."""

    route: Route
    parameters: dict[str, str]
    request: Request
    asked_at: float | None = None
    """When its request came, by the loop's time; None: not known here, so the run's start counts."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What there is of a run that another replica began, and that this one goes on with."""

    log: EventLog
    """Goes on here, so that who reads it notices nothing."""
    generation: int
    """How often the run was taken over; at least once."""
    times_asked: int
    """How often its call was sent, as far as is known."""
    started_at: float
    """The loop's time."""
    headers_sent: bool


class Run:
    """One run. Sources and the settling call it; viewers read `log`."""

    def __init__(
        self,
        call: Call,
        decision: Decision,
        identity: Identity | None,
        metrics: RouteMetrics,
        durations: "deque[float]",
        *,
        run_id: str | None = None,
        fingerprint: str = "",
    ) -> None:
        self.id = run_id or str(uuid.uuid4())
        self.fingerprint = fingerprint
        self.call = call
        self.decision = decision
        self.identity = identity
        self.log = EventLog(self.id, random.randint(*RETRY_MS))
        self.failure: Failure | None = None
        self.answer: Answer | None = None
        """The upstream's own, whole; also one that is a failure."""
        self.headers_sent = False
        self.body_reservation: ByteReservation | None = None
        """Of its request's body, which it holds until its end."""
        self.is_watched = True
        """Whether anybody waits for it, when it ends."""
        self.is_elsewhere = False
        """Whether another replica has taken it over."""
        self.asked_before = 0
        """How often its call was sent by other replicas."""
        self.times_asked = 1
        """How often it is sent in all; of several calls, the one that is sent most."""
        self._metrics = metrics
        self._durations = durations
        self._transcript = Transcript()
        self._live = LiveTexts(_chunker(decision, call.route))
        self._live_chars = 0
        self._parity: dict[str, Parity] = {}
        """Of stages whose text was made equal to its authority before the end."""
        self._retold: dict[str, RegeneratedText] = {}
        """Of stages that were shown by another replica: how far their texts are here."""
        self._telling = asyncio.Lock()
        """Of whoever tells a whole text, which takes several turns."""
        self._loop = asyncio.get_running_loop()
        self._faults: list[tuple[Fault, FaultPhase]] = []
        self._taken_up: Continuation | None = None
        self._had_content = False
        """Whether its first text was another replica's, which has counted it."""
        self._first_content_s: float | None = None
        self._last_event_at = self.started_at = self._loop.time()
        self._ticker: asyncio.TimerHandle | None = None

    def take_up(self, beginning: Continuation) -> None:
        """Go on with a run that another replica began, before it is executed here."""
        self.log = beginning.log
        self.log.generation = beginning.generation
        self.headers_sent = beginning.headers_sent
        self.asked_before = beginning.times_asked
        self.times_asked = beginning.times_asked + 1
        self._taken_up = beginning
        for entry in self.log.up_to(len(self.log)):
            self._transcript.repeat(decode(entry.wire))
        self._had_content = self._transcript.has_content
        shown = {stage: self._transcript.shown(stage) for stage in self._transcript.stages}
        self._retold = {stage: RegeneratedText(text) for stage, text in shown.items() if text}
        # The upstream's call has broken off, whatever the reason.
        self.note(Fault.RESET)

    def begun(self) -> None:
        """It is executed from now on."""
        self._last_event_at = now = self._loop.time()
        self.started_at = now if self._taken_up is None else self._taken_up.started_at
        if self.route.settings.progress:
            self._tick()

    # What sources say.

    @property
    def sections(self) -> Sequence[Section]:
        return self.call.route.sections

    @property
    def phase(self) -> FaultPhase:
        if self._transcript.has_content:
            return FaultPhase.CONTENT
        return FaultPhase.HEADERS if self.headers_sent else FaultPhase.NOTHING

    @property
    def has_content(self) -> bool:
        return self._transcript.has_content

    @property
    def ended(self) -> bool:
        """Whether nothing more is said of it here."""
        return self._transcript.ended or self.is_elsewhere

    @property
    def size_bytes(self) -> int:
        """What keeping this run costs: its log, the client's body, and the upstream's answer."""
        answer_bytes = len(self.answer.body) if self.answer is not None else 0
        return self.log.size_bytes + len(self.call.request.body) + answer_bytes

    @property
    def route(self) -> Route:
        return self.call.route

    @property
    def source(self) -> str:
        return self.decision.source

    @property
    def target(self) -> bytes:
        return self.call.request.target

    @property
    def told(self) -> str:
        """The value of `headgate-decision`."""
        return f"{self.decision.mode};reason={self.decision.reason};source={self.decision.source}"

    @property
    def principal(self) -> str | None:
        """Whose it is; None: nobody's in particular."""
        return None if self.identity is None else self.identity.principal

    def is_complete(self, section: Section) -> bool:
        return self._transcript.is_complete(section.stage)

    def begin(self, section: Section) -> None:
        """The stage of a section has begun. Said once, however often it is called."""
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
        async with self._telling:
            if not self.ended and not self.is_complete(section):
                shown = self._transcript.shown(section.stage)
                parity, steps = self._made_equal(section, text)
                if shown:
                    self._parity[section.stage] = parity
                await in_turns(steps)
        return True

    def stream(self, section: Section, piece: str) -> None:
        """More of a section's text, as it is made. After the section is complete it is not shown."""
        if self.ended or self.is_complete(section):
            return
        self._live_chars += len(piece)
        if self._live_chars > self.route.settings.max_answer:
            return  # the batch answer itself may not be as long
        self.begin(section)
        if section.stage in self._retold:
            self._retell(section.stage, piece)
        else:
            self._live.add(section.stage, piece, self)

    def _retell(self, stage: str, piece: str) -> None:
        said = self._retold[stage].add(piece)
        if said is None:
            return
        del self._retold[stage]
        if said.replaces:
            self._parity[stage] = Parity.REPLACED
            self._say(self._transcript.replace(stage, said.text))
        else:
            self._live.add(stage, said.text, self)

    def finish(self, section: Section) -> None:
        """A section's text is whole, as far as its source knows."""
        if not self.ended and self._transcript.is_open(section.stage):
            if section.stage in self._retold:
                self._finish_retold(section, self._retold[section.stage].text)
                return
            self._live.finish(section.stage, self)
            self._say(self._transcript.stage_complete(section.stage))

    def _finish_retold(self, section: Section, text: str) -> None:
        if not self.route.is_failure(text):
            self._parity[section.stage], steps = self._made_equal(section, text)
            deque(steps, maxlen=0)  # it is in no words: what was shown is as long, or longer

    def withdraw(self, section: Section) -> None:
        """What was shown of a section does not count: it is made once more, from its beginning."""
        self._live.drop(section.stage)
        if section.stage in self._retold:
            self._retold[section.stage].begin_again()
        elif not self.ended and self._transcript.shown(section.stage):
            self._say(self._transcript.replace(section.stage, ""))

    def ask_again(self, times: int) -> None:
        """A call of it is about to be sent for the so manyth time."""
        self.times_asked = max(self.times_asked, times)
        self.log.wake()  # replicas that may have to send it, too, should know

    def lose_source(self, why: str, phase: FaultPhase | None = None) -> None:
        """Live text has ended early; the batch answer still comes. `phase` is when, if that is past."""
        if self.ended:
            return
        logger.warning("source lost", extra={"run": self.id, "route": self.call.route.name, "why": why})
        self.note(Fault.SOURCE_LOST, phase)

    # The end. The first one counts: a run that was ended for its viewers may still have a call under way.

    async def settle(self, answer: Answer) -> None:
        """The batch answer is here, and it is the authority: complete from it, and end."""
        async with self._telling:
            authority = {} if self.ended else await self._authority(answer)
            if not self.ended:
                await in_turns(self._settling(answer, authority))

    async def _authority(self, answer: Answer) -> dict[str, str] | None:
        """The texts that a good answer has; None: it cannot be read."""
        if not 200 <= answer.status < 300:
            return {}
        try:
            return await texts_of_answer(answer, self.sections)
        except MalformedBody:
            return None

    def _settling(self, answer: Answer, authority: dict[str, str] | None) -> Iterator[None]:
        """In steps; between two of them the run may be ended, and then nothing more is said."""
        if answer.status > MAX_STATUS:
            self._fail(Failure(Fault.MALFORMED, 502, "The upstream's answer has no known status."))
            return
        self.answer = answer
        if not 200 <= answer.status < 300:
            self._fail(Failure(Fault.STATUS, answer.status, "The upstream refused or failed."))
            return
        if authority is None:
            if answer.flaw is Fault.TRUNCATED:
                self.answer = None
            detail = "The upstream's answer cannot be read."
            self._fail(Failure(answer.flaw, 502, detail))
            return
        yield
        has_failed = False
        for section in self.sections:
            text = authority.get(section.stage)
            if text is not None and self.call.route.is_failure(text):
                has_failed = True
            else:
                yield from self._settling_section(section, text)
        if self.ended:
            return
        if has_failed:
            detail = "The upstream answered with an error sentence in place of a text."
            self._fail(Failure(Fault.FAILURE_TEXT, answer.status, detail))
        else:
            # An answer without texts is one all the same: it may ask for something.
            absent = [s.stage for s in self.sections if s.stands_in_answer and s.stage not in authority]
            yield from self._completing(answer, absent)

    def _completing(self, answer: Answer, absent: Sequence[str]) -> Iterator[None]:
        digest = hashlib.sha256()
        for at in range(0, len(answer.body), STEP_BYTES):
            digest.update(memoryview(answer.body)[at : at + STEP_BYTES])
            yield
        result, long = None, None
        if self.call.route.settings.result:
            long = Long("result", [])
            text = answer.body.decode()
            yield from _encoding(text, long.pieces)
            result = ""
        if not self.ended:
            done = self._transcript.done(
                status=answer.status,
                source=self.decision.source,
                recovered=bool(self._faults),
                sha256=digest.hexdigest(),
                result=result,
                absent=absent,
            )
            self._end(done, self._outcome_of_success(), long)

    def _settling_section(self, section: Section, text: str | None) -> Iterator[None]:
        """Make what is shown of a section equal to its authority."""
        stage = section.stage
        if not section.stands_in_answer:
            self.finish(section)
            return
        started = stage in self._transcript.stages
        if text is None:
            # An empty text that was begun equals nothing, but nothing is not what the route promises.
            self._metrics.parity[Parity.MISSING].inc()
            logger.warning("no text", extra={"run": self.id, "route": self.call.route.name, "stage": stage})
            if started:
                _, steps = self._made_equal(section, None)
                yield from steps
            return
        parity, steps = self._made_equal(section, text)
        if parity is Parity.EQUAL:  # it may have been made so
            parity = self._parity.get(stage, parity)
        self._metrics.parity[parity].inc()
        yield from steps

    def _made_equal(self, section: Section, text: str | None) -> tuple[Parity, Iterator[None]]:
        """How what is shown of a section compares with its whole text; and the steps that make it equal, and
        say that it is complete.
        """
        if self.ended:
            return Parity.EQUAL, iter(())
        stage = section.stage
        self._live.drop(stage)
        self._retold.pop(stage, None)
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
        yield from _encoding(text, long.pieces)
        if not self.ended:
            event = self._transcript.replace(stage, text)
            self._say(event._replace(content=""), long=long)

    def fail(self, error: UpstreamError) -> None:
        """The call has failed, and no batch answer comes."""
        self._fail(Failure(error.fault, error.status, error.detail))

    def _fail(self, failure: Failure) -> None:
        if self.ended:
            return
        fault = Fault(failure.code)
        self.note(fault)
        self._end_without_answer(failure, "failed", again=retry_available(fault, failure.status))

    def cancel(self) -> None:
        """Somebody who may has ended it, or nobody watches it and its route ends such runs."""
        if not self.ended:
            detail = "The run was cancelled."
            self._end_without_answer(Failure(CANCELLED, 409, detail), CANCELLED, again=True)

    def leave(self) -> None:
        """Another replica has taken it over: nothing more is said of it here, and nothing counted."""
        self.is_elsewhere = True
        self._stop()

    def forget_the_client(self) -> None:
        """A finished run is kept for its text: not for the credentials and the body it was asked with."""
        request = self.call.request
        self.call = replace(self.call, request=Request(request.method, request.target, []))

    def shut_down(self) -> None:
        """The process ends before the run does."""
        if not self.ended:
            detail = "This proxy is shutting down. Please ask again."
            self._end_without_answer(Failure(SHUTDOWN, 503, detail), SHUTDOWN, again=True)

    def _end_without_answer(self, failure: Failure, outcome: str, *, again: bool) -> None:
        self.failure = failure
        self._end(
            self._transcript.error(
                failure.code, retry_available=again, status=failure.status, content=failure.detail
            ),
            outcome,
        )

    # Inside.

    def note(self, fault: Fault, phase: FaultPhase | None = None) -> None:
        """Count a failure, also one that is overcome. One of the log store costs this run nothing."""
        phase = phase or self.phase
        if fault is not Fault.LOG_STORE:
            self._faults.append((fault, phase))
        self._metrics.faults[fault, phase].inc()

    def _outcome_of_success(self) -> str:
        if not self._faults:
            return "complete"
        without_live_text = any(
            fault is Fault.SOURCE_LOST and phase is not FaultPhase.CONTENT for fault, phase in self._faults
        )
        return "fell_back" if without_live_text else "recovered"

    def _chunks(self, text: str) -> Iterable[str]:
        """The text in words; in one piece for a viewer who was decided to get batch."""
        if self.decision.mode is Mode.BATCH:
            return [text] if text else []
        _, high, _ = _chunk_chars(self.decision, self.route)
        if len(text) > high * MAX_SECTION_EVENTS:
            # Its words would hold up everybody while they are made into events.
            return split(text, len(text) // MAX_SECTION_EVENTS)
        return _words(_chunker(self.decision, self.route)(), text)

    def show_chunks(self, stage: str, chunks: Sequence[str]) -> None:
        known_at = self._loop.time()
        for content in chunks:
            self._say(self._transcript.chunk(stage, content), known_at)

    def _say(self, event: Event, known_at: float | None = None, long: Long | None = None) -> None:
        now = self._loop.time()
        self._last_event_at = now
        if self._first_content_s is None and self._transcript.has_content and not self._had_content:
            self._first_content_s = now - self.started_at
            self._metrics.first_content[self.decision.source].observe(self._first_content_s)
        self.log.append(event, now if known_at is None else known_at, long)

    def _tick(self) -> None:
        """Say how long it has taken, whenever nothing else was said for `progress_s`."""
        every_s = self.call.route.settings.progress_s
        now = self._loop.time()
        silent_s = now - self._last_event_at
        if not len(self.log) or silent_s >= every_s - 0.01:
            self._say(self._progress(now - self.started_at))
            silent_s = 0.0
        self._ticker = self._loop.call_later(every_s - silent_s, self._tick)

    def _progress(self, elapsed_s: float) -> Event:
        open_stages = [
            index for index, section in enumerate(self.sections) if self._transcript.is_open(section.stage)
        ]
        left_s = median(self._durations) - elapsed_s if self._durations else 0.0
        return self._transcript.progress(
            elapsed_s=round(elapsed_s, 1),
            stage_index=open_stages[0] if open_stages else None,
            total_expected=len(self.sections),
            eta_s=round(left_s, 1) if left_s > 0 else None,
        )

    def _stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self._live.close()

    def _end(self, terminal: Event, outcome: str, long: Long | None = None) -> None:
        self._stop()
        now = self._loop.time()
        took_s = now - self.started_at
        self._say(terminal, long=long)
        arm, source = self.decision.arm.value, self.decision.source
        self._metrics.runs[arm, source, outcome].inc()
        self._metrics.run_seconds[arm].observe(took_s)
        if self.identity is not None:
            began_at = self.started_at if self.call.asked_at is None else self.call.asked_at
            settled = self._compared_as(outcome)
            if settled is not None:
                self._metrics.settle(self.decision, self.identity, settled, began_at, now)
        result = outcome if outcome in {"recovered", "fell_back"} else "failed"
        for fault in {fault for fault, _ in self._faults}:
            self._metrics.recoveries[fault, result].inc()
        if self.failure is None:
            self._durations.append(took_s)
            if self._first_content_s is not None and took_s > 0:
                self._metrics.perceived_wait[source].observe(self._first_content_s / took_s)
        self._log_end(outcome, took_s)

    def _compared_as(self, outcome: str) -> str | None:
        """The outcome that the arms are compared by: what it would be called if it were relayed. None: it is
        compared with nothing, see `proxy.relay.outcomes`.
        """
        failure = self.failure
        if failure is not None and _counts_for_nobody(failure):
            return None
        if outcome in {CANCELLED, SHUTDOWN}:
            return outcome
        if not self.is_watched:
            # Whoever leaves a relayed answer never learns what it would have been, and slow ones are left
            # more often: counted here alone, they would make streams look slow.
            return "client_left"
        is_refusal = failure is not None and failure.code == Fault.STATUS and failure.status < 500
        return "complete" if is_refusal else outcome

    def _log_end(self, outcome: str, took_s: float) -> None:
        first = self._first_content_s
        logger.info(
            "run ended",
            extra={
                "run": self.id,
                "route": self.call.route.name,
                "mode": self.decision.mode,
                "source": self.decision.source,
                "outcome": outcome,
                "fault": self.failure.code if self.failure else None,
                "events": len(self.log),
                "first_content_ms": None if first is None else round(first * 1000),
                "took_ms": round(took_s * 1000),
            },
        )


def _chunk_chars(decision: Decision, route: Route) -> tuple[int, int, int]:
    """As `Chunker` has them."""
    chunk = route.settings.chunk
    low, high = decision.chunk_chars or (chunk.min, chunk.max)
    return low, high, max(chunk.max_chunk, high)


def _chunker(decision: Decision, route: Route) -> Callable[[], Chunker]:
    """What makes a run's chunkers; not a method of the run, which would be in a cycle with them."""
    return partial(Chunker, *_chunk_chars(decision, route))


def _counts_for_nobody(failure: Failure) -> bool:
    return failure.code == Fault.BUSY or (failure.code == Fault.STATUS and failure.status in OF_STRANGERS)


def _words(chunker: Chunker, text: str) -> Iterator[str]:
    for at in range(0, len(text), STEP_CHARS):
        yield from chunker.feed(text[at : at + STEP_CHARS])
    yield from chunker.flush()


def _encoding(text: str, pieces: list[bytes]) -> Iterator[None]:
    """Make a text's JSON in steps."""
    for at in range(0, len(text), STEP_BYTES):
        pieces.append(json_text(text[at : at + STEP_BYTES]))
        yield


async def texts_of_answer(answer: Answer, sections: Sequence[Section]) -> dict[str, str]:
    """The texts that an answer has; none if it says that it has no body. Raises `MalformedBody`."""
    if not answer.body and announces_no_body(answer.status, answer.headers):
        return {}
    return await texts_of(answer.body, sections)
