"""Ask a language model over HTTP, whole answers only. What fails becomes a sentence, never an exception.

The caller cannot tell a medical text from an error sentence, and stores both. That is how the app this stands
for behaves, so it is how this one behaves.
"""

import time
from dataclasses import dataclass
from functools import cache
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

import httpx

HISTORY_FAILED = "Error generating response from chat history: "
ATTEMPTS_FAILED = "Error generating response after {attempts} attempts: "
TIMED_OUT = "Error: LLM invocation timed out after {seconds} seconds"
WRONG_FORMAT = "Error: Received unexpected response format from LLM"

ATTEMPTS = 3
BETWEEN_ATTEMPTS_S = (1.0, 2.0)
BETWEEN_CALLS_S = (0.5, 1.0)
"""The OpenAI library's own two repetitions inside every attempt."""

TOTAL_S = 120
"""Looked at between attempts only; an attempt may take as long as the client lets it."""
TIMEOUT = httpx.Timeout(600, connect=5)
REPEATED = {408, 409, 429}


@cache
def _tls() -> SSLContext:
    """Once a process: loading the certificates takes longer than everything else about a client."""
    return httpx.create_ssl_context()


class ModelFailed(Exception):
    """The model gave no answer; the text is what the error sentence ends with."""


@dataclass
class Llm:
    """A client for one workflow. Used as `with`, which closes its connections."""

    base_url: str
    api_key: str
    model: str
    retry_scale: float = 1.0

    def __enter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        self._http = httpx.Client(timeout=TIMEOUT, headers=headers, verify=_tls())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def converse(self, history: list[dict[str, str]], prompt: str) -> str:
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
            self._pause(BETWEEN_ATTEMPTS_S, attempt)
        return f"{ATTEMPTS_FAILED.format(attempts=ATTEMPTS)}{failure}"

    def _answer(self, messages: list[dict[str, str]]) -> str:
        reply = self._ask(messages)
        try:
            content = reply.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return WRONG_FORMAT
        return content if isinstance(content, str) else WRONG_FORMAT

    def _ask(self, messages: list[dict[str, str]]) -> httpx.Response:
        failure = ""
        for call in range(1 + len(BETWEEN_CALLS_S)):
            try:
                reply = self._post(messages)
            except httpx.TimeoutException:
                failure = "Request timed out."
            except httpx.TransportError:
                failure = "Connection error."
            else:
                if reply.is_success:
                    return reply
                failure = f"Error code: {reply.status_code} - {reply.text}"
                if reply.status_code < 500 and reply.status_code not in REPEATED:
                    break
            self._pause(BETWEEN_CALLS_S, call)
        raise ModelFailed(failure)

    def _post(self, messages: list[dict[str, str]]) -> httpx.Response:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": 0.5,
            "max_tokens": 4096,
            "stream": False,
        }
        return self._http.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)

    def _pause(self, pauses_s: tuple[float, ...], index: int) -> None:
        if index < len(pauses_s):
            time.sleep(pauses_s[index] * self.retry_scale)
