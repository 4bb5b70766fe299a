"""The request's direction of a relayed request: its head and body on their way to the upstream.

The states are in `steps.py`. Here are the tasks, too, which there are while something is waited for: a second
try, an upgrade, a new connection that takes more than to connect.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from proxy.downstream.client_request import ClientRequest, RequestWatcher
from proxy.errors import UpstreamError
from proxy.http.framing import CHUNKED, EXPECTED, Body, frame
from proxy.http.headers import passed_trailers
from proxy.http.upgrade import SWITCHING_PROTOCOLS, UpgradeOffer
from proxy.relay.result import OnEnd, RelayResult
from proxy.relay.sinks import Sink
from proxy.relay.steps import HELD, OUT, Sending
from proxy.upstream.at_once import Connecting
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.timeouts import SLOW_S
from proxy.upstream.tunnel import Upgrades

CONTINUE_S = 1.0
"""Seconds the upstream has to answer `Expect: 100-continue`; RFC 9110 10.1.1 says not to wait for ever."""

_now: Final = perf_counter
NO_BODY: Final = Body.NONE
BY_LENGTH: Final = Body.LENGTH
"""Looked up for each request; as members of their enumeration, or names of a module, they take longer."""


class SentRequest(Exchange, RequestWatcher, ABC):
    """An exchange for a client's request; `begin` it once. `RelayedRequest` knows what comes back."""

    __slots__ = (
        "_answered_at",
        "_client",
        "_entered_at",
        "_framing",
        "_head",
        "_is_begun",
        "_is_over",
        "_is_whole",
        "_on_end",
        "_sending",
        "_sent_at",
        "_sink",
        "_timer",
        "_waiting",
        "expects",
        "never_trailers",
        "result",
    )

    expects: bool
    """Whether the request has the header `Expect`, with whatever value."""
    never_trailers: frozenset[bytes]
    """Names that no trailer of the request may have."""

    def begin(
        self,
        client: ClientRequest,
        sink: ClientRequest | Sink,
        head: tuple[bytes, Body],
        on_end: OnEnd,
        entered_at: float,
        upgrades: Upgrades,
    ) -> None:
        """Send it, or wait for its body. For `on_end` and `entered_at` see `Relay.begin`."""
        self._client = client
        self._sink = sink
        self._head, framing = head
        self._framing = framing
        self._on_end: OnEnd | None = on_end
        self._entered_at = self._sent_at = entered_at
        self.result = RelayResult()
        self._sending = HELD
        self._is_begun = self._is_over = False
        """Whether the answer's head has gone out; whether all is done."""
        self._answered_at = 0.0
        self._waiting: asyncio.Task[None] | Connecting | None = None
        """What waits for a connection, or an answer: meanwhile the request is told of no change."""
        self._timer: asyncio.TimerHandle | None = None
        client.watcher = self
        try:
            if client.disconnected:  # by what it had to wait for; of that it is told only once
                self._leave()
            elif client.offer is not None:
                self._sending = Sending.ON_ITS_WAY
                self._start(self._switch, client.offer, upgrades)
            elif framing is NO_BODY:
                self._send(self._head, True)
            elif framing is not BY_LENGTH and framing in EXPECTED:
                self._send(self._head, False)
            elif client.body or not client.more_body:
                self._send_with_body()
            else:
                # Head and body are written together if the body comes soon; else the head goes alone, for an
                # early answer.
                self._timer = asyncio.get_running_loop().call_later(SLOW_S, self._body_is_slow)
                client.ask_for_body()
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    # The request's direction.

    def _send_with_body(self) -> None:
        client = self._client
        body = client.take_body()
        whole = not client.more_body
        if self._framing is not BY_LENGTH:
            body = self._framed(body, last=whole)
        self._send(self._head + body, whole)

    def _body_is_slow(self) -> None:
        self._timer = None
        try:
            self._send(self._head, False)
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    def _send(self, data: bytes, whole: bool) -> None:
        """Write the head, and what of the body is here, on a kept connection, or else on a new one.

        A task makes that one if there is more to it than to connect to an address.
        """
        self._head = b""
        if self.send_at_once(data, whole, True):
            self._is_sent(whole)
            return
        self._sending = Sending.ON_ITS_WAY
        self._waiting = self.begin_to_connect(self, data)
        if self._waiting is None:
            self._start(self._connect, data, whole)
        else:
            self._head, self._is_whole = data, whole

    def connected(self, connection: Connection) -> None:
        """See `Asking`."""
        self._waiting = None
        data, self._head = self._head, b""
        try:
            self._ask(connection, data, self._is_whole, True)
            self._is_sent(self._is_whole)
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    def not_connected(self, error: Exception) -> None:
        """See `Asking`."""
        self._waiting = None
        data, self._head = self._head, b""
        try:
            if not isinstance(error, UpstreamError):
                self._crash()
            elif self.send_on_kept(data, self._is_whole, True):
                self._is_sent(self._is_whole)
            else:
                self._fail(error.bare())
        except Exception:  # noqa: BLE001 - as in `client_changed`
            self._crash()

    async def _connect(self, data: bytes, whole: bool) -> None:
        await self.send(data, whole=whole, tells_slow=True)
        self._waiting = None
        self._is_sent(whole)
        self.upstream_changed()

    def _is_sent(self, whole: bool) -> None:
        self._sent_at = _now()
        if whole:
            self._sending = OUT
        elif self._framing in EXPECTED and not self._client.has_arrived:
            self._sending = Sending.ASKED
            self._timer = asyncio.get_running_loop().call_later(CONTINUE_S, self._continue_is_late)
        else:
            self._sending = Sending.GOING
            self._client.ask_for_body()
            self._send_more()

    def _look_for_continue(self) -> None:
        """Go on if the upstream asks for the body; send none if it has answered without it."""
        connection = self.connection
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
        client, connection = self._client, self.connection
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

    def upstream_is_slow(self) -> None:
        """Read on, since only that shows whether the client leaves."""
        self._client.ask_for_body()

    async def _switch(self, offer: UpgradeOffer, upgrades: Upgrades) -> None:
        """Pass the offer on. If the upstream does not accept it, its answer is one as any other."""
        upgrades.check_room()
        await self.send(self._head, whole=True, tells_slow=True)
        self._is_sent(True)
        self.connection.response.offered = offer.protocols
        await self.head()
        if self.status == SWITCHING_PROTOCOLS:
            self._client.watcher = None  # the tunnel's ends look after themselves
            await upgrades.carry(offer, self)
            self._waiting = None
            self._switched()
        else:
            self._waiting = None
            self.upstream_changed()

    def _look_for_unread(self) -> None:
        """Of a request with `Expect`: an upstream that answers without a 100 may not read a body that came
        all the same, and would read it as the next request."""
        connection = self.current
        if connection is not None and not connection.response.continued:
            connection.carry_no_other()

    # Tasks and timers.

    def _start(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        self._waiting = asyncio.get_running_loop().create_task(self._run(work, *given))

    async def _run(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        try:
            await work(*given)
        except UpstreamError as error:
            self._waiting = None
            self._fail(error.bare())
        except Exception:  # noqa: BLE001 - it is a defect here, and ends this request alone
            self._waiting = None
            self._crash()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the answer's direction does.

    @abstractmethod
    def _fail(self, error: UpstreamError) -> None:
        """End the request by a failure of the upstream, or by the client's leaving."""

    @abstractmethod
    def _leave(self) -> None:
        """End the request by the client's leaving."""

    @abstractmethod
    def _crash(self) -> None:
        """End the request by a defect here."""

    @abstractmethod
    def _switched(self) -> None:
        """An upgraded connection has ended."""
