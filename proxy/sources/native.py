"""The source `native`: the upstream streams by itself, and what it says is translated.

The answer is what the stream says it is, or is put together from its texts. A stream is whole only if it
says so. One that fails may be followed by the plain batch call, where the route allows a repetition.
"""

import re
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

import orjson

from proxy.errors import Fault, UpstreamBroke, UpstreamMalformed
from proxy.http.headers import Headers
from proxy.llm.assembly.dialect import ProviderFailed, Unfaithful
from proxy.llm.dialects.openai.answer import Completion
from proxy.runs.run import Run
from proxy.settings.blocks.route import RouteSettings
from proxy.settings.blocks.sources import NativeSettings
from proxy.sources.batch import FEED_BYTES, ask_once, is_json, read_answer
from proxy.sources.errors import AmbiguousTexts, MalformedEvent
from proxy.sources.native_rules import EventContent, Rules, split_pair
from proxy.sources.repeat import repeating
from proxy.text.errors import EventTooLarge
from proxy.text.sections import MalformedBody, Section, parse
from proxy.text.slow_json import SEARCH_BYTES, document_of, is_slow, searched
from proxy.text.sse import Decoder
from proxy.text.templates import PATH, REQUEST, TEXT, MissingValue, fill, references
from proxy.turns import Turns
from proxy.upstream.client import Answer, Request, Upstream
from proxy.upstream.exchange import Exchange

MAX_EVENT_BYTES: Final = 1024 * 1024
"""One event, or one line, of the upstream's stream."""

COUNTED_CHARS: Final = 1024
"""Text is counted in steps of so many characters: to count a token costs as much as to log it."""

NOT_OFFERED = frozenset({404, 405, 406, 415, 501})
"""Statuses which say that there is no such stream. Nothing was done yet, so the batch call may follow."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half a character of those beyond 16 bits."""

ANSWER_HEADERS: Headers = [(b"content-type", b"application/json")]


class NativeSource:
    """One call that streams."""

    def __init__(self, upstream: Upstream, route: RouteSettings, sections: tuple[Section, ...]) -> None:
        assert route.native is not None
        self._upstream = upstream
        self._settings = route.native
        self._rules = Rules(route.native.events, sections)

    def answer(self, run: Run) -> Awaitable[Answer]:
        return repeating(run, _Calls(self._upstream, self._settings, self._rules, run).make)


class _Calls:
    """The calls of one run: a stream, and after one that has begun the plain batch call."""

    __slots__ = ("_is_request_read", "_is_to_stream", "_rules", "_run", "_settings", "_upstream")

    def __init__(self, upstream: Upstream, settings: NativeSettings, rules: Rules, run: Run) -> None:
        self._upstream = upstream
        self._settings = settings
        self._rules = rules
        self._run = run
        self._is_to_stream = True
        self._is_request_read = bool(settings.body) or any(
            name == REQUEST for name, _ in references(settings.answer)
        )

    async def make(self) -> Answer:
        """The next one."""
        if self._is_to_stream and (answer := await self._stream()) is not None:
            return answer
        return await ask_once(self._upstream, self._run, self._run.call.request)

    async def _stream(self) -> Answer | None:
        """The answer of the call as a stream; None: it has to be asked for as batch."""
        if self._is_request_read and await is_slow(self._run.call.request.body):
            self._is_to_stream = False
            self._run.lose_source("the request has too many values to be made one for a stream")
            return None
        method, wire = _streaming(self._settings, self._run)
        with self._upstream.exchange(method, fresh=True) as exchange:
            await exchange.send(wire, whole=True)
            del wire  # a stream lasts
            await exchange.head()
            if exchange.status in NOT_OFFERED:
                self._is_to_stream = False
                self._run.lose_source(f"the upstream offers no stream: {exchange.status}")
                return None
            if not 200 <= exchange.status < 300 or is_json(exchange):
                return Answer(exchange.status, exchange.headers, await read_answer(exchange, self._run))
            self._is_to_stream = False
            return Answer(200, ANSWER_HEADERS, await self._read(exchange))

    async def _read(self, exchange: Exchange) -> bytes:
        """A whole stream, as the batch answer that it makes."""
        if any(name == b"content-encoding" and value != b"identity" for name, value in exchange.headers):
            raise UpstreamMalformed("the stream is compressed, which was not asked for")
        settings = self._settings
        openai = settings.format == "openai"
        reading = _Completion(self._run) if openai else _ByRules(self._run, self._rules, settings)
        events = NdjsonLines() if settings.format == "ndjson" else Decoder(max_event_bytes=MAX_EVENT_BYTES)

        counted = _Counted(self._run, reading, events)
        turns = Turns()
        try:
            while data := await exchange.read(counted.serve):
                for at in range(0, len(data), FEED_BYTES):
                    for event in events.feed(data[at : at + FEED_BYTES]):
                        await reading.take(event.event, event.data)
                    await turns.breathe()
                await counted.catch_up()
        except EventTooLarge:
            raise UpstreamMalformed("an event is too large", Fault.TOO_LARGE) from None
        if isinstance(events, NdjsonLines):  # the standard drops an event without the empty line after it
            for line in events.end():
                await reading.take(line.event, line.data)
        await counted.catch_up()
        by_close = settings.ends_by == "close" and _says_its_end(exchange.headers)
        if not (reading.ended or by_close):
            raise UpstreamBroke("the stream ended before its end", Fault.TRUNCATED)
        return reading.body()


class _Counted:
    """A stream's events as they come, and how much of its text is counted among the answers in flight."""

    __slots__ = ("_chars", "_events", "_reading", "_run")

    def __init__(self, run: Run, reading: "_ByRules | _Completion", events: "Decoder | NdjsonLines") -> None:
        self._run = run
        self._reading = reading
        self._events = events
        self._chars = 0

    def serve(self, data: bytes) -> bool:
        """Read a few bytes at once; see `Connection.read`. False: they are many, or text is to be counted."""
        reading, events = self._reading, self._events
        if reading.text_chars - self._chars >= COUNTED_CHARS or events.held_bytes + len(data) > SEARCH_BYTES:
            return False
        if isinstance(events, Decoder) and (said := events.only(data)) is not None:  # as nearly each read is
            reading.take_small("message", said)
            return True
        for event in events.feed(data):
            reading.take_small(event.event, event.data)
        return True

    async def catch_up(self) -> None:
        """Count all text so far, as soon as there is room for it."""
        chars, self._chars = self._chars, self._reading.text_chars
        await self._run.answer_share.take(self._chars - chars)


class _ByRules:
    """A stream that a route's rules read, to its end."""

    __slots__ = (
        "_answer",
        "_halves",
        "_limit",
        "_rules",
        "_run",
        "_shown",
        "_template",
        "_texts",
        "ended",
        "text_chars",
    )

    def __init__(self, run: Run, rules: Rules, settings: NativeSettings) -> None:
        self._run = run
        self._shown = run.shown
        self._rules = rules
        self._template = settings.answer
        self._limit = int(run.route.settings.max_answer)
        self._texts: dict[str, list[str]] = {section.stage: [] for section in run.sections}
        self._halves: dict[str, str] = {}
        """The half of a character with which a stage's last event has ended, by stage."""
        self._answer: Any = None
        self.ended = False
        """Whether the stream has said that it is complete."""
        self.text_chars = 0
        """Characters of text so far."""

    async def take(self, event: str, data: str | bytes) -> None:
        """The next event. Raises `UpstreamError` for one that cannot be read, or that says it has failed."""
        try:
            content = await self._content(event, data)
        except MalformedEvent as exc:
            self._refuse(exc)
        else:
            self._show_all(content)

    def take_small(self, event: str, data: str | bytes) -> None:
        """The same for an event of at most `SEARCH_BYTES`, which is read at once, whatever is in it."""
        try:
            content = self._rules.read(event, data)
        except MalformedEvent as exc:
            self._refuse(exc)
            return
        if content.meaning == "text":  # as nearly all
            for section, text in content.texts:
                self._show(section, text)
        else:
            self._show_all(content)

    def _refuse(self, exc: MalformedEvent) -> None:
        if not self.ended or isinstance(exc, AmbiguousTexts):
            raise UpstreamMalformed(str(exc)) from None
        # After the end it is no text, so nothing is lost.

    def _show_all(self, content: EventContent) -> None:
        if content.meaning == "error":
            raise UpstreamBroke("the stream says that it has failed", Fault.TRUNCATED)
        if content.meaning == "answer":
            self._answer = content.answer
        for section, text in content.texts:
            self._show(section, text)
        # Some say more after their end, of a last part for example: that is text like any other.
        self.ended = self.ended or content.meaning in ("done", "answer")

    async def _content(self, event: str, data: str | bytes) -> EventContent:
        """Return the content of an event, however many values it has. Raises `MalformedEvent`."""
        if len(data) <= SEARCH_BYTES:
            return self._rules.read(event, data)
        body = data.encode() if isinstance(data, str) else data
        if not await is_slow(body):
            return await searched(len(body) if self._rules.searches else 0, self._rules.read, event, data)
        try:
            excerpt = await document_of(body, self._rules.paths)
        except MalformedBody:
            raise MalformedEvent("an event is no JSON") from None
        if SURROGATE.search(body) or any(count > 1 for count, _ in excerpt.at.values()):
            # An excerpt has no half characters, and no text in several parts. Seldom enough, the loop waits.
            return self._rules.read(event, data)
        return self._rules.read(event, data, excerpt)

    def _show(self, section: Section, piece: str) -> None:
        if not piece:
            return
        stage = section.stage
        if piece.isascii() and not self._halves.get(stage):
            text = piece
        else:
            try:
                text, self._halves[stage] = split_pair(self._halves.get(stage, "") + piece)
            except MalformedEvent as exc:
                raise UpstreamMalformed(str(exc)) from None
        self.text_chars += len(text)
        if self.text_chars > self._limit:
            raise UpstreamMalformed("the texts are over max_answer", Fault.TOO_LARGE)
        self._texts[stage].append(text)
        self._shown.stream(section, text)

    def body(self) -> bytes:
        """The batch answer, once it is complete."""
        if any(self._halves.values()):
            raise UpstreamMalformed("a text ends with half a character")
        for section in self._run.sections:
            self._run.finish(section)
        if self._answer is not None:
            return orjson.dumps(self._answer)
        values = {
            TEXT: {s.stage: "".join(self._texts[s.stage]) for s in self._run.sections},
            PATH: dict(self._run.call.parameters),
            REQUEST: _json(self._run.call.request),
        }
        try:
            return orjson.dumps(fill(self._template, values))
        except MissingValue as exc:
            raise UpstreamMalformed(f"native.answer: {exc}") from None


class _Completion:
    """A chat completion, read as `_ByRules` reads: its only section is the text of its first choice."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._completion = Completion()
        self.text_chars = 0

    @property
    def ended(self) -> bool:
        return self._completion.is_complete

    async def take(self, event: str, data: str | bytes) -> None:
        self.take_small(event, data)

    def take_small(self, event: str, data: str | bytes) -> None:
        try:
            piece = self._completion.feed(str(data))
        except ProviderFailed:
            raise UpstreamBroke("the stream says that it has failed", Fault.TRUNCATED) from None
        except Unfaithful as exc:
            raise UpstreamMalformed(str(exc)) from None
        self.text_chars += len(piece)
        if piece:
            self._run.stream(self._run.sections[0], piece)

    def body(self) -> bytes:
        self._run.finish(self._run.sections[0])
        try:
            return self._completion.answer()
        except Unfaithful as exc:
            raise UpstreamMalformed(str(exc)) from None


class NdjsonLine(NamedTuple):
    """A line, as an event without a name."""

    data: bytes
    event: str = "message"


class NdjsonLines:
    """NDJSON: a document a line. Empty lines say nothing."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[NdjsonLine]:
        self._rest += data
        *lines, rest = self._rest.split(b"\n") if b"\n" in data else [self._rest]
        self._rest = bytearray(rest)
        if len(rest) > MAX_EVENT_BYTES:
            raise UpstreamMalformed("a line is too large", Fault.TOO_LARGE)
        return [NdjsonLine(bytes(line)) for line in lines if line.strip()]

    @property
    def held_bytes(self) -> int:
        return len(self._rest)

    def end(self) -> list[NdjsonLine]:
        """The last line, which may lack its end."""
        return self.feed(b"\n")


def _says_its_end(headers: Headers) -> bool:
    """True if a cut connection can be told from the answer's end: the answer itself says where it ends."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def _streaming(settings: NativeSettings, run: Run) -> tuple[str, bytes]:
    """The run's request, as the upstream wants to be asked for a stream: its method, and all of it."""
    request = run.call.request
    method, target = request.method, request.target
    if settings.request is not None:
        method, _, path = settings.request.partition(" ")
        target = path.format_map(run.call.parameters).encode("latin-1")
    headers = [(name, value) for name, value in request.headers if name != b"accept"]
    headers.append((b"accept", settings.media_type.encode()))
    body = request.body
    if settings.body and isinstance(document := _json(request), dict):
        body = orjson.dumps(merged(document, settings.body))
    return method, Request(method, target, headers, body).wire()


def merged(document: Any, patch: Any) -> Any:
    """A document with a JSON merge patch (RFC 7386): members are put in, and null takes them out."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _json(request: Request) -> Any:
    """The client's own JSON; None if there is none."""
    try:
        return parse(request.body)
    except MalformedBody:
        return None
