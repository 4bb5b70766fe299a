"""A run in the words of other streams: OpenAI's chat completions, the AI SDK's, AG-UI's. Pure.

None of these can take back a text. So a run is told as it stands now, and then only grows; where the answer
differs from what was told, the stream ends with an error, and another request gets the answer. Only a whole
answer gets the end that its format calls a good one.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming,
https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol (UI message stream, v1), https://docs.ag-ui.com/concepts/events;
and what the packages `openai` 6.49, `ai` 6.0 and `@ag-ui/client` 1.0 accept.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

import orjson

from proxy.http.headers import Headers
from proxy.text.events import Event, EventType
from proxy.text.sse import one_line

REASONING: Final = "reasoning"
"""The panel whose text each format has a place of its own for."""

DONE: Final = b"data: [DONE]\n\n"

TEXT_CHANGED: Final = "The answer differs from the text that was shown. Please ask again."

Fields = dict[str, Any]


class StreamFormat(ABC):
    """One stream in a format: events in, blocks out.

    Args:
        run_id: of the run.
        route: its name.
        begun_at: seconds since 1970.
    """

    headers: ClassVar[Headers] = []
    """Beside those of every stream."""

    def __init__(self, run_id: str, route: str, begun_at: int) -> None:
        self._run_id = run_id
        self._route = route
        self._begun_at = begun_at
        self._shown: dict[str, _ShownText] = {}
        self._is_open = False
        self._has_ended = False

    def render(self, event: Event) -> bytes:
        """An event in this format; nothing, if there is no word for it, and after the end."""
        if self._has_ended:
            return b""
        blocks = list(self._blocks(event))
        return b"".join(block if isinstance(block, bytes) else _block(block) for block in blocks)

    def _blocks(self, event: Event) -> Iterator[Fields | bytes]:
        if not self._is_open:
            self._is_open = True
            yield from self._begin()
        match event.type:
            case EventType.CONTENT_CHUNK | EventType.CONTENT_REPLACE:
                yield from self._grow(event)
            case EventType.STAGE_COMPLETE if shown := self._shown.get(event.stage):
                yield from self._close(event.stage, shown)
            case EventType.STREAM_DONE:
                for stage, shown in self._shown.items():
                    yield from self._close(stage, shown)
                yield from self._end()
                self._has_ended = True
            case EventType.ERROR:
                yield from self._fail(event.content, str(event.metadata.get("error_code", "")))
                self._has_ended = True

    def _grow(self, event: Event) -> Iterator[Fields | bytes]:
        shown = self._shown.get(event.stage)
        if shown is None:
            if not event.content:
                return
            shown = self._shown[event.stage] = _ShownText(event.panel == REASONING)
            yield from self._open(event.stage, shown)
        more: str | None = event.content
        if event.type is EventType.CONTENT_REPLACE:
            more = shown.beyond(event.content)
        if more is None or (more and shown.is_closed):
            yield from self._fail(TEXT_CHANGED, "text_changed")
            self._has_ended = True
        elif more:
            shown.add(more)
            yield from self._text(event.stage, shown, more)

    def _close(self, stage: str, shown: "_ShownText") -> Iterator[Fields | bytes]:
        if not shown.is_closed:
            shown.is_closed = True
            yield from self._finish(stage, shown)

    def _begin(self) -> Iterator[Fields | bytes]:
        yield from ()

    def _open(self, stage: str, shown: "_ShownText") -> Iterator[Fields | bytes]:
        yield from ()

    @abstractmethod
    def _text(self, stage: str, shown: "_ShownText", more: str) -> Iterator[Fields | bytes]: ...

    def _finish(self, stage: str, shown: "_ShownText") -> Iterator[Fields | bytes]:
        yield from ()

    @abstractmethod
    def _end(self) -> Iterator[Fields | bytes]: ...

    @abstractmethod
    def _fail(self, message: str, code: str) -> Iterator[Fields | bytes]: ...


class _ShownText:
    """The length of a stage's text that was told, and a digest of it in place of the text."""

    __slots__ = ("_chars", "_digest", "is_closed", "is_reasoning")

    def __init__(self, is_reasoning: bool) -> None:
        self.is_reasoning = is_reasoning
        self.is_closed = False
        self._chars = 0
        self._digest = hashlib.sha256()

    def add(self, more: str) -> None:
        self._chars += len(more)
        self._digest.update(more.encode())

    def beyond(self, whole: str) -> str | None:
        """The part of a whole text beyond what was told; None if it begins in another way."""
        begins = hashlib.sha256(whole[: self._chars].encode()).digest() == self._digest.digest()
        return whole[self._chars :] if begins else None


class OpenAi(StreamFormat):
    """`chat.completion.chunk`; the panel `reasoning` is `reasoning_content`, as other models' APIs name it.

    A stage begins with a blank line where another one was before it.
    """

    def _begin(self) -> Iterator[Fields]:
        yield self._chunk({"role": "assistant", "content": ""})

    def _open(self, stage: str, shown: _ShownText) -> Iterator[Fields]:
        is_first = sum(other.is_reasoning == shown.is_reasoning for other in self._shown.values()) == 1
        if not is_first:
            yield self._chunk({_openai_field(shown): "\n\n"})

    def _text(self, stage: str, shown: _ShownText, more: str) -> Iterator[Fields]:
        yield self._chunk({_openai_field(shown): more})

    def _end(self) -> Iterator[Fields | bytes]:
        yield self._chunk({}, "stop")
        yield DONE

    def _fail(self, message: str, code: str) -> Iterator[Fields]:
        yield {"error": {"message": message, "type": "headgate_error", "param": None, "code": code}}

    def _chunk(self, delta: Fields, finish_reason: str | None = None) -> Fields:
        return {
            "id": f"chatcmpl-{self._run_id}",
            "object": "chat.completion.chunk",
            "created": self._begun_at,
            "model": self._route,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }


def _openai_field(shown: _ShownText) -> str:
    return "reasoning_content" if shown.is_reasoning else "content"


class AiSdk(StreamFormat):
    """The AI SDK's UI message stream; a part for each stage."""

    headers: ClassVar[Headers] = [(b"x-vercel-ai-ui-message-stream", b"v1")]

    def _begin(self) -> Iterator[Fields]:
        yield {"type": "start", "messageId": self._run_id}

    def _open(self, stage: str, shown: _ShownText) -> Iterator[Fields]:
        yield {"type": f"{_part(shown)}-start", "id": stage}

    def _text(self, stage: str, shown: _ShownText, more: str) -> Iterator[Fields]:
        yield {"type": f"{_part(shown)}-delta", "id": stage, "delta": more}

    def _finish(self, stage: str, shown: _ShownText) -> Iterator[Fields]:
        yield {"type": f"{_part(shown)}-end", "id": stage}

    def _end(self) -> Iterator[Fields | bytes]:
        yield {"type": "finish", "finishReason": "stop"}
        yield DONE

    def _fail(self, message: str, code: str) -> Iterator[Fields]:
        if code == "cancelled":
            yield {"type": "abort", "reason": message}
        else:
            yield {"type": "error", "errorText": message or code}


def _part(shown: _ShownText) -> str:
    return "reasoning" if shown.is_reasoning else "text"


class AgUi(StreamFormat):
    """AG-UI's events; a message for each stage."""

    def _begin(self) -> Iterator[Fields]:
        yield {"type": "RUN_STARTED", **self._names}

    def _open(self, stage: str, shown: _ShownText) -> Iterator[Fields]:
        if shown.is_reasoning:
            yield {"type": "REASONING_START", "messageId": self._id(stage)}
        role = "reasoning" if shown.is_reasoning else "assistant"
        yield {"type": f"{_message(shown)}_START", "messageId": self._id(stage), "role": role}

    def _text(self, stage: str, shown: _ShownText, more: str) -> Iterator[Fields]:
        yield {"type": f"{_message(shown)}_CONTENT", "messageId": self._id(stage), "delta": more}

    def _finish(self, stage: str, shown: _ShownText) -> Iterator[Fields]:
        yield {"type": f"{_message(shown)}_END", "messageId": self._id(stage)}
        if shown.is_reasoning:
            yield {"type": "REASONING_END", "messageId": self._id(stage)}

    def _end(self) -> Iterator[Fields]:
        yield {"type": "RUN_FINISHED", **self._names}

    def _fail(self, message: str, code: str) -> Iterator[Fields]:
        yield {"type": "RUN_ERROR", "message": message or code, "code": code}

    @property
    def _names(self) -> Fields:
        return {"threadId": self._run_id, "runId": self._run_id}

    def _id(self, stage: str) -> str:
        return f"{self._run_id}:{stage}"


def _message(shown: _ShownText) -> str:
    return "REASONING_MESSAGE" if shown.is_reasoning else "TEXT_MESSAGE"


FORMATS: Final[Mapping[str, type[StreamFormat]]] = MappingProxyType(
    {"openai": OpenAi, "ai-sdk": AiSdk, "ag-ui": AgUi}
)


def _block(fields: Fields) -> bytes:
    return b"data: %b\n\n" % one_line(orjson.dumps(fields))
