"""The base of most dialects: a call says in its JSON whether it asks for a stream. No I/O."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from proxy.llm.assembly.call_fields import asked_as, call_of
from proxy.llm.assembly.dialect import Assembler, Headers, NotStreamable, Prompt, StreamCall, Unfaithful
from proxy.llm.assembly.joins import MAX_ANSWER_CHARS
from proxy.llm.assembly.json_values import parsed
from proxy.llm.assembly.kept_fields import KeptFields
from proxy.llm.assembly.repeated_events import Growth, RepeatedEvents
from proxy.llm.assembly.usage import UsageFields


class JsonDialect(ABC):
    """A `Dialect` whose calls are JSON objects with a field `stream`."""

    media_type = b"text/event-stream"
    answer_type = b"application/json"

    usage: ClassVar[UsageFields]
    """See `Dialect`."""

    needed: ClassVar[tuple[str, ...]] = ("messages",)
    """A call has one of these fields."""

    streams_by_default: ClassVar[bool] = False
    """True if a call that does not say `stream` is answered as a stream."""

    asked_with: Mapping[str, Any] = {"stream": True}
    """Fields of a call that ask for a stream."""

    @abstractmethod
    def is_call(self, method: str, target: bytes) -> bool: ...

    @abstractmethod
    def assembler(self, choices: int | None = None) -> Assembler: ...

    @abstractmethod
    def is_answer(self, body: bytes, choices: int) -> bool: ...

    @abstractmethod
    def prompt_of(self, call: Mapping[str, Any], target: bytes) -> Prompt:
        """Return the properties by which a call is told from others."""

    def not_streamable(self, call: Mapping[str, Any]) -> str:
        """Return why the answer to a batch call could not be made of a stream; "" if it can."""
        return ""

    def stream_target(self, target: bytes) -> bytes:
        """Path and query of the same call as a stream. Raises `NotStreamable`."""
        return target

    def choices_of(self, call: Mapping[str, Any]) -> int:
        """Return the number of answers that a call asks for."""
        return 1

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        call = self._call(method, target, body)
        return call is not None and self._asks_for_stream(call) is True

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        call = self._call(method, target, body)
        return None if call is None else self.prompt_of(call, target)

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        call = self._call(method, target, body)
        if call is None:
            return None
        if self._asks_for_stream(call) is not False or call.get("stream_options") is not None:
            raise NotStreamable("it speaks of streams itself")
        if why := self.not_streamable(call):
            raise NotStreamable(why)
        asked = asked_as(call, self.asked_with)
        return StreamCall(
            self.stream_target(target), asked, self.prompt_of(call, target), self.choices_of(call)
        )

    def _call(self, method: str, target: bytes, body: bytes) -> dict[str, Any] | None:
        """The body of a call for text."""
        if not self.is_call(method, target):
            return None
        call = next((found for name in self.needed if (found := call_of(body, name)) is not None), None)
        # A conversation is a list everywhere. Any other is an error, for the provider to tell.
        return call if call is not None and isinstance(call.get("messages"), list | None) else None

    def _asks_for_stream(self, call: Mapping[str, Any]) -> Any:
        """Return a call's own word about streams: True, False, or a value that nobody understands."""
        stream = call.get("stream")
        return self.streams_by_default if stream is None else stream


class JsonAnswer(ABC):
    """An `Assembler` of events that are JSON objects, the last of which says that it is the last.

    Args:
        is_own_stream: whether the caller asked for the stream, so that it may finish in any way.
    """

    terminator: ClassVar[str | None] = None
    """The last event's data, if that is no JSON; None if it is."""

    repeats: ClassVar[bool] = False
    """True if events may repeat one another; then there is `growth`."""

    def __init__(self, *, is_own_stream: bool) -> None:
        self.is_own_stream = is_own_stream
        self.arguments = ""
        self.headers: Headers = ()
        self.is_terminated = False
        self.unknown = KeptFields()
        """Fields of the events' top level that no table names."""
        self._chars = 0
        self._repeated = RepeatedEvents() if self.repeats else None

    def feed(self, data: str) -> str:
        if self.is_terminated:
            raise Unfaithful("something comes after the end")
        self.arguments = ""
        self._chars += len(data)
        if self._chars > MAX_ANSWER_CHARS:
            raise Unfaithful("the answer is too large")
        repeated = self._repeated
        if repeated is None:
            return self.take(parsed(data), data)
        if (text := repeated.take(data)) is not None:
            return text
        if data == self.terminator:
            self.is_terminated = True
            return ""
        text = self.take(parsed(data), data)
        repeated.look_at(data, self.growth)
        return text

    @abstractmethod
    def take(self, event: dict[str, Any], data: str) -> str:
        """Take one event, whose JSON is `data`; see `Assembler.feed`."""

    def growth(self, event: dict[str, Any]) -> Growth | None:
        """Return what the event that was taken last has added, if all that was is a text, and the event would
        add no more than its text if it came again. None: it might. `event` is its JSON, as it came."""
        return None

    @abstractmethod
    def answer(self) -> bytes: ...

    @property
    def is_complete(self) -> bool:
        return self.is_terminated

    def kept_fields(self) -> Iterable[str]:
        return self.unknown.names()
