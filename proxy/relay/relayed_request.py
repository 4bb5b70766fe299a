"""One request on its way through: a state for each direction, moved on by the callbacks of both connections.

The states and their table are in `steps.py`. Here is no task, unless something must be waited for: a
connection that is made, a request that is sent again or hedged, an upgrade.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

from proxy.downstream.client_request import ClientRequest
from proxy.errors import UpstreamAborted, UpstreamError, UpstreamMalformed
from proxy.http.framing import CHUNKED, EXPECTED, Body, frame
from proxy.http.headers import BODILESS_STATUS, passed_trailers, response_headers
from proxy.http.upgrade import SWITCHING_PROTOCOLS, UpgradeOffer
from proxy.observe.spans.request_ids import work_of
from proxy.relay.result import OnEnd, Outcome, RelayResult
from proxy.relay.sinks import Sink
from proxy.relay.steps import OUT, PASS_ON, NextStep, Sending, next_step
from proxy.upstream.connecting import PROXY_AUTHENTICATION_REQUIRED
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.timeouts import SLOW_S
from proxy.upstream.tunnel import Upgrades

logger = logging.getLogger("headgate.relay")

CONTINUE_S = 1.0
"""Seconds the upstream has to answer `Expect: 100-continue`; RFC 9110 10.1.1 says not to wait for ever."""

MAX_STATUS = 599
"""The last status of a class that RFC 9110 15 knows, and that uvicorn has a status line for."""


NO_BODY, BY_LENGTH = Body.NONE, Body.LENGTH
"""Looked up for each request; as members of their enumeration they take ten times as long."""


class RelayedRequest:
    """One request; `begin` it once."""

    _sending = Sending.HELD
    _is_begun = False
    """True if the answer's head has gone out."""
    _is_over = False
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _answered_at = 0.0
    never_trailers: frozenset[bytes] = frozenset()
    """Names that no trailer of the request may have."""

    def __init__(
        self,
        client: ClientRequest,
        sink: Sink,
        exchange: Exchange,
        head: tuple[bytes, Body],
        on_end: OnEnd,
        entered_at: float,
    ) -> None:
        self._client = client
        self._sink = sink
        self._exchange = exchange
        self._head, self._framing = head
        self._on_end = on_end
        self._entered_at = self._sent_at = entered_at
        self.result = RelayResult()

    def begin(self) -> None:
        """Send it, or wait for its body."""
        client, framing = self._client, self._framing
        self._watch_both()
        try:
            if framing is NO_BODY:
                self._send(self._head, whole=True)
            elif framing is not BY_LENGTH and framing in EXPECTED:
                self._send(self._head, whole=False)
            elif client.has_arrived:
                self._send_with_body()
            else:
                # Head and body are written together if the body comes soon; else the head goes alone, for an
                # early answer.
                self._timer = asyncio.get_running_loop().call_later(SLOW_S, self._body_is_slow)
                client.ask_for_body()
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    def offer(self, offer: UpgradeOffer, upgrades: Upgrades) -> None:
        """Begin a request that offers an upgrade."""
        self._watch_both()
        self._start(self._switch, offer, upgrades)

    def _watch_both(self) -> None:
        self._client.watcher = self
        self._exchange.on_change = self.upstream_changed
        self._exchange.on_interim = self._client.interim

    # The request's direction.

    def _send_with_body(self) -> None:
        client = self._client
        body = client.take_body()
        whole = not client.more_body
        if self._framing is not BY_LENGTH:
            body = self._framed(body, last=whole)
        self._send(self._head + body, whole=whole)

    def _body_is_slow(self) -> None:
        self._timer = None
        try:
            self._send(self._head, whole=False)
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    def _send(self, data: bytes, *, whole: bool) -> None:
        """Write the head, and what of the body is here, on a kept connection; a task waits for a new one."""
        self._head = b""
        if self._exchange.send_at_once(data, whole=whole, on_slow=self._watch):
            self._is_sent(whole)
        else:
            self._sending = Sending.ON_ITS_WAY
            self._start(self._connect, data, whole)

    async def _connect(self, data: bytes, whole: bool) -> None:
        await self._exchange.send(data, whole=whole, on_slow=self._watch)
        self._task = None
        self._is_sent(whole)
        self.upstream_changed()

    def _is_sent(self, whole: bool) -> None:
        self._sent_at = perf_counter()
        if whole:
            self._sending = OUT
        elif self._framing in EXPECTED:
            self._sending = Sending.ASKED
            self._timer = asyncio.get_running_loop().call_later(CONTINUE_S, self._continue_is_late)
        else:
            self._sending = Sending.GOING
            self._client.ask_for_body()
            self._send_more()

    def _look_for_continue(self) -> None:
        """True if the upstream asks for the body, or has answered without it."""
        connection = self._exchange.connection
        if connection.response.status:
            # The client is never asked for it then.
            self._stop_timer()
            self._sending = Sending.OUT
            connection.leave_unsent()
        elif connection.response.continued:
            self._go_on_with_body()

    def _continue_is_late(self) -> None:
        try:
            self._go_on_with_body()
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    def _go_on_with_body(self) -> None:
        self._stop_timer()
        self._sending = Sending.GOING
        self._client.ask_for_body()
        self._send_more()

    def _send_more(self) -> None:
        """Send what is here of the body. An early answer does not wait for the rest."""
        client, connection = self._client, self._exchange.connection
        if not client.has_arrived or connection.is_slow:
            return
        body = client.take_body()
        is_last = not client.more_body
        data = self._framed(body, last=is_last)
        if data:
            connection.write(data)
        if is_last:
            self._sending = Sending.OUT
            connection.timer.sent()
            client.ask_for_body()

    def _framed(self, body: bytes, *, last: bool) -> bytes:
        client, trailers = self._client, None
        if last and client.trailers:
            trailers = passed_trailers(client.trailers, client.headers, self.never_trailers)
        return frame(body, self._framing in CHUNKED, last=last, trailers=trailers)

    # The answer's direction.

    def _pass_on(self) -> None:
        """Take the next step of the answer's direction."""
        connection = self._exchange.connection
        response, timer = connection.response, connection.timer
        if response.status and not self._answered_at:
            self._answered_at = perf_counter()
        step = next_step(
            self._is_begun,
            response.status != 0,
            response.complete or bool(response.chunks),
            connection.is_silent or connection.failure is not None,
            timer.on_slow is not None,
            self._client.is_slow,
        )
        if step is PASS_ON:
            self._pass_piece(connection)
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
            if status == PROXY_AUTHENTICATION_REQUIRED and (refusal := self._exchange.refusal_of_proxy):
                self._fail(refusal)
                return
            headers, reason = response.headers, response.reason
            if response.has_hop_fields or status in BODILESS_STATUS:
                headers = response_headers(headers, status, in_chunks=client.takes_chunks)
            self._is_begun = True
            result.status = status
            if is_last:
                self._close()
            self._sink.answer(status, reason, headers, body, last=is_last)
            now = perf_counter()
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
        if self._exchange.may_go_on:
            self._start(self._ask_again)
        else:
            failure = self._exchange.connection.failure
            assert failure is not None, "or it was silent, and goes on"
            self._fail(failure)

    async def _ask_again(self) -> None:
        await self._exchange.head()
        self._task = None
        self.upstream_changed()

    async def _switch(self, offer: UpgradeOffer, upgrades: Upgrades) -> None:
        """Pass the offer on. If the upstream does not accept it, its answer is one as any other."""
        exchange = self._exchange
        upgrades.check_room()
        await exchange.send(self._head, whole=True, on_slow=self._watch)
        self._is_sent(True)
        exchange.connection.response.offered = offer.protocols
        await exchange.head()
        if exchange.status == SWITCHING_PROTOCOLS:
            self._client.watcher = None  # the tunnel's ends look after themselves
            await upgrades.carry(offer, exchange)
            self.result.status = SWITCHING_PROTOCOLS
            self._task = None
            self._close()
            self._end()
        else:
            self._task = None
            self.upstream_changed()

    # What happens.

    def client_changed(self) -> None:
        """More of the body is here, or its end; or the client has left, or takes bytes again."""
        if self._is_over:
            return
        client = self._client
        try:
            if client.disconnected:
                self._fail(UpstreamAborted("the client left"))
            elif self._sending is Sending.HELD:
                if client.has_arrived:
                    self._stop_timer()
                    self._send_with_body()
            elif self._task is None:
                if self._sending is Sending.GOING:
                    self._send_more()
                self._pass_on()
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._crash()

    def upstream_changed(self) -> None:
        """More of the answer is here, or its end; or the upstream takes bytes again."""
        if self._task is not None or self._is_over:
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

    def _watch(self) -> None:
        """The answer is slow: read on, since only that shows whether the client leaves."""
        self._client.ask_for_body()

    def cut(self) -> None:
        """The process ends: give the request up."""
        if not self._is_over:
            self.result.outcome = Outcome.SHUTDOWN
            self._give_up()

    # The end.

    def _start(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work, *given))

    async def _run(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        try:
            await work(*given)
        except UpstreamError as error:
            self._task = None
            self._fail(error.bare())
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._task = None
            self._crash()

    def _fail(self, error: UpstreamError) -> None:
        """Send a problem, if the head has not gone out. Else nothing: a cut answer must not look complete."""
        result, sink = self.result, self._sink
        self._close()
        if isinstance(error, UpstreamAborted):
            result.outcome = Outcome.CLIENT_LEFT
            sink.cut()
        else:
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

    def _end(self) -> None:
        self.result.took_s = perf_counter() - self._entered_at
        self._tell(self.result)

    def _tell(self, result: RelayResult) -> None:
        on_end, self._on_end = self._on_end, _is_told
        on_end(result)

    def _crash(self) -> None:
        with work_of(self._client.ids):
            logger.exception("Exception in the relay")
        result = self.result
        result.outcome, result.status = Outcome.FAILED, result.status or 500
        self._give_up()

    def _give_up(self) -> None:
        """Answer that the request has failed here, or cut its answer, at whatever point that is."""
        if not self._is_over:
            self._close()
        self._sink.fail()
        self._end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        """Give the connection back. What holds this request, and is held by it, lets go."""
        self._is_over = True
        self._stop_timer()
        task, self._task = self._task, None
        self._client.watcher = None
        self._exchange.on_change = self._exchange.on_interim = None
        if task is None:
            self._exchange.close()
        else:
            self._exchange.abort()
            task.add_done_callback(self._give_back)  # until then it may be given another connection
            task.cancel()

    def _give_back(self, _: asyncio.Task[None]) -> None:
        self._exchange.close()


def _is_told(_: RelayResult) -> None:
    pass
