"""Closed lists of label values of metrics, as far as no other wing defines them. Pure."""

from enum import StrEnum


class Budget(StrEnum):
    """A limit that all clients share; the label `budget` of `headgate_over_budget_total`."""

    CONNECTIONS = "connections"
    """Connections of all clients."""
    CLIENT = "client"
    """Connections of one client."""
    BODIES = "bodies"
    """Bytes of request bodies that are held."""
    ANSWERS = "answers"
    """Bytes of copies of relayed answers."""
    RUN_ANSWERS = "run_answers"
    """Bytes of the answers of runs in flight, and of their live text."""


class FaultPhase(StrEnum):
    """The part of the run that the viewer has seen when a failure comes."""

    NOTHING = "nothing"
    HEADERS = "headers"
    CONTENT = "content"


class CallResult(StrEnum):
    """The end of a call to the model port; the label `result` of `headgate_tap_calls_total`."""

    TAPPED = "tapped"
    """A call of a run, which shows its text."""
    BATCH = "batch"
    """A call of a run that cannot be streamed: answered as batch."""
    AVOIDED = "avoided"
    """A call of a run that was asked as batch at once, because its model is on the denylist."""
    NO_CONTEXT = "no_context"
    """A call without trace context, so of no known run."""
    NOT_TAPPED = "not_tapped"
    """A call with trace context, of a request that began no run."""
    UNMATCHED = "unmatched"
    """A call with a token whose run has ended, or that was never issued."""
    LOST = "lost"
    """Its stream failed; asked again as batch, it was answered."""
    FAILED = "failed"
    """A call of a run that ended with an error."""
    LEFT = "left"
    """Its caller left."""


class PageResult(StrEnum):
    """The answer to a page of `attach`; the label `result` of `headgate_attached_pages_total`."""

    ATTACHED = "attached"
    """It has the script."""
    UNCHANGED = "unchanged"
    """The browser has it with the script already."""
    POLICY = "policy"
    """Its Content Security Policy lets no such script run, or stands in the page itself."""
    CODING = "coding"
    """Its content coding cannot be undone here, or its character set is not like ASCII."""
    SIZE = "size"
    """It is too long, or does not say how long it is."""
    MARKUP = "markup"
    """It does not begin as a page with a head."""
    FIXED = "fixed"
    """It must not be changed: by `no-transform` or a digest, or because it has the script already."""
