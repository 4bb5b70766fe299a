"""Attempts at a language model, and the sentences that failures become. Never an exception.

The caller cannot tell a medical text from an error sentence, and stores both. That is how the app this stands
for behaves, so it is how this one behaves.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

HISTORY_FAILED = "Error generating response from chat history: "
ATTEMPTS_FAILED = "Error generating response after {attempts} attempts: "
TIMED_OUT = "Error: LLM invocation timed out after {seconds} seconds"
WRONG_FORMAT = "Error: Received unexpected response format from LLM"

TEMPERATURE = 0.5
MAX_TOKENS = 4096

ATTEMPTS = 3
BETWEEN_ATTEMPTS_S = (1.0, 2.0)
"""In addition to what a provider's package repeats inside every attempt."""

TOTAL_S = 120
"""Checked between attempts only; an attempt may take as long as the client allows."""

Message = dict[str, str]
"""`role` is `user` or `assistant`; `content` is text."""


class ModelFailed(Exception):
    """The model gave no answer. The message ends the error sentence."""


class WrongFormat(Exception):
    """The model answered, but not with a text."""


class Client(Protocol):
    """A connection to one provider, in that provider's shape."""

    def answer(self, messages: list[Message]) -> str:
        """The whole text. Raises `ModelFailed` and `WrongFormat`, and nothing else."""

    def close(self) -> None: ...


@dataclass
class Llm:
    """A model for one workflow. Used as `with`, which closes the client's connections."""

    client: Client
    finish: Callable[[str], str] = str
    """Changes the model's text before it is stored; never applied to an error sentence."""
    retry_scale: float = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def converse(self, history: list[Message], prompt: str) -> str:
        """One attempt that sees the chat; without a chat, the same as `complete`."""
        if not history:
            return self.complete(prompt)
        try:
            return self._answer([*history, {"role": "user", "content": prompt}])
        except ModelFailed as exc:
            return f"{HISTORY_FAILED}{exc}"

    def complete(self, prompt: str) -> str:
        """Up to three attempts that see nothing but the prompt."""
        began = time.monotonic()
        failure = ""
        for attempt in range(ATTEMPTS):
            if time.monotonic() - began > TOTAL_S:
                return TIMED_OUT.format(seconds=TOTAL_S)
            try:
                return self._answer([{"role": "user", "content": prompt}])
            except ModelFailed as exc:
                failure = str(exc)
            if attempt < len(BETWEEN_ATTEMPTS_S):
                time.sleep(BETWEEN_ATTEMPTS_S[attempt] * self.retry_scale)
        return f"{ATTEMPTS_FAILED.format(attempts=ATTEMPTS)}{failure}"

    def _answer(self, messages: list[Message]) -> str:
        try:
            return self.finish(self.client.answer(messages))
        except WrongFormat:
            return WRONG_FORMAT
