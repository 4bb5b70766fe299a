"""A stream of Amazon Bedrock's Converse as the batch answer that it stands for. No I/O.

Each event is an object with the event's kind, and in it what came. The blocks of the message grow by deltas
with the block's index; only a tool's use has an event of its own for its beginning. The last two events say
why the message ended, and what was used.
"""

from collections.abc import Callable, Mapping
from typing import Any

from proxy.llm.assembly.dialect import AbnormalFinish, ProviderFailed, Unfaithful
from proxy.llm.assembly.joins import Text, check_texts, whole
from proxy.llm.assembly.json_dialect import JsonAnswer
from proxy.llm.assembly.json_values import as_arguments, as_object, as_text, as_word, serialized, shown

MAX_BLOCKS = 4096
"""The most blocks of one message."""

HARMLESS_FINISHES = frozenset(
    {"end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"}
)
"""Reasons to stop after which the batch answer has the stream's text."""

FINISHES_OF_ONE_ANSWER = frozenset(
    {"content_filtered", "guardrail_intervened", "malformed_model_output", "malformed_tool_use"}
)
"""Reasons that say nothing about the model's next answer."""

STATUSES: Mapping[str, int] = {
    "internalServerException": 500,
    "modelStreamErrorException": 424,
    "modelTimeoutException": 408,
    "serviceUnavailableException": 503,
    "throttlingException": 429,
    "validationException": 400,
}
"""The status of an error in a stream, by its kind."""

PADDING = "p"
"""A field of each event, so that its length tells nothing."""


class Conversation(JsonAnswer):
    """The answer that one stream makes."""

    def __init__(self, *, is_own_stream: bool) -> None:
        super().__init__(is_own_stream=is_own_stream)
        self._role = "assistant"
        self._blocks: list[dict[str, Any]] = []
        self._is_open = False
        self._stop: dict[str, Any] | None = None
        self._metadata: dict[str, Any] | None = None

    def take(self, event: dict[str, Any], data: str) -> str:
        if len(event) != 1:
            raise Unfaithful("an event is of no kind, or of two")
        ((kind, said),) = event.items()
        if kind in STATUSES or kind == "error":
            raise failed(kind, said)
        take = EVENTS.get(kind)
        if take is None:
            raise Unfaithful("an event is not known")
        return take(self, {name: value for name, value in as_object(said).items() if name != PADDING})

    def _begin(self, said: Mapping[str, Any]) -> str:
        if self._blocks or said.keys() != {"role"}:
            raise Unfaithful("a message begins again, or in a way that is not known")
        self._role = as_text(said["role"])
        return ""

    def _start_block(self, said: Mapping[str, Any]) -> str:
        self._open(said)
        start = as_object(said.get("start"))
        if said.keys() != {"contentBlockIndex", "start"} or start.keys() != {"toolUse"}:
            raise Unfaithful("a block is of a kind that is not known")
        self._blocks.append({"toolUse": as_object(start["toolUse"]) | {"input": Text("")}})
        return ""

    def _open(self, said: Mapping[str, Any]) -> None:
        """A block begins. What came before it is closed, though not all models say so."""
        if said.get("contentBlockIndex") != len(self._blocks) or len(self._blocks) >= MAX_BLOCKS:
            raise Unfaithful("a block is out of order, or there are too many")
        if self._stop is not None:
            raise Unfaithful("an answer goes on after its end")
        self._is_open = True

    def _add(self, said: Mapping[str, Any]) -> str:
        delta = as_object(said.get("delta"))
        if said.keys() != {"contentBlockIndex", "delta"} or len(delta) != 1:
            raise Unfaithful("a delta is none, or has a field that is not known")
        block = self._block_of(said)
        ((kind, piece),) = delta.items()
        if kind not in DELTAS:
            raise Unfaithful("a delta is not known")
        if block and kind not in block:
            raise Unfaithful("a delta is of another kind than its block")
        if kind == "text":
            _grow(block, "text", piece)
            return shown(piece)
        if kind == "toolUse" and block and as_object(piece).keys() == {"input"}:
            _grow(block["toolUse"], "input", piece["input"])
            if block is next(each for each in self._blocks if "toolUse" in each):
                self.arguments = piece["input"]
        elif kind == "reasoningContent":
            _think(block.setdefault("reasoningContent", {}), as_object(piece))
        else:
            raise Unfaithful("a tool's delta is not known, or of no tool")
        return ""

    def _block_of(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The block that a delta belongs to, which may be a new one."""
        if said["contentBlockIndex"] == len(self._blocks):
            self._open(said)
            self._blocks.append({})
        elif said["contentBlockIndex"] != len(self._blocks) - 1 or not self._is_open:
            raise Unfaithful("a block is out of order")
        elif self._stop is not None:
            raise Unfaithful("an answer goes on after its end")
        return self._blocks[-1]

    def _stop_block(self, said: Mapping[str, Any]) -> str:
        if not self._is_open or said != {"contentBlockIndex": len(self._blocks) - 1}:
            raise Unfaithful("a block is out of order")
        self._is_open = False
        return ""

    def _end(self, said: Mapping[str, Any]) -> str:
        if self._stop is not None:
            raise Unfaithful("a message ends twice")
        self._stop = dict(said)
        self.is_terminated = self._metadata is not None
        return ""

    def _count(self, said: Mapping[str, Any]) -> str:
        if self._metadata is not None:
            raise Unfaithful("it says twice what was used")
        self._metadata = dict(said)
        self.is_terminated = self._stop is not None
        return ""

    def answer(self) -> bytes:
        """The answer as JSON."""
        assert self._stop is not None and self._metadata is not None, "asked for before its end"
        if not self._blocks or self._metadata.get("usage") is None:
            raise Unfaithful("there is no content, or it does not say what was used")
        reason = as_word(self._stop.get("stopReason"))
        if not self.is_own_stream:
            if reason in FINISHES_OF_ONE_ANSWER:
                raise AbnormalFinish("the answer was ended before its end")
            if reason not in HARMLESS_FINISHES:
                raise Unfaithful("the message has ended for a reason that is not known")
            check_texts(_texts(self._blocks))
        for name in (self._stop.keys() | self._metadata.keys()) - KNOWN:
            self.unknown.take(name, (self._stop | self._metadata)[name])
        blocks = [_finished(block, reason) for block in self._blocks]
        message = {"message": {"role": self._role, "content": blocks}}
        return serialized({"output": message} | self._stop | self._metadata)


KNOWN = frozenset(
    {
        "stopReason",
        "additionalModelResponseFields",
        "usage",
        "metrics",
        "trace",
        "performanceConfig",
        "serviceTier",
    }
)
"""Fields of the last two events, which are fields of the batch answer."""

EVENTS: Mapping[str, Callable[[Conversation, Mapping[str, Any]], str]] = {
    "messageStart": Conversation._begin,
    "contentBlockStart": Conversation._start_block,
    "contentBlockDelta": Conversation._add,
    "contentBlockStop": Conversation._stop_block,
    "messageStop": Conversation._end,
    "metadata": Conversation._count,
}
"""The function for each kind of event; errors are dealt with before."""

DELTAS = frozenset({"text", "toolUse", "reasoningContent"})
"""Kinds of delta that are joined. What a citation or a server's tool adds is uncertain."""


def failed(kind: str, said: Any) -> ProviderFailed:
    """An error in a stream, as the batch call would have got it."""
    named = f"{kind[:1].upper()}{kind[1:]}".encode()
    status = STATUSES.get(kind, 500)
    return ProviderFailed(status, serialized(as_object(said)), ((b"x-amzn-errortype", named),))


def _grow(of: dict[str, Any], name: str, piece: Any) -> None:
    of.setdefault(name, Text("")).pieces.append(as_text(piece))


def _think(thought: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Join a delta to a block of reasoning: text and signature, or what is redacted, which comes whole."""
    (kind,) = piece.keys() if len(piece) == 1 else ("",)
    if kind == "text" and "redactedContent" not in thought:
        _grow(thought.setdefault("reasoningText", {}), kind, piece[kind])
    elif kind == "signature" and "redactedContent" not in thought:
        signed = thought.setdefault("reasoningText", {})
        signed[kind] = whole(signed.get(kind), piece[kind])
    elif kind == "redactedContent" and not thought:
        thought[kind] = as_text(piece[kind])
    else:
        raise Unfaithful("a thought is of a kind that is not known, or of two")


def _texts(blocks: list[dict[str, Any]]) -> list[Any]:
    thoughts = [block.get("reasoningContent", {}).get("reasoningText", {}) for block in blocks]
    return [block.get("text") for block in blocks] + [thought.get("text") for thought in thoughts]


def _finished(block: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """A block as the batch answer has it."""
    if "toolUse" not in block:
        return dict(block)
    used = block["toolUse"]
    try:
        return {"toolUse": used | {"input": as_arguments(used["input"]) if used["input"] else {}}}
    except Unfaithful:
        if reason in ("max_tokens", "model_context_window_exceeded"):
            raise AbnormalFinish("the answer was too long for its tool's arguments") from None
        raise
