"""One viewer: reads a run's log from where it stands, then live, as server-sent events.

Nothing is sent until there is text, an end, or `commit_after` is over: until then a failure still has
its own status (design, section 3, commit policy).
"""

import asyncio
from collections.abc import Sequence
from enum import StrEnum

from proxy.errors import problem
from proxy.event_log import Entry
from proxy.headers import BODILESS_STATUS, response_headers
from proxy.metrics import RouteMetrics
from proxy.relay import TITLES, Receive, Send
from proxy.run import Run
from proxy.sse import HEARTBEAT

FLUSH_BYTES = 64 * 1024
"""At most so many bytes in one write; a long replay takes several."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"incremental", b"?1"),
]


class ViewEnd(StrEnum):
    """How a viewer left."""

    TOLD = "told"
    """It has the terminal event."""
    ANSWERED = "answered"
    """It has the failure's own status instead of a stream."""
    LEFT = "left"


class Viewer:
    """Serves one run to one client."""

    def __init__(self, run: Run, metrics: RouteMetrics, receive: Receive, send: Send) -> None:
        self._run = run
        self._metrics = metrics
        self._receive = receive
        self._send = send
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._came_at = self._wrote_at = self._loop.time()

    async def serve(self, *, after: int = 0, takes_json: bool = False) -> ViewEnd:
        """Send everything beyond `after`, to the terminal event."""
        watch = self._loop.create_task(self._watch())
        self._metrics.viewers.inc()
        try:
            await self._hold()
            if self._left:
                return ViewEnd.LEFT
            if not self._run.headers_sent and self._run.answers_with_own_status(takes_json=takes_json):
                await self._answer()
                return ViewEnd.ANSWERED
            await self._commit()
            return await self._stream(after)
        finally:
            self._metrics.viewers.dec()
            watch.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._run.log.wake()

    async def _hold(self) -> None:
        """Wait for the first text, the end, or the end of `commit_after`, whichever comes first."""
        run = self._run
        due = run.started_at + run.call.route.settings.commit_after
        while not (run.has_content or run.ended or self._left):
            left_s = due - self._loop.time()
            if left_s <= 0:
                return
            await run.log.wait_beyond(len(run.log), left_s)

    async def _answer(self) -> None:
        failure = self._run.failure
        assert failure is not None
        if failure.answer is not None:
            status, body = failure.answer.status, failure.answer.body
            headers = response_headers(failure.answer.headers, status)
            if status not in BODILESS_STATUS and not any(name == b"content-length" for name, _ in headers):
                headers.append((b"content-length", b"%d" % len(body)))
        else:
            status = failure.status
            headers, body = problem(status, TITLES.get(status, "Error"), failure.detail)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _commit(self) -> None:
        run, decision = self._run, self._run.decision
        run.headers_sent = True
        told = f"{decision.mode};reason={decision.reason};source={decision.source}"
        headers = [
            *STREAM_HEADERS,
            (b"headgate-run", run.id.encode()),
            (b"headgate-decision", told.encode()),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _stream(self, after: int) -> ViewEnd:
        settings = self._run.call.route.settings
        log, sent = self._run.log, after
        await self._write(HEARTBEAT)
        while not self._left:
            batch = _fitting(log.after(sent))
            if batch:
                ended = batch[-1].is_terminal
                await self._write(b"".join(entry.wire for entry in batch), last=ended)
                self._observe(batch)
                sent = batch[-1].seq
                if ended:
                    return ViewEnd.TOLD
                if sent == len(log):
                    await asyncio.sleep(min(1 / settings.flush_hz, settings.heartbeat_s))
                continue
            # Counted from the last byte: a log also wakes its readers when there is nothing more to read.
            silence_s = self._wrote_at + settings.heartbeat_s - self._loop.time()
            if silence_s <= 0:
                await self._write(HEARTBEAT)
            else:
                await log.wait_beyond(sent, silence_s)
        return ViewEnd.LEFT

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        self._wrote_at = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    def _observe(self, batch: list[Entry]) -> None:
        """Delivery of the text that waited longest in this write; for a replay, since its viewer came."""
        known = [entry.known_at for entry in batch if entry.is_content]
        if known:
            delay_s = max(0.0, self._loop.time() - max(min(known), self._came_at))
            self._metrics.delivery[self._run.decision.source].observe(delay_s)


def _fitting(entries: Sequence[Entry]) -> list[Entry]:
    """The first entries that fit one write; at least one, if there is one."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.wire)
        if batch and size > FLUSH_BYTES:
            break
        batch.append(entry)
    return batch
