"""One language model call of a run: asked as a stream, answered as the batch call it was."""

import asyncio
import logging
from codecs import getincrementaldecoder
from contextlib import suppress
from enum import StrEnum
from typing import Literal

from proxy.errors import UpstreamAborted, UpstreamBroke, UpstreamError
from proxy.headers import Headers, end_to_end, response_headers
from proxy.llm.dialect import Assembler, OddEnd, ProviderFailed, StreamCall, Unfaithful
from proxy.relay import Message, Receive, Scope, Send, send_problem
from proxy.sse import Decoder, EventTooLarge
from proxy.taps import TappedCall
from proxy.upstream import Exchange, Request, Upstream

logger = logging.getLogger("headgate.llm")

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""One event of a provider's stream; a picture comes in one."""

REFUSES_THE_STREAM = frozenset({400, 401, 403, 404, 405, 406, 415, 422, 501})
"""Statuses that may be about the stream, not the call: it may be forbidden, `Accept` may be for JSON alone, a
signature may be of the body as it came. Asked again as that, the call gets its own answer; none is billed."""

LET_END_S = 0.1
"""How long an HTTP answer has to end after its last event, so that its connection can be used again."""

NOT_OF_THE_STREAM = frozenset({b"content-length", b"accept-encoding", b"transfer-encoding", b"expect"})
"""Headers of the call that are made anew: another body is sent, and what comes back is read here."""

OF_THE_STREAM = frozenset({b"content-type", b"content-length", b"cache-control", b"x-accel-buffering"})
"""Headers of the stream that its batch answer would have in another way, or not at all."""


class Ended(StrEnum):
    """What became of a call; the label `result` of `headgate_tap_calls_total`."""

    TAPPED = "tapped"
    """Streamed to its run."""
    BATCH = "batch"
    """Of a run, but it could not be streamed, and went through as batch."""
    UNMATCHED = "unmatched"
    """Of no run."""
    LOST = "lost"
    """Its stream failed, and it was asked again as batch."""
    FAILED = "failed"
    """It ended with an error."""
    LEFT = "left"
    """Given up by its caller."""


class ModelCall:
    """One attempt of one call.

    Args:
        upstream: the provider.
        asked: the call as a stream.
        assembler: for its events.
        call: where its text goes.
        ask_again: see `LlmSettings`.
    """

    def __init__(
        self,
        upstream: Upstream,
        asked: StreamCall,
        assembler: Assembler,
        call: TappedCall,
        ask_again: Literal["never", "unbilled", "always"],
    ) -> None:
        self._upstream = upstream
        self._asked = asked
        self._assembler = assembler
        self._call = call
        self._ask_again = ask_again
        self._events = 0
        self.is_answered = False
        """Whether the caller has an answer, or the beginning of one. Else it is to be asked as the call it
        was."""
        self.broke = False
        """Whether its stream began, and did not become an answer."""
        self.is_unfaithful = False
        """Whether that is for what the provider's streams are, so that the next one would be no better."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> Ended:
        """Ask, show, and answer if that is possible; see `is_answered`."""
        with self._upstream.exchange("POST") as exchange:
            leaving = asyncio.ensure_future(_abort_when_left(receive, exchange))
            try:
                return await self._answer(exchange, scope, send)
            except UpstreamAborted:
                await self._call.fail()
                return Ended.LEFT
            except (UpstreamError, ProviderFailed, Unfaithful) as failure:
                await self._call.fail()
                return await self._failed(failure, exchange, send)
            finally:
                leaving.cancel()

    async def _answer(self, exchange: Exchange, scope: Scope, send: Send) -> Ended:
        headers = _headers(scope["headers"], self._upstream.origin.authority)
        request = Request("POST", self._asked.target, headers, self._asked.body)
        await exchange.send(request.wire(), whole=True)
        await exchange.head()
        if exchange.status in REFUSES_THE_STREAM:
            return Ended.BATCH
        if exchange.status != 200:
            await self._call.fail()
            await self._pass_on(exchange, send)
            return Ended.FAILED
        if _is_event_stream(exchange.headers):
            await self._read(exchange)
            body = self._assembler.answer()
            await self._call.finish()
            await self._say(send, exchange, 200, body)
            return Ended.TAPPED
        if _media_type(exchange.headers) != b"application/json":
            raise Unfaithful("neither a stream that can be read, nor JSON")
        await self._pass_on(exchange, send)
        return Ended.BATCH

    async def _read(self, exchange: Exchange) -> None:
        """The whole stream. Raises what its provider, its way or its content makes of it."""
        assembler, decoder = self._assembler, Decoder(max_event_bytes=MAX_EVENT_BYTES)
        text = getincrementaldecoder("utf-8")()

        def take(data: bytes) -> None:
            try:
                text.decode(data)  # the other one puts U+FFFD in the place of what is none
                events = decoder.feed(data)
            except UnicodeDecodeError:
                raise Unfaithful("a text is no Unicode") from None
            except EventTooLarge:
                raise Unfaithful("an event is too large") from None
            for event in events:
                self._events += 1
                self._call.add(assembler.feed(event.data))
                if assembler.is_over:
                    raise _Over

        try:
            await exchange.each(take)
        except _Over:
            await _let_end(exchange)
            return
        if not (assembler.ended and _says_its_end(exchange.headers)):
            raise UpstreamBroke("the stream ended before its end")

    async def _say(self, send: Send, exchange: Exchange, status: int, body: bytes) -> None:
        """What the batch call would have been told, under the stream's own headers."""
        self.is_answered = True
        headers = response_headers(exchange.headers, status)
        headers = [pair for pair in headers if pair[0] not in OF_THE_STREAM]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _pass_on(self, exchange: Exchange, send: Send) -> None:
        """The provider's own answer, which is no stream, as it comes."""
        self.is_answered = True
        headers = response_headers(exchange.headers, exchange.status)
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        while data := await exchange.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _failed(
        self, failure: UpstreamError | ProviderFailed | Unfaithful, exchange: Exchange, send: Send
    ) -> Ended:
        logger.warning("model call failed", extra={"why": str(failure), "events": self._events})
        self.broke = self._events > 0 or isinstance(failure, Unfaithful)
        if self.is_answered:
            return Ended.FAILED  # cut, so that it does not look complete
        if isinstance(failure, Unfaithful):
            self.is_unfaithful = not isinstance(failure, OddEnd)
            return Ended.LOST
        if self._ask_again == "always" or (self._ask_again == "unbilled" and not self._events):
            return Ended.LOST
        if isinstance(failure, ProviderFailed):
            await self._say(send, exchange, failure.status, failure.body)
        else:
            self.is_answered = True
            await send_problem(send, failure.status, failure.detail)
        return Ended.FAILED


class Tee:
    """A `send` that also shows the text of a stream which the caller itself has asked for."""

    def __init__(self, call: TappedCall, assembler: Assembler, send: Send) -> None:
        self._call = call
        self._assembler = assembler
        self._send = send
        self._decoder: Decoder | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 200 and _is_event_stream(message["headers"]):
                self._decoder = Decoder(max_event_bytes=MAX_EVENT_BYTES)
        elif self._decoder is not None:
            self._look(self._decoder, message["body"])
        await self._send(message)

    def _look(self, decoder: Decoder, data: bytes) -> None:
        try:
            for event in decoder.feed(data):
                self._call.add(self._assembler.feed(event.data))
        except (EventTooLarge, Unfaithful, ProviderFailed):
            self._decoder = None  # it is the caller's stream: what we cannot read is not touched

    async def end(self) -> None:
        """The stream is over, one way or another."""
        if self._decoder is not None and self._assembler.ended:
            await self._call.finish()
        else:
            await self._call.fail()


async def _abort_when_left(receive: Receive, exchange: Exchange) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.abort()


class _Over(Exception):
    """Nothing of the answer can come any more; what may still be read is not looked at."""


async def _let_end(exchange: Exchange) -> None:
    """Nothing of the answer can come any more: whether and how the connection ends is nobody's matter."""
    with suppress(UpstreamError, TimeoutError):
        async with asyncio.timeout(LET_END_S):
            while await exchange.read():
                pass


def _says_its_end(headers: Headers) -> bool:
    """Whether an answer whose connection is cut is seen to be. One that ends with it may end anywhere."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def _headers(headers: Headers, authority: bytes) -> Headers:
    """The caller's headers for a call whose answer is read here."""
    kept = [pair for pair in end_to_end(headers) if pair[0] not in NOT_OF_THE_STREAM]
    kept = [(name, authority if name == b"host" else value) for name, value in kept]
    return [*kept, (b"accept-encoding", b"identity")]


def _is_event_stream(headers: Headers) -> bool:
    """Whether an answer is a stream of events that can be read here."""
    coding = dict(headers).get(b"content-encoding", b"identity").strip().lower()
    return _media_type(headers) == b"text/event-stream" and coding == b"identity"


def _media_type(headers: Headers) -> bytes:
    return dict(headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
