"""The source `tap`: the upstream's batch call, with the tokens of its model calls shown as they are made.

The call carries a token that the upstream hands on to its model calls with the rest of the trace context.
They pass the model port, which finds the run by it. The batch answer stays the authority.
"""

from dataclasses import replace

from proxy.http.tracing import with_token
from proxy.llm.taps.open_taps import Taps
from proxy.runs.run import Run
from proxy.sources.batch import read_answer
from proxy.sources.repeat import repeating
from proxy.upstream.client import Answer, Upstream


class TapSource:
    """One call; its text comes by the way of the model port."""

    def __init__(self, upstream: Upstream, taps: Taps) -> None:
        self._upstream = upstream
        self._taps = taps

    async def answer(self, run: Run) -> Answer:
        return await repeating(run, lambda: self._ask(run))

    async def _ask(self, run: Run) -> Answer:
        """One attempt. It has a token of its own: calls of an earlier one are not its calls."""
        for section in run.sections:
            run.withdraw(section)
        async with self._taps.open(run, run.route.name, run.principal) as (tap, token):
            request = run.call.request
            request = replace(request, headers=with_token(request.headers, token))
            with self._upstream.exchange(request.method, fresh=True) as exchange:
                await exchange.send(request.wire(), whole=True)
                await exchange.head()
                phase = run.phase
                answer = Answer(exchange.status, exchange.headers, await read_answer(exchange, run))
        # Word of a call at another replica may come as late as this. Nobody has waited less for the answer's
        # own texts, which are shown by now: the source was lost before them.
        if not tap.calls and 200 <= answer.status < 300:
            run.lose_source(self._taps.why_silent(tap), phase)
        return answer
