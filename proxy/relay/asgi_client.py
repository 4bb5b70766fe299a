"""A client that is reached by ASGI messages: its request had to wait for its decision, or its answer is
copied or held on its way.
"""

import asyncio
from collections import deque

from proxy.downstream.client_request import RequestWatcher
from proxy.errors import problem
from proxy.http.asgi import ANSWER, INTERIM, REASON, TITLES, Message, Receive, Scope, Send
from proxy.http.framing import request_target
from proxy.http.headers import Headers
from proxy.http.upgrade import UPGRADE, UpgradeOffer
from proxy.observe.spans.request_ids import CURRENT
from proxy.relay.relayed_request import RelayResult


class AsgiClient:
    """The client's side of one relayed request.

    One message at a time is asked for and sent, each by a task: a client that is slow slows the upstream.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = scope.get("client")
        self.method: str = scope["method"]
        self.version: str = scope["http_version"]
        self.headers: Headers = scope["headers"]
        self.target = request_target(scope)
        self.address: str | None = address[0] if address else None
        self.scheme: str = scope["scheme"]
        self.offer: UpgradeOffer | None = scope.get(UPGRADE)
        self.ids = CURRENT.get()
        self.disconnected = False
        self.more_body = True
        self.watcher: RequestWatcher | None = None
        self._answer = scope.get(ANSWER)
        self._set_reason = scope.get(REASON)
        self._send_interim = scope.get(INTERIM)
        self._receive = receive
        self._send = send
        self._body = b""
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._unsent: deque[Message] = deque()
        self._error: Exception | None = None
        self._over: asyncio.Future[RelayResult] = self._loop.create_future()

    async def result(self) -> RelayResult:
        """Wait until the request is over, and its answer sent. Raises what `send` raises."""
        try:
            result = await self._over
            if self._sending is not None:
                await self._sending
            if self._error is not None:
                raise self._error
            return result
        finally:
            watcher = self.watcher
            if watcher is not None:
                watcher.cut()
            for task in (self._reading, self._sending):
                if task is not None:
                    task.cancel()
            self._reading = self._sending = None

    def end(self, result: RelayResult) -> None:
        """The request is over, but for messages that are on their way."""
        if not self._over.done():
            self._over.set_result(result)

    # The request.

    @property
    def has_arrived(self) -> bool:
        return bool(self._body) or not self.more_body

    def take_body(self) -> bytes:
        body, self._body = self._body, b""
        if self.more_body:
            self.ask_for_body()
        return body

    def ask_for_body(self) -> None:
        if self._reading is None and not self._body:
            self._reading = self._loop.create_task(self._read())

    async def _read(self) -> None:
        """Ask for one message; once the body is at its end, for the client's leaving."""
        while True:
            try:
                message = await self._receive()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the call ends by it
                self._break(exc)
                return
            if message["type"] == "http.disconnect":
                self.disconnected = True
                break
            if self.more_body:
                self._body += message["body"]
                self.more_body = message.get("more_body", False)
                if self.more_body:
                    break
                if self.watcher is not None:
                    self.watcher.client_changed()
        self._reading = None
        if self.watcher is not None:
            self.watcher.client_changed()

    # The answer.

    @property
    def is_slow(self) -> bool:
        return self._sending is not None

    def interim(self, status: int, reason: bytes, headers: Headers) -> None:
        if self._send_interim is not None:
            self._send_interim(status, reason, headers)

    def answer(self, status: int, reason: bytes, headers: Headers, body: bytes, *, last: bool) -> None:
        has_length = any(name == b"content-length" for name, _ in headers)
        if last and has_length and self._answer is not None and self._answer(status, reason, headers, body):
            return
        if self._set_reason is not None:
            self._set_reason(status, reason)
        self._put({"type": "http.response.start", "status": status, "headers": headers})
        self.answer_more(body, last=last)

    def answer_more(self, body: bytes, *, last: bool) -> None:
        self._put({"type": "http.response.body", "body": body, "more_body": not last})

    def refuse(self, status: int, detail: str, *, close: bool = False) -> None:
        headers, body = problem(status, TITLES[status], detail)
        if close:
            headers.append((b"connection", b"close"))
        self._put({"type": "http.response.start", "status": status, "headers": headers})
        self.answer_more(body, last=True)

    def cut(self) -> None:
        """Nothing: a call that returns before its answer is whole is cut by the server."""

    def fail(self) -> None:
        self._break(RuntimeError("a request could not be relayed"))

    def _put(self, message: Message) -> None:
        self._unsent.append(message)
        if self._sending is None:
            self._sending = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        """Send the messages that there are."""
        try:
            while self._unsent:
                await self._send(self._unsent.popleft())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the call ends by it
            self._break(exc)
            return
        self._sending = None
        if self.watcher is not None:
            self.watcher.client_changed()

    def _break(self, exc: Exception) -> None:
        self._error = exc
        if not self._over.done():
            self._over.set_exception(exc)
