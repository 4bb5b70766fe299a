"""One call of a source, sent again where the table of failures allows it."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Collection

from proxy.errors import Fault, UpstreamError
from proxy.http.headers import BODILESS_STATUS
from proxy.runs.recovery import pause_before_repeat
from proxy.runs.run import Run, texts_of_answer
from proxy.text.sections import MalformedBody
from proxy.upstream.client import Answer

JITTER = 0.2
"""Pauses are up to this much longer, so that runs which failed together do not come back together."""


async def repeating(
    run: Run, call: Callable[[], Awaitable[Answer]], *, accepted: Collection[int] = ()
) -> Answer:
    """The answer of `call`, repeated where that is allowed. Every failure is counted, also one that is
    overcome.

    Args:
        accepted: statuses which say that the upstream does the work, whatever its answer looks like.

    Raises:
        UpstreamError: the last one.
    """
    attempt = run.asked_before
    while True:
        attempt += 1
        got: Answer | UpstreamError
        try:
            got = await call()
        except UpstreamError as error:
            got = error.bare()
        if isinstance(got, Answer) and got.status in accepted:
            return got
        fault, pause_s = await _failure_and_pause(run, got, attempt)
        if pause_s is not None:
            run.note(fault)
            run.ask_again(attempt + 1)
            await asyncio.sleep(pause_s * random.uniform(1, 1 + JITTER))
        # Viewers of a run that was ended meanwhile were told to ask again: its call must not be repeated.
        if pause_s is None or run.ended:
            if isinstance(got, UpstreamError):
                raise got from None
            return got


async def _failure_and_pause(
    run: Run, got: Answer | UpstreamError, attempt: int
) -> tuple[Fault, float | None]:
    """The failure, if there is one, and the pause before the next attempt, if there is one."""
    safe = run.route.settings.replay == "safe"
    if isinstance(got, UpstreamError):
        return got.fault, pause_before_repeat(got.fault, run.phase, attempt=attempt, safe=safe)
    if safe and (fault := await _flaw(got)) is not None:
        return fault, pause_before_repeat(fault, run.phase, attempt=attempt, safe=safe)
    pause_s = pause_before_repeat(
        Fault.STATUS,
        run.phase,
        attempt=attempt,
        safe=safe,
        status=got.status,
        retry_after_s=retry_after_s(got),
    )
    return Fault.STATUS, pause_s


async def _flaw(answer: Answer) -> Fault | None:
    """The failure of a body with a good status, which every run reads as JSON."""
    if not 200 <= answer.status < 300 or answer.status in BODILESS_STATUS:
        return None
    try:
        await texts_of_answer(answer, ())
    except MalformedBody:
        return answer.flaw
    return None


def retry_after_s(answer: Answer) -> float | None:
    """`Retry-After` in seconds; `inf` for its other form, a date, which is not waited for: clocks differ."""
    value = answer.header(b"retry-after")
    if value is None:
        return None
    return int(value) if value.isdigit() and len(value) < 10 else math.inf
