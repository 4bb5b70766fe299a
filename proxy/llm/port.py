"""The model port, between the upstream and the providers of its language models.

    provider by path ─► token of a run? ─┬─► no: relay, bytes through, untouched; streams too
                                         └─► yes: asked as a stream, answered as the batch call it was

A call of no run is no ASGI call. One that cannot be streamed faithfully is relayed like a call of no run.
When a stream fails, the call is asked again as batch, on a connection of its own.
"""

import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import cast

from proxy.downstream.bodies import MAX_REQUEST_BYTES, ByteBudget, ByteReservation, read_ahead
from proxy.downstream.client_request import ClientRequest
from proxy.errors import RequestRefused
from proxy.http.asgi import App, Receive, Scope, Send, send_problem
from proxy.llm.assembly.dialect import Dialect, NotStreamable, Prompt, StreamCall
from proxy.llm.call import ModelCall
from proxy.llm.cautious import CautiousCall
from proxy.llm.counted_calls import (
    CallCounts,
    end_span,
    relayed_as,
)
from proxy.llm.denylist import StreamDefect, StreamDenylist
from proxy.llm.kept_counts import KeptCounts
from proxy.llm.provider import Provider
from proxy.llm.taps.open_taps import OpenTap, Taps
from proxy.llm.taps.tap import TappedCall
from proxy.llm.tee import Tee
from proxy.llm.untapped import UntappedCalls, unexpected
from proxy.observe.labels import CallResult
from proxy.observe.spans.ports import MODEL
from proxy.observe.spans.request_ids import CURRENT
from proxy.observe.tokens import TokenCounts
from proxy.relay.answer_copy import AnswerCopy
from proxy.relay.result import RelayResult
from proxy.relay.sinks import Sink
from proxy.settings.blocks.upstream import LlmSettings
from proxy.text.sections import MalformedBody, parse
from proxy.text.slow_json import is_slow
from proxy.turns import STEP_BYTES, Turns
from proxy.upstream.exchange import IDEMPOTENT

logger = logging.getLogger("headgate.llm")

AVOIDED_S = 600.0
"""Seconds for which a call whose stream failed is asked as batch at once, if its upstream repeats it: the
upstream must get an answer."""

MAX_AVOIDED = 1024
"""Calls that are remembered for that."""

MAX_COUNTED_BYTES = 1024 * 1024
"""The longest batch answer whose tokens are counted: a copy of it is kept until it has gone out."""

COUNTED_BYTES = 32 * 1024 * 1024
"""Of all such copies at a time. Beyond it calls are answered and not counted."""

ANSWERED = frozenset({CallResult.TAPPED, CallResult.BATCH, CallResult.AVOIDED, CallResult.LOST})
"""Results of calls whose caller has a good answer."""

CERTAIN_DEFECTS = frozenset({StreamDefect.UNFAITHFUL, StreamDefect.NO_STREAM})
"""Defects that put a model on the denylist even if the batch call fails too."""


@dataclass(frozen=True, slots=True)
class _RunCall:
    """A call of a run, whose body has been read."""

    provider: Provider
    dialect: Dialect
    client: ClientRequest
    body: bytes
    prompt: Prompt
    send: Send
    sink: Sink
    """Where its answer goes, which is given in messages or by the relay."""
    reservation: ByteReservation
    """The bytes held for the body, and for the stream that the answer is made of."""
    attempt: bytes
    """A digest that is equal for the same call of the same run."""

    async def relayed(self, sink: Sink | None = None, *, fresh: bool = False) -> RelayResult:
        """Relay the call as it came."""
        self.client.unread(self.body)
        return await self.provider.relayed(self.client, self.body, sink or self.sink, fresh=fresh)


@dataclass(frozen=True, slots=True)
class ModelPort:
    """The port: see `begin`."""

    untapped: UntappedCalls
    """Which of the calls are of no run."""
    settings: LlmSettings
    taps: Taps
    counts: CallCounts
    tokens: TokenCounts
    denylist: StreamDenylist
    bodies: ByteBudget
    kept: KeptCounts = field(default_factory=KeptCounts)
    copies: ByteBudget = field(default_factory=lambda: ByteBudget(COUNTED_BYTES, lambda _: None))
    """Answers whose tokens are counted once they have gone out."""
    avoided: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    """Calls by their `attempt`, and until when they are asked for no stream."""

    @property
    def ended(self) -> Counter[tuple[str, str]]:
        """Calls of this process, by provider and `answered`, `failed` or `left`."""
        return self.counts.ended

    def begin(self, request: ClientRequest) -> App | None:
        """Relay a call of no run. Any other becomes an ASGI call, of the app that is returned."""
        return self.untapped.begin(request, self._call)

    async def _call(
        self,
        provider: Provider,
        request: ClientRequest,
        found: Collection[bytes],
        tokens: Sequence[str],
        began: float,
        _scope: Scope,
        _receive: Receive,
        send: Send,
    ) -> None:
        """A call that is an ASGI call."""
        token, tap = await self._find(tokens)
        call = self.untapped.met(provider, request, found, tokens, token, began)
        CURRENT.set(request.ids)
        MODEL.set(call.span)
        result = ended = CallResult.LEFT
        try:
            if tap is None or token is None:
                result = call.of_no_run
                ended = await self._untapped(provider, request)
            else:
                with self.bodies.reserve() as reservation:
                    ended = await self._tapped(provider, tap, token, request, send, reservation)
                result = ended
        except RequestRefused as refusal:
            await send_problem(send, refusal.status, refusal.detail, close=True)
            result = ended = CallResult.FAILED
        except BaseException:
            end_span(call.span, ended)
            raise
        self.counts.end(call, ended, result)

    async def _find(self, tokens: Sequence[str]) -> tuple[str | None, OpenTap | None]:
        """The one tap that a call's tokens find, and its token. None: there is none, or which is a guess."""
        found = [(token, tap) for token in tokens if (tap := await self.taps.find(token)) is not None]
        return found[0] if len(found) == 1 else (None, None)

    async def _untapped(self, provider: Provider, request: ClientRequest) -> CallResult:
        """A call of no run. Its body is read ahead, to be sent again if a kept connection breaks."""
        self.taps.unmatched += 1
        body = None
        with self.bodies.reserve() as reservation:
            if request.method not in IDEMPOTENT or provider.signer is not None:
                body = await read_ahead(request, reservation, provider.most_bytes)
                if body is not None:
                    request.headers = unexpected(request.headers)
            return relayed_as(CallResult.BATCH, await provider.relayed(request, body))

    async def _tapped(
        self,
        provider: Provider,
        tap: OpenTap,
        token: str,
        request: ClientRequest,
        send: Send,
        reservation: ByteReservation,
    ) -> CallResult:
        """A call of a run."""
        body = await read_ahead(request, reservation, provider.most_bytes)
        method, target = request.method, request.target
        dialect = provider.dialect(method, target)
        if dialect is None:
            return relayed_as(CallResult.BATCH, await provider.relayed(request, body))
        turns = Turns()
        is_read = body is not None and len(body) <= MAX_REQUEST_BYTES and not await is_slow(body)
        prompt = dialect.prompt(method, target, body) if body is not None and is_read else None
        if prompt is not None and (span := MODEL.get()) is not None:
            span.asked(prompt.model)
        await turns.breathe()
        if body is None or prompt is None:
            await tap.doubt()  # too long, compressed, or slow to read
            return relayed_as(CallResult.BATCH, await provider.relayed(request, body))
        request.take_body()
        request.headers = unexpected(request.headers)
        hashing = hashlib.sha256(target + b"\n")
        for at in range(0, len(body), STEP_BYTES):
            hashing.update(memoryview(body)[at : at + STEP_BYTES])
            await turns.breathe()
        digest = hashing.digest()
        call = CautiousCall(await tap.begin(digest, prompt))
        attempt = hashlib.sha256(token.encode() + digest).digest()
        run_call = _RunCall(provider, dialect, request, body, prompt, send, request, reservation, attempt)
        if dialect.is_stream(method, target, body):
            return await self._own_stream(tap.route, run_call, call)
        await turns.breathe()
        with self.copies.reserve() as room:
            copy = AnswerCopy(request, MAX_COUNTED_BYTES, room)
            run_call = replace(run_call, send=copy.of_messages(send), sink=copy)
            result = await self._answered(run_call, call)
            if result in ANSWERED:
                await self._count_tokens(tap.route, run_call, await copy.body())
        return result

    async def _answered(self, run_call: _RunCall, call: TappedCall) -> CallResult:
        """A call for a batch answer, which is asked as a stream where that is possible."""
        provider, model = run_call.provider.name, run_call.prompt.model
        if self._is_avoided(run_call.attempt) or await self.denylist.defect(provider, model):
            return relayed_as(CallResult.AVOIDED, await run_call.relayed())
        stream = _as_stream(run_call)
        if stream is None:
            return relayed_as(CallResult.BATCH, await run_call.relayed())
        return await self._streamed(run_call, stream, call)

    async def _count_tokens(self, route: str, run_call: _RunCall, body: bytes | None) -> None:
        """Count the tokens of a call that has its answer, whichever way that came. Streams that were asked
        again count once: what the failed ones have used, nobody says."""
        if not body or await is_slow(body):
            return
        try:
            used = run_call.dialect.usage.read(parse(body))
        except MalformedBody:
            return
        self.tokens.count(route, run_call.provider.name, run_call.prompt.model, *used)
        if (span := MODEL.get()) is not None:
            span.used(*used)

    async def _own_stream(self, route: str, run_call: _RunCall, call: TappedCall) -> CallResult:
        """A stream that the caller itself asked for."""
        tee = Tee(call, run_call.dialect, run_call.sink, run_call.reservation.take)
        relayed = await run_call.relayed(tee)
        result = relayed_as(CallResult.TAPPED if await tee.end() else CallResult.BATCH, relayed)
        if result is CallResult.TAPPED:
            await self._count_tokens(route, run_call, tee.batch_answer())
        return result

    async def _streamed(self, run_call: _RunCall, stream: StreamCall, call: TappedCall) -> CallResult:
        """Ask as a stream; if that fails, ask again as batch."""
        provider, model, client = run_call.provider, run_call.prompt.model, run_call.client
        model_call = ModelCall(
            provider.upstream,
            stream,
            run_call.dialect,
            call,
            self.settings.ask_again,
            run_call.reservation.take,
            provider.signer,
        )
        result = await model_call.answer(client.headers, cast(Receive, client.receive), run_call.send)
        defect = model_call.defect
        if result is CallResult.TAPPED:
            await self.denylist.note_success(provider.name, model)
            self.kept.note(provider.name, model_call.kept_fields())
        if result in {CallResult.TAPPED, CallResult.LEFT}:
            return result
        if model_call.has_begun or not model_call.is_answered:
            self._avoid(run_call.attempt)
        if defect in CERTAIN_DEFECTS:
            await self.denylist.note_defect(provider.name, model, defect)
        if model_call.is_answered:
            return result
        result = relayed_as(result, await run_call.relayed(fresh=True))
        if defect is not None and result in {CallResult.LOST, CallResult.BATCH}:
            await self.denylist.note_defect(provider.name, model, defect)
        return result

    def _is_avoided(self, attempt: bytes) -> bool:
        return monotonic() < self.avoided.get(attempt, 0.0)

    def _avoid(self, attempt: bytes) -> None:
        self.avoided[attempt] = monotonic() + AVOIDED_S
        self.avoided.move_to_end(attempt)
        if len(self.avoided) > MAX_AVOIDED:
            self.avoided.popitem(last=False)


def _as_stream(run_call: _RunCall) -> StreamCall | None:
    try:
        return run_call.dialect.as_stream(run_call.client.method, run_call.client.target, run_call.body)
    except NotStreamable as exc:
        extra = {"provider": run_call.provider.name, "why": str(exc)}
        logger.info("call goes through as batch", extra=extra)
        return None
