"""The source `job`: the upstream accepts the request with 202, and is asked until the work is done.

The run is the job. Texts are shown as soon as the job's status has them, with the tap also while the model
writes them; the job's result is the batch answer. Once a job is accepted, the request is never sent again:
whatever happens, the same job is asked for.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import orjson

from proxy.errors import Fault, JobFailed, UpstreamError, UpstreamMalformed, UpstreamSilent, UpstreamStalled
from proxy.http.headers import Headers
from proxy.http.tracing import with_token
from proxy.llm.taps.open_taps import Taps
from proxy.llm.taps.tap import Tap
from proxy.runs.call import AcceptedJob
from proxy.runs.run import Run, texts_of_answer
from proxy.settings.blocks.route import JOB_ID, RouteSettings
from proxy.settings.blocks.sources import JobSettings
from proxy.sources.batch import read_answer
from proxy.sources.job_rules import ACCEPTED, SEE_OTHER, JobLost, JobState, job_id, only, state, target_of
from proxy.sources.poll import begin_next, headers_of_look
from proxy.sources.repeat import repeating, retry_after_s
from proxy.text.sections import MalformedBody, Section
from proxy.text.slow_json import document_of, searched
from proxy.text.templates import Excerpt
from proxy.upstream.client import Answer, Request, Upstream
from proxy.upstream.exchange import Exchange

logger = logging.getLogger("headgate.job")

T = TypeVar("T")

LOOK_S = 30.0
"""Seconds that a look may take to its answer's head. A status is there at once, or the upstream is in
trouble."""

MAX_PAUSE_S = 60.0
"""The longest `Retry-After` between two looks that is obeyed."""

CANCEL_S = 5.0
"""Seconds that the cancelling of a job may take."""

GONE = frozenset({404, 410})

NOT_FOUND_TIMES = 3
"""Looks in a row that find no such job, after which it is lost. Some APIs know a job only a moment after they
have accepted it."""

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of looks that fail for the moment."""

JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Part:
    """A section whose text the status shows when it is ready."""

    section: Section
    path: str
    in_status: Section
    """The same section with this path."""


class JobSource:
    """One job."""

    def __init__(
        self, upstream: Upstream, route: RouteSettings, sections: tuple[Section, ...], taps: Taps | None
    ) -> None:
        assert route.job is not None
        self.upstream = upstream
        self.settings = route.job
        self.taps = taps
        """None: the tokens of its model are not taken."""
        self.parts = [
            Part(section, chosen.poll_at, Section.compile(section.stage, section.panel, chosen.poll_at))
            for section, chosen in zip(sections, route.sections, strict=True)
            if chosen.poll_at is not None
        ]
        places = (self.settings.status, self.settings.result, self.settings.result_location_at)
        self.paths = {path for path in (*places, *(part.path for part in self.parts)) if path is not None}
        """All that is looked up in a status."""

    async def answer(self, run: Run) -> Answer:
        async with AsyncExitStack() as stack:
            return await _Execution(self, run, stack).answer()


class _Execution:
    """The job of one run."""

    def __init__(self, source: JobSource, run: Run, stack: AsyncExitStack) -> None:
        self._source = source
        self._upstream = source.upstream
        self._settings: JobSettings = source.settings
        self._run = run
        self._stack = stack
        """Has the tap, which stays open until the job is done."""
        self._tap: Tap | None = None
        self._left = list(source.parts)
        self._limit = int(run.route.settings.max_answer)
        self._headers: Headers = headers_of_look(run.call.request.headers)
        self._loop = asyncio.get_running_loop()
        self._held = 0
        """Bytes of the last look, as they are counted in the run's share."""

    async def answer(self) -> Answer:
        run, job = self._run, self._run.job
        pause_s = 0.0
        if job is None:
            accepted = self._settings.accepted
            answer = await repeating(run, self._submit, accepted=accepted)
            job = await self._job_of(answer) if answer.status in accepted else None
            if job is None:
                return answer
            run.accept(job)
            pause_s = _asked_pause_s(answer)
        return await self._to_the_end(job, pause_s)

    async def _to_the_end(self, job: AcceptedJob, pause_s: float) -> Answer:
        if self._tap is None:
            begin_next(self._run)
        try:
            async with asyncio.timeout_at(self._run.started_at + self._settings.total_s):
                answer = await self._result(job, pause_s)
        except TimeoutError:
            raise UpstreamStalled("the job is not done in time", Fault.TOTAL_TIMEOUT) from None
        except asyncio.CancelledError:
            if self._settings.cancel and self._run.is_cancelled:
                await self._cancel(job)
            raise
        if self._tap is not None and not self._tap.calls and self._source.taps is not None:
            self._run.lose_source(self._source.taps.why_silent(self._tap))
        return answer

    # The request.

    async def _submit(self) -> Answer:
        """One attempt of the request. It has a token of its own: calls of an earlier one are not its
        calls."""
        request = self._run.call.request
        if self._source.taps is not None:
            await self._stack.aclose()
            for section in self._run.sections:
                self._run.withdraw(section)
            run = self._run
            opening = self._source.taps.open(run, run.route.name, run.principal)
            self._tap, token = await self._stack.enter_async_context(opening)
            request = replace(request, headers=with_token(request.headers, token))
        with self._upstream.exchange(request.method, fresh=True) as exchange:
            await exchange.send(request.wire(), whole=True)
            await exchange.head()
            reads = self._body if exchange.status in self._settings.accepted else self._whole_answer
            return Answer(exchange.status, exchange.headers, await reads(exchange))

    async def _whole_answer(self, exchange: Exchange) -> bytes:
        return await read_answer(exchange, self._run)

    async def _body(self, exchange: Exchange) -> bytes:
        parts: list[bytes] = []
        size = 0
        while data := await exchange.read():
            size += len(data)
            if size > self._limit:
                raise UpstreamMalformed(f"the body is over {self._limit} bytes", Fault.TOO_LARGE)
            await self._run.answer_share.take(len(data))
            self._held += len(data)
            parts.append(data)
        return b"".join(parts)

    async def _job_of(self, answer: Answer) -> AcceptedJob | None:
        """The job that an answer names. None: it names none that may be asked for, so that the answer is all
        that there is; its client may know more."""
        settings = self._settings
        places = [settings.location_at, settings.id if settings.needs_id else None]
        paths = [path for path in places if path is not None]
        try:
            document = await document_of(answer.body, paths) if paths else None
            name = job_id(only(document, settings.id)) if settings.needs_id else ""
            if settings.path is not None:
                target = self._filled(settings.path, name)
            elif settings.location_at is not None:
                target = self._target(only(document, settings.location_at), self._run.target)
            else:
                location = answer.header(settings.location.lower().encode())
                target = self._target(
                    None if location is None else location.decode("latin-1"), self._run.target
                )
        except (JobLost, MalformedBody) as exc:
            self._run.lose_source(f"no job to ask for: {exc}")
            return None
        return AcceptedJob(target, name, self._loop.time() - self._run.started_at)

    def _filled(self, path: str, name: str) -> bytes:
        return path.format_map({**self._run.call.parameters, JOB_ID: name}).encode("latin-1")

    def _target(self, url: Any, base: bytes) -> bytes:
        hosts = [value for name, value in self._headers if name == b"host"]
        return target_of(url, base, [self._upstream.origin.authority, *hosts])

    # Looks.

    async def _result(self, job: AcceptedJob, pause_s: float) -> Answer:
        """Look at the status until the job is done; then get its result."""
        while True:
            await self._pause(pause_s)
            found = await self._patiently(job.target, lambda answer: self._status(job, answer))
            if isinstance(found, Answer):
                return found
            if isinstance(found, bytes):
                return await self._patiently(found, _good_result)
            pause_s = found

    async def _patiently(self, target: bytes, read: Callable[[Answer], Awaitable[T]]) -> T | Answer:
        """Return what `read` makes of a resource; the answer itself if it is no good one. A look that fails
        is repeated for `lost_after_s`.

        Raises:
            UpstreamError: the last failure, or one that no further look would change.
        """
        failed_at: float | None = None
        note_failure: Callable[[], None] | None = None
        times_missing = 0
        while True:
            got = await self._looked(target, read)
            if not isinstance(got, _FailedLook):
                if note_failure is not None:
                    note_failure()
                return got
            times_missing = times_missing + 1 if got.is_missing else 0
            now = self._loop.time()
            failed_at = now if failed_at is None else failed_at
            note_failure = note_failure or partial(self._run.note, got.fault, self._run.phase)
            if times_missing == NOT_FOUND_TIMES or now - failed_at >= self._settings.lost_after_s:
                if isinstance(got.failure, UpstreamError):
                    raise got.failure
                return got.failure
            await self._pause(got.pause_s)

    async def _looked(
        self, target: bytes, read: Callable[[Answer], Awaitable[T]]
    ) -> "T | Answer | _FailedLook":
        try:
            answer = await self._get(target)
            if answer.status in PASSING | GONE:
                return _FailedLook(answer)
            if not (200 <= answer.status < 300 or answer.status in SEE_OTHER):
                return answer
            return await read(answer)
        except (JobFailed, JobLost):
            raise
        except UpstreamError as error:
            return _FailedLook(error.bare())

    async def _get(self, target: bytes) -> Answer:
        """A resource as it is now."""
        self._run.answer_share.give_back(self._held)
        self._held = 0
        request = Request("GET", target, self._headers)
        with self._upstream.exchange(request.method) as exchange:
            try:
                async with asyncio.timeout(min(LOOK_S, self._settings.lost_after_s)):
                    await exchange.send(request.wire(), whole=True)
                    await exchange.head()
            except TimeoutError:
                raise UpstreamSilent("a look at the job has no answer") from None
            return Answer(exchange.status, exchange.headers, await self._body(exchange))

    async def _pause(self, asked_s: float) -> None:
        wait_s = max(self._settings.every_ms / 1000, asked_s)
        await asyncio.sleep(wait_s * random.uniform(1 - JITTER, 1 + JITTER))

    # What they say.

    async def _status(self, job: AcceptedJob, answer: Answer) -> Answer | bytes | float:
        """The result of a job that is done, or where that is; of one at work, the pause that its API asks
        for."""
        settings = self._settings
        if answer.status in SEE_OTHER:
            location = answer.header(b"location")
            return self._target(None if location is None else location.decode("latin-1"), job.target)
        document = await self._document(answer)
        match state(settings, answer, document):
            case JobState.FAILED:
                raise JobFailed("the job has failed")
            case JobState.RUNNING:
                await self._show(document, len(answer.body))
                return _asked_pause_s(answer)
        if settings.result_path is not None:
            return self._filled(settings.result_path, job.id)
        if settings.result_location_at is not None:
            return self._target(only(document, settings.result_location_at), job.target)
        if settings.result is None:
            return await _good_result(Answer(200, answer.headers, answer.body))
        result = only(document, settings.result)
        if result is None:
            raise UpstreamMalformed("a job that is done has no result")
        return Answer(200, [(b"content-type", b"application/json")], orjson.dumps(result))

    async def _document(self, answer: Answer) -> Any:
        if not self._source.paths:
            return None
        try:
            return await document_of(answer.body, self._source.paths)
        except MalformedBody as exc:
            if answer.status == ACCEPTED:  # it says enough
                return None
            raise UpstreamMalformed(str(exc), answer.flaw) from None

    async def _show(self, document: Any, size: int) -> None:
        """Show the sections that are ready."""
        left = []
        for part in self._left:
            if self._run.is_complete(part.section):
                continue
            text = await _text(part, document, size)
            if not text:
                left.append(part)
            elif await self._run.show(part.section, text) and self._tap is None:
                begin_next(self._run)
        self._left = left

    async def _cancel(self, job: AcceptedJob) -> None:
        """Cancel the job. The run has ended for its viewers; whether the API does it changes nothing here."""
        why = "no answer"
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                request = Request("DELETE", job.target, self._headers)
                answer = await self._upstream.fetch(request, max_bytes=self._limit, fresh=True)
                if 200 <= answer.status < 300:
                    return
                why = f"status {answer.status}"
        logger.warning("job not cancelled", extra={"run": self._run.id, "why": why})


class _FailedLook:
    """A look that failed for the moment, or that found no such job."""

    __slots__ = ("failure",)

    def __init__(self, failure: Answer | UpstreamError) -> None:
        self.failure = failure

    @property
    def is_missing(self) -> bool:
        return isinstance(self.failure, Answer) and self.failure.status in GONE

    @property
    def fault(self) -> Fault:
        return Fault.STATUS if isinstance(self.failure, Answer) else self.failure.fault

    @property
    def pause_s(self) -> float:
        return _asked_pause_s(self.failure) if isinstance(self.failure, Answer) else 0.0


async def _good_result(answer: Answer) -> Answer:
    if answer.status == ACCEPTED:
        raise UpstreamMalformed("the result of a job that is done is not there yet")
    if 200 <= answer.status < 300:
        try:
            await texts_of_answer(answer, ())
        except MalformedBody:
            raise UpstreamMalformed("the result cannot be read", answer.flaw) from None
    return answer


async def _text(part: Part, document: Any, size: int) -> str | None:
    """The text that a status has of a section; None if it is not ready."""
    if isinstance(document, Excerpt):
        text = only(document, part.path)
        return text if isinstance(text, str) else None
    return await searched(0 if part.in_status.keys is not None else size, part.in_status.find, document)


def _asked_pause_s(answer: Answer) -> float:
    """Seconds that an answer asks to wait for; 0 for a date, since clocks differ."""
    asked_s = retry_after_s(answer) or 0.0
    return 0.0 if asked_s == float("inf") else min(asked_s, MAX_PAUSE_S)
