"""A viewer that gets the batch answer: the upstream's own, or an honest status."""

import asyncio
from typing import NamedTuple

from proxy.errors import problem
from proxy.http.asgi import TITLES, Send
from proxy.http.headers import BODILESS_STATUS, Headers, response_headers
from proxy.runs.ending import Failure
from proxy.runs.shared import ViewableRun
from proxy.text.event_log import LogReader
from proxy.viewers.clients import ViewerClient
from proxy.viewers.errors import Unanswered
from proxy.viewers.leaving import LeavingViewer

SPACE = b" "
"""JSON may begin with as many as one likes (RFC 8259 2)."""


UNSEEN = Failure("replica_lost", 502, "What became of this request cannot be seen here. Please ask again.")
"""The failure of a run that another replica has taken over and that cannot be followed."""

PIECE_BYTES = 64 * 1024

DOUBT_S = 0.05
"""Between two looks whether an end that may not be the run's is. The answer takes about so long."""

LOOK_S = 60.0
"""Seconds after which a viewer without a heartbeat looks without being woken; any time will do."""


class BatchViewer(LeavingViewer):
    """Waits for a run's end and answers with what the upstream said.

    Args:
        run: here or at another replica.
        client: its request.
        send: of the ASGI request.
        heartbeat_s: send a space whenever so long nothing was sent, for a client behind something that cuts
            idle connections. The first one commits status 200 and JSON, whatever comes. None: never.
        unless: codes of failures that it is not to answer with; `serve` raises Unanswered for them.
    """

    def __init__(
        self,
        run: ViewableRun,
        client: ViewerClient,
        send: Send,
        *,
        heartbeat_s: float | None = None,
        unless: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(client, LogReader(run.log, first=True))
        self._unless = unless
        self.run = run
        self._send = send
        self._heartbeat_s = heartbeat_s
        self._is_lost = False

    @property
    def lag_events(self) -> int:
        """None: a batch viewer waits for the end alone."""
        return 0

    def say_goodbye(self) -> None:
        """A batch client cannot come back for the rest: it waits as long as the process lives."""

    def move_to(self, copy: ViewableRun | None) -> None:
        """Another replica executes the run now: wait for the answer of `copy`; None: give up."""
        before = self._reader
        if copy is None:
            self._is_lost = True
        else:
            self.run, self._reader = copy, LogReader(copy.log, first=True)
            before.close()
        before.wake()

    async def serve(self) -> int | None:
        """The status that was answered; None if the client left. Raises Unanswered, with nothing sent."""
        loop = asyncio.get_running_loop()
        self._begin_to_watch()
        committed = False
        interval_s = LOOK_S if self._heartbeat_s is None else self._heartbeat_s
        due = loop.time() + interval_s
        try:
            while not (self._has_ended() or self._left or self._is_lost):
                if loop.time() >= due:
                    due = loop.time() + interval_s
                    if self._heartbeat_s is not None:
                        await self._beat(committed=committed)
                        committed = True
                # Nothing wakes the reader when a doubt is over.
                await self._reader.wait(min(due, loop.time() + DOUBT_S) if self.run.log.ended else due)
            if self._left:
                return None
            reply = self._reply()
            if committed:
                await _send_body(reply.body, self._send)
                return 200
            if not self._is_lost and self.run.failure is not None and self.run.failure.code in self._unless:
                raise Unanswered
            return await _send_whole(reply, self._send)
        finally:
            self._end_watch()

    def _has_ended(self) -> bool:
        """Ended, and not by a process that was held up while another replica went on with the run."""
        return self.run.log.ended and not self.run.log.doubt()

    def _reply(self) -> "_Reply":
        """The run's answer, or a refusal: what this process knows of a lost run is not its answer."""
        return _refusal(self.run, UNSEEN) if self._is_lost else _answer(self.run)

    async def _beat(self, *, committed: bool) -> None:
        if not committed:
            headers = [(b"content-type", b"application/json"), named(self.run)]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": SPACE, "more_body": True})


class _Reply(NamedTuple):
    status: int
    headers: Headers
    body: bytes


async def send_answer(run: ViewableRun, send: Send) -> int:
    """The answer of a run that has ended, with its own status, headers and bytes; returns the status."""
    return await _send_whole(_answer(run), send)


async def _send_whole(reply: _Reply, send: Send) -> int:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await _send_body(reply.body, send)
    return reply.status


async def _send_body(body: bytes, send: Send) -> None:
    """Send in pieces: so a slow client differs visibly from one that takes nothing."""
    for at in range(0, len(body) or 1, PIECE_BYTES):
        piece = body[at : at + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": at + PIECE_BYTES < len(body)})


def named(run: ViewableRun) -> tuple[bytes, bytes]:
    """The header by which every answer of a run names it."""
    return b"headgate-run", run.id.encode()


def _answer(run: ViewableRun) -> _Reply:
    if run.answer is None:
        return _refusal(run, run.failure or UNSEEN)
    status, body = run.answer.status, run.answer.body
    headers = response_headers(run.answer.headers, status)
    if status not in BODILESS_STATUS and not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(body)))
    return _Reply(status, [*headers, named(run)], body)


def _refusal(run: ViewableRun, failure: Failure) -> _Reply:
    headers, body = problem(failure.status, TITLES.get(failure.status, "Error"), failure.detail)
    return _Reply(failure.status, [*headers, named(run)], body)
