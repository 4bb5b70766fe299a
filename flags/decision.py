"""Whether one request streams, and why. Pure and total: no I/O, no clock, and in doubt the batch answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, Protocol

import orjson

DARK = "dark"
"""The variant for which everything is done but shown: its users get batch."""

MAX_CHUNK_CHARS = 200
"""The longest chunk a variant may ask for; beyond it, text no longer looks live."""


class Mode(StrEnum):
    """How the answer travels."""

    RELAY = "relay"  # no route matched: made by the gateway, never by `decide`
    UPGRADE = "upgrade"  # another protocol from now on, of no route whatever its path: the same
    BATCH = "batch"
    STREAM = "stream"


class Arm(StrEnum):
    """Where the flag puts the user, whatever the client then asks for: what outcomes are compared by."""

    STREAM = "stream"
    CONTROL = "control"  # see `flags.arms`
    REST = "rest"


class Reason(StrEnum):
    """Why; a label of metrics and a part of `headgate-decision`."""

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
    """What the client can read. `*/*` does not ask for events."""

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
    """Of the arms: another one when the flag's strategy has changed; "" where there is none."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything about one request that a decision depends on."""

    flag: str
    source: str
    """The route's own."""
    sources: frozenset[str]
    """What a variant may name instead."""
    context: Mapping[str, Any] | None
    """Unleash context: `userId`, `sessionId`, `properties`. None: nobody knows who is asking."""
    accept: Accept
    breaker_open: bool = False
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class FlagAnswer:
    """What the flag says about one user. `variant` and `payload` are "" where there is none."""

    known: bool
    enabled: bool
    variant: str = ""
    payload: str = ""
    control: bool = False
    """Whether the user, who is not enabled, is one of those that the enabled are compared with."""
    generation: str = field(default="", compare=False)
    """See `Decision`; no part of what is said about the user."""

    @property
    def arm(self) -> Arm:
        if self.known and self.enabled:
            return Arm.STREAM
        return Arm.CONTROL if self.known and self.control else Arm.REST


class FlagState(Protocol):
    """Where answers come from."""

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
"""Reasons that streams can be the cause of, so that their users stay in the arm they were drawn for: what
streaming does to the house would else leave the comparison with them. Under the others nobody is exposed, or
nobody knows who is."""


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


def generation_of(flag: str, flags: FlagState) -> str | None:
    """Of a flag's arms, whoever asks; see `Decision`. None if it cannot be said now. Never raises."""
    try:
        return flags.evaluate(flag, None).generation
    except Exception:  # noqa: BLE001 - as in `decide`
        return None


def _without_the_flag(question: Question, flags: FlagState, reason: Reason) -> Decision:
    if reason not in KEEPS_THE_ARMS or question.context is None:
        return Decision(Mode.BATCH, Arm.REST, question.source, reason)
    return _batch(question, flags.evaluate(question.flag, question.context), reason)


def _batch(question: Question, answer: FlagAnswer, reason: Reason) -> Decision:
    return Decision(
        Mode.BATCH, answer.arm, question.source, reason, answer.variant, generation=answer.generation
    )


def _for_the_stream_arm(question: Question, answer: FlagAnswer) -> Decision:
    # The arm stays STREAM when the mode does not: arms are compared as they were drawn, or a variant
    # that breaks, or a client that never asks, would drop out of the comparison unseen.
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
