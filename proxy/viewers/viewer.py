"""One viewer: reads a run's log from where it stands, then live, as server-sent events.

Nothing is sent until there is text, an end, or `commit_after` is over: until then a failure still has
its own status (design, section 3, commit policy).

A slow viewer costs the others nothing: only its own position in the log is behind. First its chunks grow,
then it gets each text as it is instead of what it missed, and then it is cut, to come back with its cursor.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Sequence
from enum import Enum, StrEnum

from proxy.http.asgi import Send
from proxy.observe.metrics import RouteMetrics
from proxy.runs.shared import ViewableRun
from proxy.text.event_log import MAX_NEW_BYTES, LogEntry, LogReader
from proxy.text.sse import HEARTBEAT
from proxy.turns import in_turns
from proxy.viewers.batch_viewer import DOUBT_S, named, send_answer
from proxy.viewers.catch_up import merged, snapshot
from proxy.viewers.clients import ViewerClient
from proxy.viewers.leaving import LeavingViewer

FLUSH_BYTES = MAX_NEW_BYTES
"""At most so many bytes in one write; a long replay takes several."""

GROW_S = 0.25
"""A viewer whose next event is older than this, and than a flush may be, gets larger chunks."""

SNAPSHOT_S = 5.0
"""A viewer whose next event is older than this gets a snapshot of each text that has changed."""

MAX_SNAPSHOTS = 3
"""The most snapshots that a slow viewer gets; a viewer that is slow once more is cut."""

GOODBYE_MS = (1000, 8000)
"""Bounds of the `retry:` of clients that are sent away, so that they do not all come back at once."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"incremental", b"?1"),
]


class ViewEnd(StrEnum):
    """The end of a view."""

    TOLD = "told"
    """The viewer has the terminal event."""
    ANSWERED = "answered"
    """The client has the failure's own status instead of a stream."""
    LEFT = "left"
    SENT_AWAY = "sent_away"
    """Cut without a terminal event, to come back with its cursor."""


class AsItIs(Enum):
    """What a viewer may get as it is, and not as events, before there is any text."""

    NOTHING = 0
    FAILURE = 1
    """An answer whose status is none of 2xx."""
    ANSWER = 2


class Viewer(LeavingViewer):
    """Serves one run to one client.

    Args:
        run: here or at another replica.
        metrics: of its route.
        client: its request.
        send: of the ASGI request.
        expires_at: the loop's time when the client's token ends; then it is sent away.
        is_translated: whether `send` sends something else than it is given.
    """

    __slots__ = (
        "_came_at",
        "_deliveries",
        "_expires_at",
        "_flush_s",
        "_is_translated",
        "_log",
        "_loop",
        "_metrics",
        "_must_go",
        "_pause_until",
        "_ready_at",
        "_send",
        "_sending_since",
        "_sent",
        "_snapshots",
        "_wrote_at",
        "run",
    )

    def __init__(
        self,
        run: ViewableRun,
        metrics: RouteMetrics,
        client: ViewerClient,
        send: Send,
        *,
        expires_at: float | None = None,
        is_translated: bool = False,
    ) -> None:
        super().__init__(client, LogReader(run.log))
        self.run = run
        self._log = run.log
        self._metrics = metrics
        self._deliveries = metrics.deliveries[run.source]
        self._send = send
        self._expires_at = math.inf if expires_at is None else expires_at
        self._is_translated = is_translated
        self._must_go = False
        self._sent = 0
        self._snapshots = 0
        settings = run.route.settings
        self._flush_s = min(1 / settings.flush_hz, settings.heartbeat_s)
        self._pause_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._came_at = self._wrote_at = self._ready_at = self._sending_since = self._loop.time()

    @property
    def lag_events(self) -> int:
        """Events that the client has not been sent."""
        return len(self.run.log) - self._sent

    def say_goodbye(self) -> None:
        """Send the client away at the next safe point: between two events."""
        self._must_go = True
        self._reader.wake()

    def move_to(self, copy: ViewableRun | None) -> None:
        """Another replica executes the run now, with a log of its own: send the client there."""
        self.say_goodbye()

    async def serve(self, *, after: int | None = 0, as_it_is: AsItIs = AsItIs.FAILURE) -> ViewEnd:
        """Send everything beyond `after`, to the terminal event. None: a snapshot instead of a replay."""
        self._begin_to_watch()
        self._metrics.viewers.inc()
        try:
            await self._wait_to_commit()
            if self._left:
                return ViewEnd.LEFT
            run = self.run
            is_first = not (run.headers_sent or run.log.has_content or run.log.doubt())
            if run.failure is not None and is_first:
                status = run.failure.status if run.answer is None else run.answer.status
                # A 2xx that cannot be streamed is an answer only to a client that takes JSON.
                if as_it_is is AsItIs.ANSWER or (as_it_is is AsItIs.FAILURE and status >= 300):
                    await send_answer(run, self._send)
                    return ViewEnd.ANSWERED
            if as_it_is is AsItIs.ANSWER and run.log.ended and is_first:
                await send_answer(run, self._send)  # it has no text that could be shown
                return ViewEnd.ANSWERED
            return await self._stream(after)
        finally:
            self._metrics.viewers.dec()
            self._end_watch()

    async def _wait_to_commit(self) -> None:
        """Wait for the first text, the end, or the end of `commit_after`, whichever comes first."""
        log = self.run.log
        due = self.run.started_at + self.run.route.settings.commit_after
        while (
            not (log.has_content or log.ended or self._left or self._is_to_go()) and self._loop.time() < due
        ):
            await self._reader.wait(due)

    async def _stream(self, after: int | None) -> ViewEnd:
        await self._commit()
        self._sending_since = (
            self._loop.time()
        )  # while the headers were held, it was not the viewer that was slow
        log = self.run.log
        if after is None and not self._is_to_go():
            if await self._send_snapshot():
                return ViewEnd.TOLD
        else:
            self._sent = after or 0
        while not self._left:
            now = self._loop.time()
            if self._is_to_go():
                return await self._send_away()
            if self._sent == len(log):
                await self._wait(now)
            elif log.doubt():
                await self._reader.wait(now + DOUBT_S)
            elif now < self._pause_until:
                await self._reader.pause(self._pause_until)
            elif await self._send_more(now):
                return ViewEnd.TOLD
            elif self._sent == len(log):
                self._pause_until = self._loop.time() + self._flush_s
        return ViewEnd.LEFT

    def _wait(self, now: float) -> Awaitable[None]:
        """Wait for the next event, or until a heartbeat is due; send one that is."""
        # Counted from the last byte: a log also wakes its readers when there is nothing to read.
        due = self._wrote_at + self.run.route.settings.heartbeat_s
        if now >= due:
            return self._write(HEARTBEAT)
        return self._reader.wait(min(due, self._expires_at), self._send_now)

    async def _commit(self) -> None:
        if not self.run.log.ended:  # or the next viewer would not get the status of a run that has failed
            self.run.headers_sent = True
        headers = [
            *STREAM_HEADERS,
            named(self.run),
            (b"headgate-decision", self.run.decision_header.encode()),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(HEARTBEAT)

    def _send_now(self) -> bool:
        """Send the one event that is new, while the task waits for one. False: the task has to send it."""
        log, sent = self._log, self._sent
        new = log.newest
        if new is None or new.seq != sent + 1:
            new = log.newest_after(sent)
            if new is None:
                return False
        now = new.now
        if now < self._pause_until or now >= self._expires_at or self._is_translated:
            return False
        if not self._client.write_chunk(new.chunk):
            return False
        self._wrote_at = now
        self._sent = new.seq
        if new.has_text:  # that which a stage begins with need not wait for its beginning
            self._pause_until = now + self._flush_s
            came_at, known_at = self._came_at, new.known_at
            late_s = now - (known_at if known_at > came_at else came_at)
            self._deliveries.add(late_s if late_s > 0.0 else 0.0)
        return True

    async def _send_more(self, now: float) -> bool:
        """The next events, in a form that suits how far the viewer is behind; True after the terminal one."""
        entries = _fitting(self.run.log.after(self._sent))
        # Up to when it could take more: since then its next event waits for this process, and not for it.
        behind_s = self._ready_at - max(entries[0].known_at, self._sending_since)
        if behind_s > SNAPSHOT_S:
            self._snapshots += 1
            if self._snapshots > MAX_SNAPSHOTS:
                self._must_go = True
                return False
            return await self._send_snapshot()
        grow = behind_s > GROW_S + self._flush_s and len(entries) > 1
        wire = merged(entries) if grow else b"".join([entry.wire for entry in entries])
        last = entries[-1]
        for at in range(0, len(wire), FLUSH_BYTES):  # the last event may have the whole answer in it
            await self._write(
                wire[at : at + FLUSH_BYTES], last=last.is_terminal and at + FLUSH_BYTES >= len(wire)
            )
        self._sent = last.seq
        first_text = next((entry for entry in entries if entry.is_content), None)
        if first_text is not None:
            self._observe(first_text.known_at)
        return last.is_terminal

    async def _send_snapshot(self) -> bool:
        """Each text that has changed, as it is now; True if the run has ended."""
        log = self.run.log
        ended, end = log.ended, len(log)
        log.snapshots_from |= {self._sent}
        blocks: list[bytes] = []
        entries = map(log.entry, range(1, end + 1))  # each in its turn; a compiled generator is a list
        await in_turns(map(blocks.append, snapshot(entries, self._sent)))
        wire = b"".join(blocks)
        for at in range(0, len(wire), FLUSH_BYTES):
            await self._write(wire[at : at + FLUSH_BYTES], last=ended and at + FLUSH_BYTES >= len(wire))
        self._sent = end
        return ended

    async def _send_away(self) -> ViewEnd:
        """Cut between two events: without a terminal one, a client comes back with its cursor."""
        # A single line end: with a blank line, some clients take the block for an empty message.
        await self._write(b"retry: %d\n" % random.randint(*GOODBYE_MS))
        return ViewEnd.SENT_AWAY

    def _is_to_go(self) -> bool:
        return self._must_go or self._loop.time() >= self._expires_at

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        self._wrote_at = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        self._ready_at = self._loop.time()

    def _observe(self, known_at: float) -> None:
        """Delivery of the text that waited longest in this write; for a replay, since its viewer came."""
        self._deliveries.add(max(0.0, self._loop.time() - max(known_at, self._came_at)))


def _fitting(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """The first entries that fit one write; at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.wire)
        if count and size > FLUSH_BYTES:
            return entries[:count]
    return entries
