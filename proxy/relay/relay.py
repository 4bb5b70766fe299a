"""Batch through, untouched: bytes of any request to the upstream, bytes of its answer back.

The hot path: every user passes here, also those without the flag. Nothing is buffered but what the sockets
hold; a slow side slows the other. How a request moves is in `relayed_request.py`.
"""

from time import perf_counter

from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.asgi import Receive, Scope, Send
from proxy.http.framing import CHUNKED, Body, check_framing, origin_form
from proxy.http.headers import Forwarding, request_headers, write_head
from proxy.http.max_forwards import LIMITED, hops_left, last_hop, one_hop_less
from proxy.http.request_head import HeadWriter
from proxy.http.tracing import with_token
from proxy.http.upgrade import UpgradeOffer
from proxy.relay.asgi_client import AsgiClient
from proxy.relay.relayed_request import OnEnd, Outcome, RelayedRequest, RelayResult
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import Exchange
from proxy.upstream.tunnel import Upgrades


class Relay:
    """Relays requests to one upstream; for `repeats` see `Upstream.exchange`."""

    def __init__(
        self, upstream: Upstream, forwarding: Forwarding, upgrades: Upgrades, *, repeats: bool = False
    ) -> None:
        self._upstream = upstream
        self._forwarding = forwarding
        self._upgrades = upgrades
        self._repeats = repeats
        self._heads = HeadWriter(forwarding)
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
        """Relay one request that is an ASGI call. Raises nothing but cancellation, and what `send` raises:
        what went wrong is in the `RelayResult`.

        With a `token` the request's model calls find a tap; see `proxy.http.tracing`. For `fresh` and
        `long`, see `Upstream.exchange`.
        """
        client, entered_at = AsgiClient(scope, receive, send), perf_counter()
        self.begin(client, client.end, entered_at, token, fresh=fresh, long=long)
        return await client.result()

    def begin(
        self,
        client: ClientRequest | AsgiClient,
        on_end: OnEnd,
        entered_at: float,
        token: str | None = None,
        *,
        fresh: bool = False,
        long: bool = False,
    ) -> None:
        """Relay one request, which came at a time of `perf_counter`. `on_end` is called once, with what
        became of it, unless the process ends.
        """
        method, headers = client.method, client.headers
        if method in LIMITED and hops_left(headers) == 0:
            headers, body = last_hop(method, origin_form(client.target), headers)
            client.answer(200, b"OK", headers, body, last=True)
            on_end(RelayResult(status=200, took_s=perf_counter() - entered_at))
            return
        offer = client.offer
        try:
            head, framing = self._head(client, token, offer)
        except RequestRefused as refusal:
            client.refuse(refusal.status, refusal.detail, close=True)
            on_end(RelayResult(Outcome.REFUSED, refusal.status, took_s=perf_counter() - entered_at))
            return
        is_fresh = fresh or offer is not None
        exchange = Exchange(self._upstream, method, fresh=is_fresh, long=long, repeats=self._repeats)
        relayed = RelayedRequest(client, exchange, head, framing, on_end, entered_at)
        if offer is None:
            relayed.begin()
        else:
            relayed.offer(offer, self._upgrades)

    def _head(
        self, client: ClientRequest | AsgiClient, token: str | None, offer: UpgradeOffer | None
    ) -> tuple[bytes, Body]:
        """The upstream request's head, and how its body comes."""
        method, headers = client.method, client.headers
        if token is None and offer is None and method not in LIMITED:
            target = client.target if client.target.startswith(b"/") else origin_form(client.target)
            plain = self._heads.plain_head(method, target, headers, client.address, client.scheme)
            if plain is not None:
                return plain
        framing = check_framing(headers, client.version)
        sent = request_headers(headers, self._forwarding, client.address, client.scheme, self._authority)
        if method in LIMITED:
            sent = one_hop_less(sent)
        if token is not None:
            sent = with_token(sent, token)
        if framing in CHUNKED:
            sent.append((b"transfer-encoding", b"chunked"))
        if offer is not None:
            sent += [(b"connection", b"Upgrade"), (b"upgrade", offer.protocols)]
        return write_head(method.encode(), origin_form(client.target), sent), framing
