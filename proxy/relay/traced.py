"""The relay with a span for each call of the upstream. Wired only where the settings have `traces`."""

from proxy.http.asgi import Receive, Scope, Send
from proxy.observe.spans.ports import REQUEST, SpanEnd
from proxy.relay.relay import Relay
from proxy.relay.relayed_request import Outcome, RelayResult


class TracedRelay(Relay):
    """A relay whose upstream is below the span of its call."""

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
        request = REQUEST.get()
        if request is None:
            return await super().__call__(scope, receive, send, token, fresh=fresh, long=long)
        span = request.begin_call(scope["method"], scope["headers"])
        status: int | None = None
        error: str | None = "cancelled"
        try:
            scope = {**scope, "headers": span.headers}
            result = await super().__call__(scope, receive, send, token, fresh=fresh, long=long)
            status = result.status or None
            error = None if result.outcome is Outcome.COMPLETE else str(result.outcome)
            return result
        finally:
            span.end(SpanEnd(status, error))
