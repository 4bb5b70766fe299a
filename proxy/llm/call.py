"""One language model call of a run: asked as a stream, answered as the batch call it was."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

from proxy.errors import (
    RequestRefused,
    UpstreamAborted,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamError,
    UpstreamUnreachable,
)
from proxy.http.asgi import Receive, Send, send_problem
from proxy.http.headers import Headers, end_to_end, response_headers
from proxy.llm.assembly.dialect import AbnormalFinish, Dialect, ProviderFailed, StreamCall, Unfaithful
from proxy.llm.aws.signing import Signer
from proxy.llm.denylist import StreamDefect
from proxy.llm.stream_events import StreamEvents, is_readable, is_stream, media_type_of
from proxy.llm.taps.tap import TappedCall
from proxy.observe.labels import CallResult
from proxy.upstream.client import Request, Upstream
from proxy.upstream.exchange import Exchange

logger = logging.getLogger("headgate.llm")

TOO_MANY_REQUESTS = 429
"""The one failure that the batch call would have had too, and that another call makes worse."""

TRANSIENT_STATUSES = frozenset({408, 409, 421, 425})
"""Statuses for a connection that was idle too long, or for two calls in conflict. They say nothing about the
model."""

MAX_BATCH_BYTES = 1024 * 1024
"""The largest batch answer to a streamed call that is read, since reading blocks the loop. A larger one is
asked for again."""

NOT_IMPLEMENTED = 501
"""The provider has no streams. That is a refusal rather than a failure."""

END_WAIT_S = 0.1
"""Seconds that an HTTP answer may take to end after its last event, so that its connection can be used
again."""

REPLACED_HEADERS = frozenset({b"content-length", b"accept-encoding", b"transfer-encoding", b"expect"})
"""Headers of the call that change, since another body is sent and the answer is read here."""

STREAM_HEADERS = frozenset(
    {
        b"content-type",
        b"content-length",
        b"cache-control",
        b"x-accel-buffering",
        b"x-amzn-bedrock-content-type",
    }
)
"""Headers of the stream that its batch answer would not have, or with other values."""


class NoStream(Unfaithful):
    """The provider sent something else instead of a stream."""


class NoRoom(Unfaithful):
    """All calls together hold as much as they may. As batch, this call needs no room here."""


class ModelCall:
    """One attempt of one call.

    Args:
        upstream: the provider.
        stream: the call as a stream.
        dialect: of the provider.
        call: where the text goes.
        ask_again: see `LlmSettings`.
        has_room: whether so many more bytes may be held.
        signer: signs the call as a stream. None: it needs no signature.
    """

    def __init__(
        self,
        upstream: Upstream,
        stream: StreamCall,
        dialect: Dialect,
        call: TappedCall,
        ask_again: Literal["never", "unbilled", "always"],
        has_room: Callable[[int], bool],
        signer: Signer | None = None,
    ) -> None:
        self._upstream = upstream
        self._stream = stream
        self._assembler = dialect.assembler(stream.choices)
        self._dialect = dialect
        self._call = call
        self._ask_again = ask_again
        self._has_room = has_room
        self._signer = signer
        self._events = 0
        self._has_text = False
        self.is_answered = False
        """Whether the caller has an answer, or its beginning. If not, the call is to be asked again as
        batch."""
        self.has_begun = False
        """Whether any event of the stream came."""
        self.defect: StreamDefect | None = None
        """The defect of the model's streams that this call shows; None: it shows none."""

    async def answer(self, headers: Headers, receive: Receive, send: Send) -> CallResult:
        """Ask as a stream, show its text, and answer if possible; see `is_answered`."""
        with self._upstream.exchange("POST", repeats=True) as exchange:
            leaving = asyncio.ensure_future(_abort_when_left(receive, exchange))
            try:
                return await self._answer(exchange, headers, send)
            except UpstreamAborted:
                await self._call.fail()
                return CallResult.LEFT
            except RequestRefused:
                await self._call.fail()
                raise
            except (UpstreamError, ProviderFailed, Unfaithful) as failure:
                await self._call.fail()
                return await self._failed(failure, exchange, send)
            finally:
                leaving.cancel()

    def kept_fields(self) -> Iterable[str]:
        """Names of fields of the answer that no table has."""
        return self._assembler.kept_fields()

    async def _answer(self, exchange: Exchange, headers: Headers, send: Send) -> CallResult:
        renamed = self._stream.renamed
        headers = [(renamed.get(name, name), value) for name, value in headers]
        headers = _headers(headers, self._upstream.origin.authority)
        if self._signer is not None:
            headers = await self._signer.signed("POST", self._stream.target, headers, self._stream.body)
        request = Request("POST", self._stream.target, headers, self._stream.body)
        await exchange.send(request.wire(), whole=True)
        await exchange.head()
        if not 200 <= exchange.status < 300:
            await self._call.fail()
            return await self._refused(exchange, send)
        if exchange.status == 200 and is_stream(exchange.headers, self._dialect.media_type):
            await self._read(exchange)
            body = self._assembler.answer()
            await self._call.finish()
            await self._send_answer(send, exchange, 200, body, self._assembler.headers)
            return CallResult.TAPPED
        body = await self._batch_answer(exchange)
        await self._call.fail()
        await self._send_answer(send, exchange, 200, body, but=frozenset({b"content-length"}))
        return CallResult.BATCH

    async def _refused(self, exchange: Exchange, send: Send) -> CallResult:
        """An error status. It may be about the stream only, so that the batch call would get an answer."""
        status = exchange.status
        fails = status >= 500 and status != NOT_IMPLEMENTED
        if status == TOO_MANY_REQUESTS or (fails and self._ask_again == "never"):
            await self._pass_on(exchange, send)
            return CallResult.FAILED
        if status not in TRANSIENT_STATUSES:
            self.defect = StreamDefect.FAILS if fails else StreamDefect.REFUSED
        return CallResult.LOST if fails else CallResult.BATCH

    async def _batch_answer(self, exchange: Exchange) -> bytes:
        """The body of a successful answer that is no stream, if it has a batch answer's shape."""
        parts: list[bytes] = []
        size = 0
        while data := await exchange.read():
            size += len(data)
            if size > MAX_BATCH_BYTES:
                raise NoStream("neither a stream, nor an answer that can be read")
            parts.append(data)
        body = b"".join(parts)
        is_json = media_type_of(exchange.headers) == b"application/json" and is_readable(exchange.headers)
        if exchange.status != 200 or not is_json or not self._dialect.is_answer(body, self._stream.choices):
            raise NoStream("neither a stream that can be read, nor a batch answer")
        return body

    async def _read(self, exchange: Exchange) -> None:
        """Read the whole stream. Raises what `answer` catches."""
        assembler, events = self._assembler, StreamEvents(self._dialect.media_type)
        timeouts, timer = self._upstream.origin.timeouts, exchange.connection.timer
        # A thinking model sends nothing: wait for it as long as for its batch answer.
        timer.idle_s = max(timeouts.idle_s, timeouts.first_byte_s)

        def take(data: bytes) -> None:
            if not self._has_room(len(data)):
                raise NoRoom("there is no room for more of the calls' streams")
            take_events(events.feed(data))

        def take_events(found: list[str]) -> None:
            for event in found:
                self._events += 1
                self.has_begun = True
                piece = assembler.feed(event)
                if (piece or assembler.arguments) and not self._has_text:
                    self._has_text, timer.idle_s = True, timeouts.idle_s
                self._call.add(piece)
                if assembler.arguments:
                    self._call.add_arguments(assembler.arguments)
                if assembler.is_terminated:
                    raise _Terminated

        try:
            await exchange.each(take)
            if _is_delimited(exchange.headers):
                take_events(events.rest())
        except _Terminated:
            await _await_end(exchange)
            return
        self._check_end(is_delimited=_is_delimited(exchange.headers))

    def _check_end(self, *, is_delimited: bool) -> None:
        """Check that a stream without a terminator is whole."""
        if not self._events and is_delimited:
            raise NoStream("there is no event in it")
        if not (self._assembler.is_complete and is_delimited):
            raise UpstreamBroke("the stream ended before its end")

    async def _send_answer(
        self,
        send: Send,
        exchange: Exchange,
        status: int,
        body: bytes,
        more: Iterable[tuple[bytes, bytes]] = (),
        *,
        but: frozenset[bytes] = STREAM_HEADERS,
    ) -> None:
        """Answer as the batch call would have been, with the provider's headers except those of `but`."""
        self.is_answered = True
        headers = response_headers(exchange.headers, status)
        headers = [pair for pair in headers if pair[0] not in but]
        if b"content-type" in but:
            headers.append((b"content-type", self._dialect.answer_type))
        headers += [*more, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _pass_on(self, exchange: Exchange, send: Send) -> None:
        """Pass on the provider's answer, which is no stream, as it comes."""
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
            return CallResult.FAILED  # the answer is cut, so that it does not look complete
        self.defect = self._defect_of(failure)
        if isinstance(failure, Unfaithful):
            return CallResult.LOST
        if self._ask_again == "always" or (self._ask_again == "unbilled" and not self._events):
            return CallResult.LOST
        if isinstance(failure, ProviderFailed):
            await self._send_answer(send, exchange, failure.status, failure.body, failure.headers)
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


async def _abort_when_left(receive: Receive, exchange: Exchange) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.abort()


class _Terminated(Exception):
    """The stream's last event has come; what follows is not read."""


async def _await_end(exchange: Exchange) -> None:
    """Wait for the HTTP answer's end, so that its connection can be used again. Its errors do not matter."""
    with suppress(UpstreamError, TimeoutError):
        async with asyncio.timeout(END_WAIT_S):
            while await exchange.read():
                pass


def _is_delimited(headers: Headers) -> bool:
    """True if an answer says where it ends. Without that, a cut connection looks like its end."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def _headers(headers: Headers, authority: bytes) -> Headers:
    """The caller's headers, for a call whose answer is read here."""
    kept = [pair for pair in end_to_end(headers) if pair[0] not in REPLACED_HEADERS]
    kept = [(name, authority if name == b"host" else value) for name, value in kept]
    return [*kept, (b"accept-encoding", b"identity")]
