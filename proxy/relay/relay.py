"""Batch through, untouched: bytes of any request to the upstream, bytes of its answer back.

The hot path: every user passes here, also those without the flag. Nothing is buffered but what the sockets
hold; a slow side slows the other. How a request moves is in `relayed_request.py`.
"""

import asyncio
from functools import partial
from time import perf_counter
from typing import Final

from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.framing import CHUNKED, Body, check_framing
from proxy.http.headers import (
    Forwarding,
    accepts_trailers,
    announced_trailers,
    request_headers,
    write_head,
)
from proxy.http.max_forwards import LIMITED, hops_left, last_hop, one_hop_less
from proxy.http.request_head import HeadWriter
from proxy.http.tracing import with_token
from proxy.http.upgrade import UpgradeOffer
from proxy.observe.spans.ports import CallSpan, SpanEnd
from proxy.relay.relayed_request import RelayedRequest
from proxy.relay.result import OnEnd, Outcome, RelayResult
from proxy.relay.sinks import Sink
from proxy.upstream.client import Upstream
from proxy.upstream.tunnel import Upgrades

_LIMITED: Final = LIMITED  # looked up for each request


class Relay:
    """Relays requests to one upstream; for `repeats` see `Upstream.exchange`."""

    def __init__(
        self, upstream: Upstream, forwarding: Forwarding, upgrades: Upgrades, *, repeats: bool = False
    ) -> None:
        self._upstream = upstream
        self._forwarding = forwarding
        self._upgrades = upgrades
        self._repeats = repeats
        self._never_trailers = forwarding.kept
        self._heads = HeadWriter(forwarding)
        self._authority = upstream.origin.authority

    async def __call__(
        self,
        client: ClientRequest,
        sink: Sink | None = None,
        token: str | None = None,
        *,
        fresh: bool = False,
        long: bool = False,
    ) -> RelayResult:
        """Relay one request that had to wait, and wait for its end; see `begin`. Raises nothing but
        cancellation: what went wrong is in the `RelayResult`."""
        over: asyncio.Future[RelayResult] = asyncio.get_running_loop().create_future()
        self.begin(client, partial(_settle, over), perf_counter(), sink, token, fresh=fresh, long=long)
        try:
            return await over
        finally:
            if client.watcher is not None:
                client.watcher.cut()

    def begin(
        self,
        client: ClientRequest,
        on_end: OnEnd,
        entered_at: float,
        sink: Sink | None = None,
        token: str | None = None,
        *,
        fresh: bool = False,
        long: bool = False,
    ) -> None:
        """Relay one request, which came at a time of `perf_counter`. Its target is in origin form.

        Args:
            on_end: is called once, with what became of it.
            sink: takes the answer; None: the client does.
            token: with it the request's model calls find a tap; see `proxy.http.tracing`.
            fresh, long: see `Upstream.exchange`.
        """
        sink = sink or client
        if client.span is not None:
            call = client.span.begin_call(client.method, client.headers)
            client.headers = call.headers
            on_end = partial(_end_span, call, on_end)
        method, headers, offer = client.method, client.headers, client.offer
        is_limited = method in _LIMITED
        if is_limited and hops_left(headers) == 0:
            headers, body = last_hop(method, client.target, headers)
            sink.answer(200, b"OK", headers, body, last=True)
            on_end(RelayResult(status=200, took_s=perf_counter() - entered_at))
            return
        head: tuple[bytes, Body] | None = None
        if token is None and offer is None and not is_limited:
            head = self._heads.plain_head(method, client.target, headers, client.address, client.scheme)
        expects = head is None and any(name == b"expect" for name, _ in headers)  # such a head is not plain
        try:
            head = head or self._head(client, token, offer)
        except RequestRefused as refusal:
            sink.refuse(refusal.status, refusal.detail, close=True)
            on_end(RelayResult(Outcome.REFUSED, refusal.status, took_s=perf_counter() - entered_at))
            return
        is_fresh = fresh or offer is not None
        relayed = RelayedRequest(self._upstream, method, is_fresh, long, self._repeats)
        relayed.expects = expects
        relayed.never_trailers = self._never_trailers
        relayed.begin(client, sink, head, on_end, entered_at, self._upgrades)

    def _head(
        self, client: ClientRequest, token: str | None, offer: UpgradeOffer | None
    ) -> tuple[bytes, Body]:
        """The upstream request's head, and how its body comes, of a request that needs a second look."""
        method, headers = client.method, client.headers
        framing = check_framing(headers, client.version)
        sent = request_headers(headers, self._forwarding, client.address, client.scheme, self._authority)
        if method in LIMITED:
            sent = one_hop_less(sent)
        if token is not None:
            sent = with_token(sent, token)
        if framing in CHUNKED:
            sent += [*announced_trailers(headers), (b"transfer-encoding", b"chunked")]
        if offer is None and client.version == "1.1" and accepts_trailers(headers):
            sent += [(b"connection", b"TE"), (b"te", b"trailers")]
        if offer is not None:
            sent += [(b"connection", b"Upgrade"), (b"upgrade", offer.protocols)]
        return write_head(method.encode(), client.target, sent), framing


def _end_span(call: CallSpan, on_end: OnEnd, result: RelayResult) -> None:
    """End the span of a call of the upstream."""
    error = None if result.outcome is Outcome.COMPLETE else str(result.outcome)
    call.end(SpanEnd(result.status or None, error))
    on_end(result)


def _settle(over: "asyncio.Future[RelayResult]", result: RelayResult) -> None:
    if not over.done():
        over.set_result(result)
