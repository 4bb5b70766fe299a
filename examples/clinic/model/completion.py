"""The answer to one request, whatever the provider's shape: tokens, and what is derived from them."""

import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import anyio

from examples.clinic.model.faults import Fault

Json = dict[str, Any]

EPOCH_S = 1_750_000_000
"""Made-up times of creation lie within a year from here."""
YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True)
class Pace:
    first_token_s: float
    tokens_per_s: float

    async def wait_for(self, token: int, began: float) -> None:
        """Wait until the time of that token, counted from 1. Each has its own time, so delays do not add
        up."""
        due = began + self.first_token_s + token / self.tokens_per_s
        await anyio.sleep(max(0.0, due - time.monotonic()))


@dataclass(frozen=True)
class Asked:
    """One request, without its shape."""

    model: str
    messages: list[Json]
    """The messages in OpenAI's form: `role` is `system`, `user` or `assistant`; `content` is text."""
    is_stream: bool = False
    has_usage: bool = False
    """OpenAI's `stream_options.include_usage`."""
    is_structured: bool = False
    """The answer is to be JSON: an object with the text."""


@dataclass(frozen=True)
class Completion:
    asked: Asked
    tokens: list[str]
    prompt_tokens: int
    began: float
    fault: Fault | None

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @cached_property
    def digest(self) -> str:
        """The same for the same text, so that two runs can be compared byte for byte."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def created(self) -> int:
        """Not the time: that would differ from run to run."""
        return EPOCH_S + int(self.digest[:8], 16) % YEAR_S


def as_json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
