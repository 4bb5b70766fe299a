"""Calls of no run: most of those that come to the model port, and relayed as they came, by no ASGI call."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from time import perf_counter
from typing import Final

from proxy.downstream.bodies import ByteBudget, ByteReservation
from proxy.downstream.client_request import ClientRequest
from proxy.http.asgi import App, Receive, Scope, Send
from proxy.http.framing import origin_form
from proxy.http.headers import Headers
from proxy.http.tracing import TRACING, without_token
from proxy.llm.counted_calls import CallCounts, MetCall, is_told, result_without_tap
from proxy.llm.provider import Provider
from proxy.llm.taps.open_taps import Taps
from proxy.observe.labels import CallResult
from proxy.observe.spans.ports import ModelSpans
from proxy.observe.spans.request_ids import RequestIds
from proxy.relay.result import RelayResult
from proxy.relay.whole_body import WholeBody
from proxy.upstream.exchange import IDEMPOTENT

_LOOKED_AT: Final = TRACING | {b"expect"}
"""Headers that a call's provider may get in another way, or not at all."""

_NO_CONTEXT: Final = CallResult.NO_CONTEXT
_IDEMPOTENT: Final = IDEMPOTENT  # looked up for each call, as is the one before
_now: Final = perf_counter

Call = Callable[
    [Provider, ClientRequest, Collection[bytes], Sequence[str], float, Scope, Receive, Send], Awaitable[None]
]
"""Serves an ASGI call: with the names of the headers that are looked at, its tokens, and when it came."""


class UntappedCalls:
    """Tells calls of no run from others, and relays them.

    Args:
        bodies: holds the body of a call until it is here whole.
        spans: None: calls have no spans.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        taps: Taps,
        counts: CallCounts,
        bodies: ByteBudget,
        spans: ModelSpans | None,
    ) -> None:
        self._providers = [(provider.mount, provider) for provider in providers]
        self._taps = taps
        self._counts = counts
        self._bodies = bodies
        self._spans = spans

    def begin(self, request: ClientRequest, call: Call) -> App | None:
        """Relay a call of no run. Any other becomes an ASGI call, of the app that is returned."""
        began, target = _now(), origin_form(request.target)
        provider = self._provider(target)
        if provider is None:
            request.refuse(404, "No provider of llm.providers has this path.")
            return None
        request.target = target[len(provider.mount) :]
        found = {name for name, _ in request.headers if name in _LOOKED_AT}
        tokens = self._taps.tokens_of(request.headers) if found else []
        if tokens or provider.signer is not None:
            return partial(call, provider, request, found, tokens, began)
        met = self.met(provider, request, found, tokens, None, began)
        self._taps.unmatched += 1
        ids = request.ids if is_told(met.span) else None
        is_idempotent = request.method in _IDEMPOTENT
        if is_idempotent or not request.more_body:
            if b"expect" in found and not is_idempotent:
                request.headers = unexpected(request.headers)
            provider.relay.begin(request, partial(self._counts.end_relayed, met, ids), began)
        else:
            reservation = self._bodies.reserve()
            on_end = partial(self._relayed, met, ids, reservation)
            relay = partial(provider.relay.begin, request, on_end, began)
            WholeBody(request, reservation, partial(_go_on, request, relay), on_end).begin()
        return None

    def met(
        self,
        provider: Provider,
        request: ClientRequest,
        found: Collection[bytes],
        tokens: Sequence[str],
        token: str | None,
        began: float,
    ) -> MetCall:
        """A call as it came. The provider learns nothing of ours: a token is taken out of every call."""
        of_no_run = _NO_CONTEXT
        if found:
            of_no_run = result_without_tap(tokens, found)
            if token is not None or b"tracestate" in found:
                request.headers = without_token(request.headers, token)  # nor is it logged
        span = None if self._spans is None else self._spans.model_call(provider.name, request.headers)
        return MetCall(provider.name, began, of_no_run, span)

    def _provider(self, target: bytes) -> Provider | None:
        for mount, provider in self._providers:
            if target.startswith(mount) and target[len(mount) : len(mount) + 1] == b"/":
                return provider
        return None

    def _relayed(
        self, call: MetCall, ids: RequestIds | None, reservation: ByteReservation, result: RelayResult
    ) -> None:
        """A call of no run is over whose body was held."""
        reservation.close()
        self._counts.end_relayed(call, ids, result)


def _go_on(request: ClientRequest, relay: Callable[[], None], is_whole: bool) -> None:
    """Relay a call whose body has been waited for."""
    if is_whole:
        request.headers = unexpected(request.headers)
    relay()


def unexpected(headers: Headers) -> Headers:
    """The headers without `Expect`: the body has been read, and its sender waits for no 100."""
    return [pair for pair in headers if pair[0] != b"expect"]
