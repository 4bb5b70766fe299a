"""What a provider's API looks like to the model port: one port for OpenAI's shape and for Gemini's. No I/O.

A call that belongs to a run is asked as a stream, and answered as the batch call it was. So a dialect says
how to ask, and makes the batch answer out of the stream's events.

* NotStreamable   asked so that a stream could not be made into its answer: it goes through as it came
* Unfaithful      the stream has something that the batch answer cannot be made of for certain
  * OddEnd        of this answer alone, and not of what the provider's streams are like
* ProviderFailed  the provider says in its stream that it has failed
"""

from dataclasses import dataclass
from typing import Protocol


class NotStreamable(Exception):
    """The reason, in words without anything of the call's own."""


class Unfaithful(Exception):
    """The reason, in words without anything of the stream's own."""


class OddEnd(Unfaithful):
    """This answer has ended so that its batch answer may be another one; the model's next one need not."""


class ProviderFailed(Exception):
    """An error within a stream whose status was 200.

    Args:
        status: the one that its batch answer would have had; 500 where the stream does not say.
        body: of that answer, in the provider's own shape of errors.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the provider's stream says {status}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Prompt:
    """What names a call, for routes that tell theirs apart by more than their order. Never logged."""

    model: str
    system: str
    """The system prompt's text; "" if there is none."""


@dataclass(frozen=True, slots=True)
class StreamCall:
    """The same call, asked as a stream."""

    target: bytes
    """Path and query."""
    body: bytes
    prompt: Prompt
    choices: int = 1
    """How many answers it asks for."""


class Assembler(Protocol):
    """One stream's events, taken in order, become the batch answer."""

    def feed(self, data: str) -> str:
        """Take one event's data; the text it adds to the answer's first choice, "" for none.

        Raises:
            Unfaithful: what the event has cannot be put into a batch answer for certain.
            ProviderFailed: it is an error.
        """
        ...

    @property
    def ended(self) -> bool:
        """Whether all is there that a complete stream has; what ends sooner was cut."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether an event has said that it is the last one: what comes after it is nobody's."""
        ...

    def answer(self) -> bytes:
        """The batch answer's body, once `ended`.

        Raises:
            Unfaithful: it cannot be made of what came.
        """
        ...


class Dialect(Protocol):
    """One shape of API."""

    def is_call(self, method: str, target: bytes) -> bool:
        """Whether it is a call for text, as far as that can be said without its body."""
        ...

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        """Whether the caller itself asks for a stream, of a kind that an assembler reads."""
        ...

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        """A batch call for text as the stream it is asked as. None: it is no call for text.

        Raises:
            NotStreamable: it is, but its answer could not be made of a stream.
        """
        ...

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        """What names the call, also one that cannot be asked as a stream; None: it is no call for text."""
        ...

    def assembler(self, choices: int | None = None) -> Assembler:
        """For one stream.

        Args:
            choices: how many answers the call asks for. Its end must be known to be harmless then. None: the
                caller's own stream, which ends as it ends.
        """
        ...

    def is_answer(self, body: bytes, choices: int) -> bool:
        """Whether a body has the shape of a batch answer that is whole."""
        ...
