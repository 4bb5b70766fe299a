"""Batch through, untouched: bytes of any request to the upstream, bytes of its answer back.

A raw ASGI app and the hot path: every user passes here, also those without the flag. Nothing is buffered but
what the sockets hold; a slow side slows the other.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter

from proxy.errors import RequestRefused, UpstreamAborted, UpstreamError, UpstreamMalformed
from proxy.http.asgi import ANSWER, ARRIVED, INTERIM, REASON, Receive, Scope, Send, WholeAnswer, send_problem
from proxy.http.framing import CHUNKED, EXPECTED, Body, check_framing, frame, request_target
from proxy.http.headers import Forwarding, Headers, request_headers, response_headers, write_head
from proxy.http.max_forwards import LIMITED, hops_left, last_hop, one_hop_less
from proxy.http.tracing import with_token
from proxy.http.upgrade import SWITCHING_PROTOCOLS, UPGRADE, UpgradeOffer
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import Exchange
from proxy.upstream.timeouts import SLOW_S
from proxy.upstream.tunnel import Upgrades

logger = logging.getLogger("headgate.relay")

CONTINUE_S = 1.0
"""Seconds the upstream has to answer `Expect: 100-continue`; RFC 9110 10.1.1 says not to wait for ever."""

MAX_STATUS = 599
"""The last status of a class that RFC 9110 15 knows, and that uvicorn has a status line for."""


class Outcome(StrEnum):
    """The end of a relayed request."""

    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    TRUNCATED = "truncated"
    CLIENT_LEFT = "client_left"


@dataclass(slots=True)
class RelayResult:
    """The outcome of one relayed request, for metrics and the log."""

    outcome: Outcome = Outcome.COMPLETE
    status: int = 0
    overhead_s: float = 0.0
    """Seconds spent in this process, and not waiting for the upstream's first byte."""
    error: UpstreamError | None = None


class Relay:
    """Relays requests to one upstream; for `repeats` see `Upstream.exchange`."""

    def __init__(
        self, upstream: Upstream, forwarding: Forwarding, upgrades: Upgrades, *, repeats: bool = False
    ) -> None:
        self._upstream = upstream
        self._forwarding = forwarding
        self._upgrades = upgrades
        self._repeats = repeats
        self._authority = upstream.origin.authority

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        token: str | None = None,
        *,
        fresh: bool = False,
        long: bool = False,
    ) -> RelayResult:
        """Relay one request. Raises nothing but cancellation: what went wrong is in the `RelayResult`.

        With a `token` the request's model calls find a tap; see `proxy.http.tracing`. For `fresh` and
        `long`, see `Upstream.exchange`.
        """
        result = RelayResult()
        offer: UpgradeOffer | None = scope.get(UPGRADE)
        if scope["method"] in LIMITED and hops_left(scope["headers"]) == 0:
            await _answer_as_last_hop(scope, send)
            result.status = 200
            return result
        try:
            head, body = self._head(scope, token, offer)
        except RequestRefused as refusal:
            result.outcome, result.status = Outcome.REFUSED, refusal.status
            await send_problem(send, refusal.status, refusal.detail, close=True)
            return result

        fresh, repeats = fresh or offer is not None, self._repeats
        with self._upstream.exchange(scope["method"], fresh=fresh, long=long, repeats=repeats) as exchange:
            exchange.on_interim = scope.get(INTERIM)
            relayed = _RelayedExchange(exchange, scope, receive, send, result)
            try:
                if offer is not None:
                    self._upgrades.check_room()
                await relayed.ask(head, body)
                if offer is not None and await relayed.is_switched(offer):
                    await self._upgrades.carry(offer, exchange)
                    result.status = SWITCHING_PROTOCOLS
                else:
                    await relayed.answer()
            except UpstreamAborted:
                result.outcome = Outcome.CLIENT_LEFT
            except UpstreamError as error:
                result.error = error.bare()
                await self._report(error, result, send)
            finally:
                relayed.end()
        return result

    def _head(self, scope: Scope, token: str | None, offer: UpgradeOffer | None) -> tuple[bytes, Body]:
        """The upstream request's head, and how its body comes."""
        headers: Headers = scope["headers"]
        method: str = scope["method"]
        body = check_framing(headers, scope["http_version"])
        client = scope.get("client")
        address = client[0] if client else None
        sent = request_headers(headers, self._forwarding, address, scope["scheme"], self._authority)
        if method in LIMITED:
            sent = one_hop_less(sent)
        if token is not None:
            sent = with_token(sent, token)
        if body in CHUNKED:
            sent.append((b"transfer-encoding", b"chunked"))
        if offer is not None:
            sent += [(b"connection", b"Upgrade"), (b"upgrade", offer.protocols)]
        return write_head(method.encode(), request_target(scope), sent), body

    async def _report(self, error: UpstreamError, result: RelayResult, send: Send) -> None:
        """Send a problem, if the head has not gone out. Else nothing: a cut answer must not look complete."""
        logger.warning("upstream failed", extra={"fault": error.fault, "why": str(error)})
        if result.status:
            result.outcome = Outcome.TRUNCATED
            return
        result.outcome, result.status = Outcome.FAILED, error.status
        await send_problem(send, error.status, error.detail)


async def _answer_as_last_hop(scope: Scope, send: Send) -> None:
    headers, body = last_hop(scope["method"], request_target(scope), scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _RelayedExchange:
    """One request on its way up, and its answer on its way down.

    Only when the answer is slow does a task watch whether the client leaves: the watch costs a fifth of a
    relayed request, and most answers come sooner.
    """

    def __init__(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, result: RelayResult
    ) -> None:
        self._exchange = exchange
        self._answer: WholeAnswer | None = scope.get(ANSWER)
        self._set_reason: Callable[[int, bytes], None] | None = scope.get(REASON)
        self._arrived: Callable[[], bool] | None = scope.get(ARRIVED)
        self._receive = receive
        self._send = send
        self._result = result
        self._task: asyncio.Task[None] | None = None
        self._sent_at = self._entered_at = perf_counter()

    async def ask(self, head: bytes, body: Body) -> None:
        """Send the request; a task sends the rest of a body that is still arriving."""
        if body is Body.NONE:
            await self._exchange.send(head, whole=True, on_slow=self._watch)
        elif body in EXPECTED:
            await self._ask_for_continue(head, body)
        else:
            await self._ask_with_body(head, body is Body.CHUNKED)
        self._sent_at = perf_counter()

    async def _ask_with_body(self, head: bytes, chunked: bool) -> None:
        """Write head and body together if the body comes soon; else the head alone, for an early answer."""
        if self._arrived is not None and self._arrived():
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout(SLOW_S):
                    message = await self._receive()
            except TimeoutError:
                message = {"type": "http.request", "body": b"", "more_body": True}
        if message["type"] == "http.disconnect":
            raise UpstreamAborted("the client left before its body was here")
        whole = not message.get("more_body", False)
        data = head + frame(message["body"], chunked, last=whole)
        await self._exchange.send(data, whole=whole, on_slow=self._watch)
        if not whole:
            self._task = asyncio.ensure_future(self._pump(chunked))

    async def _ask_for_continue(self, head: bytes, body: Body) -> None:
        """`Expect: 100-continue`: the client is asked for its body when the upstream asks."""
        await self._exchange.send(head, whole=False)
        await self._exchange.connection.until_continued(CONTINUE_S)
        if self._exchange.status:
            # Answered without the body, so the client is never asked for it. The watch, which would ask,
            # begins only when the head has gone out.
            self._exchange.connection.leave_unsent()
            self._watch()
        else:
            self._task = asyncio.ensure_future(self._pump(body is Body.CHUNKED_EXPECTED))

    async def is_switched(self, offer: UpgradeOffer) -> bool:
        """True if the upstream accepts the offer; if not, its answer is passed on as any other."""
        self._exchange.connection.response.offered = offer.protocols
        await self._exchange.head()
        if self._exchange.status != SWITCHING_PROTOCOLS:
            return False
        self.end()
        return True

    async def answer(self) -> None:
        """Pass the answer on: at once if it is whole, else as it comes."""
        exchange = self._exchange
        await exchange.head()
        answered_at = perf_counter()
        connection, response = exchange.connection, exchange.connection.response
        status = response.status
        if status > MAX_STATUS:
            raise UpstreamMalformed(f"status {status}")
        headers = response_headers(response.headers, status)
        body = connection.take() if response.chunks else await connection.first()
        self._result.status = status
        reason = response.reason
        if self._answer is None or not response.whole or not self._answer(status, reason, headers, body):
            if self._set_reason is not None:
                self._set_reason(status, reason)
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": not response.at_end})
        self._result.overhead_s = (self._sent_at - self._entered_at) + (perf_counter() - answered_at)
        while not response.at_end:
            body = await connection.read()
            await self._send({"type": "http.response.body", "body": body, "more_body": not response.at_end})

    def end(self) -> None:
        """The exchange is over: stop the task that sends the body or watches the client."""
        if self._task is not None:
            self._task.cancel()

    def _watch(self) -> None:
        self._task = asyncio.ensure_future(self._abort_when_left())

    async def _abort_when_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._exchange.abort()

    async def _pump(self, chunked: bool) -> None:
        """Send the body as it comes, then watch. An early answer does not wait for the rest."""
        connection = self._exchange.connection
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._exchange.abort()
                return
            more = message.get("more_body", False)
            connection.write(frame(message["body"], chunked, last=not more))
            await connection.drain()
        connection.timer.sent()
        await self._abort_when_left()
