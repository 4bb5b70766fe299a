"""A stream of Amazon Bedrock's InvokeModel, with events of Anthropic's, as its batch answer. No I/O.

Each of Anthropic's events comes within an event of Amazon's, as base64. The last one says what was used,
which the batch answer has in headers.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from proxy.llm.assembly.dialect import Unfaithful
from proxy.llm.assembly.json_values import as_object, as_text, parsed
from proxy.llm.dialects.anthropic import ClaudeMessage
from proxy.llm.dialects.converse_answer import STATUSES, failed

METRICS = "amazon-bedrock-invocationMetrics"

HEADERS: Mapping[str, bytes] = {
    "inputTokenCount": b"x-amzn-bedrock-input-token-count",
    "outputTokenCount": b"x-amzn-bedrock-output-token-count",
    "cacheReadInputTokenCount": b"x-amzn-bedrock-cache-read-input-token-count",
    "cacheWriteInputTokenCount": b"x-amzn-bedrock-cache-write-input-token-count",
    "invocationLatency": b"x-amzn-bedrock-invocation-latency",
}
"""Of the batch answer, by the name of the figure in the stream."""


class InvokedMessage(ClaudeMessage):
    """The answer that one stream makes."""

    repeats = False  # in base64 no text has a place of its own

    def take(self, event: dict[str, Any], data: str) -> str:
        if len(event) != 1:
            raise Unfaithful("an event is of no kind, or of two")
        ((kind, said),) = event.items()
        if kind in STATUSES or kind == "error":
            raise failed(kind, said)
        if kind != "chunk":
            raise Unfaithful("an event is not known")
        try:
            inner = b64decode(as_text(as_object(said).get("bytes")), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Unfaithful("an event is no base64 of a text") from None
        inner_event = parsed(inner)
        for name, count in as_object(inner_event.get(METRICS) or {}).items():
            if name in HEADERS and type(count) is int:
                self.headers = (*self.headers, (HEADERS[name], b"%d" % count))
        return super().take(inner_event, inner)
