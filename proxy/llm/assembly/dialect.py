"""A provider's API as the model port sees it: one port for all dialects. No I/O.

A call that belongs to a run is asked as a stream, and answered as the batch call it was. So a dialect says
how to ask, and makes the batch answer out of the stream's events.

* NotStreamable       no stream could be made into the call's answer: it goes through as it came
* Unfaithful          the batch answer cannot be made of the stream for certain
  * AbnormalFinish    because of this answer alone, and not of what the provider's streams are like
* ProviderFailed      the provider reports an error in its stream
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from proxy.llm.assembly.usage import UsageFields

Headers = tuple[tuple[bytes, bytes], ...]


class NotStreamable(Exception):
    """The reason, in words without anything of the call's own."""


class Unfaithful(Exception):
    """The reason, in words without anything of the stream's own."""


class AbnormalFinish(Unfaithful):
    """This answer finished so that its batch answer may differ; the model's next one need not."""


class ProviderFailed(Exception):
    """An error within a stream whose status was 200.

    Args:
        status: that the batch answer would have had; 500 where the stream does not say.
        body: of that answer, in the provider's own shape of errors.
        headers: of that answer, which its stream has in events.
    """

    def __init__(self, status: int, body: bytes, headers: Headers = ()) -> None:
        super().__init__(f"the provider's stream says {status}")
        self.status = status
        self.body = body
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Prompt:
    """The properties of a call by which routes tell calls apart where order is not enough. Never logged."""

    model: str
    system: str
    """The system prompt's text; "" if there is none."""
    wants_json: bool = False
    """True if the model is told to answer in JSON, which nobody reads as it is."""


@dataclass(frozen=True, slots=True)
class StreamCall:
    """The request of the same call as a stream."""

    target: bytes
    """Path and query."""
    body: bytes
    prompt: Prompt
    choices: int = 1
    """The number of answers that the call asks for."""
    renamed: Mapping[bytes, bytes] = field(default_factory=dict)
    """Headers of the call that have another name in a call for a stream, in lower case."""


class Assembler(Protocol):
    """Makes the batch answer of one stream's events, fed in order."""

    @property
    def arguments(self) -> str:
        """Return what the last event added to the arguments of the first tool that the answer calls, or
        ""."""

    @property
    def headers(self) -> Headers:
        """Headers of the batch answer that its stream has in events."""

    def feed(self, data: str) -> str:
        """Take one event's data; the text it adds to the answer's first choice, "" for none.

        Raises:
            Unfaithful: the event cannot be put into a batch answer for certain.
            ProviderFailed: the event is an error.
        """

    @property
    def is_complete(self) -> bool:
        """True if everything is there that a complete stream has. A stream that ends before that was cut."""

    @property
    def is_terminated(self) -> bool:
        """True if the stream's terminator has come. What comes after it is ignored."""

    def answer(self) -> bytes:
        """The batch answer's body, once `is_complete`.

        Raises:
            Unfaithful: no batch answer can be made of the events.
        """

    def kept_fields(self) -> Iterable[str]:
        """Names of the fields that no table has, and that were kept all the same, see `kept_fields.py`."""


class Dialect(Protocol):
    """One shape of API."""

    @property
    def usage(self) -> UsageFields:
        """Return the fields in which its batch answers give the numbers of tokens."""

    @property
    def media_type(self) -> bytes:
        """The media type of its streams, of which `stream_events.py` knows three."""

    @property
    def answer_type(self) -> bytes:
        """The content type of its batch answers."""

    def is_call(self, method: str, target: bytes) -> bool:
        """True if a request is a call for text, as far as that shows without its body."""

    def is_stream(self, method: str, target: bytes, body: bytes) -> bool:
        """True if the caller itself asks for a stream, of a kind that an assembler reads."""

    def as_stream(self, method: str, target: bytes, body: bytes) -> StreamCall | None:
        """A batch call for text, as a stream. None: the request is no call for text.

        Raises:
            NotStreamable: its answer could not be made of a stream.
        """

    def prompt(self, method: str, target: bytes, body: bytes) -> Prompt | None:
        """The model and system prompt of a call, streamable or not. None: the request is no call for text."""

    def assembler(self, choices: int | None = None) -> Assembler:
        """A new assembler for one stream.

        Args:
            choices: how many answers the call asks for; each must then finish harmlessly. None: the caller's
                own stream, which may finish in any way.
        """

    def is_answer(self, body: bytes, choices: int) -> bool:
        """True if a body has the shape of a whole batch answer."""
