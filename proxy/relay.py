"""Batch through, untouched: bytes of any request to the upstream, bytes of its answer back.

A raw ASGI app and the hot path of the house: every user passes here, also those without the flag.
Nothing is buffered but what the sockets hold; a slow side slows the other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Any

from proxy.errors import RequestRefused, UpstreamAborted, UpstreamError, problem
from proxy.headers import Forwarding, Headers, request_headers, response_headers, write_head
from proxy.server import TARGET
from proxy.upstream import Exchange, Upstream

logger = logging.getLogger("headgate.relay")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONTINUE_S = 1.0
"""Seconds the upstream has to answer `Expect: 100-continue`; RFC 9110 10.1.1 says not to wait for ever."""

MAX_STATUS = 599
"""uvicorn has no status line beyond it, and RFC 9110 15 no class."""


class Outcome(StrEnum):
    """How a relayed request ended."""

    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    TRUNCATED = "truncated"
    CLIENT_LEFT = "client_left"


@dataclass(slots=True)
class Passage:
    """What is known of one relayed request when it is over; for metrics and the log."""

    outcome: Outcome = Outcome.COMPLETE
    status: int = 0
    overhead_s: float = 0.0
    """Seconds spent here rather than waiting for the upstream's first byte."""
    error: UpstreamError | None = None


class Relay:
    """Relays requests to one upstream."""

    def __init__(self, upstream: Upstream, forwarding: Forwarding) -> None:
        self._upstream = upstream
        self._forwarding = forwarding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Passage:
        """Relay one request. Raises nothing but cancellation: what went wrong is in the `Passage`."""
        passage = Passage()
        try:
            head, has_body, expects_continue = self._head(scope)
        except RequestRefused as refusal:
            passage.outcome, passage.status = Outcome.REFUSED, refusal.status
            await send_problem(send, refusal.status, refusal.detail)
            return passage

        with self._upstream.exchange(scope["method"]) as exchange:
            passenger = _Passenger(receive, exchange)
            try:
                await self._pass(head, has_body, expects_continue, exchange, passenger, send, passage)
            except UpstreamAborted:
                passage.outcome = Outcome.CLIENT_LEFT
            except UpstreamError as error:
                passage.error = error
                await self._tell(error, passage, send)
            finally:
                passenger.leave()
        return passage

    def _head(self, scope: Scope) -> tuple[bytes, bool, bool]:
        """The upstream request's head; whether a body follows; whether the client awaits a 100."""
        headers: Headers = scope["headers"]
        has_body = chunked = expects_continue = False
        hosts = 0
        for name, value in headers:
            if name == b"content-length":
                has_body = value != b"0"
            elif name == b"transfer-encoding":
                chunked = _is_chunked(value)
            elif name == b"host":
                hosts += 1
            elif name == b"expect":
                expects_continue = value.lower() == b"100-continue"
            elif name == b"upgrade" and value.lower() == b"websocket":
                raise RequestRefused(501, "WebSocket connections are not passed through.")
        method: str = scope["method"]
        if hosts > 1:
            raise RequestRefused(400, "The request has more than one Host.")
        if method == "CONNECT":
            raise RequestRefused(501, "CONNECT is for forward proxies; this is a reverse proxy.")
        client = scope.get("client")
        sent = request_headers(
            headers,
            self._forwarding,
            client[0] if client else None,
            scope["scheme"],
            self._upstream.origin.authority,
        )
        if chunked:
            sent.append((b"transfer-encoding", b"chunked"))
        head = write_head(method.encode(), request_target(scope), sent)
        return head, has_body or chunked, expects_continue

    async def _pass(
        self,
        head: bytes,
        has_body: bool,
        expects_continue: bool,
        exchange: Exchange,
        passenger: "_Passenger",
        send: Send,
        passage: Passage,
    ) -> None:
        entered = perf_counter()
        if not has_body:
            await exchange.send(head, whole=True, on_slow=passenger.watch)
        else:
            await passenger.send_with_body(head, expects_continue)
        asked = perf_counter()
        await exchange.head()
        answered = perf_counter()

        status = exchange.status
        if status > MAX_STATUS:
            raise UpstreamError(f"status {status}")
        passage.status = status
        body = b"" if exchange.connection.at_end else await exchange.read()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": response_headers(exchange.headers, status),
            }
        )
        more = not exchange.connection.at_end
        await send({"type": "http.response.body", "body": body, "more_body": more})
        passage.overhead_s = (asked - entered) + (perf_counter() - answered)
        while more:
            body = await exchange.read()
            more = not exchange.connection.at_end
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _tell(self, error: UpstreamError, passage: Passage, send: Send) -> None:
        """Before the head: a problem. After it: nothing, so that the cut answer does not look complete."""
        logger.warning("upstream failed", extra={"fault": error.fault, "why": str(error)})
        if passage.status:
            passage.outcome = Outcome.TRUNCATED
            return
        passage.outcome, passage.status = Outcome.FAILED, error.status
        await send_problem(send, error.status, error.detail)


class _Passenger:
    """The client's side of one exchange: sends its body up, and tells the exchange when it leaves.

    The leaving is watched for only when the answer is slow: a watch costs a fifth of a relayed request.
    """

    def __init__(self, receive: Receive, exchange: Exchange) -> None:
        self._receive = receive
        self._exchange = exchange
        self._task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """The exchange is over."""
        if self._task is not None:
            self._task.cancel()

    def watch(self) -> None:
        """Abort the exchange when the client leaves."""
        self._task = asyncio.ensure_future(self._until_left())

    async def _until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._exchange.abort()

    async def send_with_body(self, head: bytes, expects_continue: bool) -> None:
        """Send a request whose body is still arriving; most bodies are here whole with the head."""
        if expects_continue:
            await self._exchange.send(head, whole=False)
            await self._exchange.connection.until_continued(CONTINUE_S)
            if self._exchange.status:
                # Answered without the body, so the client is never asked for it.
                self._exchange.connection.sent()
                return
            self._task = asyncio.ensure_future(self._pump())
            return
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise UpstreamAborted("the client left before its body was here")
        chunked = head.endswith(b"\r\ntransfer-encoding: chunked\r\n\r\n")
        whole = not message.get("more_body", False)
        data = head + _frame(message["body"], chunked, last=whole)
        await self._exchange.send(data, whole=whole, on_slow=self.watch)
        if not whole:
            self._task = asyncio.ensure_future(self._pump(chunked))

    async def _pump(self, chunked: bool = False) -> None:
        """Body bytes up as they come; then the watch. An early answer does not wait for the rest."""
        connection = self._exchange.connection
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._exchange.abort()
                return
            more = message.get("more_body", False)
            connection.write(_frame(message["body"], chunked, last=not more))
            await connection.drain()
        connection.sent()
        await self._until_left()


def _frame(body: bytes, chunked: bool, *, last: bool) -> bytes:
    if not chunked:
        return body
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if last else framed


def _is_chunked(coding: bytes) -> bool:
    """The server below undoes `chunked` and nothing else, so nothing else can be passed on."""
    if coding.strip().lower() != b"chunked":
        raise RequestRefused(501, "No transfer coding but 'chunked' is understood.")
    return True


def request_target(scope: Scope) -> bytes:
    """Path and query as the client wrote them."""
    target: bytes | None = scope.get(TARGET)
    if target is None:
        query: bytes = scope["query_string"]
        target = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
    if not target.startswith(b"/"):
        # Absolute form (RFC 9112 3.2.2): the origin behind gets the origin form.
        rest = target.partition(b"://")[2]
        path = rest.find(b"/")
        target = rest[path:] if path >= 0 else b"/"
    return target


TITLES = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


async def send_problem(send: Send, status: int, detail: str) -> None:
    """Answer with an RFC 9457 problem."""
    headers, body = problem(status, TITLES[status], detail)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
