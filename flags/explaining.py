"""The reasons why one user gets what he gets, step by step, in the order of `decision.decide`. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flags.arms import Placement
from flags.decision import BEFORE_THE_FLAG, BY_THE_FLAG, FlagState, Question, Reason, decide

NEVER: Mapping[Reason, str] = {
    Reason.KILLED: "the kill flag is off; not known here: each proxy has its own switch",
    Reason.FLAGS_STALE: "the flags were read just now; not known here: how old those of each proxy are",
    Reason.BREAKER_OPEN: "not known here: each proxy has its own breaker",
    Reason.OVERLOADED: "not known here: each proxy counts its own runs",
    Reason.NO_IDENTITY: "there is a user",
    Reason.FLAG_UNKNOWN: "the flag is there",
    Reason.FLAG_OFF: "the flag is on for the user",
}
"""The words for a reason for batch that does not apply."""

ALWAYS: Mapping[Reason, str] = {
    Reason.KILLED: "the kill flag is on: everybody gets batch",
    Reason.FLAGS_STALE: "the flags could not be confirmed: everybody gets batch",
    Reason.NO_IDENTITY: "nobody is asking",
    Reason.FLAG_UNKNOWN: "the flag is not there",
    Reason.FLAG_OFF: "the flag is off for the user",
}
"""The words for a reason that applies."""

BY_THE_VARIANT: Mapping[Reason, str] = {
    Reason.VARIANT_INVALID: "the payload of the variant {variant!r} cannot be read: batch",
    Reason.DARK: "the variant is `dark`: batch, and the text is only compared",
    Reason.ACCEPT: "the client does not accept text/event-stream: batch",
    Reason.FLAG_ON: "streamed from {source}",
}


class ExplainedFlags(FlagState, Protocol):
    """Flags that also say where a user is placed."""

    def placed(self, flag: str, context: Mapping[str, Any] | None) -> Placement | None:
        """Of a flag that has arms; None for any other."""


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """One step of a decision."""

    step: str
    """A `Reason`, or `constraints` or `bucket`."""
    says: str
    decides: bool = False
    """True if the decision ends here."""


def steps(question: Question, flags: ExplainedFlags) -> Iterator[ExplainedStep]:
    """Up to the step that decides. Raises what the flags raise."""
    for reason, applies in BEFORE_THE_FLAG:
        if applies(question, flags):
            yield ExplainedStep(reason, ALWAYS[reason], decides=True)
            return
        yield ExplainedStep(reason, NEVER[reason])
    answer = flags.evaluate(question.flag, question.context)
    for reason, says in BY_THE_FLAG:
        if reason is Reason.FLAG_OFF:
            yield from _placing(flags.placed(question.flag, question.context))
        if says(answer):
            yield ExplainedStep(reason, ALWAYS[reason], decides=True)
            return
        yield ExplainedStep(reason, NEVER[reason])
    decision = decide(question, flags)
    said = BY_THE_VARIANT[decision.reason].format(variant=decision.variant, source=decision.source)
    yield ExplainedStep(decision.reason, said, decides=True)


def _placing(placement: Placement | None) -> Iterator[ExplainedStep]:
    if placement is None:
        yield ExplainedStep(
            "bucket", "the flag has no arms: its strategies alone decide, and there is no control"
        )
        return
    meets = "meets" if placement.eligible else "does not meet"
    yield ExplainedStep("constraints", f"the user {meets} the strategy's constraints and segments")
    streamed = f"1 to {placement.share} stream" if placement.share else "none streams"
    first = placement.first_of_control
    control = f"{first} to 100 are control" if first <= 100 else "none is control"
    yield ExplainedStep(
        "bucket", f"bucket {placement.bucket} of the group {placement.group_id!r}: {streamed}, {control}"
    )
