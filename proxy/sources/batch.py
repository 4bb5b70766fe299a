"""The source `batch`: the upstream's own JSON, its texts shown as they arrive."""

import logging

from proxy.errors import Fault, UpstreamMalformed
from proxy.http import headers
from proxy.runs.run import Run
from proxy.sources.repeat import repeating
from proxy.text.sections import BodyTooLarge, Reader, Section
from proxy.turns import Turns
from proxy.upstream.client import Answer, Request, Upstream
from proxy.upstream.exchange import Exchange

logger = logging.getLogger("headgate.runs")

FEED_BYTES = 8 * 1024
"""Bytes of a body that are read at a time. So many brackets take a millisecond."""


class BatchSource:
    """One call; needs nothing of the upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def answer(self, run: Run) -> Answer:
        return await ask(self._upstream, run, run.call.request)


class Answered:
    """The call was made, and this is its answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def answer(self, run: Run) -> Answer:
        return self._answer


async def ask(upstream: Upstream, run: Run, request: Request) -> Answer:
    """Send a run's request; show the texts of a good answer while its body still arrives."""
    return await repeating(run, lambda: ask_once(upstream, run, request))


async def ask_once(upstream: Upstream, run: Run, request: Request) -> Answer:
    with upstream.exchange(request.method, fresh=True) as exchange:
        await exchange.send(request.wire(), whole=True)
        await exchange.head()
        body = await read_answer(exchange, run)
        return Answer(exchange.status, exchange.headers, body)


async def read_answer(exchange: Exchange, run: Run) -> bytes:
    """The body of a batch answer, whose texts are shown as they arrive."""
    limit = int(run.call.route.settings.max_answer)
    reader = Reader(run.sections, max_bytes=limit)
    readable = 200 <= exchange.status < 300 and is_json(exchange)
    turns = Turns()
    while data := await exchange.read():
        await run.answer_share.take(len(data))
        for at in range(0, len(data), FEED_BYTES):
            try:
                texts = reader.feed(data[at : at + FEED_BYTES])
            except BodyTooLarge:
                raise UpstreamMalformed(f"the answer is over {limit} bytes", Fault.TOO_LARGE) from None
            for section, text in texts if readable else ():
                await _show_early(run, section, text)
            await turns.breathe()
    return reader.body


async def _show_early(run: Run, section: Section, text: str) -> None:
    try:
        await run.show(section, text)
    except Exception:  # a mistake of ours beside the answer costs the early text, never the answer
        logger.exception("text not shown", extra={"run": run.id})
        run.lose_source("a mistake of ours")


def is_json(exchange: Exchange) -> bool:
    """True if the answer says that it is JSON."""
    return headers.is_json(exchange.headers)
