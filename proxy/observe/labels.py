"""The closed lists of values that labels of metrics take, where no other part of the house has them. Pure."""

from enum import StrEnum


class Budget(StrEnum):
    """What all share; the label `budget` of `headgate_over_budget_total`."""

    CONNECTIONS = "connections"
    """Of clients, in all."""
    CLIENT = "client"
    """Of one client."""
    BODIES = "bodies"
    """Bytes of request bodies that are held."""
    ANSWERS = "answers"
    """Bytes of relayed answers that are kept to be read."""


class FaultPhase(StrEnum):
    """What the viewer has when a failure comes."""

    NOTHING = "nothing"
    HEADERS = "headers"
    CONTENT = "content"


class CallResult(StrEnum):
    """What became of a call; the label `result` of `headgate_tap_calls_total`."""

    TAPPED = "tapped"
    """Streamed to its run."""
    BATCH = "batch"
    """Of a run, but it could not be streamed, and was answered as batch."""
    AVOIDED = "avoided"
    """Of a run, and asked as batch at once, because its model is on the denylist."""
    NO_CONTEXT = "no_context"
    """Without trace context: of no run, as far as can be said."""
    NOT_TAPPED = "not_tapped"
    """With trace context, of a request that no run was made of."""
    UNMATCHED = "unmatched"
    """With the token of a run that is over, or of none."""
    LOST = "lost"
    """Its stream failed, and asked again as batch it was answered."""
    FAILED = "failed"
    """Of a run; it ended with an error."""
    LEFT = "left"
    """Given up by its caller."""
