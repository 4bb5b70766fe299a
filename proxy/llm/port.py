"""The model port: a raw ASGI app between the upstream and the providers of its language models.

    provider by path ─► token of a run? ─┬─► no: relay, bytes through, untouched; streams too
                                         └─► yes: asked as a stream, answered as the batch call it was

What cannot be streamed faithfully is relayed like a call of no run.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from proxy.bodies import Replayed, read_ahead
from proxy.llm.call import Ended, ModelCall, Tee
from proxy.llm.dialect import Dialect, NotStreamable, StreamCall
from proxy.metrics import Metrics
from proxy.relay import Receive, Relay, Scope, Send, request_target, send_problem
from proxy.server import ANSWER, TARGET
from proxy.settings import LlmSettings
from proxy.taps import OpenTap, Taps
from proxy.tracing import token_of, without_token
from proxy.upstream import Upstream

logger = logging.getLogger("headgate.llm")

AVOIDED_S = 600.0
"""How long a model is asked for no stream after one that no batch answer could be made of; and how long a
call whose stream broke, so that an upstream that asks again gets an answer, come what may."""

MAX_AVOIDED = 1024
"""Models and calls that this is remembered of."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One language model API behind the port."""

    name: str
    mount: bytes
    dialect: Dialect
    upstream: Upstream
    relay: Relay


@dataclass(frozen=True, slots=True)
class ModelPort:
    """The app."""

    providers: Sequence[Provider]
    settings: LlmSettings
    taps: Taps
    metrics: Metrics
    avoided: OrderedDict[tuple[str, str | bytes], float] = field(default_factory=OrderedDict)
    """Provider, and a model or the digest of a call; until when it is asked for no stream."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = request_target(scope)
        provider = self._provider(target)
        if provider is None:
            await send_problem(send, 404, "No provider of llm.providers has this path.")
            return
        token = token_of(scope["headers"])
        # The provider learns nothing of ours; the member is taken out of every call.
        scope = {
            **scope,
            "headers": without_token(scope["headers"]),
            TARGET: target[len(provider.mount) :],
        }
        tap = None if token is None else await self.taps.find(token)
        ended = Ended.UNMATCHED
        if tap is None:
            await provider.relay(scope, receive, send)
        else:
            ended = await self._tapped(provider, tap, scope, receive, send)
        self.metrics.tap_calls.labels(ended).inc()

    def _provider(self, target: bytes) -> Provider | None:
        for provider in self.providers:
            if target.startswith(provider.mount + b"/"):
                return provider
        return None

    async def _tapped(
        self, provider: Provider, tap: OpenTap, scope: Scope, receive: Receive, send: Send
    ) -> Ended:
        """A call of a run."""
        body, replayed = await read_ahead(receive)
        target: bytes = scope[TARGET]
        method: str = scope["method"]
        dialect = provider.dialect
        prompt = None if body is None else dialect.prompt(method, target, body)
        if body is None or prompt is None:
            if dialect.is_call(method, target):  # too long, or compressed
                await tap.doubt()
            await provider.relay(scope, replayed, send)
            return Ended.BATCH
        digest = hashlib.sha256(target + b"\n" + body).digest()
        call = await tap.begin(digest, prompt)
        if dialect.is_stream(method, target, body):
            tee = Tee(call, dialect.assembler(), send)
            # Without it the relay hands every part of the answer to `send`.
            scope.pop(ANSWER, None)
            await provider.relay(scope, replayed, tee)
            await tee.end()
            return Ended.TAPPED
        avoids = self._is_avoided(provider.name, prompt.model) or self._is_avoided(provider.name, digest)
        asked = None if avoids else _as_stream(provider, method, target, body)
        if asked is None:
            await provider.relay(scope, replayed, send)
            return Ended.BATCH
        assembler = dialect.assembler(asked.choices)
        model_call = ModelCall(provider.upstream, asked, assembler, call, self.settings.ask_again)
        ended = await model_call.answer(scope, receive, send)
        if model_call.broke:
            self._avoid(provider.name, prompt.model if model_call.is_unfaithful else digest)
        if ended is not Ended.LEFT and not model_call.is_answered:
            again = Replayed([{"type": "http.request", "body": body, "more_body": False}], receive)
            await provider.relay(scope, again, send)
        return ended

    def _is_avoided(self, provider: str, what: str | bytes) -> bool:
        return monotonic() < self.avoided.get((provider, what), 0.0)

    def _avoid(self, provider: str, what: str | bytes) -> None:
        self.avoided[provider, what] = monotonic() + AVOIDED_S
        self.avoided.move_to_end((provider, what))
        if len(self.avoided) > MAX_AVOIDED:
            self.avoided.popitem(last=False)


def _as_stream(provider: Provider, method: str, target: bytes, body: bytes) -> StreamCall | None:
    try:
        return provider.dialect.as_stream(method, target, body)
    except NotStreamable as exc:
        logger.info("call goes through as batch", extra={"provider": provider.name, "why": str(exc)})
        return None
