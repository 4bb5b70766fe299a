"""A run: one execution of one upstream request, with an append-only log of events.

What it shows is `texts.py`'s. Here is how it begins, settles and ends. Sources call a run; it calls none.
"""

import asyncio
import hashlib
import logging
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median

from flags.decision import Decision
from proxy.downstream.bodies import ByteReservation
from proxy.errors import Fault, UpstreamError
from proxy.http.headers import announces_no_body
from proxy.identity import Identity
from proxy.observe.labels import FaultPhase
from proxy.observe.metrics import RouteMetrics
from proxy.observe.spans.ports import RequestSpan, SpanEnd
from proxy.runs.call import AcceptedJob, Call, Continuation
from proxy.runs.ending import CANCELLED, SHUTDOWN, Failure, RunAccount, RunEnd
from proxy.runs.recovery import retry_available
from proxy.runs.texts import RunTexts, encoding
from proxy.text.events import Event
from proxy.text.sections import MalformedBody, Parity, Section
from proxy.text.slow_json import texts_of
from proxy.text.sse import Long
from proxy.turns import STEP_BYTES, in_turns
from proxy.upstream.client import Answer, Request

logger = logging.getLogger("headgate.runs")

MAX_STATUS = 599
"""The highest status that is passed on, as in the relay: uvicorn has no status line beyond it, and RFC 9110
15 no class."""


class Run(RunTexts):
    """One run, from its start to its terminal event."""

    __slots__ = (
        "__weakref__",
        "_account",
        "_continued",
        "_durations",
        "_ticker",
        "answer",
        "asked_before",
        "body_reservation",
        "failure",
        "fingerprint",
        "headers_sent",
        "identity",
        "is_watched",
        "job",
        "times_asked",
    )

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
        super().__init__(run_id or str(uuid.uuid4()), call, decision, metrics)
        self.fingerprint = fingerprint
        self.identity = identity
        self.failure: Failure | None = None
        self.answer: Answer | None = None
        """The upstream's own, whole; also one that is a failure."""
        self.headers_sent = False
        self.body_reservation: ByteReservation | None = None
        """The bytes held for its request's body, until its end."""
        self.is_watched = True
        """Whether anybody waits for it, when it ends."""
        self.asked_before = 0
        """How often its call was sent by other replicas."""
        self.times_asked = 1
        """How often it is sent in all; of several calls, the one that is sent most."""
        self.job: AcceptedJob | None = None
        """The job that the upstream has accepted. A replica that goes on with the run asks for that one."""
        self._account = RunAccount(call, decision, identity, metrics, durations)
        self._durations = durations
        self._continued: Continuation | None = None
        self._ticker: asyncio.TimerHandle | None = None

    def continue_from(self, continuation: Continuation) -> None:
        """Go on with a run that another replica began, before it is executed here."""
        self.go_on_with(continuation.log)
        self.log.generation = continuation.generation
        self.headers_sent = continuation.headers_sent
        self.asked_before = continuation.times_asked
        self.job = continuation.job
        self.times_asked = continuation.times_asked + (self.job is None)
        self._continued = continuation
        # The upstream's call has broken off, whatever the reason.
        self.note(Fault.RESET)

    def begun(self) -> None:
        """Note that the run is executed from now on."""
        self.shown.last_event_at = now = self._loop.time()
        self.shown.started_at = now if self._continued is None else self._continued.started_at
        if self.route.settings.progress:
            self._tick()

    @property
    def phase(self) -> FaultPhase:
        if self.shown.transcript.has_content:
            return FaultPhase.CONTENT
        return FaultPhase.HEADERS if self.headers_sent else FaultPhase.NOTHING

    @property
    def size_bytes(self) -> int:
        """Bytes that keeping this run takes: its log, the client's body, and the upstream's answer."""
        answer_bytes = len(self.answer.body) if self.answer is not None else 0
        return self.log.size_bytes + len(self.call.request.body) + answer_bytes

    @property
    def source(self) -> str:
        return self.decision.source

    @property
    def target(self) -> bytes:
        return self.call.request.target

    @property
    def decision_header(self) -> str:
        """The value of `headgate-decision`."""
        return f"{self.decision.mode};reason={self.decision.reason};source={self.decision.source}"

    @property
    def principal(self) -> str | None:
        """The principal who began the run; None: unknown."""
        return None if self.identity is None else self.identity.principal

    def ask_again(self, times: int) -> None:
        """A call of this run is about to be sent, for the time with this number."""
        self.times_asked = max(self.times_asked, times)
        self.log.wake()  # replicas that may have to send it, too, should know

    def accept(self, job: AcceptedJob) -> None:
        """The upstream works on this run's request as a job, from now on. Its body is not sent again, and a
        job may be long."""
        self.job = job
        self.call = replace(self.call, request=replace(self.call.request, body=b""))
        if self.body_reservation is not None:
            self.body_reservation.close()
        self.log.wake()  # replicas that may have to go on with it should know

    @property
    def _status(self) -> int | None:
        if self.answer is not None:
            return self.answer.status
        return None if self.failure is None else self.failure.status

    @property
    def is_cancelled(self) -> bool:
        return self.failure is not None and self.failure.code == CANCELLED

    def viewed_by(self, span: RequestSpan) -> None:
        if self.call.span is not None:
            span.views(self.call.span)

    def lose_source(self, why: str, phase: FaultPhase | None = None) -> None:
        """Live text has ended early; the batch answer still comes. `phase` is when, if that is past."""
        if self.ended:
            return
        logger.warning("source lost", extra={"run": self.id, "route": self.call.route.name, "why": why})
        self.note(Fault.SOURCE_LOST, phase)

    # The end. The first one counts: a run that was ended for its viewers may still have a call under way.

    async def settle(self, answer: Answer) -> None:
        """The batch answer is here, and it is the authority: complete from it, and end."""
        async with self._whole_texts:
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
        """In steps; between two of them the run may be ended, and then it adds no more events."""
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
            yield from encoding(text, long.pieces)
            result = ""
        if not self.ended:
            done = self.shown.transcript.done(
                status=answer.status,
                source=self.decision.source,
                recovered=self._account.is_recovered,
                sha256=digest.hexdigest(),
                result=result,
                absent=absent,
            )
            self._end(done, self._account.outcome_of_success(), long)

    def _settling_section(self, section: Section, text: str | None) -> Iterator[None]:
        """Make the shown text of a section equal to its authority."""
        stage = section.stage
        if not section.stands_in_answer:
            self.finish(section)
            return
        started = stage in self.shown.transcript.stages
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
            parity = self.shown.parity.get(stage, parity)
        self._metrics.parity[parity].inc()
        yield from steps

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
        """Its owner has ended the run, or nobody watches it and its route ends such runs."""
        if not self.ended:
            detail = "The run was cancelled."
            self._end_without_answer(Failure(CANCELLED, 409, detail), CANCELLED, again=True)

    def leave(self) -> None:
        """Another replica has taken the run over: it adds no more events here, and is not counted."""
        self.shown.is_elsewhere = True
        if self.call.span is not None:
            self.call.span.end(self.id, "left", self.times_asked, SpanEnd(None, None))
        self._stop()

    def forget_the_client(self) -> None:
        """A finished run is kept for its log and its answer: not for the credentials and the body that it was
        asked with, nor for its texts once more."""
        self.shown.transcript.forget_texts()
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
            self.shown.transcript.error(
                failure.code, retry_available=again, status=failure.status, content=failure.detail
            ),
            outcome,
        )

    def note(self, fault: Fault, phase: FaultPhase | None = None) -> None:
        """Count a failure, also one that is overcome, in the phase of now or of when it was."""
        self._account.note(fault, phase or self.phase)

    def _tick(self) -> None:
        """Add a `progress` event whenever there was no other event for `progress_s`."""
        every_s = self.call.route.settings.progress_s
        now = self._loop.time()
        silent_s = now - self.shown.last_event_at
        if not len(self.log) or silent_s >= every_s - 0.01:
            self.shown.say(self._progress(now - self.started_at))
            silent_s = 0.0
        self._ticker = self._loop.call_later(every_s - silent_s, self._tick)

    def _progress(self, elapsed_s: float) -> Event:
        open_stages = [
            index
            for index, section in enumerate(self.sections)
            if self.shown.transcript.is_open(section.stage)
        ]
        left_s = median(self._durations) - elapsed_s if self._durations else 0.0
        return self.shown.transcript.progress(
            elapsed_s=round(elapsed_s, 1),
            stage_index=open_stages[0] if open_stages else None,
            total_expected=len(self.sections),
            eta_s=round(left_s, 1) if left_s > 0 else None,
        )

    def _stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self.shown.live.close()

    def _end(self, terminal: Event, outcome: str, long: Long | None = None) -> None:
        self._stop()
        now = self._loop.time()
        self.shown.say(terminal, long=long)
        self._account.close(
            RunEnd(
                self.id,
                outcome,
                self.failure,
                self.is_watched,
                self.started_at,
                now,
                self.shown.first_content_s,
                len(self.log),
                self._status,
                self.times_asked,
                None if self.job is None else self.job.after_s,
            )
        )


async def texts_of_answer(answer: Answer, sections: Sequence[Section]) -> dict[str, str]:
    """The texts that an answer has; none if it says that it has no body. Raises `MalformedBody`."""
    if not answer.body and announces_no_body(answer.status, answer.headers):
        return {}
    return await texts_of(answer.body, sections)
