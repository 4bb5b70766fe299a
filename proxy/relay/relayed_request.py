"""One request on its way through: a state for each direction, moved on by the callbacks of both connections.

The states and their table are in `steps.py`. The request's direction is in `sent_request.py`; here are the
answer's, what happens on both sides, and the end. A task is there only while something is waited for.
"""

import asyncio
import logging
from time import perf_counter
from typing import Final

from proxy.errors import UpstreamAborted, UpstreamError, UpstreamMalformed
from proxy.http.headers import BODILESS_STATUS, Headers, passed_trailers, response_headers
from proxy.http.upgrade import SWITCHING_PROTOCOLS
from proxy.observe.spans.request_ids import work_of
from proxy.relay.result import Outcome, RelayResult
from proxy.relay.sent_request import SentRequest
from proxy.relay.steps import OUT, PASS_ON, NextStep, Sending, next_step
from proxy.upstream.at_once import Connecting
from proxy.upstream.connecting import PROXY_AUTHENTICATION_REQUIRED
from proxy.upstream.connection import Connection

logger = logging.getLogger("headgate.relay")

_now: Final = perf_counter  # looked up for each request
MAX_STATUS: Final = 599
"""The last status of a class that RFC 9110 15 knows, and that uvicorn has a status line for."""


class RelayedRequest(SentRequest):
    """One request and its answer."""

    __slots__ = ()

    # The answer's direction.

    def _pass_on(self) -> None:
        """Take the next step of the answer's direction."""
        connection = self.current
        assert connection is not None, "the request has been sent"
        response, timer = connection.response, connection.timer
        if response.status and not self._answered_at:
            self._answered_at = _now()
        if response.complete and not self._client.flow.write_paused:
            self._pass_piece(connection)  # as the table says; most answers have come whole
            return
        step = next_step(
            self._is_begun,
            response.status != 0,
            response.complete or bool(response.chunks),
            connection.is_silent or connection.failure is not None,
            timer.tells_slow,
            self._client.flow.write_paused,
        )
        if step is PASS_ON:
            self._pass_piece(connection)
            if connection.failure is not None and not self._is_over:
                self._pass_on()  # it had failed before, while the client was slow: nobody tells of it again
        elif step is NextStep.FAIL:
            self._meet_failure()
        elif step is NextStep.WAIT_FOR_CLIENT:
            if response.chunks:
                timer.waiting_since = 0.0  # it is not the upstream that is waited for
        elif self._is_begun:
            timer.begin_to_wait()

    def _pass_piece(self, connection: Connection) -> None:
        """Pass on what is here: head and first bytes in one write, or more of the body, or its end."""
        client, response, result = self._client, connection.response, self.result
        body = connection.take() if response.chunks else b""
        is_last = response.complete
        if is_last and response.trailers:
            client.answer_trailers = passed_trailers(response.trailers, response.headers)
        if self._is_begun:
            if is_last:
                self._close()
            self._sink.answer_more(body, last=is_last)
        else:
            status = response.status
            if status > MAX_STATUS:
                self._fail(UpstreamMalformed(f"status {status}"))
                return
            if status == PROXY_AUTHENTICATION_REQUIRED and (refusal := self.refusal_of_proxy):
                self._fail(refusal)
                return
            headers, reason = response.headers, response.reason
            if response.has_hop_fields or status in BODILESS_STATUS:
                headers = response_headers(headers, status, in_chunks=client.takes_chunks)
            self._is_begun = True
            result.status = status
            # An upstream that closes behind an early answer wants no more of the body.
            client.keep_alive = client.keep_alive and not (client.more_body and response.is_last)
            if is_last:
                self._close()
            self._sink.answer(status, reason, headers, body, last=is_last)
            now = _now()
            result.overhead_s = self._sent_at - self._entered_at + now - self._answered_at
            if is_last:
                result.took_s = now - self._entered_at
                self._tell(result)
                return
            client.ask_for_body()
        if is_last:
            self._end()
        else:
            connection.timer.begin_to_wait()

    def _meet_failure(self) -> None:
        """The upstream has failed: ask again, if that is right, or fail."""
        if self.may_go_on:
            self._start(self._ask_again)
        else:
            failure = self.connection.failure
            assert failure is not None, "or it was silent, and goes on"
            self._fail(failure)

    async def _ask_again(self) -> None:
        await self.head()
        self._waiting = None
        self.upstream_changed()

    # What happens.

    def client_changed(self) -> None:
        """More of the body is here, or its end; or the client has left, or takes bytes again."""
        if self._is_over:
            return
        client = self._client
        try:
            if client.disconnected:
                self._leave()
            elif self._sending is Sending.HELD:
                if client.has_arrived:
                    self._stop_timer()
                    self._send_with_body()
            elif self._waiting is None:
                if self._sending is Sending.GOING:
                    self._send_more()
                elif self._sending is Sending.ASKED and client.has_arrived:
                    self._go_on_with_body()  # it waits for no 100, or not any more
                self._pass_on()
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._crash()

    def upstream_changed(self) -> None:
        """More of the answer is here, or its end; or the upstream takes bytes again."""
        if self._waiting is not None or self._is_over:
            return  # the task looks by itself
        try:
            if self._sending is not OUT:
                if self._sending is Sending.ASKED:
                    self._look_for_continue()
                if self._sending is Sending.GOING:
                    self._send_more()
            self._pass_on()
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._crash()

    def upstream_interim(self, of: Connection, status: int, reason: bytes, headers: Headers) -> None:
        """See `Carried`. Of a hedged request's connections only the first is listened to."""
        if of is not self.current or self._is_over:
            return
        try:
            self._client.interim(status, reason, headers)
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._crash()

    def cut(self) -> None:
        """The process ends: give the request up."""
        if not self._is_over:
            self.result.outcome = Outcome.SHUTDOWN
            self._give_up()

    # The end.

    def _switched(self) -> None:
        """The tunnel that the request has become is closed."""
        self.result.status = SWITCHING_PROTOCOLS
        self._close()
        self._end()

    def _fail(self, error: UpstreamError) -> None:
        """Send a problem, if the head has not gone out. Else nothing: a cut answer must not look complete."""
        if isinstance(error, UpstreamAborted):
            self._leave()
            return
        result, sink = self.result, self._sink
        self._close()
        result.error = error.bare()
        with work_of(self._client.ids):
            logger.warning("upstream failed", extra={"fault": error.fault, "why": str(error)})
        if self._is_begun:
            result.outcome = Outcome.TRUNCATED
            sink.cut()
        else:
            result.outcome, result.status = Outcome.FAILED, error.status
            sink.refuse(error.status, error.detail)
        self._end()

    def _leave(self) -> None:
        """The client has left. No error is made of it: that takes as long as to close a connection."""
        self._close()
        self.result.outcome = Outcome.CLIENT_LEFT
        self._sink.cut()
        self._end()

    def _end(self) -> None:
        self.result.took_s = _now() - self._entered_at
        self._tell(self.result)

    def _tell(self, result: RelayResult) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(result)

    def _crash(self) -> None:
        with work_of(self._client.ids):
            logger.exception("Exception in the relay")
        result = self.result
        result.outcome, result.status = Outcome.FAILED, result.status or 500
        self._give_up()

    def _give_up(self) -> None:
        """Answer that the request has failed here, or cut its answer, at whatever point that is."""
        try:
            if not self._is_over:
                self._close()
            self._sink.fail()
        except Exception:  # a defect of every answer: the client would wait for ever
            with work_of(self._client.ids):
                logger.exception("Exception in the relay")
            self._client.cut()
        finally:
            self._end()

    def _close(self) -> None:
        """Give the connection back. What holds this request, and is held by it, lets go."""
        self._is_over = True
        if self._timer is not None:
            self._stop_timer()
        waiting, self._waiting = self._waiting, None
        self._client.watcher = None
        if self.expects:
            self._look_for_unread()
        if waiting is None:
            self.close()
        elif isinstance(waiting, Connecting):
            waiting.cancel()
            self.close()
        else:
            self.abort()
            waiting.add_done_callback(self._give_back)  # until then it may be given another connection
            waiting.cancel()

    def _give_back(self, _: asyncio.Task[None]) -> None:
        self.close()
