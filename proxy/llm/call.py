"""One language model call of a run: asked as a stream, answered as the batch call it was."""

import asyncio
import logging
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from proxy.errors import UpstreamAborted, UpstreamBroke, UpstreamBusy, UpstreamError, UpstreamUnreachable
from proxy.http.asgi import Message, Receive, Scope, Send, send_problem
from proxy.http.headers import Headers, end_to_end, response_headers
from proxy.llm.denylist import StreamDefect
from proxy.llm.dialects.dialect import (
    AbnormalFinish,
    Assembler,
    Dialect,
    ProviderFailed,
    StreamCall,
    Unfaithful,
)
from proxy.llm.tap import TappedCall
from proxy.observe.labels import CallResult
from proxy.text.sse import Decoder, EventTooLarge, ServerSentEvent
from proxy.upstream.client import Request, Upstream
from proxy.upstream.exchange import Exchange

logger = logging.getLogger("headgate.llm")

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""One event of a provider's stream; a picture comes in one."""

TOO_MANY = 429
"""The one failure that a batch call would have got as well, and that another call makes worse."""

TRANSIENT_STATUSES = frozenset({408, 409, 421, 425})
"""Of a connection that was idle for too long, or of two calls that met: they say nothing about the model."""

MAX_BATCH_BYTES = 1024 * 1024
"""Of a batch answer to a streamed call. To read it holds up everybody; what is larger is asked again."""

NOT_IMPLEMENTED = 501
"""Of a provider that has no streams: not that it fails."""

LET_END_S = 0.1
"""How long an HTTP answer has to end after its last event, so that its connection can be used again."""

NOT_OF_THE_STREAM = frozenset({b"content-length", b"accept-encoding", b"transfer-encoding", b"expect"})
"""Headers of the call that are made anew: another body is sent, and what comes back is read here."""

OF_THE_STREAM = frozenset({b"content-type", b"content-length", b"cache-control", b"x-accel-buffering"})
"""Headers of the stream that its batch answer would have in another way, or not at all."""


class NoStream(Unfaithful):
    """What came in the place of a stream is none."""


class ModelCall:
    """One attempt of one call.

    Args:
        upstream: the provider.
        asked: the call as a stream.
        dialect: of its provider.
        call: where its text goes.
        ask_again: see `LlmSettings`.
    """

    def __init__(
        self,
        upstream: Upstream,
        asked: StreamCall,
        dialect: Dialect,
        call: TappedCall,
        ask_again: Literal["never", "unbilled", "always"],
        has_room: Callable[[int], bool],
    ) -> None:
        self._upstream = upstream
        self._asked = asked
        self._assembler = dialect.assembler(asked.choices)
        self._is_answer = dialect.is_answer
        self._call = call
        self._ask_again = ask_again
        self._has_room = has_room
        self._events = 0
        self._has_text = False
        self.is_answered = False
        """Whether the caller has an answer, or the beginning of one. Else it is to be asked as the call it
        was."""
        self.has_begun = False
        """Whether anything of its stream came."""
        self.defect: StreamDefect | None = None
        """What its stream says of the model's next one."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> CallResult:
        """Ask, show, and answer if that is possible; see `is_answered`."""
        with self._upstream.exchange("POST", repeats=True) as exchange:
            leaving = asyncio.ensure_future(_abort_when_left(receive, exchange))
            try:
                return await self._answer(exchange, scope, send)
            except UpstreamAborted:
                await self._call.fail()
                return CallResult.LEFT
            except (UpstreamError, ProviderFailed, Unfaithful) as failure:
                await self._call.fail()
                return await self._failed(failure, exchange, send)
            finally:
                leaving.cancel()

    async def _answer(self, exchange: Exchange, scope: Scope, send: Send) -> CallResult:
        headers = _headers(scope["headers"], self._upstream.origin.authority)
        request = Request("POST", self._asked.target, headers, self._asked.body)
        await exchange.send(request.wire(), whole=True)
        await exchange.head()
        if not 200 <= exchange.status < 300:
            await self._call.fail()
            return await self._refused(exchange, send)
        if exchange.status == 200 and _is_event_stream(exchange.headers):
            await self._read(exchange)
            body = self._assembler.answer()
            await self._call.finish()
            await self._say(send, exchange, 200, body)
            return CallResult.TAPPED
        body = await self._batch_answer(exchange)
        await self._call.fail()
        await self._say(send, exchange, 200, body, but=frozenset({b"content-length"}))
        return CallResult.BATCH

    async def _refused(self, exchange: Exchange, send: Send) -> CallResult:
        """A status that may be about the stream, or the call: as batch the call gets its own answer."""
        status = exchange.status
        fails = status >= 500 and status != NOT_IMPLEMENTED
        if status == TOO_MANY or (fails and self._ask_again == "never"):
            await self._pass_on(exchange, send)
            return CallResult.FAILED
        if status not in TRANSIENT_STATUSES:
            self.defect = StreamDefect.FAILS if fails else StreamDefect.REFUSED
        return CallResult.LOST if fails else CallResult.BATCH

    async def _batch_answer(self, exchange: Exchange) -> bytes:
        """The body of a good status that is no stream, if it has the batch answer's shape."""
        parts: list[bytes] = []
        size = 0
        while data := await exchange.read():
            size += len(data)
            if size > MAX_BATCH_BYTES:
                raise NoStream("neither a stream, nor an answer that can be read")
            parts.append(data)
        body = b"".join(parts)
        is_json = _media_type(exchange.headers) == b"application/json" and _is_readable(exchange.headers)
        if exchange.status != 200 or not is_json or not self._is_answer(body, self._asked.choices):
            raise NoStream("neither a stream that can be read, nor a batch answer")
        return body

    async def _read(self, exchange: Exchange) -> None:
        """The whole stream. Raises what its provider, its way or its content makes of it."""
        assembler, decoder = self._assembler, Decoder(max_event_bytes=MAX_EVENT_BYTES)
        timeouts, timer = self._upstream.origin.timeouts, exchange.connection.timer
        # A model that thinks says nothing: as a batch call it would be waited for as long.
        timer.idle_s = max(timeouts.idle_s, timeouts.first_byte_s)
        text = getincrementaldecoder("utf-8")()

        def take(data: bytes) -> None:
            if not self._has_room(len(data)):
                raise NoRoom("there is no room for more of the calls' streams")
            for event in _events(data, text, decoder):
                self._events += 1
                self.has_begun = True
                piece = assembler.feed(event.data)
                if piece and not self._has_text:
                    self._has_text, timer.idle_s = True, timeouts.idle_s
                self._call.add(piece)
                if assembler.is_terminated:
                    raise _Over

        try:
            await exchange.each(take)
        except _Over:
            await _let_end(exchange)
            return
        if not self._events and _says_its_end(exchange.headers):
            raise NoStream("there is no event in it")
        if not (assembler.is_complete and _says_its_end(exchange.headers)):
            raise UpstreamBroke("the stream ended before its end")

    async def _say(
        self,
        send: Send,
        exchange: Exchange,
        status: int,
        body: bytes,
        *,
        but: frozenset[bytes] = OF_THE_STREAM,
    ) -> None:
        """What the batch call would have been told, under the answer's own headers `but` those."""
        self.is_answered = True
        headers = response_headers(exchange.headers, status)
        headers = [pair for pair in headers if pair[0] not in but]
        if b"content-type" in but:
            headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", b"%d" % len(body)))
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
    ) -> CallResult:
        logger.warning("model call failed", extra={"why": str(failure), "events": self._events})
        if self.is_answered:
            return CallResult.FAILED  # cut, so that it does not look complete
        self.defect = self._defect_of(failure)
        if isinstance(failure, Unfaithful):
            return CallResult.LOST
        if self._ask_again == "always" or (self._ask_again == "unbilled" and not self._events):
            return CallResult.LOST
        if isinstance(failure, ProviderFailed):
            await self._say(send, exchange, failure.status, failure.body)
        else:
            self.is_answered = True
            await send_problem(send, failure.status, failure.detail)
        return CallResult.FAILED

    def _defect_of(self, failure: UpstreamError | ProviderFailed | Unfaithful) -> StreamDefect | None:
        if isinstance(failure, NoStream):
            return StreamDefect.NO_STREAM
        if isinstance(failure, Unfaithful):
            return None if isinstance(failure, AbnormalFinish | NoRoom) else StreamDefect.UNFAITHFUL
        if self._has_text or isinstance(failure, UpstreamUnreachable | UpstreamBusy):
            return None
        return StreamDefect.BREAKS if isinstance(failure, UpstreamBroke) else StreamDefect.FAILS


class NoRoom(Unfaithful):
    """All calls together hold as much as they may: as batch, this one needs nothing here."""


class Tee:
    """A `send` that also shows the text of a stream which the caller itself has asked for."""

    def __init__(
        self, call: TappedCall, assembler: Assembler, send: Send, has_room: Callable[[int], bool]
    ) -> None:
        self._call = call
        self._assembler = assembler
        self._send = send
        self._has_room = has_room
        self._decoder: Decoder | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 200 and _is_event_stream(message["headers"]):
                self._decoder = Decoder(max_event_bytes=MAX_EVENT_BYTES)
        elif self._decoder is not None:
            self._look(self._decoder, message["body"])
        await self._send(message)

    def _look(self, decoder: Decoder, data: bytes) -> None:
        if not self._has_room(len(data)):
            self._decoder = None
            return
        try:
            for event in decoder.feed(data):
                self._call.add(self._assembler.feed(event.data))
        except (EventTooLarge, Unfaithful, ProviderFailed):
            self._decoder = None  # it is the caller's stream: what we cannot read is not touched

    async def end(self) -> bool:
        """The stream is over, one way or another. Whether all of it was shown."""
        is_whole = self._decoder is not None and self._assembler.is_complete
        if is_whole:
            await self._call.finish()
        else:
            await self._call.fail()
        return is_whole


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


def _events(data: bytes, text: IncrementalDecoder, decoder: Decoder) -> list[ServerSentEvent]:
    """What more of a stream completes. Raises Unfaithful."""
    try:
        text.decode(data)  # the other one puts U+FFFD in the place of what is none
        return decoder.feed(data)
    except UnicodeDecodeError:
        raise Unfaithful("a text is no Unicode") from None
    except EventTooLarge:
        raise Unfaithful("an event is too large") from None


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
    return _media_type(headers) == b"text/event-stream" and _is_readable(headers)


def _is_readable(headers: Headers) -> bool:
    """Whether a body is not compressed, which nobody has asked for."""
    return dict(headers).get(b"content-encoding", b"identity").strip().lower() == b"identity"


def _media_type(headers: Headers) -> bytes:
    return dict(headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
