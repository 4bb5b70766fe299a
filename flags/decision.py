"""The decision on one request: stream or batch, and why. Pure. Every doubt, and every error, means batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, Protocol

import orjson

DARK = "dark"
"""The variant whose users get batch while their texts are taken and compared (`llm/dark.py`)."""

MAX_CHUNK_CHARS = 200
"""The longest chunk a variant may ask for; beyond it, text no longer looks live."""


class Mode(StrEnum):
    """The way that an answer takes to its client."""

    RELAY = "relay"  # no route matched; set by the gateway, never by `decide`
    UPGRADE = "upgrade"  # the connection goes on in another protocol; set by the gateway, too
    BATCH = "batch"
    STREAM = "stream"


class Arm(StrEnum):
    """The group in which the flag puts the user, whatever the client asks for; outcomes are compared by
    arm."""

    STREAM = "stream"
    CONTROL = "control"  # see `flags.arms`
    REST = "rest"


class Reason(StrEnum):
    """The reason of a decision: a label of metrics and a part of `headgate-decision`."""

    NO_ROUTE = "no_route"
    KILLED = "killed"
    FLAGS_STALE = "flags_stale"
    BREAKER_OPEN = "breaker_open"
    OVERLOADED = "overloaded"
    NO_IDENTITY = "no_identity"
    FLAG_UNKNOWN = "flag_unknown"
    FLAG_OFF = "flag_off"
    FLAG_ERROR = "flag_error"
    VARIANT_INVALID = "variant_invalid"
    DARK = "dark"
    ACCEPT = "accept"
    FLAG_ON = "flag_on"


class Accept(Enum):
    """The form that the client can read. `*/*` does not ask for events."""

    NONE = "none"  # did not name text/event-stream
    EITHER = "either"  # names it, and takes JSON as well
    ONLY_STREAM = "only_stream"


@dataclass(frozen=True, slots=True)
class Decision:
    """Taken once, when a run starts, and pinned to it."""

    mode: Mode
    arm: Arm
    source: str
    reason: Reason
    variant: str = ""
    chunk_chars: tuple[int, int] | None = None
    """Shortest and longest chunk, where the variant overrides the route's."""
    generation: str = ""
    """Of the flag's arms; it changes with the flag's strategy. "" for a flag without arms."""
    share: int | None = field(default=None, compare=False)
    """Percent of users in the stream arm, in that generation; None for a flag without arms."""
    left_out: bool = field(default=False, compare=False)
    """True if the flag would not be on for the user at 100 % either: no arm was drawn."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything about one request that a decision depends on."""

    flag: str
    source: str
    """The route's source."""
    sources: frozenset[str]
    """Sources that a variant may name instead."""
    context: Mapping[str, Any] | None
    """Unleash context: `userId`, `sessionId`, `properties`. None: nobody knows who is asking."""
    accept: Accept
    breaker_open: bool = False
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class FlagAnswer:
    """The flag's answer about one user. `variant` and `payload` are "" where there is none."""

    known: bool
    enabled: bool
    variant: str = ""
    payload: str = ""
    control: bool = False
    """True if the user is not enabled, and in the control arm."""
    generation: str = field(default="", compare=False)
    """See `Decision`. Equal answers may differ in it: it says nothing about the user."""
    share: int | None = field(default=None, compare=False)
    """Likewise."""
    left_out: bool = field(default=False, compare=False)
    """Likewise."""

    @property
    def arm(self) -> Arm:
        if self.known and self.enabled:
            return Arm.STREAM
        return Arm.CONTROL if self.known and self.control else Arm.REST


class FlagState(Protocol):
    """The port to a source of flags' answers."""

    @property
    def killed(self) -> bool:
        """Is streaming off for everybody?"""

    @property
    def stale(self) -> bool:
        """Is it too long since the flags were known to be right?"""

    def evaluate(self, flag: str, context: Mapping[str, Any] | None) -> FlagAnswer:
        """Ask one flag about one user."""


# The order is the contract. The first line that applies is the reason, and the answer is batch.
BEFORE_THE_FLAG: tuple[tuple[Reason, Callable[[Question, FlagState], bool]], ...] = (
    (Reason.KILLED, lambda question, flags: flags.killed),
    (Reason.FLAGS_STALE, lambda question, flags: flags.stale),
    (Reason.BREAKER_OPEN, lambda question, flags: question.breaker_open),
    (Reason.OVERLOADED, lambda question, flags: question.overloaded),
    (Reason.NO_IDENTITY, lambda question, flags: question.context is None),
)
BY_THE_FLAG: tuple[tuple[Reason, Callable[[FlagAnswer], bool]], ...] = (
    (Reason.FLAG_UNKNOWN, lambda answer: not answer.known),
    (Reason.FLAG_OFF, lambda answer: not answer.enabled),
)
# Then, for a user the flag turns on: VARIANT_INVALID, DARK, ACCEPT, FLAG_ON, in `_for_the_stream_arm`.

KEEPS_THE_ARMS = frozenset({Reason.BREAKER_OPEN, Reason.OVERLOADED})
"""Reasons that streaming itself can cause. Users who get batch for one of them stay in their arm: otherwise
the comparison would miss this effect of streaming. For the other reasons they are `rest`."""


def decide(question: Question, flags: FlagState) -> Decision:
    """Decide one request. Never raises, whatever `flags` does."""
    try:
        for reason, applies in BEFORE_THE_FLAG:
            if applies(question, flags):
                return _without_the_flag(question, flags, reason)
        answer = flags.evaluate(question.flag, question.context)
        for reason, says in BY_THE_FLAG:
            if says(answer):
                return _batch(question, answer, reason)
        return _for_the_stream_arm(question, answer)
    except Exception:  # noqa: BLE001 - flags that fail may cost a user the stream, never the answer
        return Decision(Mode.BATCH, Arm.REST, question.source, Reason.FLAG_ERROR)


def generation_of(flag: str, flags: FlagState) -> tuple[str, int | None] | None:
    """The generation of a flag's arms, and its share, see `Decision`; None if the flags cannot be asked now,
    or are too old. Never raises."""
    try:
        if flags.stale:
            return None
        answer = flags.evaluate(flag, None)
        return answer.generation, answer.share
    except Exception:  # noqa: BLE001 - as in `decide`
        return None


def _without_the_flag(question: Question, flags: FlagState, reason: Reason) -> Decision:
    if reason not in KEEPS_THE_ARMS or question.context is None:
        return Decision(Mode.BATCH, Arm.REST, question.source, reason)
    return _batch(question, flags.evaluate(question.flag, question.context), reason)


def _batch(question: Question, answer: FlagAnswer, reason: Reason) -> Decision:
    return Decision(
        Mode.BATCH,
        answer.arm,
        question.source,
        reason,
        answer.variant,
        generation=answer.generation,
        share=answer.share,
        left_out=answer.left_out,
    )


def _for_the_stream_arm(question: Question, answer: FlagAnswer) -> Decision:
    # The arm is STREAM even where the mode is BATCH: a variant that is broken, or a client that never asks
    # for a stream, must not drop out of the comparison.
    override = _read_payload(answer.payload)
    if override is None or override.source not in (None, *question.sources):
        return _batch(question, answer, Reason.VARIANT_INVALID)
    source = override.source or question.source
    if answer.variant == DARK:
        return replace(_batch(question, answer, Reason.DARK), source=source)
    asked = question.accept is not Accept.NONE
    return Decision(
        mode=Mode.STREAM if asked else Mode.BATCH,
        arm=Arm.STREAM,
        source=source,
        reason=Reason.FLAG_ON if asked else Reason.ACCEPT,
        variant=answer.variant,
        chunk_chars=override.chunk_chars,
        generation=answer.generation,
        share=answer.share,
    )


@dataclass(frozen=True, slots=True)
class _Override:
    source: str | None = None
    chunk_chars: tuple[int, int] | None = None


@lru_cache(maxsize=64)  # one entry a variant; a flag file has a handful
def _read_payload(payload: str) -> _Override | None:
    """None: the payload is not `{"source": str, "chunk": {"min": int, "max": int}}`, each part optional."""
    if not payload:
        return _Override()
    try:
        match orjson.loads(payload):
            case dict(parts) if parts.keys() <= {"source", "chunk"}:
                source = _read_source(parts["source"]) if "source" in parts else None
                chunk_chars = _read_chunk(parts["chunk"]) if "chunk" in parts else None
                return _Override(source, chunk_chars)
    except ValueError:
        pass
    return None


def _read_source(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("source")


def _read_chunk(value: object) -> tuple[int, int]:
    if isinstance(value, dict) and value.keys() == {"min", "max"}:
        least, most = value["min"], value["max"]
        if type(least) is type(most) is int and 1 <= least <= most <= MAX_CHUNK_CHARS:
            return least, most
    raise ValueError("chunk")
